"""Figures of a report: functions of a Report and an ``ax`` that return the Axes.

matplotlib is imported when a figure is drawn, and the state of pyplot never touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from graphfathom.plotting.monitored import (
    TITLE,
    training,
    training_rows,
    training_table,
)
from graphfathom.plotting.panels import (
    BLACK,
    BLUE,
    GREEN,
    LOOK,
    ORANGE,
    PANELS,
    PURPLE,
    SKY,
    TEXT,
    VERMILLION,
    Curve,
    Panel,
    beside_theory,
    bounds,
    curve,
    densities,
    density,
    errors,
    gain,
    gradients,
    jacobian,
    numerics,
    panel_figures,
    panel_table,
    rank,
    run_label,
    sensitivity,
    signal,
    smoothing,
    stationarity,
    theory,
    to_pdf,
    to_svg,
    units,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graphfathom.diagnostics.report import Report

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "LOOK",
    "ORANGE",
    "PANELS",
    "PURPLE",
    "SKY",
    "TEXT",
    "VERMILLION",
    "Curve",
    "Panel",
    "beside_theory",
    "bounds",
    "curve",
    "densities",
    "density",
    "errors",
    "figures",
    "gain",
    "gradients",
    "jacobian",
    "numerics",
    "rank",
    "run_label",
    "sensitivity",
    "signal",
    "smoothing",
    "stationarity",
    "theory",
    "title_of",
    "to_csv",
    "to_pdf",
    "to_svg",
    "training",
    "units",
]

TRAINING = training.__name__
"""Name of the figure of a monitored training."""


def figures(report: Report) -> dict[str, Figure]:
    """A figure for each of :data:`PANELS` that has data, and one of the training."""
    drawn = panel_figures(report)
    if training_rows(report):
        drawn[TRAINING] = cast("Figure", training(report).figure)
    return drawn


def title_of(name: str) -> str:
    """What stands above a figure."""
    return TITLE if name == TRAINING else PANELS[name].title


def to_csv(report: Report, name: str) -> str:
    """Exactly the data that the figure ``name`` shows, as CSV text with a header.

    Raises:
        ValueError: If there is no such figure.
    """
    if name == TRAINING:
        return training_table(report)
    if name not in PANELS:
        known = ", ".join((*PANELS, TRAINING))
        raise ValueError(f"`name` must be one of {known}. Got {name!r}.")
    return panel_table(report, name)
