"""The linear predictor of labels, beside scikit-learn's words for it and by hand."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import GCN

import graphfathom as gf
from graphfathom.diagnostics import label_facts
from graphfathom.diagnostics.facts import graph_structure
from graphfathom.diagnostics.label_facts import INPUTS, label_observations
from graphfathom.diagnostics.observations import Observations
from graphfathom.problem import Problem

seeds = pytest.mark.parametrize("seed", [0, 1, 2])


def block_model(
    seed: int, num_nodes: int = 300, mu: float = 1.0, degree: float = 5
) -> Data:
    return gf.datasets.csbm(
        num_nodes, 3, avg_degree=degree, homophily=0.8, mu=mu, seed=seed
    )


def problem_of(data: Data) -> Problem:
    classes = int(data.y.max()) + 1
    return Problem(GCN(data.num_features, 4, 2, classes), data)


def measured(data: Data) -> Observations:
    problem = problem_of(data)
    return Observations(label_observations(problem, graph_structure(problem)))


def value(data: Data, name: str) -> float:
    return measured(data).value(f"labels.{name}")


def flipped(y: Tensor, nodes: Tensor, share: float, seed: int) -> Tensor:
    """That share of some labels drawn anew among the other classes."""
    generator = torch.Generator().manual_seed(seed)
    chosen = nodes & (torch.rand(y.shape, generator=generator) < share)
    shift = torch.randint(1, 3, y.shape, generator=generator)
    return torch.where(chosen, (y + shift) % 3, y)


def dense_inputs(data: Data) -> dict[str, Tensor]:
    """Explicit features of each linear input, scaled as they are described."""
    n = data.num_nodes
    adjacency = torch.zeros(n, n)
    adjacency[data.edge_index[1], data.edge_index[0]] = 1
    mean = adjacency / adjacency.sum(1, keepdim=True).clamp(min=1)
    hops = [data.x, mean @ data.x, mean @ mean @ data.x]
    train = data.train_mask
    spread = data.x[train].std(0, correction=0)
    hops = [(hop - hop[train].mean(0)) / spread for hop in hops]
    size = hops[0][train].square().sum(1).mean().sqrt()
    own, neighbours, far = (hop / size for hop in hops)
    return {
        "features": own,
        "neighbours": neighbours,
        "both": torch.cat([own, neighbours, far], dim=1),
    }


def primal_scores(features: Tensor, y: Tensor, seen: Tensor) -> Tensor:
    """Ridge regression by the normal equations of the features, not of the nodes."""
    z, onehot = features[seen], torch.eye(3)[y[seen]]
    mean = onehot.mean(0)
    weight = torch.linalg.solve(z.T @ z + torch.eye(z.shape[1]), z.T @ (onehot - mean))
    return features @ weight + mean


@seeds
def test_the_validation_agreement_by_the_normal_equations(seed: int) -> None:
    data = block_model(seed, mu=0.3)
    scores = primal_scores(dense_inputs(data)["both"], data.y, data.train_mask)
    right = (scores.argmax(1) == data.y)[data.val_mask].double().mean()
    assert value(data, "agreement.val") == pytest.approx(float(right))


@seeds
@pytest.mark.parametrize("name", INPUTS[:3])
def test_cross_validation_by_the_normal_equations(name: str, seed: int) -> None:
    """Other folds, so up to chance."""
    data = block_model(seed, mu=0.3)
    features, nodes = dense_inputs(data)[name], data.train_mask.nonzero().flatten()
    right = []
    for part in nodes[torch.randperm(len(nodes))].tensor_split(5):
        seen = data.train_mask.index_fill(0, part, False)
        guessed = primal_scores(features, data.y, seen).argmax(1)
        right.append((guessed == data.y)[part])
    row = measured(data).get(f"labels.predictable.{name}")
    assert row is not None
    assert row.stderr is not None
    assert abs(row.value - float(torch.cat(right).double().mean())) < 3 * row.stderr


@seeds
def test_products_see_what_linear_predictors_do_not(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    data = block_model(seed)
    bits = torch.randint(2, (300, 2), generator=generator)
    data.x = 2.0 * bits - 1 + 0.2 * torch.randn(300, 2, generator=generator)
    data.y = bits[:, 0] ^ bits[:, 1]
    table = measured(data)
    assert table.value("labels.predictable.products") > 0.9
    assert table.value("labels.predictable.features") < 0.65


@seeds
def test_neighbours_of_a_complete_graph_say_nothing(seed: int) -> None:
    """Though oneself can be told from the mean of all others, in exact numbers."""
    data = block_model(seed, num_nodes=150)
    pairs = torch.combinations(torch.arange(150)).T
    data.edge_index = torch.cat([pairs, pairs.flip(0)], dim=1)
    table = measured(data)
    majority = table.value("labels.majority")
    assert table.value("labels.predictable.features") > 0.9
    assert table.value("labels.predictable.neighbours") <= majority


@seeds
def test_noise_in_the_training_labels(seed: int) -> None:
    data = block_model(seed)
    data.y = flipped(data.y, data.train_mask, 0.4, seed)
    table = measured(data)
    assert table.value("labels.predictable.both") < 0.7
    assert table.value("labels.predictable.val") > 0.9
    assert table.value("labels.agreement.val") > 0.75


@seeds
def test_confidence_tells_noise_from_difficulty(seed: int) -> None:
    noisy, hard = block_model(seed, 1000), block_model(seed, 1000, mu=0.15, degree=2)
    noisy.y = flipped(noisy.y, torch.ones(1000, dtype=torch.bool), 0.35, seed)
    errors = [
        1 - value(noisy, "predictable.confident"),
        1 - value(noisy, "predictable.both"),
    ]
    assert errors[0] > 0.75 * errors[1] > 0.2
    errors = [
        1 - value(hard, "predictable.confident"),
        1 - value(hard, "predictable.both"),
    ]
    assert errors[1] > 0.2
    assert errors[0] < 0.75 * errors[1]


@seeds
def test_random_labels_are_not_predicted(seed: int) -> None:
    data = block_model(seed, 500)
    data.y = data.y[torch.randperm(500, generator=torch.Generator().manual_seed(seed))]
    table = measured(data)
    for name in INPUTS:
        row = table.get(f"labels.predictable.{name}")
        assert row is not None
        assert row.value < 1 / 3 + 3 * (row.stderr or 0)
    edges = table.get("labels.agreement.edges")
    assert edges is not None
    assert abs(edges.value) < 3 * (edges.stderr or 0)


def test_edges_agree_by_hand() -> None:
    data = block_model(0)
    data.train_mask = torch.ones(300, dtype=torch.bool)
    source, target = data.edge_index
    equal = float((data.y[source] == data.y[target]).double().mean())
    pairs = torch.combinations(data.y)
    chance = float((pairs[:, 0] == pairs[:, 1]).double().mean())
    assert value(data, "agreement.edges") == pytest.approx(equal - chance)


def test_the_majority() -> None:
    data = block_model(0)
    counts = data.y[data.train_mask].bincount()
    assert value(data, "majority") == pytest.approx(float(counts.max() / counts.sum()))


def test_wide_features_and_few_labels() -> None:
    data = gf.datasets.synthetic_cora()
    start = time.perf_counter()
    table = measured(data)
    assert (
        time.perf_counter() - start < 10
    )  # about half a second where nothing else runs
    assert table.value("labels.predictable.both") > 0.7
    assert table.value("labels.agreement.val") > 0.7


def test_many_nodes_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    data = block_model(0, mu=0.3)
    every = measured(data)
    monkeypatch.setattr(label_facts, "MAX_ROWS", 100)
    some = measured(data)
    for name in INPUTS:
        rows = [t.get(f"labels.predictable.{name}") for t in (every, some)]
        values = [row.value for row in rows if row is not None]
        errors = [row.stderr or 0 for row in rows if row is not None]
        assert abs(values[0] - values[1]) < 3 * math.hypot(*errors)
        assert errors[1] > errors[0]


def test_too_large_a_graph_has_only_its_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_facts, "MAX_PRODUCTS", 10)
    assert measured(block_model(0)).names() == ["labels.agreement.edges"]


def test_isolated_nodes_and_constant_columns() -> None:
    data = block_model(0)
    data.edge_index = data.edge_index[:, (data.edge_index > 100).all(0)]
    data.x[:, :3] = 1
    assert all(math.isfinite(row.value) for row in measured(data))
    data.x[:] = 1
    table = measured(data)
    assert table.value("labels.predictable.features") <= table.value("labels.majority")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_features_of_other_precisions(dtype: torch.dtype) -> None:
    data = block_model(0)
    data.x = data.x.to(dtype)
    problem = Problem(GCN(16, 4, 2, 3).to(dtype), data)
    table = Observations(label_observations(problem, graph_structure(problem)))
    assert table.value("labels.predictable.both") > 0.9


def test_without_a_validation_mask() -> None:
    data = block_model(0)
    del data.val_mask
    names = measured(data).names()
    assert "labels.predictable.both" in names
    assert not any(name.endswith("val") for name in names)


def test_a_matrix_of_splits() -> None:
    data = block_model(0)
    expected = measured(data)
    for name in ("train_mask", "val_mask"):
        data[name] = torch.stack([data[name], ~data[name]], dim=1)
    assert measured(data) == expected


def test_unlabelled_nodes_of_the_mask_are_left_out() -> None:
    data = block_model(0)
    del data.train_mask
    data.y[::2] = -1
    assert np.isfinite(value(data, "predictable.both"))


@pytest.mark.parametrize("change", ["regression", "few", "no graph", "one class", "x"])
def test_where_nothing_can_be_said(change: str) -> None:
    data = block_model(0)
    if change == "regression":
        data.y = data.x[:, :3]
    if change == "few":
        data.train_mask = torch.zeros(300, dtype=torch.bool).index_fill(
            0, torch.arange(8), True
        )
    if change == "one class":
        data.y = torch.zeros_like(data.y)
    problem = Problem(GCN(16, 4, 2, 3), data)
    structure = None if change == "no graph" else graph_structure(problem)
    if change == "x":
        data.x = data.x.long()
    assert label_observations(problem, structure) == []


def test_nothing_random_is_drawn_and_nothing_changes() -> None:
    data = block_model(0)
    problem, features = problem_of(data), data.x.clone()
    structure = graph_structure(problem)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    rows = label_observations(problem, structure)
    assert rows == label_observations(problem, structure)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()
    assert torch.equal(features, data.x)
