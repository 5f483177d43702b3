"""The words and tables of the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphfathom.plotting import curve, run_label
from graphfathom.terminal import (
    describe_guess,
    format_count,
    format_number,
    format_share,
)

if TYPE_CHECKING:
    from graphfathom.diagnostics.observations import Observation
    from graphfathom.diagnostics.report import Report

__all__ = [
    "Table",
    "Tile",
    "controls",
    "cost",
    "definitions",
    "facts",
    "key_figures",
    "layer_table",
]

MAX_ROWS = 128
"""Layers up to which the table shows all."""
MISSING = "–"

SCORES = (
    ("loss", "Loss"),
    ("accuracy.train", "Train"),
    ("accuracy.val", "Validation"),
    ("accuracy.test", "Test"),
)
SPLITS = (("test", "Test"), ("val", "Validation"), ("train", "Training"))
COLUMNS = (
    ("feature_rms", "Feature RMS"),
    ("deviation.constant", "Deviation from constants"),
    ("effective_rank", "Effective rank"),
    ("gradient.state", "Gradient of state"),
    ("gradient.weights", "Gradient of weights"),
    ("gain_to_output", "Gain to output"),
    ("mean_squared_gain", "Mean squared gain"),
    ("largest_singular_value", "Largest singular value"),
    ("exact_zeros", "Exact zeros"),
)
SHARES = {"dead_units", "zero_rows", "zero_columns", "exact_zeros"}

DEFINITIONS = (
    ("Feature RMS", "feature_rms", "Root mean square of all entries of a state."),
    ("Feature norm", "feature_norm", "Frobenius norm of a state."),
    (
        "Dirichlet energy, D − A",
        "dirichlet_energy.combinatorial",
        "Sum over the undirected edges of the squared distance between the features of"
        " their two ends. Not divided by anything; zero if and only if the features are"
        " constant on each component.",
    ),
    (
        "Dirichlet energy, normalised",
        "dirichlet_energy.normalized",
        "The same sum with the features of each node divided by the square root of its"
        " degree, self-loop counted. Zero if they are proportional to that root.",
    ),
    (
        "Rayleigh quotient",
        "rayleigh_quotient",
        "Dirichlet energy divided by the squared norm of the state: variation without"
        " size.",
    ),
    (
        "Deviation from constants",
        "deviation.constant",
        "Distance of a state from the closest one that is constant on each component,"
        " divided by the norm of the state. Between 0 and 1.",
    ),
    (
        "Deviation from √degree",
        "deviation.degree",
        "The same distance from the closest state that is proportional to the root of"
        " the degree on each component, where repeated normalised averaging leads.",
    ),
    (
        "Effective rank",
        "effective_rank",
        "Exponential of the entropy of the normalised singular values of a state: the"
        " number of directions it uses.",
    ),
    ("Dead units", "dead_units", "Share of channels that are zero on every node."),
    (
        "Gradient of state",
        "gradient.state",
        "Frobenius norm of the derivative of the loss with respect to a state.",
    ),
    (
        "Gradient of weights",
        "gradient.weights",
        "Norm of the derivative of the loss with respect to all parameters of a layer.",
    ),
    (
        "Errors of different nodes",
        "error.deviation",
        "Share of the gradient of the loss with respect to a state that differs from"
        " constants on each component, or from multiples of the root of the degree.",
    ),
    (
        "What a layer could do to the loss",
        "stationarity",
        "Norm of the gradient of the loss in the weights of a layer times the norm of"
        " the weights, divided by the loss; also with the last layer refitted.",
    ),
    (
        "Gain to output",
        "gain_to_output",
        "Root mean square change of the output per unit change of one entry of a state,"
        " over random directions.",
    ),
    (
        "Mean squared gain",
        "mean_squared_gain",
        "Mean of the squared singular values of the Jacobian of a layer: by how much it"
        " stretches a random change, squared.",
    ),
    (
        "Largest singular value, gain quantiles",
        "largest_singular_value",
        "Largest, median and 10 % quantile of the singular values of the Jacobian of a"
        " layer, on at most 16 layers of a deep network.",
    ),
    (
        "Outputs that respond to nothing, inputs without any effect",
        "zero_rows",
        "Shares of rows and of columns of the Jacobian of a layer that are exactly"
        " zero.",
    ),
    (
        "Exact zeros, subnormals, non-finite numbers",
        "exact_zeros",
        "Shares of the entries in the precision the model runs in. A subnormal number"
        " is smaller than the smallest normal one and has lost digits.",
    ),
    (
        "Sensitivity",
        "sensitivity",
        "Root mean square over pairs of nodes at a distance of the norm of the"
        " derivative of the last state of the one with respect to state 0 of the other."
        " Its topology term is what such a pair has of the walks of the normalised"
        " adjacency matrix, relative to all pairs; its model term the rest.",
    ),
    (
        "Density of singular values",
        "density",
        "Share of the singular values of the Jacobian of a layer per factor of ten, on"
        " at most four layers, by stochastic Lanczos quadrature.",
    ),
    (
        "Distance to the edge of chaos",
        "edge_of_chaos",
        "Decimal logarithm of the root mean square stretch of a layer: 0 where random"
        " changes keep their size.",
    ),
    (
        "Singular values of all layers",
        "product_singular_value",
        "The largest of the Jacobian of the last state with respect to state 0. It has"
        " one within the decades that stand behind.",
    ),
    (
        "Lyapunov exponents",
        "lyapunov_exponent",
        "Natural logarithm of the growth per layer: the first of a random direction,"
        " both together of a random area. 0 keeps.",
    ),
    (
        "Predicted, at most",
        "theory",
        "What a theorem says of layers with these weights on these features: predicted"
        " is the mean over Gaussian weights of the same variance, at most a bound.",
    ),
)
"""Term, the start of the observation names it explains, and its meaning."""


@dataclass(frozen=True)
class Tile:
    """One number that is worth large type."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Table:
    """Rows of text under a header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def key_figures(report: Report) -> list[Tile]:
    """At most four numbers that say how the network does."""
    tiles = [
        _change(report, "gradient.state", "Gradient at the first state", back=True),
        _change(report, "feature_rms", "Signal at the last state", back=False),
        _rank(report),
        _accuracy(report) or _loss(report),
    ]
    return [tile for tile in tiles if tile]


def controls(report: Report) -> Table | None:
    """Scores of every run, and what the best constant guess reaches."""
    table = report.observations
    names = [name for name, _ in SCORES if table.select(name)]
    runs = [
        run
        for run in table.networks()
        if any(table.get(name, run=run) for name in names)
    ]
    if not names:
        return None
    rows = [
        (run_label(run), *(_cell(table.get(name, run=run)) for name in names))
        for run in runs
    ]
    header = ("Network", *(label for name, label in SCORES if name in names))
    return Table(header, tuple(rows), describe_guess(report))


def layer_table(report: Report) -> Table | None:
    """One row per state, or evenly chosen ones if there are many."""
    columns = [(name, label, curve(report, name)) for name, label in COLUMNS]
    found = [(name, label, data) for name, label, data in columns if data]
    indices = sorted({index for _, _, data in found for index in data.index})
    if not indices:
        return None
    spectra = curve(report, "largest_singular_value")
    shown = _sample(indices, spectra.index if spectra else ())
    cells = [
        dict(zip(data.index, _texts(name, data.value, data.unit), strict=True))
        for name, _, data in found
    ]
    rows = [
        (str(k), _layer(report, k), *(cell.get(k, MISSING) for cell in cells))
        for k in shown
    ]
    note = ""
    if len(shown) < len(indices):
        note = (
            f"{len(shown)} of {len(indices):,} rows: evenly chosen ones, and those with"
            " singular values. All of them are in report.json."
        )
    header = ("", "Layer", *(label for _, label, _ in found))
    return Table(header, tuple(rows), note)


def facts(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """What was looked at and how, as titled lists of names and values."""
    groups: list[tuple[str, dict[str, Any]]] = [
        ("Model", report.model),
        ("Data", report.data),
        ("Settings", _settings(report)),
        ("Versions", dict(report.versions)),
    ]
    return [
        (title, [(str(key).replace("_", " "), _fact(value)) for key, value in group])
        for title, group in ((title, entries.items()) for title, entries in groups)
        if group
    ]


def _settings(report: Report) -> dict[str, Any]:
    """All but the criteria of a calibration, which a finding tells."""
    return {key: v for key, v in report.settings.items() if key != "calibration"}


def cost(report: Report) -> list[tuple[str, str, float]]:
    """Stages with their seconds and their share of the longest, in the order given."""
    stages = [(name, each) for name, each in report.cost.items() if name != "total"]
    longest = max((each for _, each in stages), default=0.0) or 1.0
    return [(name, f"{each:.1f} s", each / longest) for name, each in stages]


def definitions(report: Report) -> list[tuple[str, str]]:
    """What the measured quantities mean, for those that were measured."""
    measured = report.observations.names()
    return [
        (term, meaning)
        for term, prefix, meaning in DEFINITIONS
        if any(name.startswith(prefix) for name in measured)
    ]


def _change(report: Report, name: str, label: str, *, back: bool) -> Tile | None:
    data = curve(report, name)
    if data is None or len(data.index) < 2:
        return None
    first, last = data.log10()[0], data.log10()[-1]
    change = first - last if back else last - first
    end = "the last" if back else "the first"
    if math.isnan(change) or first == math.inf or last == math.inf:
        return Tile(label, "not finite", f"compared with {end}")
    text = format_number(change, "log10")
    return Tile(label, "exactly 0" if text == "0" else text, f"times that at {end}")


def _rank(report: Report) -> Tile | None:
    data = curve(report, "effective_rank")
    if data is None:
        return None
    first, last = (format_number(data.value[end], data.unit) for end in (0, -1))
    note = f"directions, from {first}"
    return Tile("Effective rank of the last state", last, note)


def _accuracy(report: Report) -> Tile | None:
    table = report.observations
    majority = table.get("accuracy.majority")
    note = f"majority class: {format_share(majority.value)}" if majority else ""
    untrained = ", untrained" if report.settings.get("mode") == "init" else ""
    for run, state in (("model (trained)", ", trained"), ("model", untrained)):
        for name, label in SPLITS:
            row = table.get(f"accuracy.{name}", run=run)
            if row:
                return Tile(f"{label} accuracy{state}", format_share(row.value), note)
    return None


def _loss(report: Report) -> Tile | None:
    row = report.observations.get("loss")
    guess = report.observations.get("loss.constant")
    if row is None:
        return None
    note = f"constant guess: {_cell(guess)}" if guess else ""
    return Tile("Loss", _cell(row), note)


def _cell(row: Observation | None) -> str:
    if row is None:
        return MISSING
    return _texts(row.name, (row.value,), row.unit)[0]


def _texts(name: str, values: tuple[float, ...], unit: str) -> list[str]:
    if unit == "share" or name in SHARES or name.startswith("accuracy"):
        return [format_share(value) for value in values]
    return [format_number(value, unit) for value in values]


def _sample(indices: list[int], wanted: tuple[int, ...]) -> list[int]:
    """Evenly chosen indices with the first and the last, and the wanted ones."""
    if len(indices) <= MAX_ROWS + 1:
        return indices
    step = (len(indices) - 1) / (MAX_ROWS - 1)
    chosen = {indices[round(place * step)] for place in range(MAX_ROWS)}
    return sorted(chosen.union(wanted))


def _layer(report: Report, k: int) -> str:
    if k == 0:
        return "before the first"
    return report.layers[k - 1] if k <= len(report.layers) else MISSING


def _fact(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return format_number(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_fact(each)}" for key, each in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(_fact(each) for each in value)
    return format_count(value)
