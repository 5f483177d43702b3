"""The record of a diagnosis: frozen, ordered, and the same after a round trip."""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_factory import KINDS, make_report
from torch_geometric.nn import GCN

import graphfathom as gf
from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import FORMAT, SEVERITIES, Finding, Report

each_kind = pytest.mark.parametrize("kind", KINDS)


def finding(severity: str, name: str = "name") -> Finding:
    return Finding(
        name, "A title", severity, "layer 1", ("Fact.",), ("Do.",), "Source."
    )


def small(*severities: str, **fields: Any) -> Report:
    found = tuple(finding(s, f"finding {i}") for i, s in enumerate(severities))
    return Report(found, Observations(), **fields)


def same(one: Report, two: Report) -> bool:
    """Equality that takes NaN for NaN."""
    return str(one.to_dict()) == str(two.to_dict()) and all(
        type(getattr(one, name)) is type(getattr(two, name))
        for name in one.__dataclass_fields__
    )


def test_severities_go_from_harmless_to_fatal() -> None:
    assert SEVERITIES == ("healthy", "note", "unknown", "warning", "critical")


@given(st.lists(st.sampled_from(SEVERITIES), min_size=1, max_size=6))
def test_the_worst_finding_gives_the_severity(severities: list[str]) -> None:
    report = small(*severities)
    ranks = [SEVERITIES.index(severity) for severity in severities]
    assert SEVERITIES.index(report.severity) == max(ranks)
    assert report.verdict == report.findings[0], "but the first is the verdict"


def test_a_report_needs_a_verdict() -> None:
    with pytest.raises(ValueError, match="`findings` must have at least one entry"):
        Report((), Observations())


def test_severities_are_checked() -> None:
    with pytest.raises(ValueError, match=r"`severity` must be one of healthy.*'grave'"):
        small("healthy", "grave")


def test_a_report_is_frozen() -> None:
    report = make_report()
    with pytest.raises(FrozenInstanceError):
        report.notes = ()
    with pytest.raises(FrozenInstanceError):
        report.verdict.title = "Fine"


@each_kind
@pytest.mark.parametrize("depth", [2, 64])
def test_json_round_trip(kind: str, depth: int) -> None:
    report = make_report(depth, kind)
    text = json.dumps(report.to_dict(), allow_nan=False)
    again = Report.from_dict(json.loads(text))
    assert same(again, report)
    assert json.dumps(again.to_dict()) == text
    assert again.findings == report.findings
    assert (again.layers, again.states) == (report.layers, report.states)
    assert (again.notes, again.cost) == (report.notes, report.cost)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-320, 0.1, -0.0])
def test_every_number_survives_json(value: float) -> None:
    rows = Observations([Observation("x", "state:1", value, value)])
    report = Report((finding("note"),), rows, cost={"stage": value})
    record = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    again = Report.from_dict(record)
    (row,) = again.observations
    for found in (row.value, row.stderr, again.cost["stage"]):
        assert isinstance(found, float)
        assert str(found) == str(value)


@pytest.mark.parametrize("name", ["nan", "inf", "-inf"])
def test_names_stay_names(name: str) -> None:
    report = small("note", layers=(name,), data={"name": name})
    assert Report.from_dict(report.to_dict()) == report


def test_non_finite_numbers_are_words_in_json() -> None:
    values = [math.nan, math.inf, -math.inf]
    rows = Observations([Observation("x", "model", value) for value in values])
    record = Report((finding("note"),), rows).to_dict()
    assert [row["value"] for row in record["observations"]] == ["nan", "inf", "-inf"]


def test_the_record_begins_with_the_conclusion() -> None:
    report = make_report()
    record = report.to_dict()
    assert list(record)[:3] == ["format", "verdict", "severity"]
    assert record["format"] == FORMAT
    assert record["verdict"] == report.verdict.title
    assert record["severity"] == report.severity
    assert len(record["observations"]) == len(report.observations)


def test_a_record_is_a_copy() -> None:
    report = make_report()
    before = str(report.to_dict())
    record = report.to_dict()
    record["settings"]["seed"] = 1
    record["observations"].clear()
    assert str(report.to_dict()) == before
    Report.from_dict(report.to_dict())
    untouched = report.to_dict()
    Report.from_dict(untouched)
    assert str(untouched) == before


@pytest.mark.parametrize("number", [0, FORMAT + 1, None, "1"])
def test_another_format_is_refused(number: Any) -> None:
    record = {**make_report().to_dict(), "format": number}
    with pytest.raises(ValueError, match=f"`format` of a report must be {FORMAT}. Got"):
        Report.from_dict(record)


def test_a_record_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="Got None: diagnose again"):
        Report.from_dict({})


@pytest.mark.parametrize("kind", ["vanishing", "bare", "non-finite"])
def test_saved_files(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    report = make_report(8, kind)
    page = report.save(folder)
    assert page == folder / "report.html"
    files = {file.name for file in folder.iterdir()}
    plots = {name for name in files if not name.startswith("report.")}
    assert files - plots == {"report.html", "report.json"}
    stems = {Path(name).stem for name in plots}
    assert plots == {f"{stem}.{end}" for stem in stems for end in ("svg", "csv")}
    assert bool(stems) == (kind != "bare")
    assert same(Report.load(folder), report)


def test_nothing_is_written_beside_the_folder(tmp_path: Path) -> None:
    make_report(4).save(tmp_path / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_saving_twice_replaces_and_keeps_strangers(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    make_report(8).save(tmp_path)
    later = make_report(8, "exploding", seed=1)
    later.save(str(tmp_path))
    assert same(Report.load(str(tmp_path)), later)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_saved_json_has_no_number_that_json_does_not_know(tmp_path: Path) -> None:
    make_report(40, "non-finite").save(tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)


def test_loading_from_nowhere(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"report\.json"):
        Report.load(tmp_path)


@each_kind
@pytest.mark.parametrize("depth", [1, 64, 400])
def test_str_fits_a_screen(kind: str, depth: int) -> None:
    report = make_report(depth, kind)
    lines = str(report).splitlines()
    assert 1 <= len(lines) <= 40
    assert max(map(len, lines)) <= 100


@each_kind
def test_the_html_of_a_notebook_is_a_fragment(kind: str) -> None:
    fragment = make_report(8, kind)._repr_html_()
    assert "<html" not in fragment
    assert "<script" not in fragment
    assert "http-equiv" not in fragment


def test_repr_is_one_line() -> None:
    report = make_report(64)
    assert repr(report) == (
        f"Report(vanishing-gradients, critical, 64 layers, "
        f"{len(report.observations)} observations)"
    )


def test_reports_that_say_the_same_are_equal() -> None:
    assert make_report(8, "healthy") == make_report(8, "healthy")
    assert make_report(8, "healthy") != make_report(8, "healthy", seed=1)
    report = make_report(8, "healthy")
    assert replace(report, notes=()) != report


def test_the_report_of_a_real_diagnosis_round_trips(tmp_path: Path) -> None:
    data = gf.datasets.csbm(60, 3, avg_degree=4, homophily=0.8, seed=0)
    report = gf.diagnose(GCN(16, 8, num_layers=4, out_channels=3), data)
    report.save(tmp_path)
    again = Report.load(tmp_path)
    assert again == report
    assert str(again) == str(report)
