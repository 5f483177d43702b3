"""Sensitivity by distance, and its split into model and topology."""

from __future__ import annotations

import math

import pytest
import torch
from chains import complete_graph, ring, scaled_chain
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
from problems import CATALOGUE
from torch import Tensor
from torch.testing import assert_close
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GCN, GIN, ChebConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import to_dense_adj

from graphfathom.diagnostics.distances import (
    NUM_ROOTS,
    _far,
    distance_observations,
    distance_products,
    log10_walks,
)
from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.segments import Segment
from graphfathom.diagnostics.trace import Trace, capture

GRAPHS = {
    "random": random_graph,
    "directed": directed_graph,
    "two components": two_components,
    "isolated node": isolated_node,
    "no edges": no_edges,
}
by_graph = pytest.mark.parametrize("graph", GRAPHS)
SPLIT = ("sensitivity", "sensitivity.model", "sensitivity.topology")


def measured(trace: Trace, seed: int = 0) -> Observations:
    generator = torch.Generator().manual_seed(seed)
    return Observations(distance_observations(trace, generator))


def dense_walks(data: Data, num_layers: int) -> Tensor:
    r"""The matrix :math:`\hat A^L`, row v of what node v receives, entry by entry."""
    n = data.num_nodes
    matrix = torch.eye(n)
    for u, v in data.edge_index.T.tolist():
        matrix[v, u] += u != v
    matrix /= matrix.sum(1, keepdim=True).sqrt() * matrix.sum(0, keepdim=True).sqrt()
    power = torch.eye(n)
    for _ in range(num_layers):
        power = matrix @ power
    return power


def walks(data: Data, num_layers: int) -> Tensor:
    nodes = torch.arange(data.num_nodes)
    return log10_walks(data.edge_index, data.num_nodes, nodes, num_layers)


@by_graph
@pytest.mark.parametrize("num_layers", [0, 1, 5, 50])
def test_walks_are_the_power_of_a_matrix(graph: str, num_layers: int) -> None:
    data = GRAPHS[graph]()
    expected = dense_walks(data, num_layers).log10()
    assert_close(walks(data, num_layers), expected, rtol=1e-11, atol=1e-11)


def test_a_thousand_steps() -> None:
    """A directed ring with chords: no power of it is symmetric, and none vanishes."""
    edges = [(i, (i + 1) % 9) for i in range(9)] + [(0, 4), (2, 7)]
    data = make_graph(9, edges)
    expected = dense_walks(data, 1_000).log10()
    assert float((expected - expected.T).abs().max()) > 0.01
    assert_close(walks(data, 1_000), expected, rtol=1e-10, atol=1e-10)


def test_the_only_walk_of_a_long_path_is_below_the_range_of_floats() -> None:
    """From end to end without a pause: the product of the entries on the way."""
    length = 1_000
    data = path_graph(length + 1)
    found = log10_walks(data.edge_index, length + 1, torch.tensor([length]), length)
    inner = -math.log10(3) * (length - 2)
    assert float(found[0, 0]) == pytest.approx(inner - math.log10(6), rel=1e-12)
    far = log10_walks(data.edge_index, length + 1, torch.tensor([length]), length - 1)
    assert float(far[0, 0]) == -math.inf


def test_self_loops_are_not_doubled() -> None:
    """As in PyG's GCN, where a loop in the data is the loop of the layer."""
    data = random_graph()
    loops = torch.tensor([[2, 5], [2, 5]])
    edges = torch.cat([data.edge_index, loops], dim=1)
    index, weight = gcn_norm(edges, None, data.num_nodes)
    matrix = to_dense_adj(index, edge_attr=weight)[0]
    found = log10_walks(edges, data.num_nodes, torch.arange(data.num_nodes), 3)
    assert_close(found, torch.linalg.matrix_power(matrix, 3).log10())


@by_graph
@pytest.mark.parametrize("name", ["relu", "sage", "stabilized", "gat"])
def test_the_parts_add_up(name: str, graph: str) -> None:
    data = GRAPHS[graph]()
    trace = traced(GAT(3, 4, 4, 2) if name == "gat" else network(name), data)
    table = measured(trace)
    pairs = table.series("sensitivity.pairs")[1]
    jacobian = NodeJacobian(trace, 0, trace.num_layers)
    distance = jacobian.distances(torch.arange(data.num_nodes), backward=True)
    assert pairs == [int((distance == r).sum()) for r in range(len(pairs))]
    constant = math.log10(data.num_nodes * jacobian.in_width / sum(pairs)) / 2
    whole, model, topology = (torch.tensor(table.series(name)[1]) for name in SPLIT)
    assert len(whole) == len(pairs)
    assert_close(model + topology + constant, whole, rtol=1e-13, atol=1e-13)


@by_graph
def test_topology_compares_root_mean_squares(graph: str) -> None:
    data = GRAPHS[graph]()
    trace = traced(network("relu"), data)
    table, square = measured(trace), dense_walks(data, trace.num_layers).square()
    jacobian = NodeJacobian(trace, 0, trace.num_layers)
    distance = jacobian.distances(torch.arange(data.num_nodes), backward=True)
    for r, value in zip(*table.series("sensitivity.topology"), strict=True):
        ratio = square[distance == r].mean() / square[distance >= 0].mean()
        assert value == pytest.approx(float(ratio.log10()) / 2)


@pytest.mark.parametrize("data", [ring(9), complete_graph(5), two_components()])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.0])
def test_linear_layers_have_one_model_term(data: Data, scale: float) -> None:
    r"""Of :math:`J = \hat A^L \otimes c^L I`: the gain of random directions.

    .. math:: L \log_{10} c + \tfrac12 \log_{10} (\|\hat A^L\|_F^2 / N)
    """
    depth = 6
    data.y = data.x
    found = measured(scaled_chain(depth, scale, data)).series("sensitivity.model")[1]
    share = dense_walks(data, depth).square().sum() / data.num_nodes
    gain = depth * math.log10(scale) + float(share.log10()) / 2
    assert len(found) > 1
    assert found == pytest.approx([gain] * len(found))


def test_a_constant_map_of_a_complete_graph_has_no_bottleneck() -> None:
    """All pairs have alike of all walks."""
    found = measured(scaled_chain(4, 1.0, complete_graph(6)))
    assert found.series("sensitivity.topology")[1] == pytest.approx([0, 0], abs=1e-12)


def test_many_layers_keep_their_logarithms() -> None:
    found = measured(scaled_chain(400, 0.1, ring(5))).series("sensitivity.model")[1]
    assert found == pytest.approx([-400 - math.log10(5) / 2] * 3)


def test_drawn_roots_stand_for_all() -> None:
    """On a ring all nodes are alike, so that a sample of them is exact."""
    size = 3 * NUM_ROOTS
    table = measured(scaled_chain(4, 0.5, ring(size)))
    assert table.series("sensitivity.pairs")[1][:2] == [size, 2 * size]
    square = dense_walks(ring(size), 4)[0].square()
    for r in range(5):
        expected = math.log10(2 * 0.5**8 * float(square[r])) / 2
        assert table.value("sensitivity", f"distance:{r}") == pytest.approx(expected)


def test_nodes_beyond_the_layers_have_no_split() -> None:
    table = measured(scaled_chain(3, 1.0, ring(20)))
    assert table.value("sensitivity", "distance:4") == -math.inf
    assert table.value("sensitivity.topology", "distance:4") == -math.inf
    assert math.isnan(table.value("sensitivity.model", "distance:4"))
    assert math.isfinite(table.value("sensitivity.model", "distance:3"))


def test_layers_that_see_farther_than_walks_have_no_split() -> None:
    model = GCN(3, 4, 2, 2)
    model.convs = torch.nn.ModuleList([ChebConv(3, 4, K=4), ChebConv(4, 2, K=4)])
    table = measured(traced(model, path_graph(8)))
    assert math.isfinite(table.value("sensitivity", "distance:5"))
    assert math.isnan(table.value("sensitivity.model", "distance:5"))


def test_pairs_without_a_path_are_no_distance() -> None:
    table = measured(traced(network("relu"), two_components()))
    assert min(table.series("sensitivity")[0]) == 0
    assert sum(table.series("sensitivity.pairs")[1]) == 18


def test_messages_against_the_edges() -> None:
    """With ``flow="target_to_source"`` hops and walks go along the messages."""
    data = directed_graph()
    trace = traced(network("reversed"), data)
    table = measured(trace)
    turned = Data(edge_index=data.edge_index.flip(0), num_nodes=data.num_nodes)
    square = dense_walks(turned, trace.num_layers).square()
    joined = to_dense_adj(data.edge_index)[0] > 0  # row u, which hears from column v
    ratio = square[joined].mean() / square[square > 0].mean()
    found = table.value("sensitivity.topology", "distance:1")
    assert found == pytest.approx(float(ratio.log10()) / 2)
    assert math.isfinite(table.value("sensitivity", "distance:2"))


def test_one_node_has_no_distances() -> None:
    assert distance_observations(traced(network("relu"), one_node()), None) == []


def test_nodes_of_several_types_are_refused() -> None:
    entry = next(entry for entry in CATALOGUE if entry.name == "HeteroConv")
    with pytest.raises(ValueError, match="needs nodes of one type"):
        measured(capture(entry.case().problem()))


@pytest.mark.parametrize(
    ("name", "share"), [("relu", 0.0), ("stabilized", 1.0), ("convex", 1.0)]
)
def test_state_space_layers_are_told(name: str, share: float) -> None:
    table = measured(traced(network(name), random_graph()))
    assert table.value("layers.state_space") == share


@pytest.mark.parametrize("size", [9, 40])
def test_the_price_is_what_is_taken(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = traced(GIN(3, 4, 3, 2), path_graph(size))
    taken, vjp = [], Segment.vjp
    monkeypatch.setattr(Segment, "vjp", lambda *args: [taken.append(1), vjp(*args)][1])
    measured(trace)
    assert len(taken) == distance_products(trace) == min(size, 32) * 3


def test_one_seed_one_table() -> None:
    trace = traced(network("tanh"), path_graph(40))
    first, second, other = (measured(trace, seed).to_csv() for seed in (0, 0, 1))
    assert first == second != other


@pytest.mark.parametrize(
    ("pairs", "known", "far"),
    [
        ({0: 10, 1: 20, 2: 20, 3: 5}, {0, 1, 2, 3}, 2),  # 5 of 55 are 3 hops apart
        ({0: 10, 1: 20, 2: 20, 3: 6}, {0, 1, 2, 3}, 3),
        ({0: 10, 1: 20, 2: 20, 3: 6}, {0, 1, 2}, 2),
        ({0: 10, 1: 20, 2: 1, 3: 3}, {0, 1, 2, 3}, 2),  # 4 of 34 are 2 or more apart
        ({0: 10, -1: 90}, {0}, 0),
        ({0: 10, 1: 1, -1: 90}, {0, 1}, 0),
    ],
)
def test_far_is_what_a_tenth_of_the_joined_pairs_reach(pairs, known, far) -> None:
    assert _far(pairs, known) == far


@pytest.mark.parametrize(("depth", "far"), [(7, math.nan), (8, 3.0), (40, 3.0)])
def test_far_needs_layers(depth: int, far: float) -> None:
    """On a ring of six nodes the farthest pair is three hops apart: 6 of 36."""
    found = measured(scaled_chain(depth, 1.0, ring(6))).value("sensitivity.far")
    assert found == far or (math.isnan(found) and math.isnan(far))
