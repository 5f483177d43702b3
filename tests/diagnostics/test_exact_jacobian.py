"""Exact sparse Jacobians against dense ones, for every convolution and many networks."""

from __future__ import annotations

import copy

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
from references import float64
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import (
    GAT,
    GCN,
    GIN,
    DeepGCNLayer,
    GCN2Conv,
    GCNConv,
    GraphConv,
    GraphSAGE,
    SAGEConv,
    TAGConv,
)

import graphfathom as gf
from graphfathom.diagnostics import JacobianError, sparse_jacobian
from graphfathom.diagnostics.trace import CaptureError, Trace, capture
from graphfathom.problem import Problem

WIDTH = 4
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


def traced(model: nn.Module, data: Data) -> Trace:
    return capture(Problem(model, data))


def network(name: str) -> nn.Module:
    """A network of three or four layers, three features in and two classes out."""
    torch.manual_seed(1)
    shape = (3, WIDTH, 4, 2)
    ssm = gf.nn.GNNSSM
    return {
        "relu": lambda: GCN(*shape),
        "tanh": lambda: GCN(*shape, act="tanh"),
        "linear": lambda: GCN(*shape, act=None),
        "dropout": lambda: GCN(*shape, dropout=0.5),
        "taps": lambda: GCN(*shape, jk="cat"),
        "sage": lambda: GraphSAGE(*shape),
        "no root": lambda: Stack(lambda: SAGEConv(WIDTH, WIDTH, root_weight=False)),
        "graph conv": lambda: Stack(lambda: GraphConv(WIDTH, WIDTH)),
        "graph conv, mean": lambda: Stack(lambda: GraphConv(WIDTH, WIDTH, aggr="mean")),
        "reversed": lambda: Stack(
            lambda: GCNConv(WIDTH, WIDTH, flow="target_to_source")
        ),
        "raw": lambda: Stack(lambda: GCNConv(WIDTH, WIDTH, normalize=False)),
        "pre-activation": lambda: Residual(),
        "ssm": lambda: ssm(3, WIDTH, 2, num_layers=4, conv=GCNConv),
        "ssm, dense": lambda: ssm(
            3,
            WIDTH,
            2,
            num_layers=4,
            conv=GCNConv,
            state=gf.nn.Orthogonal(0.9, seed=0),
            input=gf.nn.Dense(seed=1),
        ),
        "convex": lambda: ssm.convex(3, WIDTH, 2, num_layers=4),
        "stabilized": lambda: gf.stabilize(GCN(*shape), path_graph(12)),
        "gcn2": lambda: Stack(lambda: GCN2Conv(WIDTH, 0.1, 0.5, 2), with_first=True),
        "gcn2, two": lambda: Stack(
            lambda: GCN2Conv(WIDTH, 0.2, 0.5, 2, shared_weights=False), with_first=True
        ),
    }[name]()


class Stack(nn.Module):
    """Encoder, three layers with ReLU, read-out."""

    def __init__(self, make, with_first: bool = False) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
        self.convs = nn.ModuleList(make() for _ in range(3))
        self.with_first = with_first

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = first = self.encoder(x)
        for conv in self.convs:
            extra = (first,) if self.with_first else ()
            x = conv(x, *extra, edge_index).relu()
        return self.decoder(x)


class Residual(nn.Module):
    """Norm, activation and convolution beside a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
        self.layers = nn.ModuleList(
            DeepGCNLayer(GCNConv(WIDTH, WIDTH), None, nn.ReLU(), "res+")
            for _ in range(3)
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        for layer in self.layers:
            x = layer(x, edge_index)
        return self.decoder(x)


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


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_convolution_of_pyg(entry: ConvEntry) -> None:
    try:
        with float64():
            frame, data = entry.build(), entry.data()
            copy.deepcopy(frame)(data)
    except ImportError as error:
        pytest.skip(str(error))
    with float64():
        target = data["paper"].y if entry.hetero else data.y
        try:
            trace = capture(Problem(frame, data, target=target))
        except CaptureError:
            pytest.skip("refused by the tracer, see test_trace_convs")
        for k in range(1, trace.num_layers + 1):
            try:
                compare(trace, k)
            except JacobianError as error:
                assert entry.name in REFUSED, str(error)
                assert REFUSED[entry.name] in str(error)
                break
        else:
            assert entry.name not in REFUSED
            if trace.num_layers == 2 and len(trace.states[1].carried) == 1:
                check_against_torch(trace, frame, data)


REFUSED = {
    "GENConv": "`convs.0.mlp.1` (BatchNorm1d) lets",
    "GPSConv": "`convs.0.norm1` (BatchNorm) lets",
    "HANConv": "must have one row for each node",
    "HGTConv": "must have one row for each node",
    "HeteroConv": "must have one row for each node",
}
"""Convolutions without a sparse Jacobian -> part of the reason."""


def check_against_torch(trace: Trace, frame: nn.Module, data) -> None:
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
    assert torch.equal(x, data.x) and torch.equal(edges, data.edge_index)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_dead_layer_is_zero() -> None:
    model = network("relu")
    with torch.no_grad():
        model.convs[1].bias.fill_(-1e6)
    result = compare(traced(model, random_graph()), 2)
    assert result.method == "closed form"
    assert not result.matrix.blocks.any()
