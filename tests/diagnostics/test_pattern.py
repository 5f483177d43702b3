"""Patterns of layers, against all entries of their dense Jacobians."""

from __future__ import annotations

import pytest
import torch
from graphs import (
    directed_graph,
    isolated_node,
    make_graph,
    no_edges,
    one_node,
    path_graph,
    random_graph,
    two_components,
)
from layer_cases import network, traced
from networks import Chain, DenseNet
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN, ChebConv, GCNConv, TAGConv

from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.layer_map import LayerMap
from graphfathom.diagnostics.pattern import neighbourhoods
from graphfathom.diagnostics.trace import Trace

GRAPHS = {
    "random": random_graph(),
    "directed": directed_graph(),
    "components": two_components(),
    "isolated": isolated_node(),
    "no edges": no_edges(),
    "one node": one_node(),
}
EVERYTHING = 10**9


def patterns(trace: Trace, k: int, max_entries: int = EVERYTHING) -> list[Tensor]:
    found = neighbourhoods(LayerMap(trace, k), max_entries)
    return [torch.from_numpy(pattern.toarray()) for pattern in found]


def coupled(trace: Trace, k: int) -> Tensor:
    """Which node's input changes which node's output, from the dense Jacobian."""
    layer = LayerMap(trace, k)
    n, out, width = layer.num_nodes, layer.out_channels, layer.in_channels
    eye = torch.eye(n * width).view(-1, n, width)
    dense = torch.stack([layer.jvp(x).flatten() for x in eye], 1)
    return (dense.view(n, out, n, width) != 0).any(3).any(1)


def hops(data: Data, count: int) -> Tensor:
    """Pairs that messages of some hops join, row v what reaches v."""
    base = torch.eye(data.num_nodes)
    base[data.edge_index[1], data.edge_index[0]] = 1
    return (torch.linalg.matrix_power(base, count) > 0).double()


def chain(make, width: int = 4) -> Chain:
    convs = [make() for _ in range(2)]
    return Chain(convs, nn.Linear(3, width), nn.Linear(width, 2))


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", ["tanh", "sage", "raw", "reversed", "convex", "gcn2"])
def test_patterns_hold_all_entries(name: str, graph: str) -> None:
    trace = traced(network(name), GRAPHS[graph])
    for k in range(1, trace.num_layers + 1):
        found = patterns(trace, k)
        assert found
        for pattern in found:
            assert bool((pattern[coupled(trace, k)] == 1).all())


@pytest.mark.parametrize("data", [random_graph(), directed_graph(), path_graph()])
def test_the_first_pattern_is_the_nearest(data: Data) -> None:
    trace = traced(network("tanh"), data)
    assert torch.equal(patterns(trace, 2)[0], hops(data, 1))


@pytest.mark.parametrize(("kind", "count"), [(TAGConv, 3), (ChebConv, 2)])
def test_layers_that_see_farther(kind: type[nn.Module], count: int) -> None:
    data = path_graph(9)
    trace = traced(chain(lambda: kind(4, 4, K=3)), data)
    assert torch.equal(patterns(trace, 1)[0], hops(data, count))


def test_messages_against_the_edges() -> None:
    data = directed_graph()
    trace = traced(network("reversed"), data)
    assert torch.equal(patterns(trace, 2)[0], hops(data, 1).mT)


def test_patterns_grow() -> None:
    data = path_graph(9)
    sizes = [p.sum() for p in patterns(traced(network("tanh"), data), 2)]
    assert sizes == sorted(set(sizes))
    assert len(sizes) > 1


def test_without_edges_in_the_data_every_node_is_looked_up() -> None:
    data = random_graph()
    adjacency = hops(data, 1)
    model = DenseNet([3, 4, 4, 2])
    trace = traced(model, Data(x=data.x, y=data.y, adj=adjacency))
    (found,) = patterns(trace, 2)
    assert torch.equal(found, coupled(trace, 2).double())


def test_entries_above_the_budget_are_refused() -> None:
    trace = traced(network("tanh"), path_graph(6))
    count = 6 + 10
    assert next(neighbourhoods(LayerMap(trace, 2), count)).nnz == count
    match = f"lets {count} pairs of nodes see each other, of which {count - 1} fit"
    with pytest.raises(JacobianError, match=match):
        patterns(trace, 2, count - 1)


def test_a_norm_over_the_graph_is_named() -> None:
    trace = traced(GCN(3, 4, 3, 2, norm="batch_norm"), path_graph(20))
    with pytest.raises(JacobianError, match=r"BatchNorm.* lets a node see 20 of 20"):
        patterns(trace, 1)


def test_a_mean_over_the_graph_is_not_sparse() -> None:
    class Global(GCNConv):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return super().forward(x, edge_index) + x.mean(0)

    trace = traced(chain(lambda: Global(4, 4)), path_graph(20))
    with pytest.raises(
        JacobianError, match=r"`convs.1` lets a node see 20 of 20 nodes"
    ):
        patterns(trace, 2)


def test_the_node_with_most_neighbours_is_looked_up() -> None:
    """The hub of a star, between the eight nodes that are evenly spread."""
    size, hub = 100, 7
    edges = [(i, hub) for i in range(size) if i != hub]
    trace = traced(chain(lambda: GCNConv(4, 4)), make_graph(size, edges))
    assert torch.equal(patterns(trace, 2)[0], hops(trace.problem.data, 1))
