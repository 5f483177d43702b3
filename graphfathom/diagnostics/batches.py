"""Measures of several mini-batches as those of one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from graphfathom.diagnostics.observations import Observation, Observations

__all__ = ["combine_batches"]

SQUARES = ("dirichlet_energy.", "theory.dirichlet_energy.")
"""Beginnings of the names of logarithms that are of squares already."""
RELATIVE, ABSOLUTE = "gradient.state.relative", "gradient.state"


def combine_batches(table: Observations, weights: Mapping[int, float]) -> Observations:
    r"""Put the measures of several mini-batches together, with stated weights.

    .. math:: \log_{10} \sqrt{\textstyle\sum_b w_b \, 10^{2 v_b}} \quad
        \text{(unit log10)}, \qquad \textstyle\sum_b w_b \, v_b \quad
        \text{(any other)}, \qquad \textstyle\sum_b w_b = 1

    The loss of the union is the weighted mean of the losses, if each batch weighs as
    many rows as enter its loss. Its gradient in the weights is the mean of the
    gradients, of which the combined norm is an upper bound, reached where all of them
    are alike: gradients of different batches may cancel. So is that of the gradient in
    a state, whose rows are those of all batches, each times its weight. Energies, whose
    logarithms are of squares, have their means. ``gradient.state.relative`` is made
    from the combined norms.

    Args:
        table: The observations of all batches, told apart by their ``batch``.
        weights: Batch to weight, a number > 0, such as the number of rows in its loss.
            They are divided by their sum.

    Returns:
        One row, of batch 0, for each name, place, run and step that every batch has
        measured, the latest if it did so twice; what only some have is left out. NaN in
        one batch is NaN. A standard error is kept where every batch has one, as of
        independent estimates.

    Raises:
        ValueError: If the weights are not those of the batches of the table, or not
            positive.

    Example:
        >>> rows = [Observation("loss", "model", 3.0 * b, batch=b) for b in (1, 2)]
        >>> combine_batches(Observations(rows), {1: 200, 2: 100}).value("loss")
        4.0
    """
    _check(table, weights)
    total = sum(weights.values())
    found: dict[Observation, dict[int, Observation]] = {}
    for row in table:
        key = replace(row, value=0.0, stderr=None, batch=0)
        found.setdefault(key, {})[row.batch] = row
    combined = []
    for key, rows in found.items():
        if len(rows) == len(weights):
            shares = [weights[batch] / total for batch in rows]
            value, stderr = _combined(key, list(rows.values()), shares)
            combined.append(replace(key, value=value, stderr=stderr))
    return Observations(_with_ratios(combined))


def _combined(
    key: Observation, rows: list[Observation], shares: list[float]
) -> tuple[float, float | None]:
    values = [row.value for row in rows]
    errors = [row.stderr for row in rows if row.stderr is not None]
    if key.unit == "log10":
        power = 1 if key.name.startswith(SQUARES) else 2
        value, shares = _log10_mean(values, shares, power)
    else:
        value = sum(s * v for s, v in zip(shares, values, strict=True))
    if len(errors) < len(rows):
        return value, None
    return value, math.hypot(*(s * e for s, e in zip(shares, errors, strict=True)))


def _log10_mean(
    logs: list[float], shares: list[float], power: int
) -> tuple[float, list[float]]:
    """Logarithm of a power mean, and the share of each number in it."""
    highest = max(logs)
    if not all(math.isfinite(v) or v == -math.inf for v in logs):
        return (math.nan if any(map(math.isnan, logs)) else math.inf), shares
    if highest == -math.inf:
        return highest, shares
    pairs = zip(shares, logs, strict=True)
    parts = [s * 10 ** (power * (v - highest)) for s, v in pairs]
    total = math.fsum(parts)
    return highest + math.log10(total) / power, [part / total for part in parts]


def _with_ratios(rows: list[Observation]) -> list[Observation]:
    """The rows, with gradients relative to the last state made anew."""
    norms: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        if row.name == ABSOLUTE:
            norms.setdefault((row.run, row.step), {})[row.place] = row.value
    made = []
    for row in rows:
        if row.name == RELATIVE:
            same = norms.get((row.run, row.step), {})
            last = max(same, key=lambda place: int(place.split(":")[1]), default="")
            value = same.get(row.place, math.nan) - same.get(last, math.nan)
            known = math.isfinite(same.get(last, math.nan))
            row = replace(row, value=value if known else math.nan)
        made.append(row)
    return made


def _check(table: Observations, weights: Mapping[int, float]) -> None:
    batches = sorted({row.batch for row in table})
    if sorted(weights) != batches:
        raise ValueError(
            f"`weights` must have one number for each batch of the table, {batches}. "
            f"Got numbers for {sorted(weights)}."
        )
    if not all(0 < weight < math.inf for weight in weights.values()):
        raise ValueError(
            "`weights` must be finite and > 0. Got "
            f"{list(weights.values())}: leave out the rows of a batch without weight."
        )
