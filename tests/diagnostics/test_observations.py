"""The table of observations: what is put in comes out."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphfathom.diagnostics.observations import Observation, Observations

NAMES = st.sampled_from(["loss", "gradient.state", "feature_rms"])
PLACES = st.sampled_from(["model", "state:0", "state:1", "state:12", "layer:3"])
NUMBERS = st.floats(allow_nan=False)
ROWS = st.lists(
    st.builds(
        Observation,
        name=NAMES,
        place=PLACES,
        value=NUMBERS,
        stderr=st.none() | st.floats(0, allow_nan=False),
        unit=st.sampled_from(["1", "log10", "share"]),
        dtype=st.sampled_from(["float32", "float64"]),
        run=st.sampled_from(["model", "mlp"]),
        step=st.integers(0, 5),
        batch=st.integers(0, 5),
    ),
    max_size=20,
)

TABLE = Observations(
    [
        Observation("loss", "model", 2.0),
        Observation("feature_rms", "state:10", -1.0, unit="log10"),
        Observation("feature_rms", "state:2", -2.0, unit="log10"),
        Observation("feature_rms", "state:2", -3.0, unit="log10", run="mlp"),
        Observation("mean_squared_gain", "layer:1", 0.5, 0.01),
        Observation("loss", "model", 1.0, step=7),
    ]
)


@pytest.mark.parametrize(
    ("place", "index"),
    [("model", None), ("state:0", 0), ("state:1000", 1000), ("layer:7", 7)],
)
def test_index(place: str, index: int | None) -> None:
    assert Observation("loss", place, 0.0).index == index


def test_an_observation_is_frozen() -> None:
    row = Observation("loss", "model", 0.0)
    with pytest.raises(FrozenInstanceError):
        row.value = 1.0
    with pytest.raises((AttributeError, TypeError)):
        row.comment = "no"


def test_an_exact_float64_number_is_the_default() -> None:
    row = Observation("loss", "model", 0.0)
    assert (row.stderr, row.unit, row.dtype, row.run) == (None, "1", "float64", "model")
    assert (row.step, row.batch) == (0, 0)


def test_names_and_runs_in_order_of_appearance() -> None:
    assert TABLE.names() == ["loss", "feature_rms", "mean_squared_gain"]
    assert TABLE.runs() == ["model", "mlp"]


def test_the_latest_value_counts() -> None:
    assert TABLE.value("loss") == 1.0
    assert TABLE.get("loss").step == 7


def test_what_was_not_measured() -> None:
    assert TABLE.get("accuracy.test") is None
    assert math.isnan(TABLE.value("accuracy.test"))
    assert math.isnan(TABLE.value("feature_rms", "state:0"))
    assert math.isnan(TABLE.value("loss", run="mlp"))
    assert TABLE.series("accuracy.test") == ([], [])


def test_series_are_sorted_by_number_and_of_one_run() -> None:
    assert TABLE.series("feature_rms") == ([2, 10], [-2.0, -1.0])
    assert TABLE.series("feature_rms", "mlp") == ([2], [-3.0])
    assert TABLE.series("loss") == ([], []), "the model has no index"


def test_values_of_one_place_stay_in_the_order_of_measurement() -> None:
    """So that a dictionary of a series holds the latest ones, NaN or not."""
    values = [3.0, 1.0, math.nan, 2.0]
    rows = [Observation("x", "state:1", v, step=i) for i, v in enumerate(values)]
    rows.append(Observation("x", "state:0", 0.0))
    indices, found = Observations(rows).series("x")
    assert indices == [0, 1, 1, 1, 1]
    assert str(found[1:]) == str(values)
    assert dict(zip(indices, found, strict=True)) == {0: 0.0, 1: 2.0}


@given(ROWS, st.none() | NAMES, st.none() | PLACES, st.sampled_from([None, "mlp"]))
def test_select_is_a_filter(
    rows: list[Observation], name: str | None, place: str | None, run: str | None
) -> None:
    expected = [
        row
        for row in rows
        if name in (None, row.name)
        and place in (None, row.place)
        and run in (None, row.run)
    ]
    assert list(Observations(rows).select(name, run, place)) == expected


@given(ROWS, ROWS)
def test_tables_add_up(first: list[Observation], second: list[Observation]) -> None:
    one, two = Observations(first), Observations(second)
    both = one + two
    assert list(both) == first + second
    assert len(both) == len(first) + len(second)
    assert (list(one), list(two)) == (first, second)


@given(ROWS)
def test_rows_round_trip(rows: list[Observation]) -> None:
    table = Observations(rows)
    assert Observations.from_rows(table.to_rows()) == table
    assert hash(Observations(rows)) == hash(table)


@given(ROWS)
def test_csv_holds_every_field(rows: list[Observation]) -> None:
    text = Observations(rows).to_csv()
    reader = csv.DictReader(io.StringIO(text))
    names = [field.name for field in fields(Observation)]
    read = list(reader)
    assert reader.fieldnames == names
    assert len(read) == len(rows)
    for line, row in zip(read, rows, strict=True):
        assert float(line["value"]) == row.value
        assert line["stderr"] == ("" if row.stderr is None else str(row.stderr))
        assert (line["name"], line["place"], line["run"]) == (
            row.name,
            row.place,
            row.run,
        )
    assert "\r" not in text


def test_csv_of_numbers_that_are_none() -> None:
    rows = [Observation("x", "model", v) for v in (math.nan, math.inf, -math.inf)]
    lines = Observations(rows).to_csv().splitlines()[1:]
    assert [line.split(",")[2] for line in lines] == ["nan", "inf", "-inf"]


def test_a_table_does_not_change_with_the_list_it_was_made_of() -> None:
    rows = [Observation("loss", "model", 0.0)]
    table = Observations(rows)
    rows.clear()
    assert len(table) == 1
    table.to_rows().clear()
    assert len(table) == 1
    assert table != rows
    assert Observations() == Observations(iter(()))


def test_repr_says_how_much_there_is() -> None:
    assert repr(TABLE) == "Observations(6 rows, 3 names, runs: model, mlp)"


def test_an_unknown_field_is_refused() -> None:
    row = {"name": "loss", "place": "model", "value": 0.0, "colour": "red"}
    with pytest.raises(TypeError, match="colour"):
        Observations.from_rows([row])
