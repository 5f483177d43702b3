"""Each rule on tables written by hand, on both sides of its threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from tables import DEPTH, LAYERS, Change, changed, found, healthy, names, table

from graphfathom.diagnostics.findings import RULES
from graphfathom.diagnostics.report import Finding
from graphfathom.diagnostics.rules import Facts, Rule, growth, power

TINY = 1e-9
"""A step across a threshold."""
EVERY = range(DEPTH + 1)


@dataclass(frozen=True)
class Case:
    """A rule with a table just before its threshold and one just beyond."""

    name: str
    before: Change
    beyond: Change
    severity: str

    def __str__(self) -> str:
        return f"{self.name} {self.severity} {next(iter(self.beyond))}"


def relative(first: float) -> Change:
    return {"gradient.state.relative": {1: first}}


def last_rms(value: float) -> Change:
    return {"feature_rms": {DEPTH: value}}


def deviation(kind: str, value: float, k: int = 2) -> Change:
    return {f"deviation.{kind}": {k: value}}


def far(model: float, topology: float) -> Change:
    """Both terms of the pairs that stand for far ones."""
    return {
        "sensitivity.far": float(DEPTH // 2),
        "sensitivity.model": {DEPTH // 2: model},
        "sensitivity.topology": {DEPTH // 2: topology},
    }


CASES = (
    Case("non-finite", {}, {"non_finite": {2: TINY}}, "critical"),
    Case("non-finite", {}, {"gradient_non_finite": {2: TINY}}, "critical"),
    Case(
        "equal-labels", {"labels.distinct": 2.0}, {"labels.distinct": 1.0}, "critical"
    ),
    Case(
        "constant-features",
        {"features.varying": 1.0},
        {"features.varying": 0.0},
        "warning",
    ),
    Case(
        "exactly-zero",
        {"exact_zeros": {3: 1.0, 4: 1 - TINY}},
        {"exact_zeros": {3: 1.0, 4: 1.0}},
        "critical",
    ),
    Case("vanishing-gradients", relative(-3.0), relative(-3 - TINY), "warning"),
    Case("vanishing-gradients", relative(-3.0), relative(-6.0), "warning"),
    Case("vanishing-gradients", relative(-3.0), relative(-6 - TINY), "critical"),
    Case("vanishing-gradients", relative(-3.0), relative(-math.inf), "critical"),
    Case("exploding-gradients", relative(3.0), relative(3 + TINY), "warning"),
    Case("exploding-gradients", relative(3.0), relative(6.0), "warning"),
    Case("exploding-gradients", relative(3.0), relative(6 + TINY), "critical"),
    Case("exploding-gradients", relative(3.0), relative(math.inf), "critical"),
    Case("over-smoothing-to-zero", last_rms(-3.0), last_rms(-3 - TINY), "warning"),
    Case("over-smoothing-to-zero", last_rms(-3.0), last_rms(-6.0), "warning"),
    Case("over-smoothing-to-zero", last_rms(-3.0), last_rms(-6 - TINY), "critical"),
    Case("over-smoothing-to-zero", last_rms(-3.0), last_rms(-math.inf), "critical"),
    *(
        Case(
            "over-smoothing-to-constants",
            deviation(kind, 0.01),
            deviation(kind, 0.01 - TINY),
            "critical",
        )
        for kind in ("constant", "degree")
    ),
    Case(
        "dead-units",
        {"dead_units": {2: 0.5}},
        {"dead_units": {2: 0.5 + TINY}},
        "warning",
    ),
    Case(
        "underflow",
        {"subnormals": {2: 0.01}},
        {"subnormals": {2: 0.01 + TINY}},
        "warning",
    ),
    Case(
        "underflow",
        {"gradient_subnormals": {2: 0.01}},
        {"gradient_subnormals": {2: 0.01 + TINY}},
        "warning",
    ),
    Case(
        "underflow",
        {"gradient_zeros": {1: 1 - TINY}},
        {"gradient_zeros": {1: 1.0}},
        "critical",
    ),
    Case("over-squashing", far(-3.0, -2.0), far(-3.0, -2 - TINY), "warning"),
    Case("over-squashing", far(-3.0, -2.0), far(-3 - TINY, -2.0), "note"),
    Case(
        "under-reaching",
        {"data.diameter": float(DEPTH)},
        {"data.diameter": DEPTH + 1.0},
        "note",
    ),
)
each = pytest.mark.parametrize("case", CASES, ids=str)


def one(change: Change, name: str, depth: int = DEPTH) -> Finding:
    return next(f for f in found(change, depth) if f.name == name)


@each
def test_a_rule_fires_beyond_its_threshold(case: Case) -> None:
    finding = one(case.beyond, case.name)
    assert finding.severity == case.severity
    assert finding.evidence
    assert finding.advice


@each
def test_a_rule_is_silent_at_its_threshold(case: Case) -> None:
    assert names(found(case.before)) == ["healthy"]


@each
def test_nothing_else_fires(case: Case) -> None:
    sick = [case.name] if case.severity != "note" else ["healthy", case.name]
    assert names(found(case.beyond)) == sick


@each
def test_a_rule_is_silent_without_its_needs(case: Case) -> None:
    rule = next(rule for rule in RULES if rule.name == case.name)
    numbers = changed(healthy(), case.beyond)
    assert rule.needs
    for need in rule.needs:
        without = tuple(name for name in numbers if name == need)
        assert case.name not in names(found(case.beyond, without=without))


@each
def test_a_finding_quotes_its_rule(case: Case) -> None:
    rule = next(rule for rule in RULES if rule.name == case.name)
    finding = one(case.beyond, case.name)
    assert finding.source == rule.source
    assert len(finding.title) <= 90
    assert not finding.title.endswith(".")
    sentences = finding.evidence + finding.advice
    assert all(sentence.endswith(".") for sentence in sentences)


def test_every_rule_that_can_fire_is_tested() -> None:
    tests = Path(__file__).parent
    here = set()
    for rule in RULES:
        if rule.apply is None:
            continue
        home = rule.apply.__module__.rpartition(".")[2]
        if home in {"rules", "squashing"}:
            here.add(rule.name)
        else:
            other = (tests / f"test_{home}.py").read_text(encoding="utf-8")
            assert rule.apply.__name__ in other
    assert here == {case.name for case in CASES}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_is_documented(rule: Rule) -> None:
    for text in (rule.name, rule.summary, rule.threshold, rule.source):
        assert text.strip() == text != ""
    assert rule.summary.endswith(".")
    assert rule.source.endswith(".")
    assert not rule.threshold.endswith(".")
    assert rule.needs or not rule.apply


def test_names_of_rules_are_unique() -> None:
    listed = [rule.name for rule in RULES]
    assert len(set(listed)) == len(listed)


def test_the_first_bad_layer_is_named() -> None:
    finding = one({"non_finite": {2: 0.1, 3: 0.5, 4: 1.0}}, "non-finite")
    assert finding.where == "layer 2 (`convs.1`)"
    assert "10.0%" in finding.evidence[0]
    assert "float32" in finding.evidence[0]


def test_a_bad_gradient_begins_at_the_last_bad_state() -> None:
    finding = one({"gradient_non_finite": {0: 1.0, 1: 1.0, 2: 0.5}}, "non-finite")
    assert finding.where == "layer 2 (`convs.1`)"
    assert "gradient" in finding.title


def test_bad_features_come_before_a_bad_gradient() -> None:
    change: Change = {"non_finite": {3: 1.0}, "gradient_non_finite": {4: 1.0}}
    assert "features" in one(change, "non-finite").title


def test_the_input_has_no_layer_name() -> None:
    assert one({"non_finite": {0: 0.1}}, "non-finite").where == "state 0"


@pytest.mark.parametrize(
    ("norm", "cause"), [(-50.0, "float32 underflows"), (-math.inf, "switched off")]
)
def test_zero_says_whether_float64_knows_better(norm: float, cause: str) -> None:
    change: Change = {
        "exact_zeros": {3: 1.0, 4: 1.0},
        "feature_norm": {3: norm},
    }
    finding = one(change, "exactly-zero")
    assert finding.where == "layers 3-4 of 4"
    assert any(cause in sentence for sentence in finding.evidence)


@pytest.mark.parametrize(
    "zeros",
    [
        {2: 1.0, 3: 0.5, 4: 1.0},
        dict.fromkeys(EVERY, 1.0),
        {0: 1.0},
    ],
    ids=["comes back", "input is zero", "only the input is zero"],
)
def test_zero_features_that_no_layer_made(zeros: dict[int, float]) -> None:
    assert "exactly-zero" not in names(found({"exact_zeros": zeros}))


@pytest.mark.parametrize("value", [-10.0, 10.0])
def test_a_single_layer_has_no_depth_to_lose_gradients_over(value: float) -> None:
    change: Change = {"gradient.state.relative": {0: value, 1: value}}
    assert names(found({**change, "data.diameter": 1.0}, depth=1)) == ["healthy"]


def test_the_gradient_in_the_features_alone_is_no_disease() -> None:
    assert names(found({"gradient.state.relative": {0: -9.0}})) == ["healthy"]


def test_where_the_gradient_is_lost() -> None:
    change: Change = {"gradient.state.relative": {0: -9.0, 1: -8.0, 2: -4.0, 3: -2.0}}
    finding = one(change, "vanishing-gradients")
    assert finding.where == "layers 1-2 of 4"
    assert "10^-8.0" in finding.title


def test_evidence_of_vanishing_gradients() -> None:
    change: Change = {
        "gradient.state.relative": {1: -8.0},
        "gain_to_output": {1: -7.5, 4: 0.5},
        "mean_squared_gain": {1: 0.25, 2: 0.25, 3: 0.25, 4: 9.0},
        "gradient_zeros": {0: 1.0, 1: 1.0},
    }
    text = " ".join(one(change, "vanishing-gradients").evidence)
    assert "falls to 10^-8.0" in text
    assert "by 0.50" in text
    assert "exactly 0 up to state 1" in text


def test_growth_is_measured_behind_the_first_layer() -> None:
    def grown(change: Change) -> float | None:
        return growth(Facts(table(changed(healthy(), change)), LAYERS))

    assert grown({"feature_rms": {0: 9.0, 1: 1.0, 4: 3.5}}) == 2.5
    assert grown({"feature_rms": {1: 1.0, 4: -math.inf}}) == -math.inf
    assert grown({"feature_rms": {1: -math.inf}}) is None


def test_smooth_input_is_not_the_networks_fault() -> None:
    change: Change = {"deviation.constant": dict.fromkeys(EVERY, 1e-3)}
    assert names(found(change)) == ["healthy"]


def test_where_features_become_constant() -> None:
    change: Change = {"deviation.degree": {2: 1e-3, 3: 2e-5, 4: 1e-4}}
    finding = one(change, "over-smoothing-to-constants")
    assert finding.where == "layers 2-4 of 4"
    assert "2.0e-05" in finding.evidence[0]


def test_units_of_the_output_may_be_zero() -> None:
    assert names(found({"dead_units": {0: 0.9, DEPTH: 0.9}})) == ["healthy"]


def test_a_state_whose_units_are_all_dead_is_named() -> None:
    change: Change = {"dead_units": {2: 1.0}, "exact_zeros": {2: 1.0}}
    assert one(change, "dead-units").where == "layers 2-2 of 4"


def test_one_node_cannot_vary() -> None:
    change: Change = {"features.varying": 0.0, "data.nodes": 1.0}
    assert "constant-features" not in names(found(change))


def test_what_underflows_is_said() -> None:
    change: Change = {
        "subnormals": {2: 0.2, 3: 0.3},
        "gradient_subnormals": {1: 0.2},
        "gradient_zeros": {0: 1.0},
    }
    evidence = one(change, "underflow").evidence
    assert evidence[0] == "Features behind layers 2-3 are subnormal."
    assert evidence[1] == "Gradients in states 1-1 are subnormal."
    assert evidence[2] == "Gradients are exactly 0 in states 0-0."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "1"),
        (-1.5, "0.0316"),
        (2.0, "100"),
        (-4.0, "0.0001"),
        (4.0, "1e+04"),
        (-4.01, "10^-4.0"),
        (-166.3, "10^-166.3"),
        (398.0, "10^398.0"),
        (-math.inf, "exactly 0"),
        (math.inf, "10^inf"),
        (math.nan, "an unknown share"),
    ],
)
def test_powers_are_readable(value: float, text: str) -> None:
    assert power(value) == text


ZERO_HEAD: Change = {
    "exact_zeros": {DEPTH: 1.0},
    "feature_rms": {DEPTH: -math.inf},
    "feature_norm": {DEPTH: -math.inf},
    "gradient.state.relative": {1: -math.inf},
    "loss.constant": 1.0,
    "refit.layer": float(DEPTH),
}


@pytest.mark.parametrize(("refit", "sick"), [(0.69, False), (0.71, True)])
def test_a_last_layer_that_starts_at_zero_is_a_note(refit: float, sick: bool) -> None:
    change = ZERO_HEAD | {"loss.refit": refit}
    reports = found(changed(healthy(), change))
    severities = {finding.name: finding.severity for finding in reports}
    assert severities["exactly-zero"] == ("critical" if sick else "note")
    assert ("vanishing-gradients" in severities) == sick
    assert ("over-smoothing-to-zero" in severities) == sick


def test_a_zero_before_the_last_layer_is_no_start() -> None:
    change = ZERO_HEAD | {
        "loss.refit": 0.1,
        "exact_zeros": {DEPTH - 1: 1.0, DEPTH: 1.0},
    }
    (zero,) = [f for f in found(changed(healthy(), change)) if f.name == "exactly-zero"]
    assert zero.severity == "critical"
