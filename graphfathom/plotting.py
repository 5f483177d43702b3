"""Figures of a report: functions of a Report and an ``ax`` that return the Axes.

The layer index is on the x axis: ``state:k`` and ``layer:k`` both stand at k. On a log
axis the decimal logarithm is drawn, so that 10^-400 has a place; an exact zero, which
has none, is a triangle on the floor, and a value that is not finite a cross at the
ceiling. Panels that compare networks have one colour per run, the same everywhere;
panels about one network have one colour per quantity. The colours are those of Okabe
and Ito (2008); markers and line styles say the same again for those who print in grey.

matplotlib is imported when a figure is drawn, and the state of pyplot never touched.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from graphfathom.diagnostics.report import Report

__all__ = [
    "PANELS",
    "Curve",
    "Panel",
    "curve",
    "figures",
    "gain",
    "gradients",
    "jacobian",
    "numerics",
    "rank",
    "run_label",
    "signal",
    "smoothing",
    "to_csv",
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


PANELS = {
    "gradients": Panel(
        title="Gradient of the loss, layer by layer",
        label="norm (log scale)",
        scale="log",
        quantities=(("gradient.state", "of state"), ("gradient.weights", "of weights")),
        compares_runs=True,
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


def run_label(run: str) -> str:
    """What a run is called in figures, tables and summaries."""
    return RUNS[run][0] if run in RUNS else run


def gradients(report: Report, ax: Axes | None = None) -> Axes:
    """Norms of the loss gradient in states and in weights, of all runs."""
    return _draw(report, "gradients", ax)


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


def figures(report: Report) -> dict[str, Figure]:
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


def to_csv(report: Report, name: str) -> str:
    """Exactly the data that the figure ``name`` shows, as CSV text with a header.

    Raises:
        ValueError: If there is no such figure.
    """
    if name not in PANELS:
        raise ValueError(f"`name` must be one of {', '.join(PANELS)}. Got {name!r}.")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ("quantity", "run", "index", "value", "stderr", "unit", "dtype")
    writer.writerow(names)
    for data in (line.curve for line in _lines(report, name)):
        for row in zip(data.index, data.value, data.stderr, strict=True):
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

    def where(self, wanted: Callable[[float], bool]) -> list[int]:
        """Indices of the heights that are wanted."""
        pairs = zip(self.curve.index, self.heights, strict=True)
        return [index for index, height in pairs if wanted(height)]


def _lines(report: Report, name: str, run: str = "model") -> Iterator[_Line]:
    panel = PANELS[name]
    runs = report.observations.runs() if panel.compares_runs else [run]
    others = [each for each in runs if each not in RUNS]
    for each in runs:
        for (quantity, label), style in zip(
            panel.quantities, panel.styles, strict=False
        ):
            data = curve(report, quantity, each)
            if data is None:
                continue
            if panel.compares_runs:
                other = others.index(each) % len(OTHER_RUNS) if each in others else 0
                colour, marker = RUNS.get(each, ("", *OTHER_RUNS[other]))[1:]
                look = (run_label(each), colour, marker, style[2])
            else:
                look = (label, *style)
            yield _Line(data, *look, panel.scale)


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
        ax.set(xlabel="layer", ylabel=panel.label + dtype)
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
            _fit(cast("Figure", ax.figure), rows)
    return ax


def _fit(figure: Figure, rows: int) -> None:
    """Size the figure so that all have axes of one size, whatever the legend."""
    bottom = BOTTOM + rows * ROW
    height = TOP + HEIGHT + bottom
    figure.set_size_inches(WIDTH, height)
    across = {"left": LEFT / WIDTH, "right": 1 - RIGHT / WIDTH}
    figure.subplots_adjust(top=1 - TOP / height, bottom=bottom / height, **across)


def _fill(ax: Axes, panel: Panel, lines: Sequence[_Line]) -> None:
    from matplotlib.ticker import MaxNLocator

    for position, line in enumerate(lines):
        heights = [y if math.isfinite(y) else math.nan for y in line.heights]
        ax.plot(
            line.curve.index,
            heights,
            color=line.colour,
            marker=line.marker,
            linestyle=line.dashes,
            # Where lines coincide, the earlier ones stay visible as a rim.
            linewidth=max(1.2, 2.4 - 0.4 * position),
            markersize=4,
            markevery=_every(len(heights), position),
        )
        if any(line.curve.stderr):
            _draw_errors(ax, line, heights)
    last = max(line.curve.index[-1] for line in lines)
    ax.set_xlim(-0.02 * last - 0.25, last * 1.02 + 0.25)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
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
    x, errors = line.curve.index, [error or 0.0 for error in line.curve.stderr]
    if line.scale == "log" and line.curve.unit != "log10":
        triples = list(zip(line.curve.value, heights, errors, strict=True))
        # An error as large as its value has no logarithm below: a decade stands for it.
        low = [_log10(v - e) if v > e else y - bool(e) for v, y, e in triples]
        high = [_log10(v + e) if math.isfinite(y) else y for v, y, e in triples]
    else:
        low = [y - e for y, e in zip(heights, errors, strict=True)]
        high = [y + e for y, e in zip(heights, errors, strict=True)]
    if len(x) > FEW_POINTS:
        ax.fill_between(x, low, high, color=line.colour, alpha=0.25, linewidth=0)
    else:
        ax.vlines(x, low, high, color=line.colour, linewidth=1.0, alpha=0.5)


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
        _mark_decades(ax)
    elif panel.scale == "share":
        ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])


def _draw_outliers(
    ax: Axes,
    places: Sequence[tuple[_Line, list[int]]],
    text: str,
    marker: str,
    *,
    upward: bool,
) -> float:
    """One row of markers per line that has any, from the floor up or the ceiling down.

    The height they take is returned, in heights of the axes.
    """
    rows = [(line, indices) for line, indices in places if indices]
    if not rows:
        return 0.0
    across, heights = ax.get_xaxis_transform(), []
    for row in range(len(rows) + 1):
        distance = 0.035 + OUTLIERS * row + 0.02 * (row == len(rows))
        heights.append(distance if upward else 1 - distance)
    for (line, indices), height in zip(rows, heights, strict=False):
        ax.plot(
            indices,
            [height] * len(indices),
            color=line.colour,
            marker=marker,
            linestyle="none",
            markersize=5,
            markevery=_every(len(indices), 0),
            transform=across,
        )
    everywhere = [index for _, indices in rows for index in indices]
    middle = (min(everywhere) + max(everywhere)) / 2
    look = {"ha": "center", "va": "center", "fontsize": 9.5, "color": TEXT}
    ax.text(middle, heights[-1], text, transform=across, **look)
    return OUTLIERS * (len(rows) + 1.5)


def _mark_decades(ax: Axes) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator

    low, high = ax.get_ylim()
    decades = range(math.floor(low), math.ceil(high))
    plain = low > -4 and high < 4
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.yaxis.set_major_formatter(lambda decade, _: _power(round(decade), plain))
    if len(decades) <= 8:
        minor = [d + math.log10(digit) for d in decades for digit in range(2, 10)]
        ax.yaxis.set_minor_locator(FixedLocator([y for y in minor if low < y < high]))


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

    for line in lines:
        dashes = "-" if panel.compares_runs else line.dashes
        add(line.label, color=line.colour, marker=line.marker, linestyle=dashes)
    if panel.compares_runs and len({line.curve.name for line in lines}) > 1:
        for (_, label), style in zip(panel.quantities, panel.styles, strict=False):
            add(label, color=TEXT, linestyle=style[2])
    if panel.reference:
        look = {"color": TEXT, "linestyle": (0, (1, 1.5)), "linewidth": 1.0}
        ax.axhline(0.0, zorder=1, **look)
        add(f"1: {panel.reference}", **look)
    columns = 2 if max(len(label) for label in handles) < 24 else 1
    place = {"loc": "upper left", "bbox_to_anchor": (EDGE, -(BOTTOM - 0.06) / HEIGHT)}
    ax.legend(handles=[*handles.values()], ncols=columns, borderaxespad=0, **place)
    return math.ceil(len(handles) / columns)
