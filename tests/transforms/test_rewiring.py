"""New edges against a greedy search with pseudo-inverses."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import graphs
import pytest
import torch
from chains import complete_graph, ring
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.transforms import Compose
from torch_geometric.utils import to_dense_adj

from graphfathom.datasets import dumbbell
from graphfathom.nn import gcn_adjacency
from graphfathom.theory.resistance import total_effective_resistance
from graphfathom.transforms import Rewire

BY_GRAPH = pytest.mark.parametrize("make", graphs.GRAPHS.values(), ids=graphs.GRAPHS)


def dense(data: Data) -> Tensor:
    """Which nodes are joined in either direction."""
    size = int(data.num_nodes or 0)
    adjacency = to_dense_adj(data.edge_index, max_num_nodes=size)[0].double()
    return ((adjacency + adjacency.T) > 0).double().fill_diagonal_(0)


def pseudo_inverse(adjacency: Tensor) -> Tensor:
    laplacian = adjacency.sum(1).diag() - adjacency
    return torch.linalg.pinv(laplacian, hermitian=True, rtol=1e-12)


def joined(adjacency: Tensor, u: int, v: int) -> Tensor:
    adjacency = adjacency.clone()
    adjacency[u, v] = adjacency[v, u] = 1
    return adjacency


def resistance_in(adjacency: Tensor) -> float:
    """Total resistance: n tr L^+ of each component, whose nodes have one row of it."""
    inverse = pseudo_inverse(adjacency)
    walks = torch.linalg.matrix_power(
        torch.eye(len(adjacency)).double() + adjacency, len(adjacency)
    )
    sizes = (walks > 0).sum(1)
    return float((sizes * inverse.diagonal()).sum())


def free_pairs(adjacency: Tensor) -> list[tuple[int, int]]:
    """Not joined, in one component."""
    walks = torch.linalg.matrix_power(
        torch.eye(len(adjacency)).double() + adjacency, len(adjacency)
    )
    free = (walks > 0) & (adjacency == 0)
    return [(u, v) for u, v in free.nonzero().tolist() if u < v]


def new_pairs(data: Data) -> list[tuple[int, int]]:
    """New edges in the order of their choice, each once."""
    added = data.edge_index[:, data.added_edge_mask]
    first, second = added.chunk(2, dim=1)
    assert torch.equal(first, second.flip(0)), "both directions"
    return [(u, v) for u, v in first.T.tolist()]


@BY_GRAPH
@pytest.mark.parametrize("share", [0.3, 10.0])
def test_edges_are_new_undirected_and_inside_a_component(
    make: Callable[[], Data], share: float
) -> None:
    data = make()
    before = dense(data)
    free = free_pairs(before)
    found = Rewire(share=share)(data)
    added = {tuple(sorted(pair)) for pair in new_pairs(found)}
    number = min(round(share * float(before.sum()) / 2), len(free))
    assert len(added) == len(new_pairs(found)) == number
    assert added <= set(free)
    assert torch.equal(found.edge_index[:, : data.num_edges], data.edge_index)
    assert not found.added_edge_mask[: data.num_edges].any()
    assert found.num_nodes == data.num_nodes
    assert found.validate()


@BY_GRAPH
def test_each_edge_is_the_best_there_is(make: Callable[[], Data]) -> None:
    """With all modes: no free pair lowers the total resistance more."""
    data = make()
    adjacency = dense(data)
    for u, v in new_pairs(Rewire(num_edges=5)(data)):
        totals = [resistance_in(joined(adjacency, *p)) for p in free_pairs(adjacency)]
        adjacency = joined(adjacency, u, v)
        assert resistance_in(adjacency) == pytest.approx(min(totals), rel=1e-9)


def test_few_modes_do_nearly_as_well() -> None:
    data = dumbbell(40, bridge_length=8, density=0.1, seed=0)
    exact = Rewire(num_edges=12, rank=data.num_nodes or 0)(data)
    rough = Rewire(num_edges=12, rank=8)(data)
    before = resistance_in(dense(data))
    gained = before - resistance_in(dense(exact))
    assert gained > before / 2
    assert before - resistance_in(dense(rough)) > 0.95 * gained
    assert new_pairs(rough) != new_pairs(exact)


def test_a_ring_is_joined_across() -> None:
    (u, v), (a, b) = new_pairs(Rewire(num_edges=2)(ring(12)))
    assert (u, v) == (0, 6)  # of equally good pairs the first
    assert {a, b} == {3, 9}


def test_equally_good_edges_spread_over_equal_components() -> None:
    one = graphs.path_graph(5)
    edges = torch.cat([one.edge_index + 5 * i for i in range(3)], dim=1)
    found = Rewire(num_edges=3)(Data(edge_index=edges, num_nodes=15))
    assert sorted(new_pairs(found)) == [(0, 4), (5, 9), (10, 14)]


def test_larger_components_gain_more() -> None:
    short, long = graphs.path_graph(4), graphs.path_graph(8)
    edges = torch.cat([short.edge_index, long.edge_index + 4], dim=1)
    pair = new_pairs(Rewire(num_edges=1)(Data(edge_index=edges, num_nodes=12)))[0]
    assert min(pair) >= 4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_messages_cross_a_dumbbell(seed: int) -> None:
    """Two edges multiply the sensitivity across by far more than a hundred."""
    data = dumbbell(10, bridge_length=8, density=0.5, seed=seed)
    rewired = Rewire(num_edges=2)(data)

    def across(graph: Data) -> Tensor:
        matrix = gcn_adjacency(graph.edge_index, dtype=torch.float64).to_dense()
        power = torch.linalg.matrix_power(matrix, 10)
        return power[graph.group == 0][:, graph.group == 1].mean()

    assert across(rewired) > 500 * across(data)


def test_a_large_graph_in_rough_steps() -> None:
    """More nodes than pairs are looked at: a grid of 1,200 nodes is folded."""
    size = 1200
    nodes = torch.arange(size).view(20, 60)
    steps = [(nodes[1:], nodes[:-1]), (nodes[:, 1:], nodes[:, :-1])]
    edges = torch.cat([torch.stack([a.flatten(), b.flatten()]) for a, b in steps], 1)
    data = Data(edge_index=edges, num_nodes=size)
    found = Rewire(num_edges=9, rank=16)(data)
    first = torch.tensor(new_pairs(found)[0])
    assert int((first[0] % 60 - first[1] % 60).abs()) > 40  # along the long side
    before = total_effective_resistance(data.edge_index, size)
    after = total_effective_resistance(found.edge_index, size)
    assert after < 0.8 * before
    assert new_pairs(Rewire(num_edges=9, rank=16)(data)) == new_pairs(found)


def test_nothing_is_added_to_a_complete_graph() -> None:
    data = complete_graph(6)
    found = Rewire(num_edges=3)(data)
    assert torch.equal(found.edge_index, data.edge_index)
    assert found.added_edge_mask.tolist() == [False] * 30


def test_what_is_full_stays_as_it_is() -> None:
    full = Rewire(num_edges=100)(graphs.ring_graph(6))
    assert full.num_edges == 30
    assert torch.equal(Rewire(num_edges=100)(full).edge_index, full.edge_index)
    assert free_pairs(dense(full)) == []


def test_half_of_the_edges_twice_are_all_of_them() -> None:
    data = graphs.random_graph(10)
    once = Rewire(num_edges=6)(data)
    twice = Compose([Rewire(num_edges=3), Rewire(num_edges=3)])(data)
    edges = {tuple(pair) for pair in once.edge_index.T.tolist()}
    assert edges == {tuple(pair) for pair in twice.edge_index.T.tolist()}
    assert int(twice.added_edge_mask.sum()) == 12


def test_one_direction_is_enough_to_be_joined() -> None:
    directed = Data(edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]), num_nodes=4)
    found = Rewire(num_edges=1)(directed)
    assert found.edge_index.T.tolist() == [[0, 1], [1, 2], [2, 3], [0, 3], [3, 0]]
    both = Rewire(num_edges=1)(graphs.path_graph(4))
    assert new_pairs(found) == new_pairs(both)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_kinds_of_edge_indices(dtype: torch.dtype) -> None:
    data = graphs.path_graph(5)
    expected = Rewire(num_edges=2)(data)
    data.edge_index = EdgeIndex(data.edge_index.to(dtype), sparse_size=(5, 5))
    found = Rewire(num_edges=2)(data)
    assert found.edge_index.dtype == dtype
    assert found.edge_index.tolist() == expected.edge_index.tolist()


def test_loops_and_repeated_edges_change_no_choice() -> None:
    data = graphs.random_graph(8)
    noisy = Data(
        edge_index=torch.cat(
            [data.edge_index, data.edge_index[:, :4], torch.tensor([[3], [3]])], 1
        ),
        num_nodes=8,
    )
    transform = Rewire(num_edges=4)
    assert new_pairs(transform(noisy)) == new_pairs(transform(data))


def test_the_given_graph_stays_as_it_is() -> None:
    data = graphs.path_graph(5)
    data.edge_weight = torch.ones(data.num_edges)
    kept = data.clone()
    random = torch.get_rng_state()
    Rewire(num_edges=2)(data)
    assert torch.equal(torch.get_rng_state(), random)
    assert data.keys() == kept.keys()
    for key in kept.keys():  # noqa: SIM118 - PyG's Data iterates over pairs
        assert torch.equal(data[key], kept[key])


def test_attributes_of_edges_grow() -> None:
    data = graphs.path_graph(4)
    data.edge_weight = torch.full((6,), 2.0)
    data.edge_attr = torch.ones(6, 2)
    data.edge_type = torch.zeros(6).long()
    fill = {"edge_attr": torch.tensor([0.5, 0.0]), "edge_type": 1}
    found = Rewire(num_edges=1, fill=fill)(data)
    assert found.edge_weight.tolist() == [2] * 6 + [1] * 2
    assert found.edge_attr.tolist() == [[1, 1]] * 6 + [[0.5, 0]] * 2
    assert found.edge_type.tolist() == [0] * 6 + [1] * 2
    assert found.x is data.x
    assert found.validate()
    again = Rewire(num_edges=1, fill={"edge_weight": 3.0, **fill})(data)
    assert again.edge_weight.tolist() == [2] * 6 + [3] * 2


def test_as_many_edges_as_nodes() -> None:
    """Then only the name tells attributes of edges from those of nodes."""
    data = ring(4)
    data.edge_index = data.edge_index[:, :4]
    found = Rewire(num_edges=1)(data)
    assert found.x.shape[0] == found.y.shape[0] == 4
    assert found.added_edge_mask.shape == (6,)


def test_graphs_are_batched_as_usual() -> None:
    transform = Rewire(num_edges=2)
    parts = [transform(graphs.path_graph(n)) for n in (5, 7)]
    batch = Batch.from_data_list(parts)
    assert batch.added_edge_mask.tolist() == [
        *parts[0].added_edge_mask.tolist(),
        *parts[1].added_edge_mask.tolist(),
    ]
    for part, back in zip(parts, batch.to_data_list(), strict=True):
        assert torch.equal(part.edge_index, back.edge_index)


def test_no_warning_escapes() -> None:
    """SciPy warns of eigenvectors that have not converged."""
    nodes = torch.arange(600)
    data = Data(edge_index=torch.stack([nodes[:-1], nodes[1:]]), num_nodes=600)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Rewire(num_edges=3, rank=4)(data)
    (u, v), *_ = new_pairs(found)
    # The best chord of a path of 600 spans three quarters of it.
    assert abs(abs(u - v) - 450) < 60


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (Rewire(3), "Rewire(num_edges=3)"),
        (Rewire(share=0.5), "Rewire(share=0.5)"),
        (
            Rewire(3, rank=8, fill={"edge_attr": 0}),
            "Rewire(num_edges=3, rank=8, fill={'edge_attr': 0})",
        ),
    ],
)
def test_repr(transform: Rewire, expected: str) -> None:
    assert repr(transform) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"Exactly one of `num_edges` and `share` .* Got None and None"),
        ({"num_edges": 1, "share": 0.1}, r"Got 1 and 0.1"),
        ({"num_edges": -1}, r"`num_edges` must be >= 0. Got -1"),
        ({"share": math.nan}, r"`share` must be >= 0 and finite. Got nan"),
        ({"share": math.inf}, r"`share` must be >= 0 and finite. Got inf"),
        ({"num_edges": 1, "rank": 0}, r"`rank` must be at least 1. Got 0"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rewire(**options)


@pytest.mark.parametrize(
    ("name", "value", "fill", "message"),
    [
        ("edge_attr", torch.ones(6, 2), {}, r"`data.edge_attr` must have a value"),
        ("edge_names", list("abcdef"), {}, r"`data.edge_names` must have a value"),
        (
            "edge_type",
            torch.zeros(6).long(),
            {"edge_type": 0.5},
            r"`fill\['edge_type'\]` must be of a kind .* Got torch.float",
        ),
        (
            "edge_attr",
            torch.ones(6, 2),
            {"edge_attr": torch.ones(3)},
            r"`fill\['edge_attr'\]` must be a number or have shape \(2,\). Got \(3,\)",
        ),
    ],
)
def test_attributes_without_a_value_are_refused(
    name: str, value: Any, fill: dict[str, Any], message: str
) -> None:
    data = graphs.path_graph(4)
    data[name] = value
    with pytest.raises(ValueError, match=message):
        Rewire(num_edges=1, fill=fill)(data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (graphs.hetero_graph, r"one homogeneous graph, a Data. Got HeteroData"),
        (
            lambda: Batch.from_data_list([graphs.path_graph(3)]),
            r"Got DataBatch: transform each graph before they are batched",
        ),
        (
            lambda: Data(adj_t=torch.eye(3).to_sparse(), num_nodes=3),
            r"`data.edge_index` must be a tensor of shape \(2, E\). Got NoneType",
        ),
    ],
)
def test_other_graphs_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Rewire(num_edges=1)(make())


def test_an_edge_that_leads_nowhere_is_refused() -> None:
    data = Data(edge_index=torch.tensor([[0], [5]]), x=torch.ones(2, 1))
    with pytest.raises(
        ValueError, match=r"larger indices than the number of nodes \(2\)"
    ):
        Rewire(num_edges=1)(data)
