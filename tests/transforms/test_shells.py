"""Shells against all-pairs shortest paths, and what holds for every graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import graphs
import numpy as np
import pytest
import torch
from chains import complete_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path
from shells import hop_distances
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from graphfathom.transforms import KHopShells, shell_search

BY_GRAPH = pytest.mark.parametrize("make", graphs.GRAPHS.values(), ids=graphs.GRAPHS)
SEARCHES = pytest.mark.parametrize("dense", [True, False], ids=["packed", "frontier"])


@st.composite
def directed_graphs(draw: st.DrawFn) -> Data:
    """Up to 40 nodes, with loops, repeated edges and several components."""
    size = draw(st.integers(1, 40))
    node = st.integers(0, size - 1)
    edges = draw(st.lists(st.tuples(node, node), max_size=3 * size))
    return graphs.make_graph(size, edges)


def scipy_distances(data: Data) -> Tensor:
    size, ends = data.num_nodes, data.edge_index.numpy()
    matrix = csr_array((np.ones(ends.shape[1]), ends), shape=(size, size))
    distance = shortest_path(matrix, unweighted=True)
    distance[np.isinf(distance)] = -1
    return torch.from_numpy(distance).long()


def dense_shells(data: Data, k: int) -> Tensor:
    """Distances as a matrix, made of the shells; -1 elsewhere, 0 on the diagonal."""
    found = KHopShells(k)(data)
    distance = torch.full((data.num_nodes, data.num_nodes), -1).fill_diagonal_(0)
    assert (distance[tuple(found.shell_index)] == -1).all(), "neither loops nor doubles"
    distance[tuple(found.shell_index)] = found.shell_hop
    assert int((distance > 0).sum()) == len(found.shell_hop), "no pair twice"
    return distance


def rows(data: Data) -> list[tuple[int, int, int]]:
    """Hop, source, target in the order of the columns."""
    return list(zip(data.shell_hop.tolist(), *data.shell_index.tolist(), strict=True))


def equal(one: Data, other: Data) -> bool:
    names = ("shell_index", "shell_hop")
    return all(torch.equal(one[name], other[name]) for name in names)


@pytest.fixture(params=[True, False], ids=["packed", "frontier"])
def searched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each search, in more than one piece."""
    monkeypatch.setattr(shell_search, "DENSE", 4096 if request.param else 0)
    monkeypatch.setattr(shell_search, "BYTES", 50)
    monkeypatch.setattr(shell_search, "STEPS", 7)


@BY_GRAPH
@pytest.mark.parametrize("k", [1, 2, 3, 12, 10**9])
@pytest.mark.usefixtures("searched")
def test_pairs_are_as_far_apart_as_said(make: Callable[[], Data], k: int) -> None:
    data = make()
    distance = hop_distances(data)
    assert torch.equal(distance, scipy_distances(data))
    expected = torch.where(distance <= k, distance, -1)
    assert torch.equal(dense_shells(data, k), expected)


@SEARCHES
@settings(deadline=None, max_examples=60)
@given(data=directed_graphs(), k=st.integers(1, 8))
def test_any_graph(dense: bool, data: Data, k: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shell_search, "DENSE", 4096 if dense else 0)
        patch.setattr(shell_search, "BYTES", 64)
        patch.setattr(shell_search, "STEPS", 5)
        found = dense_shells(data, k)
    distance = hop_distances(data)
    assert torch.equal(found, torch.where(distance <= k, distance, -1))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.usefixtures("searched")
def test_more_nodes_than_a_word_has_bits(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    edge_index = torch.randint(200, (2, 320), generator=generator)
    data = Data(edge_index=edge_index, num_nodes=200)
    assert torch.equal(dense_shells(data, 200), scipy_distances(data))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_words_at_once(seed: int) -> None:
    edge_index = torch.randint(200, (2, 320), generator=torch.manual_seed(seed))
    data = Data(edge_index=edge_index, num_nodes=200)
    assert torch.equal(dense_shells(data, 200), scipy_distances(data))


def test_the_first_shell_is_the_edges() -> None:
    edges = [(0, 1), (0, 1), (2, 2), (1, 0), (3, 1)]
    data = KHopShells(1)(graphs.make_graph(4, edges))
    assert rows(data) == [(1, 0, 1), (1, 1, 0), (1, 3, 1)]


def test_distances_are_counted_along_the_edges() -> None:
    data = KHopShells(3)(graphs.make_graph(4, [(0, 1), (1, 2), (2, 3)]))
    assert rows(data) == [
        (1, 0, 1),
        (1, 1, 2),
        (1, 2, 3),
        (2, 0, 2),
        (2, 1, 3),
        (3, 0, 3),
    ]


@BY_GRAPH
@pytest.mark.usefixtures("searched")
def test_sorted_by_hop_then_source_then_target(make: Callable[[], Data]) -> None:
    found = rows(KHopShells(5)(make()))
    assert found == sorted(found)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_undirected_graphs_have_symmetric_shells(seed: int) -> None:
    distance = dense_shells(graphs.random_graph(12, seed), 3)
    assert torch.equal(distance, distance.T)
    assert (distance == 3).any()


def test_all_shells_are_all_connected_pairs() -> None:
    data = graphs.two_components()
    index = KHopShells(6)(data).shell_index
    assert sorted(index.T.tolist()) == [
        [u, v] for u in range(6) for v in range(6) if u != v and (u < 3) == (v < 3)
    ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_new_order_of_nodes_only_renames_them(seed: int) -> None:
    data = graphs.directed_graph()
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    renamed = Data(edge_index=order[data.edge_index], num_nodes=5)
    distance = dense_shells(renamed, 3)
    assert torch.equal(distance[order][:, order], dense_shells(data, 3))


def test_weights_have_no_effect() -> None:
    data = graphs.path_graph()
    weighted = copy.copy(data)
    weighted.edge_weight = torch.arange(data.num_edges).double() - 3
    assert equal(KHopShells(3)(data), KHopShells(3)(weighted))


@pytest.mark.parametrize("size", [0, 1, 4])
@pytest.mark.parametrize("k", [1, 5])
def test_without_edges_there_are_no_pairs(size: int, k: int) -> None:
    edge_index = torch.empty(2, 0, dtype=torch.long)
    data = KHopShells(k)(Data(edge_index=edge_index, num_nodes=size))
    assert data.shell_index.shape == (2, 0)
    assert data.shell_hop.shape == (0,)
    assert data.shell_index.dtype == data.shell_hop.dtype == torch.long


def test_shells_beyond_the_diameter_are_empty() -> None:
    data = complete_graph(5)
    assert equal(KHopShells(4)(data), KHopShells(1)(data))
    assert KHopShells(4)(data).shell_hop.tolist() == [1] * 20


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_kinds_of_edge_indices(dtype: torch.dtype) -> None:
    data = graphs.path_graph(5)
    expected = KHopShells(3)(data)
    data.edge_index = EdgeIndex(data.edge_index.to(dtype), sparse_size=(5, 5))
    found = KHopShells(3)(data)
    assert equal(found, expected)
    assert type(found.shell_index) is Tensor
    assert found.shell_index.dtype == torch.long


def test_the_given_graph_stays_as_it_is() -> None:
    data = graphs.directed_graph()
    kept = data.clone()
    random = torch.get_rng_state()
    found = KHopShells(2)(data)
    KHopShells(2).preview(data)
    assert torch.equal(torch.get_rng_state(), random)
    assert set(found.keys()) - set(data.keys()) == {"shell_index", "shell_hop"}
    assert data.keys() == kept.keys()
    assert all(torch.equal(data[key], kept[key]) for key in kept.keys())  # noqa: SIM118


def test_shells_that_are_there_are_made_anew() -> None:
    data = graphs.path_graph()
    assert equal(KHopShells(1)(KHopShells(4)(data)), KHopShells(1)(data))


@pytest.fixture
def several() -> list[Data]:
    """Graphs with and without edges, one of them directed."""
    return [make() for make in graphs.GRAPHS.values()]


def test_a_batch_has_the_shells_of_its_union(several: list[Data]) -> None:
    transform = KHopShells(3)
    batch = Batch.from_data_list([transform(data) for data in several])
    union = Batch.from_data_list(several)
    together = transform(Data(edge_index=union.edge_index, num_nodes=union.num_nodes))
    assert sorted(rows(batch)) == rows(together)


def test_a_batch_gives_its_graphs_back(several: list[Data]) -> None:
    transformed = [KHopShells(3)(data) for data in several]
    back = Batch.from_data_list(transformed).to_data_list()
    assert all(map(equal, transformed, back))


def test_a_loader_shifts_shells(several: list[Data]) -> None:
    transformed = [KHopShells(3)(data) for data in several]
    batches = list(DataLoader(transformed, batch_size=3))
    assert len(batches) == 3
    for i, batch in enumerate(batches):
        expected = Batch.from_data_list(transformed[3 * i : 3 * i + 3])
        assert equal(batch, expected)
        graph = batch.batch[batch.shell_index]
        assert torch.equal(graph[0], graph[1]), "no pair between graphs"


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (KHopShells(3), "KHopShells(k=3)"),
        (KHopShells(np.int64(3)), "KHopShells(k=3)"),
        (KHopShells(3, max_pairs=9), "KHopShells(k=3, max_pairs=9)"),
    ],
)
def test_repr(transform: KHopShells, expected: str) -> None:
    assert repr(transform) == expected


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3", None, torch.tensor(3)])
@pytest.mark.parametrize("name", ["k", "max_pairs"])
def test_what_is_no_positive_integer_is_refused(name: str, value: Any) -> None:
    options: dict[str, Any] = {"k": 2, name: value}
    with pytest.raises(ValueError, match=rf"`{name}` must be an integer >= 1\. Got"):
        KHopShells(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (graphs.hetero_graph, r"one homogeneous graph, a Data\. Got HeteroData"),
        (
            lambda: Batch.from_data_list([graphs.path_graph(3)]),
            r"Got DataBatch: apply KHopShells to each graph before they are batched",
        ),
        (lambda: Data(x=torch.ones(3, 1)), r"shape \(2, E\)\. Got NoneType"),
        (
            lambda: Data(edge_index=torch.eye(3).to_sparse(), num_nodes=3),
            r"must be a dense tensor",
        ),
        (
            lambda: Data(edge_index=torch.ones(2, 2), num_nodes=3),
            r"must be of integers\. Got torch\.float64: call `edge_index\.long\(\)`",
        ),
        (
            lambda: Data(edge_index=torch.ones(2, 2).bool(), num_nodes=3),
            r"must be of integers\. Got torch\.bool",
        ),
    ],
)
def test_other_graphs_are_refused(make: Callable[[], Any], message: str) -> None:
    for call in (KHopShells(2), KHopShells(2).preview):
        with pytest.raises(TypeError, match=message):
            call(make())


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([[0], [5]], r"larger indices than the number of nodes \(2\)"),
        ([[0], [-1]], r"negative indices"),
        ([[0, 1]], r"needs to be of shape \[2, num_edges\]"),
    ],
)
def test_edges_that_lead_nowhere_are_refused(edges: list, message: str) -> None:
    data = Data(edge_index=torch.tensor(edges), num_nodes=2)
    with pytest.raises(ValueError, match=message):
        KHopShells(2)(data)
