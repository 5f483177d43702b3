"""Verdicts on monitored trainings: made-up trajectories, then real ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch_geometric.nn import GCN, GraphSAGE

import graphfathom as gf
from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import Finding
from graphfathom.diagnostics.rules import Facts, Rule
from graphfathom.diagnostics.training_rules import (
    learning_rate,
    non_finite_training,
    trajectory_rows,
)
from graphfathom.monitoring import Monitor

RULE = Rule("some-name", "", (), "", "")


def row(name: str, value: float, step: int, place: str = "model") -> Observation:
    return Observation(name, place, value, run="training", step=step)


def course(
    losses: Sequence[float],
    peaks: Sequence[float] | None = None,
    gradients: Sequence[float] = (-1.0, -0.5, 0.0),
) -> list[Observation]:
    rows = []
    for n, loss in enumerate(losses):
        peak = peaks[n] if peaks else loss
        for name, value in (("loss", loss), ("loss.mean", loss), ("loss.peak", peak)):
            rows.append(row(name, value, 20 * n))
    for k, gradient in enumerate(gradients, 1):
        rows.append(row("gradient.weights", gradient, 0, f"layer:{k}"))
    return rows


def judged(
    rule: Callable[[Facts, Rule], Finding | None],
    rows: Sequence[Observation],
    run: str = "model",
    constant: float = math.nan,
) -> Finding | None:
    known = [Observation("loss.constant", "model", constant)]
    return rule(Facts(Observations([*rows, *known]), ("a", "b", "c"), run), RULE)


JUMP = [1.1, 8.0, 1.2, 1.1, 1.1, 1.1]


def test_a_loss_that_jumped_and_never_came_back() -> None:
    finding = judged(learning_rate, course(JUMP))
    assert finding is not None
    assert finding.severity == "critical"
    assert (
        "begins at 1.1, rises to 8, and it ends at 1.1 (step 100)"
        in finding.evidence[0]
    )
    assert "Divide the learning rate by 10" in finding.advice[0]


def test_a_peak_between_measured_steps_counts() -> None:
    flat = [1.1, 1.09, 1.09, 1.09, 1.09]
    assert judged(learning_rate, course(flat)) is None
    peaks = [1.1, 40.0, 1.09, 1.09, 1.09]
    assert judged(learning_rate, course(flat, peaks)) is not None


def test_the_change_of_the_weights_is_evidence() -> None:
    rows = [*course(JUMP), row("update.relative", 2.0, 20, "layer:1")]
    finding = judged(learning_rate, rows)
    assert finding is not None
    assert "changed by 100 times their own norm" in finding.evidence[-1]


@pytest.mark.parametrize(
    "losses",
    [
        [1.1, 1.09, 1.1, 1.09, 1.1, 1.1],  # vanishing gradients
        [1.1, 1.06, 1.03, 1.0, 0.97, 0.95, 0.93],  # label noise
        [1.1, 8.0, 0.9, 0.5, 0.3, 0.2],  # it recovered
        [1.1, 8.0, 1.2],  # too short to say
        [math.nan, math.nan, math.nan, math.nan, math.nan],
        [0.0, 8.0, 8.0, 8.0, 8.0],
        [],
    ],
)
def test_other_courses(losses: list[float]) -> None:
    assert judged(learning_rate, course(losses)) is None


def test_a_loss_that_broke_after_it_rose() -> None:
    rows = course([1.1, math.nan], peaks=[1.1, 300.0])
    finding = judged(learning_rate, rows)
    assert finding is not None
    assert "rises to 300, and it is not finite any more" in finding.evidence[0]
    without_rise = course([1.1, math.nan], peaks=[1.1, 1.0])
    assert judged(learning_rate, without_rise) is None


@pytest.mark.parametrize("gradients", [(-9.0, 0.0), (9.0, 0.0), (-math.inf, 0.0), ()])
def test_where_gradients_were_ill_from_the_start_the_cause_is_another(
    gradients: tuple[float, ...],
) -> None:
    assert judged(learning_rate, course(JUMP, gradients=gradients)) is None


def test_a_trained_network_that_fluctuates_has_learnt() -> None:
    """Its loss is far below that of the best constant, whatever it began with."""
    rows = course([0.01, 0.04, 0.02, 0.03, 0.02, 0.03])
    assert judged(learning_rate, rows, constant=1.1) is None
    assert judged(learning_rate, course([0.01, 9.0, 2.0, 1.2, 1.1]), constant=1.1)


def test_the_best_constant_is_the_level_where_a_start_is_worse() -> None:
    rows = course([3.0, 30.0, 1.2, 1.1, 1.1])
    assert judged(learning_rate, rows, constant=1.1) is not None
    # A hundred times as large: the training has summed what the diagnosis averages.
    assert judged(learning_rate, rows, constant=0.01) is None


def test_controls_were_not_monitored() -> None:
    rows = [*course(JUMP), row("non_finite", 1.0, 100, "layer:1")]
    for rule in (learning_rate, non_finite_training):
        assert judged(rule, rows) is not None
        assert judged(rule, rows, run="shallow") is None


def finite(step: int, value: float = 0.0) -> list[Observation]:
    return [
        row(name, value, step, f"layer:{k}")
        for k in (1, 2, 3)
        for name in ("non_finite", "gradient_non_finite")
    ]


def test_the_step_and_the_layer_that_broke_are_named() -> None:
    rows = [*finite(0), *finite(20), *finite(40)[:2], *finite(40, 1.0)[2:]]
    finding = judged(non_finite_training, rows)
    assert finding is not None
    assert "between steps 20 and 40" in finding.title
    assert finding.where == "layer 2"
    finding = judged(non_finite_training, [row("loss.mean", math.nan, 0), *finite(0)])
    assert finding is not None
    assert "at step 0" in finding.title
    assert finding.where == "the loss"


def test_gradients_break_from_the_loss_on() -> None:
    rows = finite(0) + [r for r in finite(20, 1.0)[:4] if "gradient" in r.name]
    finding = judged(non_finite_training, rows)
    assert finding is not None
    assert finding.where == "layer 2"


def test_a_step_that_a_scaler_skipped_is_no_harm() -> None:
    rows = [*finite(0), *finite(20, 1.0), *finite(40)]
    assert judged(non_finite_training, rows) is None
    assert judged(non_finite_training, finite(0)) is None
    assert judged(non_finite_training, []) is None


def test_only_a_monitored_training_is_a_trajectory() -> None:
    assert trajectory_rows(None) == ()
    rows = course(JUMP)
    assert trajectory_rows(Observations(rows)) == tuple(rows)
    with pytest.raises(ValueError, match=r"rows of run 'training'. Got model"):
        trajectory_rows(Observations([Observation("loss", "model", 1.0)]))
    with pytest.raises(TypeError, match=r"table of observations. Got list"):
        trajectory_rows(rows)


def trained(
    model: nn.Module, lr: float, optimizer: type, noise: float = 0.0
) -> list[str]:
    data = gf.datasets.csbm(120, 3, avg_degree=6, homophily=0.8, seed=0)
    redrawn = torch.rand(120) < noise
    data.y[redrawn] = torch.randint(3, (int(redrawn.sum()),))
    monitor, update = Monitor(model, every=10), optimizer(model.parameters(), lr)
    for _ in range(81):
        update.zero_grad()
        output = model(data.x, data.edge_index)
        loss = F.cross_entropy(output[data.train_mask], data.y[data.train_mask])
        loss.backward()
        monitor.step(loss)
        update.step()
    facts = Facts(monitor.observations, monitor.layers)
    rules = {"learning-rate": learning_rate, "broken": non_finite_training}
    return [name for name, rule in rules.items() if rule(facts, RULE)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("depth", "lr", "optimizer", "noise", "expected"),
    [
        (2, 0.01, torch.optim.Adam, 0.0, []),
        (6, 0.01, torch.optim.Adam, 0.0, []),
        (6, 0.01, torch.optim.Adam, 0.6, []),
        (2, 0.01, torch.optim.SGD, 0.0, []),
        (32, 0.01, torch.optim.SGD, 0.0, []),
        (6, 3.0, torch.optim.Adam, 0.0, ["learning-rate"]),
    ],
)
def test_real_trainings(
    depth: int,
    lr: float,
    optimizer: type,
    noise: float,
    expected: list[str],
    seed: int,
    float32_default: None,
) -> None:
    torch.manual_seed(seed)
    assert trained(GCN(16, 16, depth, 3), lr, optimizer, noise) == expected


def test_a_training_that_diverged(float32_default: None) -> None:
    model = GraphSAGE(16, 16, 4, 3)
    assert trained(model, 1e6, torch.optim.SGD) == ["learning-rate", "broken"]
