"""Rules on data, outputs, frozen layers and attention, on tables written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from graphfathom.diagnostics import data_rules
from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import Finding
from graphfathom.diagnostics.rules import Facts, Rule

RULE = Rule("name", "summary", (), "threshold", "source")
DEPTH = 3
STEP = 0.02
"""A step across a threshold of shares."""

Value = float | tuple[float, float] | dict[int, float]
"""A number, one with its standard error, or one per layer."""


def row(name: str, value: float | tuple[float, float]) -> Observation:
    name, _, run = name.partition(" in ")
    number, stderr = value if isinstance(value, tuple) else (value, None)
    return Observation(name, "model", number, stderr, run=run or "model")


def facts(numbers: dict[str, Value]) -> Facts:
    rows: list[Observation] = []
    for name, value in numbers.items():
        if isinstance(value, dict):
            states = name.startswith(("deviation", "effective"))
            kind = "state" if states else "layer"
            rows += [Observation(name, f"{kind}:{k}", v) for k, v in value.items()]
        else:
            rows.append(row(name, value))
    return Facts(Observations(rows), tuple(f"convs.{k}" for k in range(DEPTH)))


def judged(
    rule: Callable[[Facts, Rule], Finding | None], numbers: dict[str, Value]
) -> str:
    """Severity of a finding, or a word that there is none."""
    finding = rule(facts(numbers), RULE)
    return "none" if finding is None else finding.severity


BOUNDED: dict[str, Value] = {
    "output.conflict.softmax": 1.0,
    "output.blocked": 0.0,
    "output.floor": 0.5,
}


@pytest.mark.parametrize(
    ("change", "severity"),
    [
        ({}, "note"),
        ({"output.blocked": data_rules.BLOCKED}, "note"),
        ({"output.blocked": data_rules.BLOCKED + STEP}, "critical"),
        ({"output.floor": data_rules.FLOOR + STEP}, "critical"),
        ({"output.unreachable": data_rules.UNREACHABLE - STEP}, "note"),
        ({"output.unreachable": data_rules.UNREACHABLE + STEP}, "critical"),
    ],
)
def test_an_activation_before_the_loss(change: dict[str, Value], severity: str) -> None:
    assert judged(data_rules.wrong_output_activation, BOUNDED | change) == severity


@pytest.mark.parametrize(
    ("accuracies", "severity"), [((0.9, 0.95), "note"), ((0.5, 0.9), "critical")]
)
def test_what_was_tried_decides(accuracies: tuple[float, float], severity: str) -> None:
    tried: dict[str, Value] = {
        "accuracy.val in model (short training)": accuracies[0],
        "accuracy.val in without activation": accuracies[1],
        "output.blocked": 0.9,
    }
    assert judged(data_rules.wrong_output_activation, BOUNDED | tried) == severity


FROZEN: dict[str, Value] = {
    "weights.frozen": {1: 1.0, 2: 0.0, 3: 0.0},
    "weights.frozen.rank": {1: 1.0},
    "effective_rank": {0: 20.0, 1: 5.0, 2: 4.0, 3: 3.0},
}


@pytest.mark.parametrize(
    ("change", "severity"),
    [
        ({}, "critical"),
        ({"weights.frozen": {1: 0.4, 2: 0.0}}, "none"),
        ({"weights.frozen.rank": {1: 15.0}}, "note"),
        ({"weights.frozen.rank": {1: math.nan}}, "note"),
        ({"effective_rank": {0: 20.0, 1: 15.0}}, "note"),
        ({"effective_rank": {}}, "note"),
    ],
)
def test_frozen_layers(change: dict[str, Value], severity: str) -> None:
    assert judged(data_rules.frozen_layers, FROZEN | change) == severity


DENSE: dict[str, Value] = {
    "data.joined": 1.0,
    "deviation.constant": {0: 0.9, 1: 0.5, 2: 0.5},
    "labels.predictable.features": (0.95, 0.02),
    "labels.predictable.neighbours": (0.34, 0.04),
    "labels.majority": 0.33,
}


@pytest.mark.parametrize(
    ("change", "severity"),
    [
        ({}, "note"),
        ({"data.joined": data_rules.DENSE - STEP}, "none"),
        ({"deviation.constant": {0: 0.9, 1: 0.2, 2: 0.08}}, "critical"),
        ({"deviation.constant": {0: 0.9, 1: 0.2, 2: 0.1}}, "note"),
        ({"deviation.constant": {}}, "note"),
        ({"labels.predictable.features": (0.75, 0.04)}, "critical"),
        (
            {
                "labels.predictable.features": (0.75, 0.04),
                "labels.predictable.neighbours": (0.6, 0.04),
            },
            "note",
        ),
    ],
)
def test_a_complete_graph(change: dict[str, Value], severity: str) -> None:
    assert judged(data_rules.complete_graph, DENSE | change) == severity


UNIFORM: dict[str, Value] = {
    "attention.entropy": {1: 1.0, 2: 0.99},
    "attention.learnable": {1: -math.inf, 2: 0.0},
    "labels.predictable.features": (0.9, 0.02),
    "labels.predictable.neighbours": (0.6, 0.03),
}


@pytest.mark.parametrize(
    ("change", "severity"),
    [
        ({}, "warning"),
        ({"attention.entropy": {1: 0.99, 2: 0.999}}, "none"),
        ({"attention.learnable": {1: 0.1, 2: 0.0}}, "note"),
        ({"labels.predictable.neighbours": (0.85, 0.03)}, "note"),
        ({"labels.predictable.neighbours": (0.7, 0.15)}, "note"),
    ],
)
def test_uniform_attention(change: dict[str, Value], severity: str) -> None:
    assert judged(data_rules.uniform_attention, UNIFORM | change) == severity


CLEAN: dict[str, Value] = {
    "features.varying": 16.0,
    "labels.predictable.features": (0.75, 0.03),
    "labels.predictable.neighbours": (0.9, 0.03),
    "labels.predictable.both": (0.95, 0.02),
    "labels.predictable.products": (0.95, 0.02),
    "labels.predictable.confident": (1.0, 0.01),
    "labels.predictable.val": (0.95, 0.02),
    "labels.agreement.val": (0.95, 0.02),
    "labels.agreement.edges": (0.4, 0.03),
    "labels.majority": 0.35,
}


def predicted(share: float, stderr: float = 0.03) -> dict[str, Value]:
    """The same accuracy on every input."""
    names = [f"labels.predictable.{name}" for name in data_rules.INPUTS]
    return dict.fromkeys(names, (share, stderr))


HARD: dict[str, Value] = CLEAN | predicted(0.7)
HARD |= {
    "labels.predictable.val": (0.7, 0.04),
    "labels.predictable.confident": (0.85, 0.04),
}
RANDOM: dict[str, Value] = CLEAN | predicted(0.36, 0.04)
RANDOM |= {"labels.predictable.val": (0.36, 0.04)}


@pytest.mark.parametrize(
    ("table", "change", "severity"),
    [
        (CLEAN, {}, "none"),
        (CLEAN, predicted(0.75), "note"),
        (CLEAN, predicted(0.75, 0.08), "none"),
        (CLEAN, {"labels.predictable.both": (0.5, 0.03)}, "none"),
        (CLEAN, predicted(0.5) | {"labels.agreement.val": (0.8, 0.03)}, "warning"),
        (HARD, {}, "none"),
        (HARD, {"labels.predictable.confident": (0.72, 0.04)}, "warning"),
        (
            HARD,
            {
                "labels.predictable.confident": (0.72, 0.04),
                "labels.predictable.products": (0.9, 0.03),
            },
            "none",
        ),
        (RANDOM, {"labels.agreement.edges": (0.01, 0.02)}, "warning"),
        (RANDOM, {"labels.agreement.edges": (0.2, 0.02)}, "none"),
        (
            RANDOM,
            {"labels.agreement.edges": (0.0, 0.02), "features.varying": 0.0},
            "none",
        ),
        (
            RANDOM,
            {
                "labels.agreement.edges": (0.0, 0.02),
                "labels.predictable.products": (0.5, 0.04),
            },
            "none",
        ),
        (
            RANDOM,
            {
                "labels.agreement.edges": (0.0, 0.02),
                "labels.predictable.products": (0.36, 0.06),
            },
            "none",
        ),
    ],
)
def test_label_noise(
    table: dict[str, Value], change: dict[str, Value], severity: str
) -> None:
    assert judged(data_rules.label_noise, table | change) == severity


def test_noise_without_validation_labels_is_a_note() -> None:
    table = HARD | {"labels.predictable.confident": (0.72, 0.04)}
    del table["labels.predictable.val"]
    assert judged(data_rules.label_noise, table) == "note"


@pytest.mark.parametrize("name", data_rules.__all__)
def test_without_observations_a_rule_is_silent(name: str) -> None:
    assert judged(getattr(data_rules, name), {}) == "none"
