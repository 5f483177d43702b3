"""Networks trained side by side: each row is what training that network alone gives."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN, MLP

import graphfathom as gf
from graphfathom.problem import Problem
from graphfathom.training import fit
from graphfathom.verbs.side_by_side import SideBySide, side_by_side

EPOCHS, CLASSES = 4, 3


@pytest.fixture(scope="module")
def data() -> Data:
    torch.set_default_dtype(torch.float64)
    return gf.datasets.csbm(60, CLASSES, avg_degree=4, homophily=0.8, seed=0)


@pytest.fixture
def problem(data: Data) -> Problem:
    torch.manual_seed(0)
    features = data.num_features
    return Problem(GCN(features, 8, 5, CLASSES, dropout=0.3), data)


@pytest.fixture
def deep(problem: Problem) -> nn.Module:
    """Stands for the stabilized network: other weights of the same shapes."""
    other = copy.deepcopy(problem.model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    return other


def alone(problem: Problem, seed: int = 0) -> tuple[nn.Module, list[float]]:
    """A network trained on its own: the last weights, and the losses of training."""
    model = copy.deepcopy(problem.model)

    def loss(model: nn.Module) -> torch.Tensor:
        output = model(problem.data.x, problem.data.edge_index)
        mask = problem.data.train_mask
        return nn.functional.cross_entropy(output[mask], problem.data.y[mask])

    torch.manual_seed(seed)
    history = fit(model, loss, epochs=EPOCHS)
    return model.eval(), list(history.losses)


def accuracy(model: nn.Module, data: Data, split: str) -> float:
    right = model(data.x, data.edge_index).argmax(dim=1) == data.y
    return float(right[data[f"{split}_mask"]].double().mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_are_separate_training_runs(
    problem: Problem, deep: nn.Module, seed: int
) -> None:
    table = side_by_side(problem, deep, epochs=EPOCHS, seed=seed)
    data = problem.data
    for run, model in (("original", problem.model), ("stabilized", deep)):
        own = problem.replace(model, data)
        trained, _ = alone(own, seed)
        row = table[run]
        assert row.last.epoch == EPOCHS
        for split in ("train", "val", "test"):
            assert row.last.accuracy[split] == accuracy(trained, data, split)
        with torch.no_grad():
            loss = own.replace(trained, data)
            expected = float(loss.loss_of(loss.run()))
        assert row.last.loss == pytest.approx(expected, rel=1e-12)


def test_the_controls_are_trained_from_their_own_weights(
    problem: Problem, deep: nn.Module
) -> None:
    table = side_by_side(problem, deep, epochs=EPOCHS, seed=3)
    data = problem.data
    torch.manual_seed(3)
    dense = MLP([data.num_features, 8, CLASSES], norm=None)
    own = Problem(dense, data)

    def loss(model: nn.Module) -> torch.Tensor:
        return own.loss_of(model(data.x))

    torch.manual_seed(3)
    fit(dense, loss, epochs=EPOCHS)
    dense.eval()
    right = dense(data.x).argmax(dim=1) == data.y
    assert table["mlp"].last.accuracy["test"] == float(
        right[data.test_mask].double().mean()
    )
    torch.manual_seed(5)
    short = GCN(data.num_features, 8, 2, CLASSES)
    given = side_by_side(problem, deep, short=short, epochs=EPOCHS)
    trained, _ = alone(problem.replace(short, data))
    assert given["shallow"].last.accuracy["val"] == accuracy(trained, data, "val")


def test_rows(problem: Problem, deep: nn.Module) -> None:
    table = side_by_side(problem, deep, epochs=1)
    found = [(row.run, row.network, row.layers, row.parameters) for row in table.rows]
    count = sum(p.numel() for p in problem.model.parameters())
    features, classes = problem.data.num_features, CLASSES
    few = features * 8 + 8 + 8 * classes + classes
    assert found == [
        ("original", "GCN", 5, count),
        ("stabilized", "GCN, stabilized", 5, count),
        ("shallow", "GCN", 2, few),
        ("mlp", "MLP, no graph", 2, few),
    ]
    assert all(row.seconds > 0 and not row.diverged for row in table.rows)
    without = side_by_side(problem, None, controls=False, epochs=1)
    assert [row.run for row in without.rows] == ["original"]


def test_the_best_epoch_is_the_first_with_the_highest_validation_accuracy(
    problem: Problem, deep: nn.Module
) -> None:
    row = side_by_side(problem, deep, controls=False, epochs=12)["original"]
    values = []
    for epochs in range(1, 13):
        short = side_by_side(problem, None, controls=False, epochs=epochs)
        values.append(short["original"].last.accuracy["val"])
    assert row.best is not None
    assert row.best.accuracy["val"] == max(values)
    assert row.best.epoch == values.index(max(values)) + 1
    assert accuracy(row.model, problem.data, "val") == max(values)


def test_nothing_of_the_caller_changes(problem: Problem, deep: nn.Module) -> None:
    problem.model.train()
    before = copy.deepcopy(problem.model.state_dict()), copy.deepcopy(deep.state_dict())
    x, state = problem.data.x.clone(), torch.random.get_rng_state()
    side_by_side(problem, deep, epochs=2)
    for saved, model in zip(before, (problem.model, deep), strict=True):
        assert all(torch.equal(saved[k], v) for k, v in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
    assert problem.model.training
    assert torch.equal(problem.data.x, x)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_real_stabilized_network(data: Data) -> None:
    torch.manual_seed(0)
    problem = Problem(GCN(data.num_features, 16, 24, CLASSES), data)
    deep = gf.stabilize(problem)
    table = side_by_side(problem, deep, epochs=20)
    assert table["stabilized"].parameters == table["original"].parameters
    assert table["original"].last.accuracy["train"] < 0.6
    assert table["stabilized"].last.accuracy["train"] > 0.9
    weights = table["stabilized"].model.state_dict()
    assert weights.keys() == problem.model.state_dict().keys()
    GCN(data.num_features, 16, 24, CLASSES).load_state_dict(weights)


def test_without_validation_the_last_weights_are_kept(problem: Problem) -> None:
    data = problem.data.clone()
    del data.val_mask
    table = side_by_side(problem.replace(problem.model, data), None, epochs=EPOCHS)
    row = table["original"]
    assert row.best is None
    trained, _ = alone(problem)
    for a, b in zip(row.model.parameters(), trained.parameters(), strict=True):
        assert torch.equal(a, b)
    assert "best validation epoch" not in str(table)


def test_without_masks_there_is_only_a_loss(problem: Problem) -> None:
    data = Data(problem.data.x, problem.data.edge_index, y=problem.data.x[:, 0])
    regression = Problem(GCN(data.num_features, 4, 3, 1), data)
    table = side_by_side(regression, None, epochs=2)
    assert table["original"].last.accuracy == {}
    assert "test" not in str(table)
    assert "loss" in str(table)


def test_progress(problem: Problem, deep: nn.Module) -> None:
    said: list[str] = []
    steps: list[tuple[str, int, int]] = []
    side_by_side(
        problem,
        deep,
        epochs=2,
        progress=said.append,
        on_epoch=lambda *step: steps.append(step),
    )
    assert said[0].startswith("GCN: epoch 1 of 2: loss ")
    assert len(said) == 8
    assert dict.fromkeys(name for name, _, _ in steps).keys() == {
        "GCN",
        "GCN, stabilized",
        "MLP, no graph",
    }
    assert sorted({done for _, done, _ in steps}) == list(range(1, 9))
    assert {total for _, _, total in steps} == {8}


def test_divergence_is_said(problem: Problem) -> None:
    hot = Problem(
        problem.model,
        problem.data,
        loss=lambda output, target: (output * 1e200).square().mean() * 1e200,
    )
    steps: list[int] = []
    table = side_by_side(
        hot, None, controls=False, epochs=3, on_epoch=lambda _, k, __: steps.append(k)
    )
    assert table["original"].diverged
    assert table["original"].last.epoch == 0
    assert table.notes == ("GCN: training diverged after 0 epochs.",)
    assert table.notes[0] in str(table)
    assert steps == [3]


class Strange(nn.Module):
    """No copy of it with fewer layers runs, and its rows are graphs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = GCN(channels, channels, 3)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        return self.net(x, edge_index).mean(0, keepdim=True)


def test_controls_that_cannot_be_built_are_said(data: Data) -> None:
    graph = Data(data.x, data.edge_index, y=torch.tensor([1]))
    problem = Problem(Strange(data.num_features), graph)
    table = side_by_side(problem, None, epochs=1)
    assert "No MLP: it needs features `x` and one output row per node." in table.notes


def test_a_network_of_one_layer_has_no_shorter_one(data: Data) -> None:
    problem = Problem(GCN(data.num_features, 8, 1, CLASSES), data)
    table = side_by_side(problem, None, epochs=1)
    assert table.notes == ("No GCN with few layers: no copy with fewer layers runs.",)
    assert [row.run for row in table.rows] == ["original", "mlp"]


def test_to_dict_is_json(problem: Problem, deep: nn.Module) -> None:
    table = side_by_side(problem, deep, epochs=1, seed=7)
    record = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert record["seed"] == 7
    assert (record["epochs"], record["lr"], record["weight_decay"]) == (1, 0.01, 5e-4)
    row = record["rows"][1]
    assert row["run"] == "stabilized"
    assert row["last"] == dataclasses.asdict(table["stabilized"].last)
    assert "model" not in row


def test_the_table_fits_into_a_hundred_columns(
    problem: Problem, deep: nn.Module
) -> None:
    text = str(side_by_side(problem, deep, epochs=1))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == (
        "Trained for 1 epoch each: Adam, full batch, learning rate 0.01, weight decay "
        "0.0005, seed 0"
    )
    head = "network layers parameters train val test loss epoch val test seconds"
    assert lines[3].split() == head.split()
    assert len(lines[4:8]) == 4
    assert all(len(line) == len(lines[3]) for line in lines[4:8])


def test_defaults_are_those_of_fit() -> None:
    table = SideBySide((), epochs=1, seed=0)
    assert fit.__kwdefaults__["lr"] == table.lr
    assert fit.__kwdefaults__["weight_decay"] == table.weight_decay


def test_bad_input(problem: Problem, data: Data) -> None:
    with pytest.raises(ValueError, match=r"`epochs` must be >= 1. Got 0."):
        side_by_side(problem, None, epochs=0)
    unlabelled = Problem(problem.model, Data(data.x, data.edge_index))
    with pytest.raises(ValueError, match="`problem` needs labels to train on"):
        side_by_side(unlabelled, None)
    frozen = copy.deepcopy(problem.model).requires_grad_(False)
    with pytest.raises(ValueError, match="must have parameters that require grad"):
        side_by_side(problem.replace(frozen, data), None, epochs=1)
    with pytest.raises(KeyError, match=r"`run` must be one of original. Got 'mlpp'"):
        side_by_side(problem, None, controls=False, epochs=1)["mlpp"]
