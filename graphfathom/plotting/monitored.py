"""The figure of a monitored training: loss and gradients of layers over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

from graphfathom.diagnostics.observations import TRAINING, Observations
from graphfathom.plotting.panels import (
    BLACK,
    BLUE,
    BOTTOM,
    EDGE,
    HEIGHT,
    LOOK,
    PURPLE,
    TEXT,
    VERMILLION,
    fit_figure,
    mark_decades,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from graphfathom.diagnostics.observations import Observation
    from graphfathom.diagnostics.report import Report

__all__ = ["TITLE", "training", "training_rows", "training_table"]

TITLE = "Loss and gradients while training"
LAYER_STYLES = ((BLUE, "-"), (PURPLE, "-."), (VERMILLION, "--"))
"""Colour and line style of the first, the middle and the last layer."""


def training_rows(report: Report) -> dict[str, list[Observation]]:
    """What the figure shows, by label: the loss, and the gradient of three layers.

    Empty if no monitored training is part of the report.
    """
    table = report.observations.select(run=TRAINING)
    curves = {"loss": list(table.select("loss.mean"))}
    gradients = table.select("gradient.weights")
    layers = sorted({row.index for row in gradients if row.index is not None})
    middle = layers[len(layers) // 2 : len(layers) // 2 + 1]
    for k in sorted({*layers[:1], *middle, *layers[-1:]}):
        rows = list(gradients.select(place=f"layer:{k}"))
        curves[f"gradient, layer {k}"] = rows
    return {label: rows for label, rows in curves.items() if rows}


def training_table(report: Report) -> str:
    """Exactly what the figure shows, as CSV text with a header."""
    curves = training_rows(report).values()
    return Observations(row for rows in curves for row in rows).to_csv()


def training(report: Report, ax: Axes | None = None) -> Axes:
    """Mean loss and norms of the gradients of weights over the steps of a training.

    A gap stands where a number is exactly 0 or not finite.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    own = ax is None
    with rc_context(LOOK) if own else nullcontext():
        if ax is None:
            ax = Figure().add_subplot()
            ax.set_title(TITLE, loc="left", x=EDGE)
        ax.set(xlabel="step", ylabel="log scale")
        if own:
            # Upright above its axis: read without turning the head, and no width lost.
            ax.yaxis.label.set(rotation=0, ha="left", va="bottom")
            ax.yaxis.set_label_coords(EDGE, 1.03)
        curves = training_rows(report)
        if curves:
            legend_rows = _fill(ax, curves)
        else:
            legend_rows, middle = 0, {"ha": "center", "transform": ax.transAxes}
            ax.text(0.5, 0.5, "not measured", color=TEXT, **middle)
        if own:
            fit_figure(cast("Figure", ax.figure), legend_rows)
    return ax


def _fill(ax: Axes, curves: dict[str, list[Observation]]) -> int:
    """Draw the curves and their legend; the number of its rows is returned."""
    styles = ((BLACK, "-"), *LAYER_STYLES) if "loss" in curves else LAYER_STYLES
    seen = []
    for (label, rows), (colour, dashes) in zip(curves.items(), styles, strict=False):
        heights = _heights(rows)
        seen += [y for y in heights if not math.isnan(y)]
        (line,) = ax.plot([row.step for row in rows], heights, label=label)
        width = 2.0 if label == "loss" else 1.4
        line.set(color=colour, linestyle=dashes, linewidth=width)
    low, high = min(seen, default=0.0), max(seen, default=0.0)
    # Two decades at least, so that a level line looks level.
    slack = max(0.1, (2 - (high - low)) / 2)
    ax.set_ylim(low - slack, high + slack)
    mark_decades(ax.yaxis, ax.get_ylim())
    place = {"loc": "upper left", "bbox_to_anchor": (EDGE, -(BOTTOM - 0.06) / HEIGHT)}
    ax.legend(ncols=2, borderaxespad=0, **place)
    return math.ceil(len(curves) / 2)


def _heights(rows: Sequence[Observation]) -> list[float]:
    """Decimal logarithms; NaN, a gap, for what has none."""
    heights = []
    for row in rows:
        value = row.value
        if row.unit != "log10":
            value = math.log10(value) if value > 0 else math.nan
        heights.append(value if math.isfinite(value) else math.nan)
    return heights
