"""The section on theory: measured beside predicted, bounds called bounds."""

from __future__ import annotations

import math

import pytest
from report_factory import make_report, report_of
from test_html import Page, drawn

from graphfathom.diagnostics.observations import Observation
from graphfathom.html import content, render
from graphfathom.html.illustrations import draw, figure_for
from graphfathom.html.theory import predictions


def rows_of(*rows: Observation, depth: int = 2) -> list[tuple[str, ...]]:
    report = report_of(*rows, layers=tuple(f"convs.{k}" for k in range(depth)))
    table = predictions(report)
    return [] if table is None else [(*row, "–", "–")[:5] for row in table.rows]


def log10(name: str, place: str, value: float, stderr: float | None = None):
    return Observation(name, place, value, stderr, "log10")


def test_the_section_stands_between_figures_and_controls():
    text = render(make_report())
    headings = ("Through the depth", "What theory predicts", "Controls")
    places = [text.index(f"<h2>{heading}</h2>") for heading in headings]
    assert places == sorted(places)
    Page(text)


@pytest.mark.parametrize("kind", ["tiny", "bare"])
def test_no_section_without_deep_measures(kind):
    report = make_report(kind=kind)
    assert predictions(report) is None
    assert "What theory predicts" not in render(report)


def test_a_name_is_not_seen_twice_but_can_be_heard():
    chaos = [log10("edge_of_chaos", f"layer:{k}", -0.3) for k in (1, 2)]
    text = render(report_of(*chaos))
    name = "Distance to the edge of chaos, decades"
    assert f'<th scope="row">{name}</th>' in text
    assert f'<th scope="row"><span class="unseen">{name}</span></th>' in text


def test_without_predictions_there_is_no_column_for_them():
    report = report_of(log10("edge_of_chaos", "layer:1", -0.5))
    table = predictions(report)
    assert table is not None
    assert table.header == ("Quantity", "Where", "Measured")
    assert [len(row) for row in table.rows] == [3]
    assert "the notes say why" in render(report)


def test_every_row_is_complete():
    table = predictions(make_report())
    assert table is not None
    assert all(len(row) == len(table.header) for row in table.rows)
    assert all(cell for row in table.rows for cell in row)
    assert table.note.endswith(".")


def test_the_product_of_all_layers_is_below_the_product_of_their_bounds():
    rows = [
        log10("product_singular_value.1", "model", -12.34),
        log10("product_singular_value.1.residual", "model", 0.2),
        Observation("theory.largest_singular_value", "layer:1", 0.1),
        Observation("theory.largest_singular_value", "layer:2", 0.5),
    ]
    ((name, where, measured, predicted, source),) = rows_of(*rows)[:1]
    assert (name, where) == ("Largest singular value", "all 2 layers")
    assert measured == "10^-12.3, to 0.2 decades"
    assert (predicted, source) == ("at most 0.0500", "Proposition 3.3")


def test_a_product_with_a_layer_of_no_form_has_no_bound():
    product = log10("product_singular_value.1", "model", -12.34)
    bound = Observation("theory.largest_singular_value", "layer:1", 0.1)
    assert rows_of(product, bound)[0][3] == "–"


@pytest.mark.parametrize(
    ("residual", "text"),
    [(1e-9, "10^-5.0, to 0.01"), (math.inf, "10^-5.0"), (math.nan, "10^-5.0")],
)
def test_residuals(residual, text):
    product = log10("product_singular_value.1", "model", -5.0)
    rest = log10("product_singular_value.1.residual", "model", residual)
    assert rows_of(product, rest)[0][2].startswith(text)
    assert ("decades" in rows_of(product, rest)[0][2]) == math.isfinite(residual)


def test_lyapunov_exponents_are_listed_in_order():
    rows = [
        Observation(f"lyapunov_exponent.{i}", "model", -i / 2, unit="nats per layer")
        for i in (1, 2)
    ]
    ((_, _, measured, *_),) = rows_of(*rows)
    assert measured == "−0.500, −1.000"


def test_the_edge_of_chaos_beside_theorem_32():
    rows = [
        log10("edge_of_chaos", "layer:1", -0.5, 0.02),
        Observation("theory.mean_squared_gain", "layer:1", 0.01),
        log10("edge_of_chaos", "layer:2", -1e-5, 0.0),
    ]
    first, second = rows_of(*rows)
    assert first[1:] == ("layer 1", "−0.500 ± 0.020", "−1.000", "Theorem 3.2")
    assert second[1:] == ("layer 2", "0.000", "–", "–")


def test_gains_are_told_once():
    rows = [
        Observation(name, f"layer:{k}", 0.25)
        for name in ("mean_squared_gain", "theory.mean_squared_gain")
        for k in (1, 2)
    ]
    chaos = log10("edge_of_chaos", "layer:1", -0.3)
    assert [row[0] for row in rows_of(*rows)] == ["Mean squared gain"] * 2
    assert [row[4] for row in rows_of(*rows)] == ["Theorem 3.2"] * 2
    assert [row[:2] for row in rows_of(*rows, chaos)] == [
        ("Distance to the edge of chaos, decades", "layer 1")
    ]


def uniform(low: float, high: float, height: float) -> list[Observation]:
    """A predicted density of layer 1 that is level between two places."""
    return [
        Observation(f"theory.density.log10={x / 10:.1f}", "layer:1", height)
        for x in range(round(10 * low), round(10 * high) + 1)
    ]


@pytest.mark.parametrize(
    ("low", "high", "height", "text", "source"),
    [
        (-2.0, 0.0, 0.5, "50.0 %", "Lemma 3.1"),
        (-0.5, 0.5, 1.0, "0.0 %", "Lemma 3.1"),
        (-2.0, -1.0, 1.0, "100.0 %", "Lemma 3.1"),
        # What the points do not hold may be on either side.
        (-2.0, 0.0, 0.4, "–", "–"),
        (-2.0, 0.0, 0.6, "–", "–"),
    ],
)
def test_the_share_of_small_singular_values(low, high, height, text, source):
    below = Observation("singular_values.below", "layer:1", 0.5, 0.26, "share")
    (row,) = rows_of(below, *uniform(low, high, height))
    assert row[2:] == ("50 ± 26 %", text, source)


def test_first_middle_and_last_layer():
    rows = [
        Observation(name, f"layer:{k}", 1.5)
        for name in ("largest_singular_value", "theory.largest_singular_value")
        for k in range(1, 10)
    ]
    assert [row[1] for row in rows_of(*rows)] == ["layer 1", "layer 5", "layer 9"]
    assert all(row[3] == "at most 1.50" for row in rows_of(*rows))


def test_features_and_energies_at_the_last_state_with_a_bound():
    rows = [log10("feature_norm", f"state:{k}", 1.0) for k in range(4)]
    rows += [log10("theory.feature_norm", f"state:{k}", 2.0) for k in (1, 2)]
    (row,) = rows_of(*rows)
    assert row == ("Feature norm", "state 2", "10", "at most 100", "Proposition 4.2")


def test_only_the_whole_bound_of_a_sensitivity_is_one():
    rows = [
        Observation("sensitivity.pairs", "distance:3", 10.0),
        log10("sensitivity", "distance:3", -13.0, 0.1),
        log10("sensitivity.model", "distance:3", -12.0, 0.1),
        log10("sensitivity.topology", "distance:3", -1.0),
        log10("theory.sensitivity", "distance:3", -4.0),
        log10("theory.sensitivity.model", "model", 2.0),
        log10("theory.sensitivity.topology", "distance:3", -6.0),
    ]
    whole, model, topology = rows_of(*rows)
    assert whole[1:4] == ("3 hops", "10^-13.0 ± 0.10 decades", "at most 10^-4.0")
    assert model[3] == "100 in the bound"
    assert topology[2:4] == ("0.100", "10^-6.0 in the bound")
    assert {row[4] for row in (whole, model, topology)} == {"Theorem 5.1"}


def test_readings_of_the_deep_figures():
    figures = drawn("vanishing")
    assert figures["sensitivity"].reading.endswith(" at 9 hops.")
    assert figures["density"].reading == (
        "Here 50 ± 3 % of those of layer 1 and 50 ± 3 % of those of layer 64 are at"
        " most 0.1."
    )
    assert "; the largest singular value is" in figures["theory"].reading
    assert " at layer 64, the bound " in figures["bounds"].reading


def test_a_reading_says_of_how_many_layers_it_is():
    rows = [Observation("mean_squared_gain", f"layer:{k}", 0.5) for k in (1, 2)]
    rows.append(Observation("theory.mean_squared_gain", "layer:2", 0.25))
    (figure,) = (f for f in draw(report_of(*rows)) if f.name == "theory")
    assert figure.reading == (
        "Here the mean squared gain is 0.500 in 1 layer, the prediction 0.250."
    )


def test_over_squashing_links_to_its_figure():
    figure = figure_for("over-squashing", list(drawn("vanishing").values()))
    assert figure is not None
    assert figure.name == "sensitivity"


def test_deep_quantities_are_defined_where_they_were_measured():
    terms = dict(content.definitions(make_report()))
    assert {"Sensitivity", "Lyapunov exponents", "Predicted, at most"} <= terms.keys()
    rows = (log10("edge_of_chaos", "layer:1", -0.5),)
    terms = [term for term, _ in content.definitions(report_of(*rows))]
    assert terms == ["Distance to the edge of chaos"]
