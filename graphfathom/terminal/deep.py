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


def farthest(report: Report, run: str = "model") -> int | None:
    """The distance that stands for far nodes, as in the finding on over-squashing.

    Returns:
        ``sensitivity.far``, else the farthest number of hops at which the terms of a
        sensitivity are known; None if sensitivities were not measured, or only those
        to oneself.
    """
    far = report.observations.value("sensitivity.far", run=run)
    if not math.isnan(far):
        return round(far)
    terms = curve(report, "sensitivity.model", run)
    if terms is None:
        return None
    pairs = zip(terms.index, terms.value, strict=True)
    known = [r for r, value in pairs if r > 0 and math.isfinite(value)]
    return max(known, default=None)


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
