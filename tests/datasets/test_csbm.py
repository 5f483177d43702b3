"""Contextual stochastic block models."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.utils import homophily

from graphfathom.datasets import csbm, synthetic_cora

MASKS = ("train_mask", "val_mask", "test_mask")


def draw(**options: Any) -> Data:
    defaults = {
        "num_nodes": 2000,
        "num_classes": 4,
        "avg_degree": 6.0,
        "homophily": 0.7,
        "num_features": 10,
        "mu": 2.0,
        "seed": 0,
    }
    return csbm(**{**defaults, **options})


def assert_same(first: Data, second: Data) -> None:
    assert first.keys() == second.keys()
    for key in first.keys():  # noqa: SIM118 - PyG's Data iterates over pairs
        assert torch.equal(first[key], second[key]), key


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_same_seed_gives_the_same_graph(seed: int) -> None:
    assert_same(draw(seed=seed), draw(seed=seed))


def test_another_seed_gives_another_graph() -> None:
    assert not torch.equal(draw(seed=0).x, draw(seed=1).x)
    assert draw(seed=0).edge_index.shape != draw(seed=1).edge_index.shape


def test_the_global_generator_stays_where_it_is() -> None:
    before = torch.random.get_rng_state()
    draw()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.usefixtures("float32_default")
def test_the_dtype_changes_no_number() -> None:
    single = draw()
    torch.set_default_dtype(torch.float64)
    double = draw()
    torch.set_default_dtype(torch.float32)
    assert single.x.dtype == torch.float32
    assert torch.equal(single.x, double.x.float())
    assert torch.equal(single.edge_index, double.edge_index)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("h", [0.0, 0.25, 0.7, 1.0])
def test_degree_and_homophily(seed: int, h: float) -> None:
    data = draw(homophily=h, seed=seed)
    edges = data.num_edges / 2
    # Four standard deviations of the binomial numbers of edges.
    assert abs(edges - 6000) < 4 * math.sqrt(6000)
    measured = homophily(data.edge_index, data.y)
    assert abs(measured - h) <= 4 * math.sqrt(h * (1 - h) / edges)


@pytest.mark.parametrize("h", [0.0, 0.5, 1.0])
def test_edges_are_simple_undirected_and_sorted(h: float) -> None:
    data = draw(homophily=h)
    assert data.is_undirected()
    assert not data.has_self_loops()
    assert data.is_coalesced()
    assert data.validate()


def test_certain_edges_give_an_exact_graph() -> None:
    data = csbm(6, 2, avg_degree=2, homophily=1, seed=0)
    pairs = {(i, j) for i in range(6) for j in range(6) if i != j}
    same = {(i, j) for i, j in pairs if data.y[i] == data.y[j]}
    assert set(map(tuple, data.edge_index.T.tolist())) == same
    data = csbm(6, 2, avg_degree=3, homophily=0, seed=0)
    assert set(map(tuple, data.edge_index.T.tolist())) == pairs - same


def test_one_exact_instance() -> None:
    data = csbm(8, 2, avg_degree=2, homophily=0.5, num_features=1, mu=1.0, seed=3)
    assert data.y.tolist() == [1, 0, 0, 0, 1, 1, 0, 1]
    edges = [(0, 4), (1, 3), (1, 7), (2, 4), (2, 6), (3, 5)]
    both = sorted(edges + [(j, i) for i, j in edges])
    assert data.edge_index.T.tolist() == [list(pair) for pair in both]


def test_every_pair_is_equally_likely() -> None:
    drawn = 400
    hits = torch.zeros(6, 6)
    for seed in range(drawn):
        data = csbm(6, 3, avg_degree=2, homophily=0.5, seed=seed)
        adjacency = torch.zeros(6, 6)
        adjacency[data.edge_index[0], data.edge_index[1]] = 1
        order = data.y.argsort(stable=True)
        hits += adjacency[order][:, order]
    share = hits / drawn
    inside = torch.tensor([share[0, 1], share[2, 3], share[4, 5]])
    blocks = torch.block_diag(*[torch.ones(2, 2)] * 3).bool()
    between = share[~blocks]
    # Six edges, half of them inside: 3 of 3 pairs inside, 3 of 12 between.
    assert torch.equal(inside, torch.ones(3))
    assert (between - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / drawn)


def test_classes_are_balanced() -> None:
    counts = torch.bincount(draw(num_nodes=2003).y)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_class_means_are_a_regular_simplex(num_classes: int) -> None:
    mu = 1e9  # so that the noise does not count
    data = draw(num_classes=num_classes, mu=mu)
    means = torch.stack([data.x[data.y == c].mean(0) / mu for c in range(num_classes)])
    gram = torch.full((num_classes, num_classes), -1 / (num_classes - 1))
    gram.fill_diagonal_(1)
    # The noise is 1e-9 of the means; the rest is rounding in the dtype of the tests.
    torch.testing.assert_close(means @ means.T, gram, atol=1e-6, rtol=0)


def test_two_classes_are_the_usual_binary_model() -> None:
    data = draw(num_classes=2, mu=1e9)
    sign = 1 - 2 * data.y.to(data.x.dtype)
    expected = sign[:, None].expand(-1, 10) / math.sqrt(10)
    torch.testing.assert_close(data.x / 1e9, expected, atol=1e-6, rtol=0)


def test_noise_has_the_stated_size() -> None:
    x = draw(mu=0.0).x
    # 20,000 draws of variance 1/10.
    assert abs(x.var() * 10 - 1) < 4 * math.sqrt(2 / x.numel())
    assert abs(x.mean()) < 4 / math.sqrt(10 * x.numel())


def test_default_masks_are_a_partition() -> None:
    data = draw()
    sizes = [int(data[mask].sum()) for mask in MASKS]
    assert sizes == [1200, 400, 400]
    assert torch.stack([data[mask] for mask in MASKS]).sum(0).eq(1).all()


def test_a_split_by_class() -> None:
    data = draw(split=(5, 30, 40))
    assert [int(data[mask].sum()) for mask in MASKS] == [20, 30, 40]
    assert torch.stack([data[mask] for mask in MASKS]).sum(0).max() == 1
    assert torch.bincount(data.y[data.train_mask]).tolist() == [5, 5, 5, 5]


def test_a_large_graph_needs_no_square_matrix() -> None:
    # The adjacency matrix of half a million nodes would take 2 TB.
    data = draw(num_nodes=500_000, avg_degree=2.0, num_features=3)
    assert abs(data.num_edges / 2 - 500_000) < 4 * math.sqrt(500_000)


def test_synthetic_cora() -> None:
    data = synthetic_cora()
    assert data.x.shape == (2708, 1433)
    assert int(data.y.max()) == 6
    assert [int(data[mask].sum()) for mask in MASKS] == [140, 500, 1000]
    assert abs(data.num_edges / 2708 - 3.9) < 0.15
    assert abs(homophily(data.edge_index, data.y) - 0.81) < 0.03
    assert_same(data, synthetic_cora(seed=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 1}, r"`num_classes` must be >= 2. Got 1."),
        ({"num_nodes": 7}, r"`num_nodes` must be >= 8, two for each class. Got 7."),
        ({"homophily": 1.1}, r"`homophily` must lie in \[0, 1\]. Got 1.1."),
        ({"avg_degree": -1.0}, r"`avg_degree` must be >= 0 and finite. Got -1.0."),
        ({"avg_degree": math.inf}, r"`avg_degree` must be >= 0 and finite. Got inf."),
        ({"num_features": 2}, r"`num_features` must be >= 3, .* Got 2."),
        ({"mu": math.nan}, r"`mu` must be finite. Got nan."),
        (
            {"homophily": 1.0, "avg_degree": 600.0},
            r"asks for 600000 edges inside classes, where there are 499000 pairs",
        ),
        (
            {"homophily": 0.0, "avg_degree": 1600.0},
            r"`avg_degree` asks for 1600000 edges between classes",
        ),
        ({"split": (501, 0, 0)}, r"`split` must fit into 2000 nodes with 500 in the"),
        ({"split": (1, 1000, 1000)}, r"`split` must fit into 2000 nodes"),
        ({"split": (-1, 0, 0)}, r"`split` must fit .*Got \(-1, 0, 0\)."),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**options)
