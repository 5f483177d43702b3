"""The last activation of a network, and what it keeps from the loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from snapshots import differences, snapshot
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN

import graphfathom as gf
from graphfathom.diagnostics.output_facts import (
    last_activation,
    output_observations,
    without_activation,
)
from graphfathom.problem import Problem

CLASSES = 3


class Ending(nn.Module):
    """A GCN and something behind it."""

    def __init__(self, end: Callable[[Tensor], Tensor], out: int = CLASSES) -> None:
        super().__init__()
        self.gcn = GCN(16, 8, num_layers=2, out_channels=out)
        self.end = end

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.end(self.gcn(x, edge_index))


def data() -> Data:
    return gf.datasets.csbm(60, CLASSES, avg_degree=4, homophily=0.8, seed=0)


def measured(problem: Problem) -> dict[str, float]:
    return {row.name: row.value for row in output_observations(problem)}


ENDINGS: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "softmax": [
        nn.Softmax(dim=1),
        lambda out: F.softmax(out, dim=-1),
        lambda out: F.dropout(out.softmax(1), training=False),
    ],
    "sigmoid": [nn.Sigmoid(), torch.sigmoid, torch.special.expit],
    "tanh": [nn.Tanh(), lambda out: out.tanh().t().contiguous().t()],
    "relu": [nn.ReLU(), nn.ReLU(inplace=True), lambda out: F.relu(out)[:, :]],
}
CASES = [(name, end) for name, ends in ENDINGS.items() for end in ends]


@pytest.mark.parametrize(("name", "end"), CASES)
def test_the_last_activation_is_named(
    name: str, end: Callable[[Tensor], Tensor]
) -> None:
    batch = data()
    assert last_activation(Ending(end)(batch.x, batch.edge_index)) == name


@pytest.mark.parametrize(
    "end",
    [
        nn.Identity(),
        nn.LogSoftmax(dim=1),
        nn.ELU(),
        nn.LeakyReLU(),
        lambda out: out.sigmoid() * 4,
        lambda out: out.relu() - out.relu().mean(),
        torch.detach,
    ],
)
def test_other_endings_have_none(end: Callable[[Tensor], Tensor]) -> None:
    batch = data()
    assert last_activation(Ending(end)(batch.x, batch.edge_index)) is None
    assert measured(Problem(Ending(end), batch)) == {}


@pytest.mark.parametrize("name", ENDINGS)
def test_a_conflict_with_cross_entropy_is_seen(name: str) -> None:
    found = measured(Problem(Ending(ENDINGS[name][0]), data()))
    assert found[f"output.conflict.{name}"] == 1


@pytest.mark.parametrize(
    ("name", "width"), [("softmax", 1), ("sigmoid", 1), ("tanh", 2)]
)
def test_the_floor_is_the_loss_of_perfect_saturation(name: str, width: int) -> None:
    batch = data()
    problem = Problem(Ending(ENDINGS[name][0]), batch)
    low = width - 1  # tanh reaches from -1 to 1
    best = F.one_hot(batch.y, CLASSES) * float(width) - low
    loss = problem.loss_of(best)
    counts = batch.y[batch.train_mask].bincount().double()
    constant = problem.loss_of((counts / counts.sum()).log().expand(60, CLASSES))
    assert loss is not None
    assert constant is not None
    found = measured(problem)
    assert found["output.floor"] == pytest.approx(float(loss / constant))


def test_a_softmax_over_the_nodes_has_a_floor_near_one() -> None:
    batch = data()
    problem = Problem(Ending(nn.Softmax(dim=0)), batch)
    found = measured(problem)
    # The best that shares of 1 can do: equal for all nodes of a class.
    onehot = F.one_hot(batch.y, CLASSES).double() * batch.train_mask[:, None]
    loss = problem.loss_of(onehot / onehot.sum(0))
    counts = onehot.sum(0)
    constant = torch.special.entr(counts / counts.sum()).sum()
    assert found["output.floor"] == pytest.approx(float(loss / constant))
    assert found["output.floor"] > 0.9


def test_blocked_labels_are_counted() -> None:
    """The second class is switched off, the first one is not."""
    model = Ending(nn.ReLU(), 2)
    model.gcn.convs[-1].bias.data = torch.tensor([100.0, -100.0])
    batch = data()
    batch.y = batch.y % 2
    found = measured(Problem(model, batch))
    labels = batch.y[batch.train_mask]
    assert found["output.blocked"] == pytest.approx(float(labels.double().mean()))
    assert found["output.blocked.class"] == 1


@pytest.mark.parametrize("name", ["softmax", "sigmoid", "tanh"])
def test_what_is_saturated_on_the_right_side_is_not_blocked(name: str) -> None:
    batch = data()

    class Right(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.size = nn.Parameter(torch.tensor(100.0))

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            onehot = 2 * F.one_hot(batch.y, CLASSES).double() - 1
            return ENDINGS[name][0](self.size * onehot)

    found = measured(Problem(Right(), batch))
    assert found["output.blocked"] == 0
    wrong = Problem(Right(), batch, target=(batch.y + 1) % CLASSES)
    assert measured(wrong)["output.blocked"] == 1


def test_probabilities_before_binary_cross_entropy_with_logits() -> None:
    batch = data()
    batch.y = F.one_hot(batch.y, CLASSES).double()
    found = measured(Problem(Ending(nn.Sigmoid()), batch))
    assert found["output.conflict.sigmoid"] == 1
    problem = Problem(Ending(nn.Identity()), batch)
    best = problem.loss_of(batch.y)
    share = batch.y[batch.train_mask].mean()
    constant = problem.loss_of(share.logit().expand(60, CLASSES))
    assert best is not None
    assert constant is not None
    assert found["output.floor"] == pytest.approx(float(best / constant))
    assert measured(problem) == {}


def test_a_regression_beyond_the_bounds() -> None:
    batch = data()
    batch.y = torch.linspace(-1, 1, 60)[:, None]
    found = measured(Problem(Ending(nn.ReLU(), 1), batch))
    labels = batch.y[batch.train_mask]
    lost = labels.clamp(max=0).square().sum() / (labels - labels.mean()).square().sum()
    assert found["output.unreachable"] == pytest.approx(float(lost))
    assert measured(Problem(Ending(nn.Tanh(), 1), batch)) == {}


@pytest.mark.parametrize(
    ("loss", "known"),
    [
        (F.cross_entropy, True),
        (nn.CrossEntropyLoss(), True),
        (nn.CrossEntropyLoss(label_smoothing=0.1), True),
        (lambda out, y: F.nll_loss(out.log(), y), False),
    ],
)
def test_a_loss_of_the_caller(
    loss: Callable[[Tensor, Tensor], Tensor], known: bool
) -> None:
    problem = Problem(Ending(nn.Softmax(dim=1)), data(), loss=loss)
    assert bool(measured(problem)) is known


def test_no_labels_and_numbers_that_are_none() -> None:
    batch = data()
    model = Ending(nn.Tanh())
    model.gcn.convs[0].bias.data[0] = math.nan
    assert measured(Problem(model, batch)) == {}
    del batch.y
    assert measured(Problem(Ending(nn.Tanh()), batch)) == {}


def test_a_frozen_network_is_seen_through() -> None:
    model = Ending(nn.Tanh()).requires_grad_(False)
    assert measured(Problem(model, data()))["output.conflict.tanh"] == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_in_the_callers_precision(dtype: torch.dtype) -> None:
    batch = data()
    batch.x = batch.x.to(dtype)
    found = measured(Problem(Ending(nn.Softmax(dim=1)).to(dtype), batch))
    assert found["output.conflict.softmax"] == 1


def test_the_model_is_left_alone() -> None:
    batch, model = data(), Ending(nn.Softmax(dim=1)).train()
    before = snapshot(model, batch)
    problem = Problem(model, batch)
    output_observations(problem)
    without_activation(problem)
    assert not differences(before, snapshot(model, batch))


@pytest.mark.parametrize("end", [end for _, end in CASES])
def test_the_activation_can_be_left_out(end: Callable[[Tensor], Tensor]) -> None:
    model, batch = Ending(end).eval(), data()
    bare = without_activation(Problem(model, batch))
    assert bare is not None
    with torch.no_grad():
        torch.testing.assert_close(bare.run(), model.gcn(batch.x, batch.edge_index))
    assert bare.model is not model
    assert bare.model.state_dict().keys() == model.state_dict().keys()


def test_an_activation_outside_of_the_model_can_be_left_out() -> None:
    batch = data()
    gcn = GCN(16, 8, num_layers=2, out_channels=CLASSES)
    problem = Problem(
        gcn, batch, forward_fn=lambda m, d: m(d.x, d.edge_index).softmax(1)
    )
    assert measured(problem)["output.conflict.softmax"] == 1
    bare = without_activation(problem)
    assert bare is not None
    torch.testing.assert_close(bare.run(), gcn(batch.x, batch.edge_index))


def test_without_an_activation_there_is_nothing_to_leave_out() -> None:
    assert without_activation(Problem(Ending(nn.Identity()), data())) is None
