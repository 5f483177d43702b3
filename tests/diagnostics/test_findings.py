"""From the findings of single rules to one verdict."""

from __future__ import annotations

import copy
import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import DEPTH, LAYERS, Change, changed, found, healthy, names, table

from graphfathom.diagnostics.findings import RULES, find
from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import SEVERITIES

ORDER = [rule.name for rule in RULES]

SICK: dict[str, Change] = {
    "non-finite": {"non_finite": {3: 0.5}},
    "equal-labels": {"labels.distinct": 1.0},
    "constant-features": {"features.varying": 0.0},
    "exactly-zero": {"exact_zeros": {4: 1.0}},
    "vanishing-gradients": {"gradient.state.relative": {1: -9.0}},
    "over-smoothing-to-zero": {"feature_rms": {4: -9.0}},
    "dead-units": {"dead_units": {2: 0.9}},
    "over-smoothing-to-constants": {"deviation.constant": {2: 1e-4}},
    "underflow": {"subnormals": {2: 0.5}},
}
"""A change of a healthy network for each disease that can come with the others."""


def test_a_healthy_network() -> None:
    (verdict,) = found({})
    assert (verdict.name, verdict.severity) == ("healthy", "healthy")
    assert f"all {DEPTH} layers" in verdict.title
    assert verdict.source == RULES[-1].source


def test_a_note_never_takes_the_verdict() -> None:
    findings = found({"data.diameter": 30.0})
    assert names(findings) == ["healthy", "under-reaching"]


def test_all_diseases_at_once_come_in_the_order_of_precedence() -> None:
    together: Change = {}
    for change in SICK.values():
        together |= change
    assert names(found(together)) == [name for name in ORDER if name in SICK]


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(SICK, 2)])
def test_the_earlier_rule_takes_the_verdict(first: str, second: str) -> None:
    findings = found({**SICK[second], **SICK[first]})
    assert names(findings) == [first, second]
    assert ORDER.index(first) < ORDER.index(second)


def test_exploding_gradients_precede_over_smoothing() -> None:
    change: Change = {"gradient.state.relative": {1: 9.0}}
    findings = found({**change, **SICK["over-smoothing-to-zero"]})
    assert names(findings) == ["exploding-gradients", "over-smoothing-to-zero"]


def test_causes_that_void_measurements_come_first() -> None:
    assert ORDER[:3] == ["not-a-depth-problem", "learning-rate", "non-finite"]
    assert ORDER[-2:] == ["not-enough-evidence", "healthy"]


@pytest.mark.parametrize(
    ("change", "without", "missing"),
    [
        ({}, ("loss",), "no labels"),
        ({"data.nodes": 1.0, "data.edges": 0.0}, (), "one node"),
        ({"data.edges": 0.0}, (), "no edges"),
    ],
    ids=["labels", "nodes", "edges"],
)
def test_missing_evidence(
    change: Change, without: tuple[str, ...], missing: str
) -> None:
    (verdict,) = found(change, without=without)
    assert (verdict.name, verdict.severity) == ("not-enough-evidence", "unknown")
    (sentence,) = verdict.evidence
    assert missing in sentence


def test_without_layers_there_is_no_verdict_on_them() -> None:
    findings = find(table({"data.nodes": 9.0, "data.edges": 8.0, "loss": 1.0}), ())
    assert names(findings) == ["not-enough-evidence"]
    assert "could not be told apart" in findings[0].evidence[0]


def test_without_layers_the_reach_is_unknown() -> None:
    numbers = {"data.nodes": 9.0, "data.edges": 8.0, "loss": 1.0, "data.diameter": 8.0}
    assert names(find(table(numbers), ())) == ["not-enough-evidence"]


def test_an_empty_table_is_not_enough() -> None:
    (verdict,) = find(Observations(), ())
    assert verdict.name == "not-enough-evidence"
    assert len(verdict.evidence) == 2


def test_a_disease_that_is_seen_needs_no_more_evidence() -> None:
    change: Change = {**SICK["dead-units"], "data.edges": 0.0}
    assert names(found(change, without=("loss",))) == ["dead-units"]


def with_control(change: Change, control: Change) -> list[str]:
    """Names of the findings on a network beside its control of depth 1."""
    shallow = table(changed(healthy(1), control), run="shallow")
    return names(find(table(changed(healthy(), change)) + shallow, LAYERS))


def test_what_is_there_at_depth_one_is_not_the_depth() -> None:
    change: Change = {"non_finite": {1: 1.0}}
    assert with_control(change, change) == ["not-a-depth-problem", "non-finite"]


def test_what_is_not_there_at_depth_one_may_be_the_depth() -> None:
    assert with_control({"non_finite": {1: 1.0}}, {}) == ["non-finite"]


def test_only_the_first_finding_is_compared() -> None:
    change: Change = {"non_finite": {1: 1.0}, "subnormals": {1: 0.5}}
    assert with_control(change, {"subnormals": {1: 0.5}}) == ["non-finite", "underflow"]


def test_a_disease_of_the_control_alone_is_not_the_networks() -> None:
    assert with_control({}, {"non_finite": {1: 1.0}}) == ["healthy"]


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [(0.30, "not-a-depth-problem"), (0.3499, "not-a-depth-problem"), (0.36, None)],
)
def test_a_trained_control_that_learns_nothing(
    accuracy: float, verdict: str | None
) -> None:
    numbers = changed(healthy(), SICK["vanishing-gradients"])
    rows = table({**numbers, "accuracy.majority": 0.3})
    rows += table({"accuracy.test": accuracy}, run="shallow")
    expected = [verdict] if verdict else []
    assert names(find(rows, LAYERS)) == [*expected, "vanishing-gradients"]


def test_a_healthy_network_needs_no_control() -> None:
    rows = table({**healthy(), "accuracy.majority": 0.3})
    rows += table({"accuracy.test": 0.1}, run="shallow")
    assert names(find(rows, LAYERS)) == ["healthy"]


def test_other_runs_do_not_decide() -> None:
    for run in ("model (eval)", "mlp"):
        sick = table(changed(healthy(), SICK["vanishing-gradients"]), run=run)
        assert names(find(table(healthy()) + sick, LAYERS)) == ["healthy"]


def test_findings_are_a_function_of_the_table() -> None:
    together: Change = {}
    for change in SICK.values():
        together |= change
    rows = table(changed(healthy(), together))
    before = copy.deepcopy(rows.to_rows())
    first = find(rows, LAYERS)
    assert find(rows, LAYERS) == first
    assert rows.to_rows() == before
    shuffled = rows.to_rows()
    random.Random(0).shuffle(shuffled)
    assert find(Observations.from_rows(shuffled), LAYERS) == first


def test_the_latest_step_decides() -> None:
    """Whatever the order in which values of the steps are sorted."""
    for last, verdict in ((-9.0, "vanishing-gradients"), (0.0, "healthy")):
        rows = table(changed(healthy(), {"gradient.state.relative": {1: -9.0 - last}}))
        name = "gradient.state.relative"
        rows += Observations([Observation(name, "state:1", last, step=1)])
        assert names(find(rows, LAYERS))[0] == verdict


MEASURED = sorted({*healthy(), "loss.constant", "accuracy.test", "accuracy.majority"})
NUMBERS = st.floats() | st.sampled_from([0.0, 1.0, -3.5, math.nan, -math.inf, math.inf])


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    name = draw(st.sampled_from(MEASURED))
    value = draw(NUMBERS)
    # A mean of squares; every other number may be anything.
    value = abs(value) if name == "mean_squared_gain" else value
    places = table({name: healthy().get(name, 0.0)})
    kind = next(iter(places)).place.split(":")[0]
    place = kind if kind == "model" else f"{kind}:{draw(st.integers(0, 6))}"
    run = draw(st.sampled_from(["model", "model", "shallow"]))
    return Observation(name, place, value, run=run)


@given(st.lists(observations(), max_size=40), st.integers(0, 5), st.booleans())
def test_any_table_has_a_verdict(
    rows: list[Observation], depth: int, with_healthy: bool
) -> None:
    base = table(healthy(depth)) if with_healthy else Observations()
    findings = find(
        base + Observations(rows), tuple(f"convs.{k}" for k in range(depth))
    )
    assert findings
    found_names = names(findings)
    assert len(set(found_names)) == len(found_names)
    assert found_names[0] != "under-reaching"
    assert all(finding.severity in SEVERITIES for finding in findings)
    applied = [name for name in found_names if name in ORDER[1:-2]]
    assert applied == sorted(applied, key=ORDER.index)
