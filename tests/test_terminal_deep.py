"""The lines of the summary about a deep diagnosis."""

from __future__ import annotations

import math

import pytest
from report_factory import make_report, report_of

from graphfathom.diagnostics.observations import Observation
from graphfathom.terminal import farthest, format_power, render
from graphfathom.terminal.deep import deep_lines


def heard(pairs: dict[int, float], model: dict[int, float]) -> list[Observation]:
    """Pairs at each distance, and the model term where it is known."""
    rows = [
        Observation("sensitivity.pairs", f"distance:{r}", count)
        for r, count in pairs.items()
    ]
    for r, value in model.items():
        place = f"distance:{r}"
        rows.append(Observation("sensitivity.model", place, value, unit="log10"))
        rows.append(Observation("sensitivity.topology", place, -r / 2, unit="log10"))
    return rows


def layers(name: str, values: list[float], unit: str = "1") -> list[Observation]:
    return [
        Observation(name, f"layer:{k}", value, unit=unit)
        for k, value in enumerate(values, start=1)
    ]


def test_a_line_each():
    rows = [Observation("product_singular_value.1", "model", -12.34, unit="log10")]
    rows += layers("edge_of_chaos", [-1.0, -0.5, 0.0], "log10")
    rows += layers("singular_values.below", [0.4, 0.5, 0.9], "share")
    rows += heard({0: 10, 1: 40}, {0: 0.0, 1: -12.0})
    rows += layers("mean_squared_gain", [0.1, 0.2, 0.3])
    rows += layers("theory.mean_squared_gain", [0.2, 0.25, 0.3])
    assert deep_lines(report_of(*rows)) == [
        (
            "singular values",
            "all layers 10^-12.3 (max), one 0.316 (RMS), 50.0 % below 0.1",
        ),
        ("at 1 hop", "model 10^-12.0, graph 0.316"),
        (
            "by theory",
            "mean squared gain 0.250, measured 0.200 (Theorem 3.2)",
        ),
    ]


def test_nothing_deep_no_line():
    rows = layers("mean_squared_gain", [0.1, 0.2])
    assert deep_lines(report_of(*rows)) == []
    assert deep_lines(make_report(kind="tiny")) == []


def test_what_is_not_finite_is_no_median():
    rows = layers("edge_of_chaos", [math.nan, -1.0, -math.inf], "log10")
    assert deep_lines(report_of(*rows)) == [("singular values", "one 0.100 (RMS)")]
    rows = layers("edge_of_chaos", [math.nan], "log10")
    assert deep_lines(report_of(*rows)) == []


def test_the_lines_follow_the_profile():
    lines = render(make_report()).split("\n")
    starts = ("Through the depth", "  singular values", "  at 9 hops", "  by theory")
    places = [
        next(n for n, line in enumerate(lines) if line.startswith(start))
        for start in (*starts, "Controls")
    ]
    assert places == sorted(places)


def test_only_layers_with_a_prediction_are_compared():
    rows = layers("mean_squared_gain", [9.0, 0.5])
    rows += [Observation("theory.mean_squared_gain", "layer:2", 0.25)]
    ((_, text),) = deep_lines(report_of(*rows, layers=("a", "b")))
    assert text == "mean squared gain 0.250, measured 0.500 (Theorem 3.2)"
    assert deep_lines(report_of(*rows, layers=("a", "b", "c"))) == []


@pytest.mark.parametrize("kind", ["vanishing", "hostile"])
def test_where_little_fits_the_first_line_stays(kind):
    for width in (50, 80):
        assert "\n  singular values all layers 10^" in render(
            make_report(64, kind), width
        )


@pytest.mark.parametrize(
    ("pairs", "model", "far"),
    [
        ({}, {}, None),
        ({0: 5}, {0: 0.0}, None),
        ({0: 5, 1: 5}, {0: 0.0, 1: -1.0}, 1),
        # Out of reach.
        ({1: 50, 2: 50, 3: 60}, {1: -1.0, 2: -1.0, 3: math.nan}, 2),
    ],
)
def test_the_farthest_common_distance(pairs, model, far):
    assert farthest(report_of(*heard(pairs, model))) == far


def test_the_distance_that_the_finding_is_about_comes_first():
    rows = heard({1: 10, 2: 10, 3: 10}, {1: -1.0, 2: -1.0, 3: -1.0})
    rows.append(Observation("sensitivity.far", "model", 2.0, unit="hops"))
    assert farthest(report_of(*rows)) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-12.34, "10^-12.3"),
        (4.0, "10^4.0"),
        (-3.99, "1.0e-4"),
        (-1.5, "0.0316"),
        (0.0, "1"),
        (-166.32, "10^-166.3"),
        (-math.inf, "0"),
        (math.nan, "NaN"),
    ],
)
def test_powers(value, text):
    assert format_power(value) == text
