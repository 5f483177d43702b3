"""Figures: what they draw is what was measured, and nobody's state is touched."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_factory import KINDS, make_report, report_of, states

from graphfathom import plotting
from graphfathom.diagnostics.observations import Observation

OKABE_ITO = {
    "#000000",
    "#e69f00",
    "#56b4e9",
    "#009e73",
    "#f0e442",
    "#0072b2",
    "#d55e00",
    "#cc79a7",
}
FUNCTIONS: dict[str, Callable] = {
    name: getattr(plotting, name) for name in plotting.PANELS
}


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def markers(ax, marker: str) -> list[tuple[list, list]]:
    """Data of the lines that are drawn as loose markers of a kind."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in ax.lines
        if line.get_marker() == marker and line.get_linestyle() == "None"
    ]


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_light():
    code = "import sys, graphfathom.plotting; print('matplotlib' in sys.modules)"
    assert run_python(code) == "False\n"


def test_pyplot_and_rc_parameters_are_left_alone():
    import matplotlib
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    for figure in plotting.figures(make_report(8)).values():
        plotting.to_svg(figure)
        plotting.to_pdf(figure)
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(
    ("depth", "kind"), [*((64, kind) for kind in KINDS), (1, "healthy"), (1000, "zero")]
)
def test_every_report_can_be_drawn(depth, kind):
    report = make_report(depth, kind)
    for name, figure in plotting.figures(report).items():
        assert figure.axes[0].get_xlabel() == plotting.PANELS[name].across
        assert plotting.to_csv(report, name).count("\n") > 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_draw_into_the_given_axes(name):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3, 3))
    ax = figure.add_subplot()
    ax.set_title("mine")
    assert FUNCTIONS[name](make_report(), ax) is ax
    assert ax.get_title() == "mine"
    assert tuple(figure.get_size_inches()) == (3, 3)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_make_their_own_axes(name):
    ax = FUNCTIONS[name](make_report())
    assert ax.get_title(loc="left") == plotting.PANELS[name].title
    assert ax.get_legend() is not None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_was_not_measured_is_said(name):
    ax = FUNCTIONS[name](make_report(kind="bare"))
    assert texts(ax) == ["not measured"]


def test_only_figures_with_data():
    assert list(plotting.figures(make_report(kind="tiny"))) == ["gradients", "signal"]
    assert plotting.figures(make_report(kind="bare")) == {}
    assert list(plotting.figures(make_report())) == list(plotting.PANELS)


def test_axes_have_one_size_whatever_the_legend():
    sizes = set()
    for figure in plotting.figures(make_report()).values():
        box = figure.axes[0].get_position()
        width, height = figure.get_size_inches()
        sizes.add((round(box.width * width, 6), round(box.height * height, 6)))
    assert len(sizes) == 1


def test_lines_are_the_logarithms_of_the_values():
    report = report_of(*states("feature_rms", [1.0, 10.0, 0.01]))
    (line,) = plotting.signal(report).lines
    assert list(line.get_xdata()) == [0, 1, 2]
    assert list(line.get_ydata()) == pytest.approx([0, 1, -2])


def test_logarithms_are_drawn_as_they_are():
    report = report_of(*states("feature_rms", [0.0, -400.0], "log10"))
    (line,) = plotting.signal(report).lines
    assert list(line.get_ydata()) == [0, -400]


def test_zeros_are_markers_at_the_floor():
    report = report_of(*states("feature_rms", [0.0, -math.inf, -math.inf], "log10"))
    ax = plotting.signal(report)
    ((x, y),) = markers(ax, "v")
    assert x == [1, 2]
    assert max(y) < 0.1
    assert "exactly 0" in texts(ax)
    assert "not finite" not in texts(ax)
    assert ax.get_ylim()[0] < 0


def test_non_finite_values_are_crosses_at_the_ceiling():
    report = report_of(*states("feature_rms", [0.0, math.nan, math.inf], "log10"))
    ax = plotting.signal(report)
    ((x, y),) = markers(ax, "x")
    assert x == [1, 2]
    assert min(y) > 0.9
    assert "not finite" in texts(ax)
    assert "exactly 0" not in texts(ax)


def test_zero_shares_are_ordinary_values():
    ax = plotting.numerics(report_of(*states("exact_zeros", [0.0, 0.5], "share")))
    assert markers(ax, "v") == []
    assert ax.get_ylim()[0] < 0 < 1 < ax.get_ylim()[1]


def test_outliers_do_not_cover_the_lines():
    values = [-3.0, 2.0, -math.inf, math.nan]
    ax = plotting.signal(report_of(*states("feature_rms", values, "log10")))
    low, high = ax.get_ylim()
    for label in ax.texts:
        height = low + label.get_position()[1] * (high - low)
        assert height < -3 or height > 2


@pytest.mark.parametrize(
    ("values", "side"),
    [
        ([0.0] * 9 + [-math.inf], "right"),
        ([-math.inf] + [0.0] * 9, "left"),
        ([0.0, -math.inf, 0.0], "center"),
    ],
)
def test_words_about_outliers_stay_inside(values, side):
    ax = plotting.signal(report_of(*states("feature_rms", values, "log10")))
    assert [text.get_ha() for text in ax.texts] == [side]


def test_a_level_line_looks_level():
    report = report_of(*states("feature_rms", [0.0, 0.001, -0.001], "log10"))
    low, high = plotting.signal(report).get_ylim()
    assert high - low >= 2


def test_log_axes_are_marked():
    for name, panel in plotting.PANELS.items():
        label = FUNCTIONS[name](make_report()).get_ylabel()
        assert ("log scale" in label) == (panel.scale == "log")


@pytest.mark.parametrize(
    ("values", "tick", "text"),
    [
        ([0.0, -60.0], -20, "10⁻²⁰"),
        ([0.0, -60.0], 0, "1"),
        ([0.0, -2.0], -2, "0.01"),
        ([0.0, 2.0], 1, "10"),
    ],
)
def test_ticks_are_the_numbers_that_were_measured(values, tick, text):
    ax = plotting.signal(report_of(*states("feature_rms", values, "log10")))
    assert ax.yaxis.get_major_formatter()(tick, 0) == text


def test_numerics_name_the_precision():
    assert plotting.numerics(make_report()).get_ylabel() == "share of entries (float32)"


def test_the_edge_of_chaos_is_drawn():
    ax = plotting.jacobian(make_report())
    assert any(list(line.get_ydata()) == [0, 0] for line in ax.lines)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "1: edge of chaos" in labels


def test_one_colour_per_run_everywhere():
    report = make_report()
    colours: dict[str, set[str]] = {}
    for name in ("gradients", "gain", "rank"):
        legend = FUNCTIONS[name](report).get_legend()
        for text, line in zip(legend.get_texts(), legend.get_lines(), strict=True):
            colours.setdefault(text.get_text(), set()).add(line.get_color())
    runs = [plotting.run_label(run) for run in report.observations.runs()]
    assert all(len(colours[run]) == 1 for run in runs)
    assert len(set().union(*(colours[run] for run in runs))) == len(runs)


def test_unknown_runs_get_a_colour_of_their_own():
    rows = states("effective_rank", [3.0, 2.0])
    rows += states("effective_rank", [3.0, 2.0], run="another")
    first, second = plotting.rank(report_of(*rows)).lines
    assert first.get_color() != second.get_color()
    assert plotting.run_label("another") == "another"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lines_are_colour_blind_safe_and_read_in_grey(name):
    ax = FUNCTIONS[name](make_report())
    legend = ax.get_legend().get_lines()
    looks = {(line.get_marker(), line.get_linestyle()) for line in legend}
    assert len(looks) == len(legend)
    coloured = {line.get_color() for line in legend if line.get_marker() != "None"}
    assert coloured <= OKABE_ITO


def test_another_run_can_be_drawn():
    rows = states("feature_rms", [1.0, 1.0])
    rows += states("feature_rms", [10.0, 10.0], run="mlp")
    (line,) = plotting.signal(report_of(*rows), run="mlp").lines
    assert list(line.get_ydata()) == [1, 1]


def test_error_bars_of_few_points():
    report = report_of(*states("gain_to_output", [0.0, -1.0], "log10", stderr=0.25))
    (bars,) = plotting.gain(report).collections
    assert bars.get_segments()[1][:, 1].tolist() == [-1.25, -0.75]


def test_error_bars_become_a_band():
    values = [0.0] * 50
    report = report_of(*states("gain_to_output", values, "log10", stderr=0.25))
    (band,) = plotting.gain(report).collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (-0.25, 0.25)


def test_error_bars_on_a_log_axis():
    row = Observation("mean_squared_gain", "layer:1", 1.0, 0.9)
    wide = Observation("mean_squared_gain", "layer:2", 1.0, 2.0)
    (bars,) = plotting.jacobian(report_of(row, wide)).collections
    first, second = (segment[:, 1].tolist() for segment in bars.get_segments())
    assert first == pytest.approx([-1, math.log10(1.9)])
    assert second == pytest.approx([-1, math.log10(3)])


def test_the_latest_value_counts():
    rows = [
        Observation("feature_rms", "state:0", 1.0, step=0),
        Observation("feature_rms", "state:0", 5.0, step=1),
    ]
    data = plotting.curve(report_of(*rows), "feature_rms")
    assert data is not None
    assert data.value == (5.0,)


def test_curve_of_nothing():
    assert plotting.curve(make_report(kind="bare"), "feature_rms") is None


@given(st.lists(st.floats(), min_size=1, max_size=9))
def test_logarithms_of_any_number(values):
    data = plotting.curve(report_of(*states("feature_rms", values)), "feature_rms")
    assert data is not None
    for value, logarithm in zip(values, data.log10(), strict=True):
        if math.isnan(value):
            assert math.isnan(logarithm)
        elif value <= 0:
            assert logarithm == -math.inf
        elif math.isinf(value):
            assert logarithm == math.inf
        else:
            assert math.isclose(logarithm, math.log10(value), abs_tol=1e-12)


def test_svg_is_reproducible_and_well_formed():
    first = plotting.to_svg(plotting.figures(make_report())["gain"])
    second = plotting.to_svg(plotting.figures(make_report())["gain"])
    assert first == second
    assert "<dc:date>" not in first
    ElementTree.fromstring(first)


def test_svg_text_is_text():
    svg = plotting.to_svg(plotting.figures(make_report())["gain"])
    assert plotting.PANELS["gain"].title in svg


def test_pdf_is_reproducible():
    first = plotting.to_pdf(plotting.figures(make_report())["gain"])
    second = plotting.to_pdf(plotting.figures(make_report())["gain"])
    assert first == second
    assert first.startswith(b"%PDF")
    assert b"CreationDate" not in first


@pytest.mark.parametrize("kind", ["vanishing", "zero", "non-finite"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_csv_is_what_is_drawn(kind, name):
    report = make_report(40, kind)
    rows = list(csv.DictReader(io.StringIO(plotting.to_csv(report, name))))
    quantities = [quantity for quantity, _ in plotting.PANELS[name].quantities]
    runs = report.observations.runs()
    if not plotting.PANELS[name].compares_runs:
        runs = ["model"]
    expected = {
        (row.name, row.run, row.index): row
        for row in report.observations
        if row.name.split(".log10=")[0] in quantities and row.run in runs
    }
    assert len(rows) == len(expected)
    for row in rows:
        x = f".log10={row['log10']}" if "log10" in row else ""
        source = expected[row["quantity"] + x, row["run"], int(row["index"])]
        assert str(source.value) == row["value"]
        assert str("" if source.stderr is None else source.stderr) == row["stderr"]
        assert (source.unit, source.dtype) == (row["unit"], row["dtype"])


def test_csv_of_an_unknown_figure():
    with pytest.raises(ValueError, match=r"`name` must be one of gradients.*'pie'"):
        plotting.to_csv(make_report(), "pie")
