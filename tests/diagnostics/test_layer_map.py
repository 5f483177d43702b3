"""The derivative of a layer as a map of node features, against the dense Jacobian."""

from __future__ import annotations

import math

import pytest
import torch
from graphs import directed_graph, one_node, random_graph, two_components
from layer_cases import network, traced
from problems import CATALOGUE
from stubborn import gcn
from torch import Tensor
from torch.testing import assert_close

from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.layer_map import LayerMap, random_rows
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.linalg import DenseOperator

GRAPHS = {
    "random": random_graph(),
    "directed": directed_graph(),
    "components": two_components(),
    "one node": one_node(),
}
NAMES = ("relu", "taps", "sage", "convex", "gcn2", "ssm")
by_graph = pytest.mark.parametrize("graph", GRAPHS)
by_name = pytest.mark.parametrize("name", NAMES)


def case(name: str) -> Trace:
    entry = next(entry for entry in CATALOGUE if entry.name == name)
    return capture(entry.case().problem())


def by_node(trace: Trace, k: int) -> Tensor:
    """The dense Jacobian, its rows and columns sorted by node."""

    def order(i: int) -> Tensor:
        tensors = trace.states[i].carried
        nodes = [torch.arange(len(t)).repeat_interleave(t[0].numel()) for t in tensors]
        return torch.cat(nodes).argsort(stable=True)

    return trace.jacobian(k - 1, k).to_dense()[order(k)][:, order(k - 1)]


@by_graph
@by_name
def test_products_are_those_of_the_dense_jacobian(name: str, graph: str) -> None:
    trace = traced(network(name), GRAPHS[graph])
    for k in range(1, trace.num_layers + 1):
        layer, dense = LayerMap(trace, k), by_node(trace, k)
        n = layer.num_nodes
        assert dense.shape == (n * layer.out_channels, n * layer.in_channels)
        x = torch.randn(n, layer.in_channels)
        y = torch.randn(n, layer.out_channels)
        assert_close(layer.jvp(x).flatten(), dense @ x.flatten())
        assert_close(layer.vjp(y).flatten(), dense.mT @ y.flatten())
        assert layer.num_products == 2


@by_name
def test_the_maps_are_linear_and_adjoint(name: str) -> None:
    layer = LayerMap(traced(network(name), random_graph()), 2)
    x, z = torch.randn(2, 8, layer.in_channels)
    y = torch.randn(8, layer.out_channels)
    assert_close(layer.jvp(x - 2 * z), layer.jvp(x) - 2 * layer.jvp(z))
    assert_close((layer.jvp(x) * y).sum(), (x * layer.vjp(y)).sum())


def test_several_tensors_lie_side_by_side() -> None:
    trace = case("GraphCON")
    layer = LayerMap(trace, 2)
    widths = [tensor.shape[1] for tensor in trace.states[1].carried]
    assert len(widths) == 2
    assert layer.in_channels == sum(widths)
    x = torch.randn(layer.num_nodes, layer.in_channels)
    tangents = trace.segment(2).jvp(tuple(x.split(widths, 1)))
    assert_close(layer.jvp(x), torch.cat(tangents, 1))


def test_the_defect_is_the_relative_error() -> None:
    trace = traced(network("tanh"), random_graph())
    layer, dense = LayerMap(trace, 2), by_node(trace, 2)
    assert layer.defect(DenseOperator(dense)) < 1e-14
    for error in (1e-6, 1e-2):
        found = layer.defect(DenseOperator((1 + error) * dense))
        assert found == pytest.approx(error)
    wrong = dense.clone()
    wrong[0, 0] += 1e-3
    assert 1e-7 < layer.defect(DenseOperator(wrong)) < 1e-2


def test_the_defect_of_a_zero_map() -> None:
    model = gcn()
    torch.nn.init.zeros_(model.convs[1].lin.weight)
    trace = traced(model, random_graph())
    layer, zero = LayerMap(trace, 2), torch.zeros(32, 32)
    assert layer.defect(DenseOperator(zero)) == 0
    assert layer.defect(DenseOperator(torch.eye(32))) == math.inf


def test_the_defect_of_what_is_not_finite_is_nan() -> None:
    model = gcn()
    model.convs[1].lin.weight.data[0, 0] = math.nan
    layer = LayerMap(traced(model, random_graph()), 2)
    assert math.isnan(layer.defect(DenseOperator(torch.eye(32))))


@pytest.mark.parametrize("name", ["edge states", "HeteroConv", "virtual node"])
def test_states_without_one_row_per_node_are_refused(name: str) -> None:
    trace = case(name)
    refused = []
    for k in range(1, trace.num_layers + 1):
        try:
            LayerMap(trace, k)
        except JacobianError as error:
            refused.append(str(error))
    assert refused
    assert "must have one row for each node. Got (" in refused[0]


@pytest.mark.parametrize("k", [-1, 0, 5])
def test_a_layer_that_does_not_exist_is_refused(k: int) -> None:
    trace = traced(network("relu"), random_graph())
    with pytest.raises(ValueError, match=rf"`k` must be in \[1, 4\].* Got {k}"):
        LayerMap(trace, k)


def test_random_rows_are_those_of_a_seed() -> None:
    layer = LayerMap(traced(network("relu"), random_graph()), 1)
    first, second = (
        random_rows(layer, 5, torch.Generator().manual_seed(2)) for _ in range(2)
    )
    assert first.shape == (8, 5)
    assert torch.equal(first, second)
    assert float(first.abs().max()) <= 1
    assert not torch.equal(first[0], first[1])
