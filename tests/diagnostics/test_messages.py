"""What layers send: terms, shared graphs and state-space matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import directed_graph, isolated_node, random_graph, two_components
from layer_cases import network, traced
from snapshots import differences, snapshot
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import Data
from torch_geometric.nn import (
    GCN,
    GCNConv,
    GINConv,
    GraphConv,
    SAGEConv,
    TopKPooling,
)
from torch_geometric.transforms import ToSparseTensor

import graphfathom as gf
from graphfathom.diagnostics.messages import Messages, linear_messages
from graphfathom.problem import Problem

GRAPHS = {
    "random": random_graph,
    "directed": directed_graph,
    "isolated node": isolated_node,
    "two components": two_components,
}
CONVS: dict[str, Callable[[], nn.Module]] = {
    "gcn": lambda: GCNConv(3, 4, bias=False),
    "gcn, raw": lambda: GCNConv(3, 4, normalize=False, bias=False),
    "gcn, reversed": lambda: GCNConv(3, 4, flow="target_to_source", bias=False),
    "sage": lambda: SAGEConv(3, 4, bias=False),
    "sage, sum": lambda: SAGEConv(3, 4, aggr="sum", bias=False),
    "sage, no root": lambda: SAGEConv(3, 4, root_weight=False, bias=False),
    "graph conv": lambda: GraphConv(3, 4, bias=False),
    "graph conv, mean": lambda: GraphConv(3, 4, aggr="mean", bias=False),
}
OTHER: dict[str, Callable[[], nn.Module]] = {
    "sage, max": lambda: SAGEConv(3, 4, aggr="max"),
    "gin": lambda: GINConv(nn.Linear(3, 4)),
}
by_conv = pytest.mark.parametrize("conv", CONVS)


class One(nn.Module):
    """One layer below a name."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Any = None) -> Tensor:
        given = () if edge_weight is None else (edge_weight,)
        return self.conv(x, edge_index, *given)


def messages_of(model: nn.Module, data: Data, *layers: str) -> tuple[Messages, ...]:
    return linear_messages(Problem(model, data), layers, data.num_nodes)


def applied(found: Messages, x: Tensor) -> Tensor:
    """The sum over the terms, densely."""
    parts = [torch.from_numpy(p.toarray()) @ x @ m.mT for p, m in found.terms]
    return torch.stack(parts).sum(0)


@pytest.mark.parametrize("graph", GRAPHS)
@by_conv
def test_terms_are_the_layer(conv: str, graph: str) -> None:
    data, model = GRAPHS[graph](), One(CONVS[conv]())
    (found,) = messages_of(model, data, "conv")
    assert_close(applied(found, data.x), model(data.x, data.edge_index).detach())
    assert found.carry == ()
    assert found.input is None


@pytest.mark.parametrize("conv", ["gcn", "gcn, raw", "graph conv", "graph conv, mean"])
def test_weights_of_edges_are_part_of_the_propagation(conv: str) -> None:
    data, model = random_graph(), One(CONVS[conv]())
    data.edge_weight = torch.rand(data.num_edges)
    (found,) = messages_of(model, data, "conv")
    expected = model(data.x, data.edge_index, data.edge_weight).detach()
    assert_close(applied(found, data.x), expected)


def test_parallel_edges_add_up() -> None:
    data, model = random_graph(), One(CONVS["gcn, raw"]())
    data.edge_index = torch.cat([data.edge_index, data.edge_index[:, :3]], dim=1)
    (found,) = messages_of(model, data, "conv")
    assert_close(applied(found, data.x), model(data.x, data.edge_index).detach())


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
def test_a_sparse_adjacency_is_read_as_layers_take_it() -> None:
    data = directed_graph()
    edges = data.edge_index
    model = One(CONVS["gcn"]())
    sparse = ToSparseTensor(layout=torch.sparse_csr)(data.clone())
    problem = Problem(
        model, sparse, forward_fn=lambda model, data: model(data.x, data.adj_t)
    )
    (found,) = linear_messages(problem, ("conv",), 5)
    assert_close(applied(found, data.x), model(data.x, edges).detach())


def test_a_model_that_is_a_layer() -> None:
    data, model = random_graph(), CONVS["graph conv"]()
    (found,) = messages_of(model, data, "GraphConv")
    assert_close(applied(found, data.x), model(data.x, data.edge_index).detach())


@pytest.mark.parametrize("conv", OTHER)
def test_other_messages_have_no_terms(conv: str) -> None:
    (found,) = messages_of(One(OTHER[conv]()), random_graph(), "conv")
    assert found.terms == ()


def test_layers_that_propagate_alike_share_one_matrix() -> None:
    trace = traced(GCN(3, 4, 4, 2), random_graph())
    first = trace.messages[0].terms[0][0]
    assert all(part.terms[0][0] is first for part in trace.messages)


def test_repeated_calls_of_a_layer_are_told_apart() -> None:
    class Twice(One):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.conv(self.conv(x, edge_index), edge_index.flip(0))

    data = directed_graph()
    conv = GCNConv(3, 3, normalize=False, bias=False)
    found = messages_of(Twice(conv), data, "conv", "conv")
    assert abs(found[0].terms[0][0] - found[1].terms[0][0].T).nnz == 0
    assert abs(found[0].terms[0][0] - found[1].terms[0][0]).nnz > 0


def test_a_layer_that_is_no_module_has_no_terms() -> None:
    found = messages_of(GCN(3, 4, 2, 2), random_graph(), "convs.0 + convs.1", "matmul")
    assert [part.terms for part in found] == [(), ()]


@pytest.mark.parametrize(
    ("state", "input"),
    [
        (gf.nn.Scalar(0.9), gf.nn.Scalar(0.3)),
        (gf.nn.Orthogonal(0.9, seed=1), gf.nn.Dense(seed=2)),
        (gf.nn.Scalar(1.0), gf.nn.Centered(0.5)),
    ],
)
def test_state_space_matrices(state: nn.Module, input: nn.Module) -> None:
    model = gf.nn.GNNSSM(3, 4, 2, num_layers=3, state=state, input=input)
    for part in traced(model, random_graph()).messages:
        assert part.input is not None
        assert_close(part.carry, (model.state.matrix(),))
        assert_close(part.input, model.input.matrix())


def test_a_persistent_input_is_a_second_matrix() -> None:
    trace = traced(network("convex"), random_graph())
    assert [len(part.carry) for part in trace.messages] == [2] * 4


def test_scales_keep_the_digits_of_python() -> None:
    """Also in a network of single precision, whose entries are numbers of its own."""
    data = random_graph()
    data.x = data.x.float()
    for state in (gf.nn.Scalar(0.1), gf.nn.Orthogonal(0.1, seed=0)):
        model = gf.nn.GNNSSM(3, 4, 2, num_layers=2, state=state).float()
        model(data.x, data.edge_index)
        (found,) = messages_of(model, data, "convs.0")
        square = found.carry[0].double() @ found.carry[0].double().mT
        exact = isinstance(state, gf.nn.Scalar)
        error = (square - 0.01 * torch.eye(4)).abs().max()
        assert float(error) < (1e-15 if exact else 1e-8)


def test_a_state_without_weights_has_its_matrices() -> None:
    from torch_geometric.nn import SimpleConv

    conv = gf.nn.StateSpaceConv(SimpleConv(), gf.nn.Scalar(0.9), gf.nn.Scalar(0.2))
    (found,) = messages_of(One(conv), random_graph(), "conv")
    assert found.terms == ()
    assert_close(found.carry, (0.9 * torch.eye(3),))


class Pooled(nn.Module):
    """Two state-space networks with fewer nodes in the second."""

    def __init__(self) -> None:
        super().__init__()
        self.near = gf.nn.GNNSSM(3, 4, 4, num_layers=2)
        self.pool = TopKPooling(4, 0.5)
        self.far = gf.nn.GNNSSM(4, 4, 2, num_layers=2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x, edge_index, *_ = self.pool(self.near(x, edge_index), edge_index)
        return self.far(x, edge_index)


def test_graphs_of_other_sizes_have_no_terms() -> None:
    data, model = random_graph(), Pooled()
    del data.y
    layers = ("near.convs.0", "far.convs.1")
    sizes = []
    for num_nodes in (8, 4):
        found = linear_messages(Problem(model, data), layers, num_nodes)
        sizes.append([len(part.terms) for part in found])
    assert sizes == [[1, 0], [0, 1]]


@by_conv
def test_the_network_stays_as_it_is(conv: str) -> None:
    data, model = random_graph(), One(CONVS[conv]())
    before = snapshot(model, data)
    messages_of(model, data, "conv")
    assert differences(before, snapshot(model, data)) == []
