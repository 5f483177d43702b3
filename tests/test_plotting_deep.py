"""Figures of a deep diagnosis: what was measured, and what theory says of it."""

from __future__ import annotations

import csv
import io
import math

import pytest
from report_factory import make_report, report_of, states

from graphfathom import plotting
from graphfathom.diagnostics.observations import Observation

DEEP = ("sensitivity", "density", "theory", "bounds")


def log10(name: str, place: str, value: float, stderr: float | None = None):
    return Observation(name, place, value, stderr, "log10")


def spectrum(name: str, place: str, heights: dict[float, float], stderr=None):
    """A density at some decimal logarithms of singular values."""
    return [
        Observation(f"{name}.log10={x:.1f}", place, height, stderr, "per decade")
        for x, height in heights.items()
    ]


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("name", DEEP)
def test_what_was_not_measured_deeply_has_no_figure(name):
    rows = states("feature_norm", [1.0, 2.0], "log10")
    rows += [Observation("mean_squared_gain", "layer:1", 0.5)]
    report = report_of(*rows)
    assert name not in plotting.figures(report)
    assert plotting.to_csv(report, name).count("\n") == 1
    ax = getattr(plotting, name)(report)
    assert [text.get_text() for text in ax.texts] == ["not measured"]


def test_a_prediction_is_drawn_beside_its_measure():
    gain = Observation("mean_squared_gain", "layer:1", 0.01)
    said = Observation("theory.mean_squared_gain", "layer:1", 0.1)
    measured, predicted, edge = plotting.theory(report_of(gain, said)).lines
    assert list(measured.get_ydata()) == pytest.approx([-2])
    assert list(predicted.get_ydata()) == pytest.approx([-1])
    assert measured.get_color() == predicted.get_color()
    assert measured.get_linestyle() != predicted.get_linestyle()
    assert list(edge.get_ydata()) == [0, 0]


def test_predictions_are_not_drawn_across_layers_that_have_none():
    said = [Observation("theory.mean_squared_gain", f"layer:{k}", 1.0) for k in (1, 4)]
    line, _ = plotting.theory(report_of(*said)).lines
    assert list(line.get_xdata()) == [1, 2, 3, 4]
    assert [math.isnan(y) for y in line.get_ydata()] == [False, True, True, False]
    assert plotting.to_csv(report_of(*said), "theory").count("\n") == 3


def test_a_lone_prediction_has_a_marker():
    said = [Observation("theory.mean_squared_gain", f"layer:{k}", 1.0) for k in (1, 60)]
    line, _ = plotting.theory(report_of(*said)).lines
    assert line.get_markevery() == [0, 59]


def test_bounds_lie_over_the_states_they_are_of():
    norms = states("feature_norm", [1.0, 0.5, 0.0], "log10")
    bounds = [log10("theory.feature_norm", f"state:{k}", k) for k in (1, 2)]
    measured, allowed = plotting.bounds(report_of(*norms, *bounds)).lines
    assert list(measured.get_xdata()) == [0, 1, 2]
    assert list(allowed.get_xdata()) == [1, 2]
    assert list(allowed.get_ydata()) == [1, 2]


def test_sensitivities_lie_over_hops_with_their_errors():
    rows = [log10("sensitivity", f"distance:{r}", -r, 0.25) for r in range(3)]
    ax = plotting.sensitivity(report_of(*rows))
    (line,) = ax.lines
    assert list(line.get_xdata()) == [0, 1, 2]
    assert list(line.get_ydata()) == [0, -1, -2]
    (bars,) = ax.collections
    assert bars.get_segments()[2][:, 1].tolist() == [-2.25, -1.75]
    assert ax.get_xlabel() == "hops between two nodes"


def test_distances_out_of_reach_are_exact_zeros():
    rows = [log10("sensitivity.topology", "distance:0", 0.0)]
    rows += [log10("sensitivity.topology", "distance:1", -math.inf)]
    ax = plotting.sensitivity(report_of(*rows))
    assert "exactly 0" in [text.get_text() for text in ax.texts]


def test_what_theory_says_is_set_beside_what_was_measured_there():
    rows = states("feature_norm", [1.0, 2.0, 3.0], "log10")
    rows += [log10("theory.feature_norm", f"state:{k}", 10 * k) for k in (1, 2, 3)]
    pair = plotting.beside_theory(report_of(*rows), "feature_norm")
    assert pair is not None
    assert [each.index for each in pair] == [(1, 2), (1, 2)]
    assert [each.value for each in pair] == [(2.0, 3.0), (10, 20)]


def test_nothing_stands_beside_what_was_measured_elsewhere():
    norms = states("feature_norm", [1.0], "log10")
    elsewhere = log10("theory.feature_norm", "state:7", 1.0)
    for rows in (norms, [elsewhere], [*norms, elsewhere]):
        assert plotting.beside_theory(report_of(*rows), "feature_norm") is None


def test_terms_that_are_not_defined_are_not_drawn():
    rows = [log10("sensitivity.model", f"distance:{r}", -r) for r in range(2)]
    beyond = log10("sensitivity.model", "distance:2", math.nan)
    report = report_of(*rows, beyond)
    (line,) = plotting.sensitivity(report).lines
    assert list(line.get_xdata()) == [0, 1]
    assert plotting.to_csv(report, "sensitivity").count("\n") == 3
    assert "sensitivity" not in plotting.figures(report_of(beyond))


def test_densities_are_ordered_by_singular_value_and_layer():
    rows = spectrum("density", "layer:5", {0.0: 1.0, -1.0: 2.0, 1.0: 0.5}, 0.1)
    rows += spectrum("density", "layer:2", {0.0: 3.0})
    first, second = plotting.densities(report_of(*rows), "density")
    assert (first.index, second.index) == ((2,), (5, 5, 5))
    assert second.x == (-1.0, 0.0, 1.0)
    assert second.value == (2.0, 1.0, 0.5)
    assert second.stderr == (0.1, 0.1, 0.1)


def test_a_layer_and_its_prediction_share_a_colour():
    heights = {-1.0: 1.0, 0.0: 2.0}
    rows = [
        row
        for name, layers in (("density", (1, 4)), ("theory.density", (4,)))
        for k in layers
        for row in spectrum(name, f"layer:{k}", heights)
    ]
    ax = plotting.density(report_of(*rows))
    one, four, random_four, edge = ax.lines
    assert four.get_color() == random_four.get_color() != one.get_color()
    assert (four.get_linestyle(), random_four.get_linestyle()) == ("-", "--")
    assert list(edge.get_xdata()) == [0, 0]
    assert legend(ax) == [
        "layer 1",
        "layer 4",
        "measured",
        "random weights",
        "1: edge of chaos",
    ]


def test_singular_values_are_marked_as_they_are():
    ax = plotting.density(make_report())
    assert ax.get_xlim()[0] < -3 < 1 < ax.get_xlim()[1]
    text = ax.xaxis.get_major_formatter()
    assert [text(x, 0) for x in (-3, 0, 1)] == ["0.001", "1", "10"]


def test_the_error_of_a_density_is_a_band():
    heights = {round(-3 + k / 10, 1): 1.0 for k in range(41)}
    rows = spectrum("density", "layer:1", heights, 0.25)
    (band,) = plotting.density(report_of(*rows)).collections
    vertices = band.get_paths()[0].vertices
    assert (vertices[:, 0].min(), vertices[:, 0].max()) == (-3, 1)
    assert (vertices[:, 1].min(), vertices[:, 1].max()) == (0.75, 1.25)


def test_the_data_of_a_density_say_where_on_the_axis_they_are():
    rows = spectrum("density", "layer:3", {-0.5: 2.0}, 0.1)
    text = plotting.to_csv(report_of(*rows), "density")
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["quantity"], row["index"], row["log10"]) == ("density", "3", "-0.5")
    assert (row["value"], row["stderr"]) == ("2.0", "0.1")


def test_another_run_has_a_density_of_its_own():
    (row,) = spectrum("density", "layer:3", {0.0: 2.0})
    other = Observation(row.name, row.place, 1.0, run="mlp")
    (curve,) = plotting.densities(report_of(row, other), "density", "mlp")
    assert curve.value == (1.0,)
