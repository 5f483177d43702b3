"""Exact sparse Jacobians against dense ones, of every convolution and many networks."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from conv_catalogue import ENTRIES, ConvEntry
from conv_outcomes import dense, judged, reference
from graphs import (
    directed_graph,
    isolated_node,
    one_node,
    path_graph,
    random_graph,
    two_components,
)
from layer_cases import WIDTH, Stack, network, traced
from references import float64
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import (
    GAT,
    GCN,
    GIN,
    GCNConv,
    TAGConv,
)

import graphfathom as gf
from graphfathom.diagnostics import JacobianError, sparse_jacobian
from graphfathom.diagnostics.trace import CaptureError, Trace, capture
from graphfathom.problem import Problem

GRAPHS = {
    "random": random_graph(),
    "directed": directed_graph(),
    "components": two_components(),
    "isolated": isolated_node(),
    "one node": one_node(),
}


def by_node(trace: Trace, k: int) -> Tensor:
    """The dense Jacobian, its rows and columns sorted by node."""

    def order(i: int) -> Tensor:
        tensors = trace.states[i].carried
        nodes = [torch.arange(len(t)).repeat_interleave(t[0].numel()) for t in tensors]
        return torch.cat(nodes).argsort(stable=True)

    return trace.jacobian(k - 1, k).to_dense()[order(k)][:, order(k - 1)]


def compare(trace: Trace, k: int, **options) -> gf.diagnostics.SparseJacobian:
    """The sparse Jacobian of a layer, after it was found equal to the dense one."""
    result = sparse_jacobian(trace, k, **options)
    torch.testing.assert_close(
        result.matrix.to_dense(), by_node(trace, k), rtol=1e-10, atol=1e-13
    )
    assert result.defect <= 1e-10
    return result


CLOSED = (
    "relu",
    "tanh",
    "linear",
    "dropout",
    "taps",
    "sage",
    "no root",
    "graph conv",
    "graph conv, mean",
    "reversed",
    "raw",
    "pre-activation",
    "ssm",
    "ssm, dense",
    "convex",
    "stabilized",
    "gcn2",
    "gcn2, two",
)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", CLOSED)
def test_closed_form(name: str, graph: str) -> None:
    trace = traced(network(name), GRAPHS[graph])
    for k in range(2, trace.num_layers):
        result = compare(trace, k, method="closed form")
        assert result.form is not None
        torch.testing.assert_close(
            result.form.to_dense(), result.matrix.to_dense(), rtol=1e-12, atol=1e-14
        )
        compare(trace, k, method="colouring")


REFUSED = {
    "GENConv": "`convs.0.mlp.1` (BatchNorm1d) lets",
    "GPSConv": "`convs.0.norm1` (BatchNorm) lets",
    "HANConv": "must have one row for each node",
    "HGTConv": "must have one row for each node",
    "HeteroConv": "must have one row for each node",
}
"""Convolutions without a sparse Jacobian -> part of the reason."""


def catalogue_trace(entry: ConvEntry) -> tuple[Trace, nn.Module, Any]:
    """A traced network of two such convolutions; skips where there is none."""
    try:
        frame, data = entry.build(), entry.data()
        copy.deepcopy(frame)(data)
        target = data["paper"].y if entry.hetero else data.y
        return capture(Problem(frame, data, target=target)), frame, data
    except (ImportError, CaptureError) as error:
        pytest.skip(f"{error} (see test_trace_convs)")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_convolution_of_pyg(entry: ConvEntry) -> None:
    with float64():
        trace, frame, data = catalogue_trace(entry)
        if entry.name in REFUSED:
            with pytest.raises(JacobianError, match=re.escape(REFUSED[entry.name])):
                sparse_jacobian(trace, 1)
            return
        for k in range(1, trace.num_layers + 1):
            compare(trace, k)
        if trace.num_layers == 2 and len(trace.states[1].carried) == 1:
            check_against_torch(trace, frame, data)


def check_against_torch(trace: Trace, frame: Any, data: Any) -> None:
    """The first layer against torch's own dense Jacobian of the module."""
    states, maps = reference(judged(frame), data)
    truth = dense(maps[:1], states[0])
    result = sparse_jacobian(trace, 1).matrix.to_dense()
    if truth.shape == result.shape:
        torch.testing.assert_close(result, truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model", [GAT, GIN])
def test_colouring_is_chosen_where_there_is_no_closed_form(model) -> None:
    trace = traced(model(3, WIDTH, 3, 2), random_graph())
    result = compare(trace, 2)
    assert (result.method, result.form) == ("colouring", None)


def test_layer_that_sees_farther_than_its_neighbours() -> None:
    trace = traced(Stack(lambda: TAGConv(WIDTH, WIDTH, K=2)), path_graph(12))
    result = compare(trace, 2)
    hops = (result.matrix.row - result.matrix.col).abs()
    assert int(hops.max()) == 2


def test_hub_takes_few_products() -> None:
    edges = torch.tensor([[0] * 100, list(range(1, 101))])
    data = Data(torch.randn(101, 3), torch.cat([edges, edges.flip(0)], dim=1))
    data.y = torch.zeros(101).long()
    trace = traced(GIN(3, WIDTH, 3, 2), data)
    result = compare(trace, 2)
    assert result.num_products < 10 * WIDTH  # 101 nodes by rows alone


@pytest.mark.parametrize(
    ("norm", "module"),
    [
        ("graph_norm", "`norms.1` (GraphNorm)"),
        ("pair_norm", "`norms.1` (PairNorm)"),
        ("layer_norm", "`norms.1` (LayerNorm)"),
        ("batch_norm", "`norms.1` (BatchNorm)"),
    ],
)
def test_norm_over_the_graph_is_named(norm: str, module: str) -> None:
    trace = traced(GCN(3, WIDTH, 3, 2, norm=norm), path_graph(12))
    with pytest.raises(JacobianError) as error:
        sparse_jacobian(trace, 2)
    assert str(error.value).startswith(f"{module} lets a node see 12 of 12 nodes")


def test_batch_norm_in_eval_mode_has_a_closed_form() -> None:
    model = GCN(3, WIDTH, 3, 2, norm="batch_norm")
    data = path_graph(12)
    model.double().train()(data.x, data.edge_index)
    trace = capture(Problem(model, data), mode="eval")
    assert compare(trace, 2).method == "closed form"


def test_far_edges_of_single_nodes_are_found_by_the_check() -> None:
    class Leak(nn.Module):
        """A layer by which one node sees another one far away."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = GCNConv(WIDTH, WIDTH)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            x = self.conv(x, edge_index)
            far = torch.zeros_like(x)
            far[29] = x[3]
            return x + far

    torch.manual_seed(1)
    trace = traced(Stack(Leak), path_graph(60))
    with pytest.raises(JacobianError, match="some nodes see farther than others"):
        sparse_jacobian(trace, 2)


def test_price_is_refused_before_anything_is_stored() -> None:
    trace = traced(network("relu"), random_graph())
    with pytest.raises(JacobianError, match="`byte_budget` must be at least") as error:
        sparse_jacobian(trace, 2, byte_budget=100)
    price = int(str(error.value).split("at least ")[1].split(",")[0])
    assert sparse_jacobian(trace, 2, byte_budget=price).matrix.blocks.nbytes == price
    with pytest.raises(JacobianError, match="of which 0 fit the budget"):
        sparse_jacobian(trace, 2, method="colouring", byte_budget=100)
    with pytest.raises(JacobianError, match="`max_products` must be at least"):
        sparse_jacobian(trace, 2, method="colouring", max_products=3)


def test_bad_input() -> None:
    trace = traced(network("relu"), random_graph())
    with pytest.raises(ValueError, match=r"`k` must be in \[1, 4\]"):
        sparse_jacobian(trace, 5)
    with pytest.raises(ValueError, match="`method` must be 'auto'"):
        sparse_jacobian(trace, 1, method="exact")
    trace = capture(Problem(network("relu"), random_graph()), dtype=torch.float32)
    with pytest.raises(ValueError, match="`trace` must be in float64"):
        sparse_jacobian(trace, 1)
    trace = traced(GAT(3, WIDTH, 3, 2), random_graph())
    with pytest.raises(JacobianError, match="Use `method='colouring'`"):
        sparse_jacobian(trace, 2, method="closed form")


def test_model_and_data_stay_as_they_are() -> None:
    model, data = network("convex"), random_graph()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    x, edges = data.x.clone(), data.edge_index.clone()
    sparse_jacobian(traced(model, data), 2)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert torch.equal(x, data.x)
    assert torch.equal(edges, data.edge_index)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_dead_layer_is_zero() -> None:
    model = network("relu")
    with torch.no_grad():
        model.convs[1].bias.fill_(-1e6)
    result = compare(traced(model, random_graph()), 2)
    assert result.method == "closed form"
    assert not result.matrix.blocks.any()
