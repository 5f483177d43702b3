"""The table of what theory predicts, beside what was measured."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from graphfathom.html.content import MISSING, Table
from graphfathom.plotting import Curve, beside_theory, curve, densities
from graphfathom.terminal import (
    farthest,
    format_hops,
    format_number,
    format_power,
    format_share,
)

if TYPE_CHECKING:
    from graphfathom.diagnostics.report import Report

__all__ = ["predictions"]

HEADER = ("Quantity", "Where", "Measured", "Predicted", "Source")
NOTE = (
    "Lemmas, theorems and propositions of Arroyo et al. 2025, "
    "https://arxiv.org/abs/2502.10818. What is at most so is so for these weights on "
    "these features; the other predictions are means over Gaussian weights of the same "
    "variance. Lemma 3.1 is used with the law of Marchenko and Pastur, without the "
    "activation and without exact zeros."
)
UNPREDICTED = (MISSING, MISSING)
RESOLUTION = 0.01
"""Decades below which a residual is not told."""
MISSED = 0.03
"""Share of a density that may lie outside of the points where it is known."""

Row = tuple[str, ...]


def predictions(report: Report) -> Table | None:
    """Deep measures of a report; None if there are none.

    Without a prediction the last two columns are left out, and so is the note.
    """
    rows = (
        *_products(report),
        *_layers(report),
        *_gains(report),
        *_states(report),
        *_sensitivities(report),
    )
    if any(source != MISSING for *_, source in rows):
        return Table(HEADER, rows, NOTE)
    return Table(HEADER[:3], tuple(row[:3] for row in rows)) if rows else None


def _products(report: Report) -> Iterator[Row]:
    """All layers together."""
    table, depth = report.observations, len(report.layers)
    where = f"all {depth:,} layers" if depth > 1 else "the layer"
    largest = table.get("product_singular_value.1")
    if largest:
        text = format_power(largest.value)
        residual = table.value("product_singular_value.1.residual")
        if math.isfinite(residual):
            text += f", to {max(residual, RESOLUTION):.2g} decades"
        bound = curve(report, "theory.largest_singular_value")
        said = UNPREDICTED
        if bound and len(bound.index) == depth:
            said = (f"at most {format_power(sum(bound.log10()))}", "Proposition 3.3")
        yield "Largest singular value", where, text, *said
    names = sorted(n for n in table.names() if n.startswith("lyapunov_exponent."))
    exponents = [_signed(table.value(name)) for name in names]
    if exponents:
        name = "Lyapunov exponents, nats per layer"
        yield name, where, ", ".join(exponents), *UNPREDICTED


def _layers(report: Report) -> Iterator[Row]:
    """The layers whose density was estimated."""
    table = report.observations
    for row in table.select("edge_of_chaos", "model"):
        error = f" ± {max(row.stderr, 0.001):.3f}" if row.stderr else ""
        gain = table.value("theory.mean_squared_gain", row.place)
        said = UNPREDICTED
        if gain > 0:
            said = (_signed(math.log10(gain) / 2), "Theorem 3.2")
        name = "Distance to the edge of chaos, decades"
        yield name, f"layer {row.index}", _signed(row.value) + error, *said
    predicted = {each.index[0]: each for each in densities(report, "theory.density")}
    for row in table.select("singular_values.below", "model"):
        density = predicted.get(row.index or 0)
        share = _share_below(density, math.log10(0.1)) if density else math.nan
        said = UNPREDICTED
        if not math.isnan(share):
            said = (format_share(share), "Lemma 3.1")
        text = format_share(row.value, row.stderr)
        yield "Singular values of at most 0.1", f"layer {row.index}", text, *said


def _gains(report: Report) -> Iterator[Row]:
    """Gains that a theorem predicts or limits."""
    gains = [("mean_squared_gain", "Mean squared gain", "", "Theorem 3.2")]
    if report.observations.select("edge_of_chaos", "model"):
        gains = []  # told already, as the distance to the edge of chaos
    norm = ("largest_singular_value", "Largest singular value")
    for name, label, word, source in (*gains, (*norm, "at most ", "Proposition 3.3")):
        cells = _cells(report, name)
        for k in _three(list(cells)):
            measured, said = cells[k]
            yield label, f"layer {k}", measured, word + said, source


def _states(report: Report) -> Iterator[Row]:
    """The last state that the bounds of the features reach."""
    for name, label, source in (
        ("feature_norm", "Feature norm", "Proposition 4.2"),
        (
            "dirichlet_energy.combinatorial",
            "Dirichlet energy, D − A",
            "Proposition 4.3",
        ),
    ):
        for k, (measured, said) in list(_cells(report, name).items())[-1:]:
            yield label, f"state {k}", measured, f"at most {said}", source


def _sensitivities(report: Report) -> Iterator[Row]:
    """The farthest common distance, with the terms of measure and bound."""
    far = farthest(report)
    if far is None:
        return
    table, place = report.observations, f"distance:{far}"
    for name, label, word, at in (
        ("sensitivity", "Sensitivity", "at most {}", place),
        ("sensitivity.model", "Its model term", "{} in the bound", "model"),
        ("sensitivity.topology", "Its topology term", "{} in the bound", place),
    ):
        row = table.get(name, place)
        bound = table.get(f"theory.{name}", at)
        if row is None:
            continue
        error = f" ± {row.stderr:.2f} decades" if row.stderr else ""
        said = UNPREDICTED
        if bound:
            said = (word.format(format_power(bound.value)), "Theorem 5.1")
        yield label, format_hops(far), format_power(row.value) + error, *said


def _cells(report: Report, name: str) -> dict[int, tuple[str, str]]:
    """A quantity and what theory says of it, by index."""
    pair = beside_theory(report, name)
    if pair is None:
        return {}
    write = format_power if pair[0].unit == "log10" else format_number
    columns = (map(write, each.value) for each in pair)
    return dict(zip(pair[0].index, zip(*columns, strict=True), strict=True))


def _three(keys: list[int]) -> list[int]:
    """The first, a middle and the last."""
    return sorted({keys[0], keys[len(keys) // 2], keys[-1]}) if keys else []


def _share_below(density: Curve, log10: float) -> float:
    """Share of a density up to a point; NaN if the curve does not hold all of it."""
    points = list(zip(density.x, density.value, strict=True))
    areas = {
        right: (right - left) * (y + z) / 2
        for (left, y), (right, z) in itertools.pairwise(points)
    }
    if not abs(sum(areas.values()) - 1) < MISSED:
        return math.nan
    return min(1.0, sum(area for x, area in areas.items() if x <= log10 + 1e-9))


def _signed(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "−")  # no minus before zero
