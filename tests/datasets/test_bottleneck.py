"""Two groups and a bridge."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.sparse.csgraph import connected_components, shortest_path
from torch_geometric.data import Data
from torch_geometric.utils import to_scipy_sparse_matrix

from graphfathom.datasets import dumbbell


def hops(data: Data) -> torch.Tensor:
    adjacency = to_scipy_sparse_matrix(data.edge_index, num_nodes=data.num_nodes)
    adjacency = adjacency.tocsr()
    return torch.from_numpy(shortest_path(adjacency, unweighted=True))


def assert_same(first: Data, second: Data) -> None:
    assert first.keys() == second.keys()
    for key in first.keys():  # noqa: SIM118 - PyG's Data iterates over pairs
        assert torch.equal(first[key], second[key]), key


def test_one_exact_instance() -> None:
    data = dumbbell(3, bridge_length=2, num_classes=2, noise=0.0, seed=0)
    edges = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (0, 6), (3, 6)]
    both = sorted(edges + [(j, i) for i, j in edges])
    assert data.edge_index.T.tolist() == [list(pair) for pair in both]
    assert data.group.tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert data.train_mask.tolist() == [True] * 3 + [False] * 4
    c = int(data.y[0])
    assert data.y.tolist() == [c] * 7
    assert data.x[:, c].tolist() == [0, 0, 0, 1, 1, 1, 0]
    assert data.x[:, 1 - c].tolist() == [0] * 7


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("bridge_length", [1, 2, 7])
def test_the_shape(density: float, bridge_length: int) -> None:
    data = dumbbell(8, bridge_length, density=density, seed=1)
    assert data.num_nodes == 16 + bridge_length - 1
    assert data.is_undirected()
    assert not data.has_self_loops()
    assert data.is_coalesced()
    assert data.validate()
    distances = hops(data)
    assert distances.isfinite().all()
    between = distances[data.group == 0][:, data.group == 1]
    assert between.min() == bridge_length == distances[0, 8]


@pytest.mark.parametrize("bridge_length", [1, 4])
def test_cutting_the_bridge_parts_the_groups(bridge_length: int) -> None:
    data = dumbbell(6, bridge_length, seed=0)
    inside = data.group[data.edge_index]
    keep = (inside[0] == inside[1]) & (inside[0] < 2)
    cut = to_scipy_sparse_matrix(data.edge_index[:, keep], num_nodes=data.num_nodes)
    assert connected_components(cut)[0] == 2 + bridge_length - 1
    assert int((~keep).sum()) == 2 * bridge_length


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_density_is_the_share_of_joined_pairs(seed: int) -> None:
    data = dumbbell(100, 1, density=0.3, seed=seed)
    pairs = 2 * 100 * 99 / 2
    # The path adds the 0.7 of its 2 * 99 edges that are not drawn.
    expected = 0.3 * pairs + 0.7 * 2 * 99 + 1
    spread = math.sqrt(0.3 * 0.7 * pairs)
    assert abs(data.num_edges / 2 - expected) <= 4 * spread
    sparse = dumbbell(100, 1, density=0.0, seed=seed)
    assert sparse.num_edges / 2 == 2 * 99 + 1


def test_the_left_group_says_nothing_and_the_right_one_everything() -> None:
    graphs = [dumbbell(5, 2, num_classes=3, seed=seed) for seed in range(300)]
    labels = torch.stack([data.y[0] for data in graphs])
    means = torch.stack([data.x[data.group == 1].mean(0) for data in graphs])
    assert torch.equal(means.argmax(1), labels)
    guesses = torch.stack([data.x[data.group == 0].mean(0) for data in graphs])
    right = float((guesses.argmax(1) == labels).double().mean())
    assert abs(right - 1 / 3) <= 4 * math.sqrt(2 / 9 / 300)
    counts = torch.bincount(labels, minlength=3)
    assert (counts - 100).abs().max() <= 4 * math.sqrt(300 * 2 / 9)


def test_the_noise_has_the_stated_size() -> None:
    x = dumbbell(500, 1, noise=0.25, seed=0).x[:500]
    assert abs(x.var() / 0.25**2 - 1) < 4 * math.sqrt(2 / x.numel())


def test_seeds() -> None:
    assert_same(dumbbell(6, 3, seed=4), dumbbell(6, 3, seed=4))
    assert not torch.equal(dumbbell(6, 3, seed=4).x, dumbbell(6, 3, seed=5).x)
    before = torch.random.get_rng_state()
    dumbbell(6, 3, density=0.5, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.usefixtures("float32_default")
def test_the_dtype_changes_no_number() -> None:
    single = dumbbell(9, 3, density=0.4, seed=0)
    torch.set_default_dtype(torch.float64)
    double = dumbbell(9, 3, density=0.4, seed=0)
    torch.set_default_dtype(torch.float32)
    assert single.x.dtype == torch.float32
    assert torch.equal(single.x, double.x.float())
    assert torch.equal(single.edge_index, double.edge_index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_size": 1}, r"`group_size` must be >= 2. Got 1."),
        ({"bridge_length": 0}, r"`bridge_length` must be >= 1. Got 0."),
        ({"num_classes": 1}, r"`num_classes` must be >= 2. Got 1."),
        ({"density": 1.1}, r"`density` must lie in \[0, 1\]. Got 1.1."),
        ({"density": math.nan}, r"`density` must lie in \[0, 1\]. Got nan."),
        ({"noise": -1.0}, r"`noise` must be >= 0 and finite. Got -1.0."),
        ({"noise": math.inf}, r"`noise` must be >= 0 and finite. Got inf."),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    usual = {"group_size": 4, "bridge_length": 2, "seed": 0}
    with pytest.raises(ValueError, match=message):
        dumbbell(**(usual | options))
