"""When the findings about the last layer apply, on tables written by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import Finding
from graphfathom.diagnostics.rules import Facts, Rule
from graphfathom.diagnostics.stationary_rules import (
    spurious_stationary_point,
    stuck_head,
)

RULE = Rule("spurious-stationary-point", "", (), "", "", spurious_stationary_point)


def table(change: dict[str, float] | None = None, stationary: float = -9.0) -> Facts:
    """A stationary network of three layers, with what differs from it."""
    numbers = {
        "loss": 0.8,
        "loss.constant": 0.7,
        "loss.refit": 0.699,
        "refit.converged": 1.0,
        "refit.layer": 4.0,
        "head.frozen": 0.0,
        "head.gradient": -1.0,
        "data.components": 1.0,
        "data.nodes": 100.0,
        "rate.graph": 0.5,
        "rate.forward.constant": 0.4,
        "rate.forward.degree": 0.5,
        **(change or {}),
    }
    rows = [Observation(name, "model", value) for name, value in numbers.items()]
    for k, value in enumerate((-9.0, stationary, -9.0), 1):
        for name in ("stationarity", "gradient.weights"):
            rows.append(Observation(name, f"layer:{k}", value, run="refit"))
    return Facts(Observations(rows), ("a", "b", "c"))


NOT_STATIONARY = {
    "a layer learns": ({}, -2.9),
    "a layer may learn": ({}, math.nan),
    "the last layer does better": ({"loss.refit": 0.66}, -9.0),
    "the best constant is unknown": ({"loss.constant": math.nan}, -9.0),
    "the best constant is perfect": ({"loss.constant": 0.0}, -9.0),
    "the refit is not done": ({"refit.converged": 0.0}, -9.0),
    "there is nothing below": ({"refit.layer": 1.0}, -9.0),
}


@pytest.mark.parametrize(
    ("change", "value"), NOT_STATIONARY.values(), ids=NOT_STATIONARY.keys()
)
def test_when_there_is_no_stationary_point(
    change: dict[str, float], value: float
) -> None:
    assert spurious_stationary_point(table(), RULE) is not None
    assert spurious_stationary_point(table(change, value), RULE) is None


@pytest.mark.parametrize(
    ("gradient", "severity"), [(-9.5, "note"), (-10.5, "critical")]
)
def test_what_adam_can_still_move_is_a_note(gradient: float, severity: str) -> None:
    facts = table()
    rows = [
        replace(row, value=gradient) if row.name == "gradient.weights" else row
        for row in facts.table
    ]
    finding = spurious_stationary_point(Facts(Observations(rows), facts.layers), RULE)
    assert finding is not None
    assert finding.severity == severity


def test_constants_of_nodes_without_edges_do_not_count() -> None:
    alone = {"data.components": 100.0, "loss.constant.component": 0.0}
    assert spurious_stationary_point(table(alone), RULE) is not None


def test_constants_of_components_count_where_they_are_known() -> None:
    better = {"loss.constant.component": 0.2, "loss.refit": 0.21}
    finding = spurious_stationary_point(table(better), RULE)
    assert finding is not None
    assert "that of the best constants of components 0.2;" in finding.evidence[0]


CAUSES = {
    "the graph is enough": ({}, "(smoothing)"),
    "the propagation of the layers is known": (
        {"rate.propagation.degree": 0.9},
        "(contraction of the weights)",
    ),
    "no edges": ({"data.components": 100.0}, "(contraction of the weights)"),
    "a complete graph": ({"rate.graph": 0.0}, "(smoothing)"),
    "features do not smooth": (
        {"rate.forward.constant": 1.2, "rate.forward.degree": 1.1},
        "layers",
    ),
    "no rate": ({"rate.graph": math.nan}, "layers"),
}


@pytest.mark.parametrize(("change", "ending"), CAUSES.values(), ids=CAUSES.keys())
def test_the_cause(change: dict[str, float], ending: str) -> None:
    finding = spurious_stationary_point(table(change), RULE)
    assert finding is not None
    assert finding.title.endswith(ending)


def training(losses: list[float], **change: float) -> Finding | None:
    """The finding on a training, recorded in any order of rows."""
    known = table(
        {"loss.refit": 0.3} | {k.replace("_", "."): v for k, v in change.items()}
    )
    rows = [
        Observation("loss", "model", value, run="training", step=step)
        for step, value in enumerate(losses)
    ]
    both = Facts(Observations([*known.table, *reversed(rows)]), known.layers)
    return stuck_head(both, Rule("stuck-head", "", (), "", "", stuck_head))


def test_a_stuck_head_is_found() -> None:
    finding = training([0.72] * 8)
    assert finding is not None
    assert "optimiser" in finding.advice[0]
    assert "0.72" in finding.evidence[0]
    frozen = training([0.72] * 8, head_frozen=1.0)
    assert frozen is not None
    assert frozen.evidence[1] == "100% of its parameters are frozen."
    assert "requires_grad" in frozen.advice[0]
    cut = training([0.72] * 8, head_gradient=-math.inf)
    assert cut is not None
    assert "detach" in cut.advice[0]


@pytest.mark.parametrize(
    ("losses", "change"),
    [
        ([0.72, 0.7, 0.6, 0.5, 0.4, 0.4, 0.4, 0.4], {"loss_refit": 0.31}),  # it learns
        ([0.72, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.5], {}),  # it goes on learning
        ([0.72] * 3, {}),  # too short
        ([0.72] * 7 + [math.nan], {}),
        ([0.7, 0.9, 5.0, 0.8, 3.0, 0.7, 9.0, 0.9], {}),  # too long steps
        ([0.72] * 8, {"loss_refit": 0.6}),  # the head could not help
        ([0.72] * 8, {"loss_constant": math.nan}),
        ([], {}),
    ],
)
def test_when_no_head_is_stuck(losses: list[float], change: dict[str, float]) -> None:
    assert training(losses, **change) is None


@pytest.mark.parametrize(
    ("frozen", "unfrozen", "expected"),
    [(1.0, 0.9, True), (1.0, 0.55, False), (0.0, 0.9, False)],
)
def test_a_frozen_head_is_stuck_if_a_trial_says_so(
    frozen: float, unfrozen: float, expected: bool
) -> None:
    facts = table({"head.frozen": frozen})
    tried = {"model (short training)": 0.5, "unfrozen": unfrozen}
    rows = [Observation("accuracy.val", "model", v, run=r) for r, v in tried.items()]
    found = stuck_head(Facts(Observations([*facts.table, *rows]), facts.layers), RULE)
    assert (found is not None) == expected
