"""What a deep diagnosis found, in at most three lines."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from graphfathom.plotting import beside_theory, curve
from graphfathom.terminal.formats import (
    format_hops,
    format_number,
    format_power,
    format_share,
)

if TYPE_CHECKING:
    from graphfathom.diagnostics.report import Report

__all__ = ["deep_lines", "farthest"]

COMMON = 0.01
"""Share of the pairs from which on a distance is a common one."""


def farthest(report: Report, run: str = "model") -> int | None:
    """The distance that stands for far nodes, as in the finding on over-squashing.

    Returns:
        The farthest number of hops at which the terms of a sensitivity are known: of
        the common ones up to half of the depth, else of the common ones, else of all;
        None if sensitivities were not measured, or only those to oneself.
    """
    pairs = curve(report, "sensitivity.pairs", run)
    terms = curve(report, "sensitivity.model", run)
    if pairs is None or terms is None:
        return None
    counts = dict(zip(pairs.index, pairs.value, strict=True))
    known = zip(terms.index, terms.value, strict=True)
    reached = [r for r, value in known if r > 0 and math.isfinite(value)]
    least = COMMON * sum(counts.values())
    common = [r for r in reached if counts.get(r, 0.0) >= least]
    near = [r for r in common if 2 * r <= len(report.layers)]
    return max(near or common or reached, default=None)


def deep_lines(report: Report) -> list[tuple[str, str]]:
    """A label and a text for each of at most three lines."""
    far = farthest(report)
    lines = (
        ("singular values", ", ".join(_singular_values(report))),
        ("", "") if far is None else (f"at {format_hops(far)}", _terms(report, far)),
        ("by theory", _theory(report)),
    )
    return [(label, text) for label, text in lines if text]


def _singular_values(report: Report) -> Iterator[str]:
    product = report.observations.get("product_singular_value.1")
    if product:
        yield f"all layers {format_power(product.value)} (max)"
    gain = _median(report, "edge_of_chaos")
    if gain is not None:
        yield f"one {format_power(gain)} (RMS)"
    data = curve(report, "singular_values.below")
    if data:
        below, error = median(data.value), max(e or 0.0 for e in data.stderr)
        yield f"{format_share(below, error)} below 0.1"


def _terms(report: Report, far: int) -> str:
    place = f"distance:{far}"
    names = {"sensitivity.model": "model", "sensitivity.topology": "graph"}
    rows = [report.observations.get(name, place) for name in names]
    parts = [f"{names[row.name]} {format_power(row.value)}" for row in rows if row]
    return ", ".join(parts)


def _theory(report: Report) -> str:
    pair = beside_theory(report, "mean_squared_gain")
    if pair is None or 2 * len(pair[0].index) < len(report.layers):
        return ""  # a few layers of another kind do not stand for the network
    measured, predicted = (format_number(median(each.value)) for each in pair)
    return f"mean squared gain {predicted}, measured {measured} (Theorem 3.2)"


def _median(report: Report, name: str) -> float | None:
    """Of the layers, or None if it was not measured."""
    data = curve(report, name)
    values = [value for value in data.value if math.isfinite(value)] if data else []
    return median(values) if values else None
