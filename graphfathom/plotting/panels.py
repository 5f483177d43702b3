"""Figures of the table of a report, each a panel of curves.

The layer index is on the x axis: ``state:k`` and ``layer:k`` both stand at k; where
that has no meaning it is the distance in hops or the singular value. On a log axis the
decimal logarithm is drawn, so that 10^-400 has a place; an exact zero, which has none,
is a triangle on the floor, and a value that is not finite a cross at the ceiling.
Panels that compare networks have one colour per run, the same everywhere; panels about
one network have one colour per quantity. The colours are those of Okabe and Ito (2008);
markers and line styles say the same again for those who print in grey.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from graphfathom.diagnostics.observations import Observation
    from graphfathom.diagnostics.report import Report

__all__ = [
    "PANELS",
    "Curve",
    "Panel",
    "beside_theory",
    "bounds",
    "curve",
    "densities",
    "density",
    "errors",
    "fit_figure",
    "gain",
    "gradients",
    "jacobian",
    "mark_decades",
    "numerics",
    "panel_figures",
    "panel_table",
    "rank",
    "run_label",
    "sensitivity",
    "signal",
    "smoothing",
    "stationarity",
    "theory",
    "to_pdf",
    "to_svg",
    "units",
]

BLUE, SKY, ORANGE, GREEN = "#0072b2", "#56b4e9", "#e69f00", "#009e73"
VERMILLION, PURPLE, BLACK = "#d55e00", "#cc79a7", "#000000"
TEXT, RULE = "#444444", "#dddddd"

RUNS = {
    "model": ("model", BLUE, "o"),
    "model (eval)": ("model, eval mode", SKY, "s"),
    "model (train)": ("model, train mode", SKY, "s"),
    "model (init)": ("model, untrained", SKY, "s"),
    "model (short training)": ("model, trained briefly", SKY, "s"),
    "mlp": ("MLP, no graph", ORANGE, "^"),
    "shallow": ("same, depth 1", GREEN, "D"),
    "stabilized": ("same, state-space form", VERMILLION, "X"),
    "refit": ("model, last layer refitted", PURPLE, "v"),
    "original": ("before stabilizing", VERMILLION, "P"),
    "model (trained)": ("model, trained", BLUE, "o"),
    "original (trained)": ("before, trained", VERMILLION, "P"),
    "shallow (trained)": ("few layers, trained", GREEN, "D"),
    "mlp (trained)": ("MLP, trained", ORANGE, "^"),
}
"""Label, colour and marker of a run."""
OTHER_RUNS = ((VERMILLION, "P"), (PURPLE, "X"), (BLACK, "*"))
# Without the colours of the controls: blue is the model wherever it is seen.
STYLES = (
    (BLUE, "o", "-"),
    (VERMILLION, "s", "--"),
    (PURPLE, "^", "-."),
    (BLACK, "D", ":"),
)
# States, then the same of gradients in the same colours.
PAIRED_STYLES = (
    (BLUE, "o", "-"),
    (VERMILLION, "s", "-"),
    (PURPLE, "^", "-"),
    (BLUE, "D", ":"),
    (VERMILLION, "P", ":"),
    (PURPLE, "x", ":"),
)
# What was measured, then what theory says of it in the same colour.
PREDICTED_STYLES = (
    (BLUE, "o", "-"),
    (BLUE, "D", "--"),
    (VERMILLION, "s", "-"),
    (VERMILLION, "P", "--"),
)
LOOK: dict[Any, Any] = {
    "axes.edgecolor": TEXT,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": TEXT,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 20,
    "axes.titlesize": 11,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": RULE,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.labelcolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
}
WIDTH, HEIGHT = 4.4, 2.1
"""Of a figure and of its axes, in inches: on a phone the text keeps its size."""
LEFT, RIGHT, TOP, BOTTOM, ROW = 0.55, 0.08, 0.52, 0.5, 0.21
"""Margins of the axes and height of a row of the legend below them, in inches."""
EDGE = -0.14
"""Where titles, labels and legends begin, in widths of the axes."""
OUTLIERS = 0.055
"""Height of a row of zeros or of non-finite values, in heights of the axes."""
FEW_POINTS = 24
"""Up to here every point has a marker and an error bar; beyond, some have one."""


@dataclass(frozen=True)
class Panel:
    """What one Axes shows."""

    title: str
    label: str
    """Of the y axis."""
    scale: str
    """``"log"``, ``"share"`` or ``"linear"``."""
    quantities: tuple[tuple[str, str], ...]
    """Observation names and what the legend calls them."""
    compares_runs: bool = False
    """Every run, not only one."""
    reference: str | None = None
    """Name of the horizontal line at 1, if there is one."""
    styles: tuple[tuple[str, str, str], ...] = STYLES
    """Colour, marker and line style of the quantities."""
    across: str = "layer"
    """Label of the x axis."""
    spectrum: bool = False
    """One curve per layer over singular values; the reference stands upright."""
    predicts: bool = False
    """Shown only where theory says something about one of the quantities."""
    partial: bool = False
    """NaN stands for what is not defined there, and is not drawn."""


PANELS = {
    "gradients": Panel(
        title="Gradient of the loss, layer by layer",
        label="norm (log scale)",
        scale="log",
        quantities=(("gradient.state", "of state"), ("gradient.weights", "of weights")),
        compares_runs=True,
    ),
    "errors": Panel(
        title="How much the errors of different nodes differ",
        label="share of the gradient (log scale)",
        scale="log",
        quantities=(
            ("error.deviation.constant", "from constants"),
            ("error.deviation.degree", "from √degree"),
        ),
    ),
    "stationarity": Panel(
        title="What each layer could still do to the loss",
        label="relative change (log scale)",
        scale="log",
        quantities=(("stationarity", "loss per weights, relative"),),
        compares_runs=True,
        partial=True,
    ),
    "gain": Panel(
        title="Gain from each state to the output",
        label="gain (log scale)",
        scale="log",
        quantities=(("gain_to_output", "gain"),),
        compares_runs=True,
        reference="no change",
    ),
    "signal": Panel(
        title="Size and variation of the features",
        label="log scale",
        scale="log",
        quantities=(
            ("feature_rms", "feature RMS"),
            ("dirichlet_energy.combinatorial", "Dirichlet energy, D − A"),
            ("dirichlet_energy.normalized", "Dirichlet energy, normalised"),
        ),
    ),
    "smoothing": Panel(
        title="Distance from nodes that are all alike",
        label="dimensionless (log scale)",
        scale="log",
        quantities=(
            ("deviation.constant", "deviation from constants"),
            ("deviation.degree", "deviation from √degree"),
            ("rayleigh_quotient.combinatorial", "Rayleigh quotient, D − A"),
            ("rayleigh_quotient.normalized", "Rayleigh quotient, normalised"),
        ),
    ),
    "rank": Panel(
        title="Effective rank of the features",
        label="directions",
        scale="linear",
        quantities=(("effective_rank", "effective rank"),),
        compares_runs=True,
    ),
    "jacobian": Panel(
        title="Gain of each layer on its own",
        label="dimensionless (log scale)",
        scale="log",
        quantities=(
            ("mean_squared_gain", "mean squared gain"),
            ("largest_singular_value", "largest singular value"),
            ("gain_quantile.50", "median gain"),
            ("gain_quantile.10", "10 % quantile of gain"),
        ),
        reference="edge of chaos",
    ),
    "numerics": Panel(
        title="Zeros, subnormals and non-finite numbers",
        label="share of entries",
        scale="share",
        quantities=(
            ("exact_zeros", "states: exactly 0"),
            ("subnormals", "states: subnormal"),
            ("non_finite", "states: not finite"),
            ("gradient_zeros", "gradients: exactly 0"),
            ("gradient_subnormals", "gradients: subnormal"),
            ("gradient_non_finite", "gradients: not finite"),
        ),
        styles=PAIRED_STYLES,
    ),
    "units": Panel(
        title="Units that do not take part",
        label="share",
        scale="share",
        quantities=(
            ("dead_units", "dead units"),
            ("zero_rows", "outputs that respond to nothing"),
            ("zero_columns", "inputs without any effect"),
        ),
    ),
    "sensitivity": Panel(
        title="What a node hears of another, by distance",
        label="sensitivity (log scale)",
        scale="log",
        quantities=(
            ("sensitivity", "measured"),
            ("sensitivity.model", "model term"),
            ("sensitivity.topology", "topology term"),
            ("theory.sensitivity.topology", "topology term, Theorem 5.1"),
        ),
        across="hops between two nodes",
        partial=True,
    ),
    "density": Panel(
        title="Singular values of single layers",
        label="density per decade",
        scale="linear",
        quantities=(("density", "measured"), ("theory.density", "random weights")),
        reference="edge of chaos",
        across="singular value (log scale)",
        spectrum=True,
    ),
    "theory": Panel(
        title="Layers beside what theory says of them",
        label="dimensionless (log scale)",
        scale="log",
        quantities=(
            ("mean_squared_gain", "mean squared gain"),
            ("theory.mean_squared_gain", "Theorem 3.2 predicts"),
            ("largest_singular_value", "largest singular value"),
            ("theory.largest_singular_value", "Proposition 3.3 allows"),
        ),
        reference="edge of chaos",
        styles=PREDICTED_STYLES,
        predicts=True,
    ),
    "bounds": Panel(
        title="Features beside their bounds",
        label="log scale",
        scale="log",
        quantities=(
            ("feature_norm", "feature norm"),
            ("theory.feature_norm", "Proposition 4.2 allows"),
            ("dirichlet_energy.combinatorial", "Dirichlet energy, D − A"),
            ("theory.dirichlet_energy.combinatorial", "Proposition 4.3 allows"),
        ),
        styles=PREDICTED_STYLES,
        predicts=True,
    ),
}
"""The figures, in the order in which a report shows them."""


@dataclass(frozen=True)
class Curve:
    """One quantity of one run over the layers, sorted by index."""

    name: str
    run: str
    unit: str
    dtype: str
    index: tuple[int, ...]
    value: tuple[float, ...]
    stderr: tuple[float | None, ...]
    log10_x: tuple[float, ...] | None = None
    """Logarithms of singular values, over which the quantity is drawn instead."""

    @property
    def x(self) -> tuple[float, ...]:
        """What stands on the x axis."""
        return self.index if self.log10_x is None else self.log10_x

    def at(self, wanted: Container[int]) -> Curve:
        """The part of the curve at some indices."""
        kept = [n for n, k in enumerate(self.index) if k in wanted]
        index, value, stderr = (
            tuple(column[n] for n in kept)
            for column in (self.index, self.value, self.stderr)
        )
        return replace(self, index=index, value=value, stderr=stderr)

    def known(self) -> Curve | None:
        """The curve without NaN; None if nothing else is left."""
        pairs = zip(self.index, self.value, strict=True)
        kept = self.at({k for k, value in pairs if not math.isnan(value)})
        return kept if kept.index else None

    def log10(self) -> tuple[float, ...]:
        """Decimal logarithms; ``-inf`` for zero and for what rounding made negative."""
        if self.unit == "log10":
            return self.value
        return tuple(_log10(value) for value in self.value)


def curve(report: Report, name: str, run: str = "model") -> Curve | None:
    """The latest values of a name over the layers, or None if it was not measured."""
    table = report.observations.select(name, run)
    rows = {row.index: row for row in table if row.index is not None}
    if not rows:
        return None
    index = sorted(rows)
    first, ordered = rows[index[0]], [rows[k] for k in index]
    values = tuple(row.value for row in ordered)
    errors = tuple(row.stderr for row in ordered)
    return Curve(name, run, first.unit, first.dtype, tuple(index), values, errors)


def beside_theory(
    report: Report, name: str, run: str = "model"
) -> tuple[Curve, Curve] | None:
    """A quantity and what theory says of it, where both are known; None if nowhere."""
    curves = curve(report, name, run), curve(report, f"theory.{name}", run)
    both = set.intersection(*(set(each.index) if each else set() for each in curves))
    measured, said = (each and each.at(both) for each in curves)
    return (measured, said) if measured and said and both else None


def densities(report: Report, name: str, run: str = "model") -> list[Curve]:
    """The observations ``name.log10=x`` as one curve over x for each layer."""
    start = f"{name}.log10="
    found: dict[int, dict[float, Observation]] = {}
    for row in report.observations.select(run=run):
        if row.name.startswith(start) and row.index is not None:
            x = float(row.name.removeprefix(start))
            found.setdefault(row.index, {})[x] = row
    curves = []
    for k in sorted(found):
        places = tuple(sorted(found[k]))
        rows = [found[k][x] for x in places]
        values = tuple(row.value for row in rows)
        errors = tuple(row.stderr for row in rows)
        about = (run, rows[0].unit, rows[0].dtype, (k,) * len(rows))
        curves.append(Curve(name, *about, values, errors, places))
    return curves


def run_label(run: str) -> str:
    """What a run is called in figures, tables and summaries."""
    return RUNS[run][0] if run in RUNS else run


def gradients(report: Report, ax: Axes | None = None) -> Axes:
    """Norms of the loss gradient in states and in weights, of all runs."""
    return _draw(report, "gradients", ax)


def errors(report: Report, ax: Axes | None = None, *, run: str = "model") -> Axes:
    """Share of the loss gradient in each state that differs between nodes."""
    return _draw(report, "errors", ax, run)


def stationarity(report: Report, ax: Axes | None = None) -> Axes:
    """Relative change of the loss per relative change of a layer, of all runs."""
    return _draw(report, "stationarity", ax)


def gain(report: Report, ax: Axes | None = None) -> Axes:
    """Gain from every state to the output with its standard error, of all runs."""
    return _draw(report, "gain", ax)


def signal(report: Report, ax: Axes | None = None, *, run: str = "model") -> Axes:
    """Feature RMS and both Dirichlet energies of a run."""
    return _draw(report, "signal", ax, run)


def smoothing(report: Report, ax: Axes | None = None, *, run: str = "model") -> Axes:
    """Deviations from smooth states and Rayleigh quotients of a run."""
    return _draw(report, "smoothing", ax, run)


def rank(report: Report, ax: Axes | None = None) -> Axes:
    """Effective rank of the states, of all runs."""
    return _draw(report, "rank", ax)


def jacobian(report: Report, ax: Axes | None = None, *, run: str = "model") -> Axes:
    """Gains of each layer map with standard errors, and the edge of chaos at 1."""
    return _draw(report, "jacobian", ax, run)


def numerics(report: Report, ax: Axes | None = None, *, run: str = "model") -> Axes:
    """Shares of zero, subnormal and non-finite numbers in the caller's dtype."""
    return _draw(report, "numerics", ax, run)


def units(report: Report, ax: Axes | None = None, *, run: str = "model") -> Axes:
    """Shares of dead units and of zero rows and columns of the layer maps."""
    return _draw(report, "units", ax, run)


def sensitivity(report: Report, ax: Axes | None = None, *, run: str = "model") -> Axes:
    """Sensitivity between nodes by distance, its two terms, and Theorem 5.1."""
    return _draw(report, "sensitivity", ax, run)


def density(report: Report, ax: Axes | None = None, *, run: str = "model") -> Axes:
    """Densities of the singular values of single layers, and of random weights."""
    return _draw(report, "density", ax, run)


def theory(report: Report, ax: Axes | None = None, *, run: str = "model") -> Axes:
    """Gains of each layer map beside Theorem 3.2 and Proposition 3.3."""
    return _draw(report, "theory", ax, run)


def bounds(report: Report, ax: Axes | None = None, *, run: str = "model") -> Axes:
    """Norm and Dirichlet energy of the states beside Propositions 4.2 and 4.3."""
    return _draw(report, "bounds", ax, run)


def panel_figures(report: Report) -> dict[str, Figure]:
    """A figure for each of :data:`PANELS` that has data, in their order."""
    names = [name for name in PANELS if any(_lines(report, name))]
    return {name: cast("Figure", _draw(report, name, None).figure) for name in names}


def to_svg(figure: Figure) -> str:
    """The figure as SVG text, the same for the same data: no date, no random ids."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "graphfathom", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def to_pdf(figure: Figure) -> bytes:
    """The figure as a PDF without a date and with text that can be searched."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None})
    return buffer.getvalue()


def panel_table(report: Report, name: str) -> str:
    """Exactly the data that a panel shows, as CSV text with a header."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    x = ("index", "log10") if PANELS[name].spectrum else ("index",)
    writer.writerow(("quantity", "run", *x, "value", "stderr", "unit", "dtype"))
    for data in (line.curve for line in _lines(report, name)):
        columns = [data.index, data.log10_x, data.value, data.stderr]
        for row in zip(*filter(None, columns), strict=True):
            writer.writerow((data.name, data.run, *row, data.unit, data.dtype))
    return buffer.getvalue()


@dataclass(frozen=True)
class _Line:
    """A curve with the look it has in its panel."""

    curve: Curve
    label: str
    colour: str
    marker: str
    dashes: str
    scale: str

    @property
    def heights(self) -> tuple[float, ...]:
        """What is drawn: logarithms on a log axis."""
        return self.curve.log10() if self.scale == "log" else self.curve.value

    def where(self, wanted: Callable[[float], bool]) -> list[float]:
        """Places of the heights that are wanted."""
        pairs = zip(self.curve.x, self.heights, strict=True)
        return [x for x, height in pairs if wanted(height)]


def _lines(report: Report, name: str, run: str = "model") -> Iterator[_Line]:
    panel = PANELS[name]
    names = [quantity for quantity, _ in panel.quantities]
    predicted = [name for name in names if name.startswith("theory.")]
    if panel.predicts and not any(curve(report, each, run) for each in predicted):
        return
    if panel.spectrum:
        yield from _spectra(report, panel, run)
        return
    runs = report.observations.networks() if panel.compares_runs else [run]
    others = [each for each in runs if each not in RUNS]
    for each in runs:
        for (quantity, label), style in zip(
            panel.quantities, panel.styles, strict=False
        ):
            data = curve(report, quantity, each)
            if data and panel.partial:
                data = data.known()
            if data is None:
                continue
            if panel.compares_runs:
                other = others.index(each) % len(OTHER_RUNS) if each in others else 0
                colour, marker = RUNS.get(each, ("", *OTHER_RUNS[other]))[1:]
                look = (run_label(each), colour, marker, style[2])
            else:
                look = (label, *style)
            yield _Line(data, *look, panel.scale)


def _spectra(report: Report, panel: Panel, run: str) -> Iterator[_Line]:
    """One line per quantity and layer, in the colour of the layer."""
    found = [densities(report, quantity, run) for quantity, _ in panel.quantities]
    layers = sorted({data.index[0] for curves in found for data in curves})
    for curves, (*_, dashes) in zip(found, panel.styles, strict=False):
        for data in curves:
            k = data.index[0]
            colour, marker, _ = STYLES[layers.index(k) % len(STYLES)]
            yield _Line(data, f"layer {k}", colour, marker, dashes, panel.scale)


def _draw(report: Report, name: str, ax: Axes | None, run: str = "model") -> Axes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panel, lines = PANELS[name], list(_lines(report, name, run))
    own = ax is None
    with rc_context(LOOK) if own else nullcontext():
        if ax is None:
            ax = Figure().add_subplot()
            ax.set_title(panel.title, loc="left", x=EDGE)
        dtype = f" ({lines[0].curve.dtype})" if name == "numerics" and lines else ""
        ax.set(xlabel=panel.across, ylabel=panel.label + dtype)
        if own:
            # Upright above its axis: read without turning the head, and no width lost.
            ax.yaxis.label.set(rotation=0, ha="left", va="bottom")
            ax.yaxis.set_label_coords(EDGE, 1.03)
        if lines:
            _fill(ax, panel, lines)
            rows = _legend(ax, panel, lines)
        else:
            rows, middle = 0, {"ha": "center", "transform": ax.transAxes}
            ax.text(0.5, 0.5, "not measured", color=TEXT, **middle)
        if own:
            fit_figure(cast("Figure", ax.figure), rows)
    return ax


def fit_figure(figure: Figure, rows: int) -> None:
    """Size the figure so that all have axes of one size, whatever the legend."""
    bottom = BOTTOM + rows * ROW
    height = TOP + HEIGHT + bottom
    figure.set_size_inches(WIDTH, height)
    across = {"left": LEFT / WIDTH, "right": 1 - RIGHT / WIDTH}
    figure.subplots_adjust(top=1 - TOP / height, bottom=bottom / height, **across)


def _fill(ax: Axes, panel: Panel, lines: Sequence[_Line]) -> None:
    for position, line in enumerate(lines):
        heights = [y if math.isfinite(y) else math.nan for y in line.heights]
        x, y = _with_gaps(line, heights)
        known = [n for n, height in enumerate(y) if math.isfinite(height)]
        few = len(known) <= FEW_POINTS
        ax.plot(
            x,
            y,
            color=line.colour,
            marker=line.marker,
            linestyle=line.dashes,
            # Where lines coincide, the earlier ones stay visible as a rim.
            linewidth=max(1.2, 2.4 - 0.4 * position),
            markersize=4,
            markevery=known if few else _every(len(y), position),
        )
        if any(line.curve.stderr):
            _draw_errors(ax, line, heights)
    _scale_across(ax, panel, lines)
    _scale(ax, panel, lines)


def _log10(value: float) -> float:
    if math.isnan(value):
        return value
    return math.log10(value) if value > 0 else -math.inf


def _every(count: int, position: int) -> tuple[int, int]:
    """Which points have a marker; shifted, so that lines do not hide each other."""
    step = 1 if count <= FEW_POINTS else math.ceil(count / 8)
    return (position * step // 5) % step, step


def _draw_errors(ax: Axes, line: _Line, heights: Sequence[float]) -> None:
    x, errors = line.curve.x, [error or 0.0 for error in line.curve.stderr]
    if line.scale == "log" and line.curve.unit != "log10":
        triples = list(zip(line.curve.value, heights, errors, strict=True))
        # An error as large as its value has no logarithm below: a decade stands for it.
        low = [_log10(v - e) if v > e else y - bool(e) for v, y, e in triples]
        high = [_log10(v + e) if math.isfinite(y) else y for v, y, e in triples]
    else:
        low = [y - e for y, e in zip(heights, errors, strict=True)]
        high = [y + e for y, e in zip(heights, errors, strict=True)]
    if len(x) > FEW_POINTS:
        # A point of the band for each point of the axes' width is as fine as it gets.
        step = math.ceil(len(x) / (72 * WIDTH))
        x, low, high = ([*each[:-1:step], each[-1]] for each in (x, low, high))
        ax.fill_between(x, low, high, color=line.colour, alpha=0.25, linewidth=0)
    else:
        ax.vlines(x, low, high, color=line.colour, linewidth=1.0, alpha=0.5)


def _with_gaps(
    line: _Line, heights: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Places and heights, NaN at layers of which theory says nothing."""
    index = line.curve.index
    if line.curve.log10_x or not line.curve.name.startswith("theory."):
        return line.curve.x, heights
    known = dict(zip(index, heights, strict=True))
    every = range(index[0], index[-1] + 1)
    return every, [known.get(k, math.nan) for k in every]


def _scale_across(ax: Axes, panel: Panel, lines: Sequence[_Line]) -> None:
    """Limits and ticks of the x axis."""
    from matplotlib.ticker import MaxNLocator

    last = max(line.curve.x[-1] for line in lines)
    if panel.spectrum:
        first = min(line.curve.x[0] for line in lines)
        ax.set_xlim(first - 0.1, last + 0.1)
        mark_decades(ax.xaxis, ax.get_xlim())
    else:
        ax.set_xlim(-0.02 * last - 0.25, last * 1.02 + 0.25)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))


def _scale(ax: Axes, panel: Panel, lines: Sequence[_Line]) -> None:
    """Limits and ticks of the y axis, with room for the outliers."""
    logarithmic = panel.scale == "log"
    finite = [y for line in lines for y in line.heights if math.isfinite(y)]
    if panel.reference:
        finite.append(0.0)
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    if logarithmic:
        # Two decades at least, so that a level line looks level.
        slack = max(0.0, 2 - (high - low)) / 2
        low, high = low - slack, high + slack
    else:
        low, high = 0.0, 1.0 if panel.scale == "share" else max(high, 1.0)
    zeros = [(line, line.where(lambda y: y == -math.inf)) for line in lines]
    broken = [
        (line, line.where(lambda y: math.isnan(y) or y == math.inf)) for line in lines
    ]
    floor = OUTLIERS + _draw_outliers(ax, zeros, "exactly 0", "v", upward=True)
    ceiling = OUTLIERS + _draw_outliers(ax, broken, "not finite", "x", upward=False)
    span = (high - low) / (1 - floor - ceiling)
    ax.set_ylim(low - floor * span, high + ceiling * span)
    if logarithmic:
        mark_decades(ax.yaxis, ax.get_ylim())
    elif panel.scale == "share":
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])


def _draw_outliers(
    ax: Axes,
    places: Sequence[tuple[_Line, list[float]]],
    text: str,
    marker: str,
    *,
    upward: bool,
) -> float:
    """One row of markers per line that has any, from the floor up or the ceiling down.

    The height they take is returned, in heights of the axes.
    """
    rows = [(line, xs) for line, xs in places if xs]
    if not rows:
        return 0.0
    across, heights = ax.get_xaxis_transform(), []
    for row in range(len(rows) + 1):
        distance = 0.035 + OUTLIERS * row + 0.02 * (row == len(rows))
        heights.append(distance if upward else 1 - distance)
    for (line, xs), height in zip(rows, heights, strict=False):
        ax.plot(
            xs,
            [height] * len(xs),
            color=line.colour,
            marker=marker,
            linestyle="none",
            markersize=5,
            markevery=_every(len(xs), 0),
            transform=across,
        )
    everywhere = [x for _, xs in rows for x in xs]
    middle = (min(everywhere) + max(everywhere)) / 2
    low, high = ax.get_xlim()
    place = (middle - low) / (high - low)
    side = "right" if place > 0.85 else "left" if place < 0.15 else "center"
    look = {"ha": side, "va": "center", "fontsize": 9.5, "color": TEXT}
    ax.text(middle, heights[-1], text, transform=across, **look)
    return OUTLIERS * (len(rows) + 1.5)


def mark_decades(axis: Axis, limits: tuple[float, float]) -> None:
    """Ticks at powers of ten of an axis that shows decimal logarithms."""
    from matplotlib.ticker import FixedLocator, MaxNLocator

    low, high = limits
    decades = range(math.floor(low), math.ceil(high))
    plain = low > -4 and high < 4
    axis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.set_major_formatter(lambda decade, _: _power(round(decade), plain))
    if len(decades) <= 8:
        minor = [d + math.log10(digit) for d in decades for digit in range(2, 10)]
        axis.set_minor_locator(FixedLocator([y for y in minor if low < y < high]))


def _power(decade: int, plain: bool) -> str:
    if plain or decade == 0:
        return f"{10.0**decade:g}"
    superscripts = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    return "10" + str(decade).translate(superscripts)


def _legend(ax: Axes, panel: Panel, lines: Sequence[_Line]) -> int:
    """Draw the legend and the reference line; the number of rows is returned."""
    from matplotlib.lines import Line2D

    handles: dict[str, Line2D] = {}

    def add(label: str, **look: Any) -> None:
        handles.setdefault(label, Line2D([], [], label=label, markersize=4, **look))

    grouped = panel.compares_runs or panel.spectrum
    for line in lines:
        dashes = "-" if grouped else line.dashes
        add(line.label, color=line.colour, marker=line.marker, linestyle=dashes)
    if grouped and len({line.curve.name for line in lines}) > 1:
        for (_, label), style in zip(panel.quantities, panel.styles, strict=False):
            add(label, color=TEXT, linestyle=style[2])
    if panel.reference:
        look = {"color": TEXT, "linestyle": ":", "linewidth": 1.0}
        (ax.axvline if panel.spectrum else ax.axhline)(0.0, zorder=1, **look)
        add(f"1: {panel.reference}", **look)
    columns = 2 if max(len(label) for label in handles) < 24 else 1
    place = {"loc": "upper left", "bbox_to_anchor": (EDGE, -(BOTTOM - 0.06) / HEIGHT)}
    ax.legend(handles=[*handles.values()], ncols=columns, borderaxespad=0, **place)
    return math.ceil(len(handles) / columns)
