"""The summary: one screen, whatever the report; the verdict first; honest numbers."""

from __future__ import annotations

import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_factory import KINDS, make_report, report_of, states
from rich.cells import cell_len
from rich.console import Console

from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import SEVERITIES, Finding, Report
from graphfathom.terminal import (
    SEVERITY_WORDS,
    describe_data,
    describe_guess,
    describe_model,
    format_count,
    format_number,
    format_share,
    print_report,
    render,
)

TEXT = st.text(max_size=300)
FINDINGS = st.builds(
    Finding,
    name=TEXT,
    title=TEXT,
    severity=st.sampled_from(SEVERITIES),
    where=TEXT,
    evidence=st.lists(TEXT, max_size=12).map(tuple),
    advice=st.lists(TEXT, max_size=12).map(tuple),
    source=TEXT,
)
NAMES = (
    "feature_rms",
    "gradient.state",
    "gain_to_output",
    "effective_rank",
    "loss",
    "loss.constant",
    "accuracy.train",
    "accuracy.majority",
    "mean_squared_gain",
    "theory.mean_squared_gain",
    "product_singular_value.1",
    "edge_of_chaos",
    "singular_values.below",
    "sensitivity.pairs",
    "sensitivity.model",
)
OBSERVATIONS = st.builds(
    Observation,
    name=st.sampled_from(NAMES),
    place=st.sampled_from(("model", "state:0", "state:7", "state:1200", "distance:3")),
    value=st.floats(),
    unit=st.sampled_from(("1", "log10", "share")),
    run=st.one_of(st.sampled_from(("model", "mlp", "shallow")), st.text(max_size=40)),
)
REPORTS = st.builds(
    Report,
    findings=st.lists(FINDINGS, min_size=1, max_size=12).map(tuple),
    observations=st.lists(OBSERVATIONS, max_size=40).map(Observations),
    layers=st.lists(TEXT, max_size=3).map(tuple),
    model=st.dictionaries(st.sampled_from(("name", "parameters", "dtype")), TEXT),
    data=st.dictionaries(st.sampled_from(("name", "nodes", "edges")), st.integers()),
    notes=st.lists(TEXT, max_size=12).map(tuple),
    cost=st.dictionaries(TEXT, st.floats(0, 1e6), max_size=12),
)


def fits(text: str, width: int) -> bool:
    lines = text.split("\n")
    widest = max(cell_len(line) for line in lines)
    return len(lines) <= 40 and widest <= min(width, 100)


@settings(deadline=None, max_examples=150)
@given(REPORTS, st.integers(50, 130), st.booleans())
def test_never_more_than_a_screen(report, width, ascii_only):
    assert fits(render(report, width, ascii_only=ascii_only), width)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("depth", [1, 2, 64, 1000])
@pytest.mark.parametrize("width", [50, 80, 100])
def test_every_kind_fits(kind, depth, width):
    assert fits(render(make_report(depth, kind), width), width)


@pytest.mark.parametrize("kind", KINDS)
def test_the_verdict_comes_first_in_words(kind):
    report = make_report(kind=kind)
    first = render(report).split("\n")[0]
    assert first.startswith(SEVERITY_WORDS[report.verdict.severity] + ": ")


def test_the_severity_is_not_said_twice():
    finding = Finding("healthy", "Healthy: all is well", "healthy", "", (), (), "")
    report = report_of(findings=(finding,))
    assert render(report).split("\n")[0] == "HEALTHY: all is well"


def test_everything_important_is_there():
    report = make_report(kind="vanishing")
    text = " ".join(render(report).split())
    for part in (
        report.verdict.title,
        report.verdict.where,
        *report.verdict.evidence,
        *report.verdict.advice,
        report.findings[1].title,
        "GCN, 64 layers, 365,191 parameters, float32",
        "Cora (2,708 nodes, 5,278 edges, 1,433 features)",
        "MLP, no graph",
        "The best constant guess: loss 1.95, accuracy 30.2 %.",
        "Took 10.0 s: jacobians 5.9",
    ):
        assert part in text


def test_a_report_with_nothing_but_a_finding():
    text = render(make_report(kind="bare"))
    assert text.startswith("UNDECIDED: Not enough evidence for a verdict\nmodel\n")
    for heading in ("Through the depth", "Controls", "Notes", "Took"):
        assert heading not in text


def test_what_is_left_out_is_counted():
    report = make_report(kind="hostile")
    text = render(report)
    counts = [int(count) for count in re.findall(r"… and (\d+) more", text)]
    shown = len(re.findall(r"^ {10}- |^Evidence {2}- ", text, re.MULTILINE))
    assert counts[0] + shown == len(report.verdict.evidence)
    shown_notes = len(re.findall(r"^ {2}- ", text, re.MULTILINE))
    assert counts[-1] + shown_notes == len(report.notes)


def test_terminal_escapes_and_line_breaks_are_removed():
    text = render(make_report(kind="hostile"))
    assert "\x1b" not in text
    assert "layer <img src=x onerror=alert(1)> second line" in text


def test_profile_shows_the_ends_and_at_most_eight_depths():
    text = render(make_report(1000))
    (header,) = [line for line in text.split("\n") if "after layer" in line]
    depths = [int(number) for number in re.findall(r"\d+", header)]
    assert depths[0] == 0
    assert depths[-1] == 1000
    assert len(depths) <= 8


def test_columns_of_the_profile_never_touch():
    text = render(make_report(1000))
    (row,) = [line for line in text.split("\n") if "  gradient  " in line]
    assert "10^-172.4 " in row


def test_exact_zeros_and_non_finite_values_in_the_profile():
    rows = states("gradient.state", (0.0, -math.inf, math.nan), "log10")
    report = report_of(*rows)
    (row,) = [line for line in render(report).split("\n") if "  gradient  " in line]
    assert row.split() == ["gradient", "▅0x", "1", "0", "NaN"]


def test_a_level_course_looks_level():
    rows = states("feature_rms", [1 + 0.01 * k for k in range(9)])
    text = render(report_of(*rows))
    (row,) = [line for line in text.split("\n") if line.startswith("  feature RMS  ")]
    assert len(set(row.split()[2])) == 1


def test_ascii_only():
    assert render(make_report(kind="hostile"), ascii_only=True).isascii()


def test_width_has_a_lower_bound():
    with pytest.raises(ValueError, match=r"`width` must be >= 50. Got 49."):
        render(make_report(), 49)


def console(**options) -> Console:
    return Console(file=io.StringIO(), width=100, **options)


def printed(target: Console) -> str:
    print_report(make_report(), target)
    return target.file.getvalue()


def test_printing_is_rendering():
    assert printed(console()).rstrip("\n") == render(make_report())


def test_a_terminal_gets_colour():
    text = printed(console(force_terminal=True, color_system="standard"))
    assert "\x1b[1;31mCRITICAL" in text


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = printed(console(force_terminal=True, color_system="standard"))
    assert not re.search(r"\x1b\[[0-9;]*3\d", text)
    assert "CRITICAL" in text


def test_markup_of_others_is_not_interpreted():
    finding = Finding("x", "[red]not red[/red]", "note", "", (), (), "")
    report = report_of(findings=(finding,))
    target = console()
    print_report(report, target)
    assert "[red]not red[/red]" in target.file.getvalue()


def test_a_console_without_unicode_gets_ascii():
    file = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    print_report(make_report(), Console(file=file, width=100))
    file.seek(0)
    assert file.read().isascii()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (-166.32, "log10", "10^-166.3"),
        (166.32, "log10", "10^166.3"),
        (-400.0, "log10", "10^-400.0"),
        (-1e300, "log10", "10^-1e+300"),
        (-16.5, "log10", "3.2e-17"),
        (0.25, "log10", "1.78"),
        (0.0, "log10", "1"),
        (-math.inf, "log10", "0"),
        (math.inf, "log10", "inf"),
        (math.nan, "log10", "NaN"),
        (0.0, "1", "0"),
        (1.7, "1", "1.70"),
        (1.7321, "1", "1.73"),
        (0.00358, "1", "0.00358"),
        (0.000358, "1", "3.6e-4"),
        (123.4, "1", "123"),
        (99.99, "1", "100"),
        (54_321.9, "1", "54,322"),
        (1e9, "1", "1.0e9"),
        (-2.5, "1", "-2.50"),
        (-math.inf, "1", "-inf"),
        (2708, "1", "2,708"),
    ],
)
def test_numbers(value, unit, text):
    assert format_number(value, unit) == text


@given(st.floats(-1e300, 1e300))
def test_numbers_keep_two_digits(value):
    text = format_number(value)
    assert float(text.replace(",", "")) == pytest.approx(value, rel=0.051, abs=1e-323)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0 %"),
        (1e-9, "< 0.1 %"),
        (0.302, "30.2 %"),
        (0.99999, "> 99.9 %"),
        (1.0, "100.0 %"),
        (1.5, "1.50"),
        (math.nan, "NaN"),
    ],
)
def test_shares(value, text):
    assert format_share(value) == text


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.5, 0.26, "50 ± 26 %"),
        (0.302, 0.004, "30.2 ± 0.4 %"),
        (0.302, 0.0, "30.2 %"),
        (math.nan, 0.1, "NaN"),
    ],
)
def test_shares_with_an_error(value, stderr, text):
    assert format_share(value, stderr) == text


@pytest.mark.parametrize(
    ("value", "text"), [(365191, "365,191"), (True, "True"), ("many", "many")]
)
def test_counts(value, text):
    assert format_count(value) == text


def test_descriptions_of_unknown_things():
    report = make_report(kind="bare")
    assert describe_model(report) == "model"
    assert describe_data(report) == ""
    assert describe_guess(report) == ""
