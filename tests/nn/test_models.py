"""GNNSSM against its equation, and in every way that torch runs a module."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from graphs import GRAPHS, random_graph
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import graphfathom as gf
from graphfathom.nn.models import GNNSSM, default_transitions
from graphfathom.nn.propagation import gcn_adjacency
from graphfathom.nn.transition import (
    Centered,
    Dense,
    Diagonal,
    Orthogonal,
    Rotation,
    Scalar,
)

CHECKPOINTS = ("none", "sqrt", "every")
CONVS: dict[str, dict[str, Any]] = {
    "GCN": {},
    "GCN of another norm": {"conv": pyg.GCNConv, "improved": True, "bias": False},
    "GAT": {"conv": pyg.GATConv, "heads": 2, "concat": False, "edge_dim": 2},
    "GATv2": {"conv": pyg.GATv2Conv},
    "SAGE": {"conv": pyg.SAGEConv},
    "Graph": {"conv": pyg.GraphConv},
    "GIN": {"conv": lambda i, o: pyg.GINConv(nn.Linear(i, o), train_eps=True)},
    "Transformer": {
        "conv": lambda i, o: pyg.TransformerConv(i, o // 2, heads=2, edge_dim=2)
    },
    "GPS": {"conv": lambda i, o: pyg.GPSConv(i, pyg.GCNConv(i, o), heads=2)},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "tanh": {"act": "tanh"},
    "function": {"act": torch.sin},
    "matrices": {"state": Orthogonal(0.9), "input": Dense(), "persistent": Rotation()},
    "convex": {
        "state": Scalar(0.75),
        "input": Scalar(0.225),
        "persistent": Scalar(0.025),
        "identity_mapping": 0.5,
    },
    "norm": {"norm": "layer"},
    "graph norm": {"norm": "graph"},
    "gates": {"gates": True},
    "trained": {"state": Diagonal(trainable=True), "input": Scalar(trainable=True)},
}
BY_CONV = pytest.mark.parametrize("conv", CONVS)
BY_OPTION = pytest.mark.parametrize("option", OPTIONS)
BY_CHECKPOINT = pytest.mark.parametrize("checkpoint", CHECKPOINTS)


def network(num_layers: int = 5, **options: Any) -> GNNSSM:
    torch.manual_seed(0)
    return GNNSSM(3, 4, 2, num_layers, **copy.deepcopy(options))


@pytest.fixture
def data() -> Data:
    graph = random_graph()
    graph.edge_attr = torch.rand(graph.num_edges, 2)
    graph.edge_weight = 0.5 + torch.rand(graph.num_edges)
    return graph


def gradients(model: nn.Module, *args: Any, **kwargs: Any) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(11)
    model(*args, **kwargs).square().sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


# The equation -------------------------------------------------------------------------


@BY_OPTION
def test_forward_is_the_equation(option: str, data: Data) -> None:
    model = network(**OPTIONS[option])
    adjacency = gcn_adjacency(data.edge_index, num_nodes=8).to_dense()
    h = first = data.x @ model.encoder.weight.T + model.encoder.bias
    for k, conv in enumerate(model.inner_convs(), start=1):
        message = adjacency @ h @ conv.lin.weight.T + conv.bias
        if model.identity_mapping is not None:
            beta = math.log(0.5 / k + 1)
            message = (1 - beta) * adjacency @ h + beta * message
        if model.norms is not None:
            message = model.norms[k - 1](message)
        message = model.act(message)
        keep, take = (1.0, 1.0) if model.gates is None else model.gates(h)
        h = keep * (h @ model.state.matrix().mT)
        h = h + take * (message @ model.input.matrix().mT)
        if model.persistent is not None:
            h = h + first @ model.persistent.matrix().mT
    expected = h @ model.decoder.weight.T + model.decoder.bias
    torch.testing.assert_close(model(data.x, data.edge_index), expected)


@BY_CONV
@pytest.mark.parametrize("theta", [None, 0.5])
def test_any_convolution(conv: str, theta: float | None, data: Data) -> None:
    model = network(identity_mapping=theta, **CONVS[conv]).eval()
    h, convs = model.encoder(data.x), model.inner_convs()
    smoothing = gcn_adjacency(data.edge_index, num_nodes=8).to_dense()
    attributed = conv in ("GAT", "Transformer")
    extra = {"edge_attr": data.edge_attr} if attributed else {}
    for k, layer in enumerate(convs, start=1):
        message = layer(h, data.edge_index, **extra)
        if theta is not None:
            if conv == "GCN of another norm":  # has a smoothing of its own
                return
            beta = math.log(theta / k + 1)
            message = (1 - beta) * smoothing @ h + beta * message
        h = model.state(h) + model.input(message.relu())
    found = model(data.x, data.edge_index, edge_attr=data.edge_attr)
    torch.testing.assert_close(found, model.decoder(h))


def test_edge_weights_reach_layers_that_take_them(data: Data) -> None:
    for conv in ("GCN", "Graph"):
        model = network(**CONVS[conv])
        weighted = model(data.x, data.edge_index, data.edge_weight)
        assert not torch.allclose(weighted, model(data.x, data.edge_index))
        ones = model(data.x, data.edge_index, torch.ones(data.num_edges))
        torch.testing.assert_close(ones, model(data.x, data.edge_index))
    model = network(**CONVS["SAGE"])  # takes none
    weighted = model(data.x, data.edge_index, data.edge_weight)
    torch.testing.assert_close(weighted, model(data.x, data.edge_index))


def test_an_adjacency_is_as_good_as_edges(data: Data) -> None:
    model = network()
    adjacency = gcn_adjacency(data.edge_index, num_nodes=8)
    expected = model(data.x, data.edge_index)
    torch.testing.assert_close(model(data.x, adjacency), expected)


def test_other_arguments_are_handed_to_the_layers(data: Data) -> None:
    model = network(conv=pyg.RGCNConv, num_relations=2)
    kind = torch.arange(data.num_edges) % 2
    found = model(data.x, data.edge_index, edge_type=kind)
    other = model(data.x, data.edge_index, edge_type=1 - kind)
    assert not torch.allclose(found, other)
    with pytest.raises(TypeError, match="unexpected keyword argument 'edge_type'"):
        network()(data.x, data.edge_index, edge_type=kind)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("conv", ["GCN", "GAT", "SAGE", "GIN"])
def test_every_graph(graph: str, conv: str) -> None:
    data = GRAPHS[graph]()
    model = network(**CONVS[conv])
    out = model(data.x, data.edge_index)
    assert out.shape == (data.num_nodes, 2)
    out.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.encoder.parameters())


def test_equivariance_under_permutations(data: Data) -> None:
    model, order = network(), torch.randperm(8)
    inverse = order.argsort()
    permuted = model(data.x[order], inverse[data.edge_index])
    torch.testing.assert_close(permuted, model(data.x, data.edge_index)[order])


@pytest.mark.parametrize("readout", ["mean", "sum", "max"])
def test_a_batch_is_the_union_of_its_graphs(readout: str) -> None:
    graphs = [random_graph(seed=seed) for seed in range(3)]
    batch = Batch.from_data_list(graphs)
    model = network(readout=readout)
    each = torch.cat([model(graph.x, graph.edge_index) for graph in graphs])
    found = model(batch.x, batch.edge_index, batch=batch.batch)
    torch.testing.assert_close(found, each)
    sized = model(batch.x, batch.edge_index, batch=batch.batch, batch_size=4)
    assert sized.shape == (4, 2)


def test_graph_norm_sees_the_batch() -> None:
    graphs = [random_graph(seed=seed) for seed in range(2)]
    batch = Batch.from_data_list(graphs)
    model = network(norm="graph")
    each = torch.cat([model(graph.x, graph.edge_index) for graph in graphs])
    found = model(batch.x, batch.edge_index, batch=batch.batch)
    torch.testing.assert_close(found, each)


# Default matrices ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (torch.tanh, Scalar),
        (nn.Identity(), Scalar),
        (nn.Softsign(), Scalar),
        (torch.relu, Centered),
        (nn.GELU(), Centered),
        (nn.ELU(), Centered),
        (torch.sigmoid, Centered),
        (nn.LeakyReLU(0.2), Centered),
    ],
)
def test_default_matrices(act: Callable[[Tensor], Tensor], kind: type) -> None:
    state, input = default_transitions(16, act, strength=2.0)
    assert repr(state) == "Scalar(1)"
    assert type(input) is kind
    assert input.scale == 0.5


@pytest.mark.parametrize("act", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("num_layers", [16, 256])
def test_default_keeps_size_and_gradient(act: str, num_layers: int) -> None:
    data = random_graph(12)
    model = network(num_layers, act=act)
    h = model.encoder(data.x).detach().requires_grad_()
    graph, given = model._graph(h, data.edge_index, dict.fromkeys(("edge_weight",)))
    last = model._propagate(h, None, graph, given | {"batch": None})
    (gradient,) = torch.autograd.grad(last, h, direction := torch.randn_like(last))
    assert 0.5 < float((last.norm() / h.norm()).detach()) < 2
    assert 0.5 < float(gradient.norm() / direction.norm()) < 2


def test_the_paper_is_one_call_away() -> None:
    model = GNNSSM.paper(3, 8, 2, 4, seed=5, act="tanh")
    assert repr(model.state) == "Scalar(1, channels=8)"
    torch.testing.assert_close(model.input.matrix(), Dense(seed=5, channels=8).matrix())
    assert not any("input" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("restart", [0.1, 0.0])
def test_the_convex_step(restart: float, data: Data) -> None:
    model = GNNSSM.convex(3, 4, 2, 128, restart=restart, theta=0.5)
    adjacency = gcn_adjacency(data.edge_index, num_nodes=8).to_dense()
    h = first = model.encoder(data.x).relu()
    for k, conv in enumerate(model.inner_convs(), start=1):
        beta = math.log(0.5 / k + 1)
        message = beta * conv(h, data.edge_index) + (1 - beta) * adjacency @ h
        message = (1 - restart) * message.relu() + restart * first
        h = 0.75 * h + 0.25 * message
    torch.testing.assert_close(model(data.x, data.edge_index), model.decoder(h))


@pytest.mark.parametrize(("num_layers", "step"), [(1, 0.5), (64, 0.5), (1000, 0.032)])
def test_the_convex_step_shrinks_with_depth(num_layers: int, step: float) -> None:
    model = GNNSSM.convex(3, 4, 2, num_layers)
    total = model.state.scale + model.input.scale + model.persistent.scale
    assert (total, 1 - model.state.scale) == pytest.approx((1, step))
    assert model.input.scale == pytest.approx(9 * model.persistent.scale)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0.0}, r"`step` must be in \(0, 1\]. Got 0.0."),
        ({"step": 1.5}, r"`step` must be in \(0, 1\]. Got 1.5."),
        ({"step": math.nan}, r"`step` must be in \(0, 1\]. Got nan."),
        ({"restart": -0.1}, r"`restart` must be in \[0, 1\]. Got -0.1."),
    ],
)
def test_a_step_that_is_not_convex_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        GNNSSM.convex(3, 4, 2, 5, **options)


# Parameters and copies ----------------------------------------------------------------


@BY_CONV
def test_no_parameters_are_added(conv: str) -> None:
    model = network(persistent=Dense(), state=Orthogonal(), **CONVS[conv])
    parts = [model.encoder, *model.convs, model.decoder]
    expected = sum(p.numel() for part in parts for p in part.parameters())
    assert sum(p.numel() for p in model.parameters()) == expected


@BY_CONV
def test_every_parameter_has_a_gradient(conv: str, data: Data) -> None:
    model = network(norm="layer", gates=True, act="tanh", **CONVS[conv])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    count = len(gradients(model, data.x, data.edge_index, edge_attr=data.edge_attr))
    assert count == len(list(model.parameters()))


@BY_OPTION
def test_reset_reproduces_the_weights(option: str) -> None:
    model = network(**OPTIONS[option])
    results = []
    for _ in range(2):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(1.0)
        torch.manual_seed(4)
        model.reset_parameters()
        results.append(copy.deepcopy(model.state_dict()))
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=0, atol=0)
    drawn = ("encoder.weight", "convs.0.lin.weight", "decoder.weight")
    fresh = network(**OPTIONS[option]).state_dict()
    for name in {*drawn} & fresh.keys():
        assert not torch.equal(fresh[name], results[0][name])


@BY_OPTION
def test_state_dict_round_trip(option: str, data: Data, tmp_path: Any) -> None:
    model = network(**OPTIONS[option])
    model.input.set_scale(0.123456789)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.manual_seed(9)
    other = GNNSSM(3, 4, 2, 5, **copy.deepcopy(OPTIONS[option]))
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert other.input.scale == 0.123456789
    expected = model(data.x, data.edge_index)
    assert torch.equal(other(data.x, data.edge_index), expected)


@BY_OPTION
def test_copies_are_independent(option: str, data: Data) -> None:
    model = network(**OPTIONS[option])
    twin = copy.deepcopy(model)
    expected = model(data.x, data.edge_index)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1.0)
    twin.input.set_scale(3.0)
    assert torch.equal(model(data.x, data.edge_index), expected)


def test_lazy_width(data: Data) -> None:
    model = GNNSSM(-1, 4, 2, 3)
    assert model(data.x, data.edge_index).shape == (8, 2)
    assert model.encoder.weight.shape == (4, 3)
    lazy = GNNSSM(-1, 4, 2, 3)
    lazy.load_state_dict(model.state_dict())
    torch.testing.assert_close(
        lazy(data.x, data.edge_index), model(data.x, data.edge_index)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@BY_OPTION
def test_dtypes(option: str, dtype: torch.dtype, data: Data) -> None:
    model = network(**OPTIONS[option]).to(dtype)
    out = model(data.x.to(dtype), data.edge_index)
    assert out.dtype == dtype
    if dtype == torch.float32:
        exact = network(**OPTIONS[option])(data.x, data.edge_index)
        torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-4)


@BY_OPTION
@pytest.mark.parametrize("conv", ["GCN", "GAT", "SAGE"])
def test_autocast_keeps_the_state_in_float32(
    option: str, conv: str, data: Data
) -> None:
    model = network(**(OPTIONS[option] | CONVS[conv])).float()
    dtypes = set()
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: dtypes.add(args[0].dtype))
        for layer in model.convs
    ]
    x = data.x.float()
    exact = model(x, data.edge_index)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, data.edge_index)
    assert hooks
    assert dtypes == {torch.float32}
    torch.testing.assert_close(out.float(), exact, rtol=0.1, atol=0.1)
    out.float().sum().backward()


# Dropout ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["output", "input"])
def test_dropout_only_in_training(place: str, data: Data) -> None:
    model = network(dropout=0.5, dropout_on=place)
    first = model(data.x, data.edge_index)
    assert not torch.equal(model(data.x, data.edge_index), first)
    model.eval()
    expected = network()(data.x, data.edge_index)
    torch.testing.assert_close(model(data.x, data.edge_index), expected)


@pytest.mark.parametrize("place", ["output", "input"])
def test_dropout_never_touches_the_state(place: str, data: Data) -> None:
    """With no message the state passes a training step unchanged."""
    model = network(dropout=0.5, dropout_on=place, input=Scalar(0.0))
    states = []
    for conv in model.convs:
        conv.register_forward_pre_hook(lambda _, args: states.append(args[0]))
    last = []
    model.decoder.register_forward_pre_hook(lambda _, args: last.append(args[0]))
    encoded = []
    model.encoder.register_forward_hook(lambda *args: encoded.append(args[2]))
    model(data.x, data.edge_index)
    kept = last[0] != 0
    torch.testing.assert_close(last[0][kept], 2 * encoded[0][kept])
    dropped = [bool((state == 0).any()) for state in states]
    assert dropped == [place == "input"] * 5


# Checkpoints --------------------------------------------------------------------------


@BY_CHECKPOINT
@BY_OPTION
@pytest.mark.parametrize("place", ["output", "input"])
@pytest.mark.parametrize("num_layers", [1, 5, 9])
def test_checkpoints_have_the_same_gradients(
    checkpoint: str, option: str, place: str, num_layers: int, data: Data
) -> None:
    options = OPTIONS[option] | {"dropout": 0.5, "dropout_on": place}
    plain = network(num_layers, **options)
    model = network(num_layers, checkpoint=checkpoint, **options)
    expected = gradients(plain, data.x, data.edge_index)
    found = gradients(model, data.x, data.edge_index)
    assert len(found) == len(expected) == len(list(model.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@BY_CONV
def test_checkpoints_of_any_convolution(conv: str, data: Data) -> None:
    kinds = [network(checkpoint=c, dropout=0.5, **CONVS[conv]) for c in CHECKPOINTS]
    expected, *others = [
        gradients(kind, data.x, data.edge_index, edge_attr=data.edge_attr)
        for kind in kinds
    ]
    for found in others:
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


def saved_bytes(model: nn.Module, data: Data) -> int:
    """Bytes that the graph of one forward pass holds, each storage once."""
    storages: dict[int, int] = {}
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)  # or its address would be used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(data.x, data.edge_index)
    return sum(storages.values())


def test_checkpoints_save_memory() -> None:
    """In units of one state: all of them, one for each layer, or one per segment."""
    data = random_graph(12)
    sizes = {c: saved_bytes(network(36, checkpoint=c), data) for c in CHECKPOINTS}
    state = 12 * 4 * 8
    assert sizes["none"] > 2 * 36 * state
    assert sizes["sqrt"] < sizes["every"] < sizes["none"]
    graph = saved_bytes(network(1, checkpoint="every"), data)
    assert sizes["every"] <= 36 * state + graph
    assert sizes["sqrt"] <= 6 * state + graph


@BY_CHECKPOINT
def test_second_derivatives(checkpoint: str, data: Data) -> None:
    model = network(act="tanh", checkpoint=checkpoint)
    x = data.x.requires_grad_()
    (gradient,) = torch.autograd.grad(
        model(x, data.edge_index).square().sum(), x, create_graph=True
    )
    gradient.square().sum().backward()
    plain = network(act="tanh")
    again = data.x.detach().requires_grad_()
    (expected,) = torch.autograd.grad(
        plain(again, data.edge_index).square().sum(), again, create_graph=True
    )
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, again.grad)


# torch's other ways of running a module -----------------------------------------------


@pytest.mark.parametrize("option", ["default", "matrices", "convex", "gates"])
def test_compiles_with_dynamic_shapes(option: str, data: Data) -> None:
    torch._dynamo.reset()
    model = network(2, checkpoint="sqrt", **OPTIONS[option])
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for graph in (data, random_graph(12)):
        expected = gradients(model, graph.x, graph.edge_index)
        found = gradients(compiled, graph.x, graph.edge_index)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("option", ["default", "matrices", "convex", "norm"])
def test_exports(option: str, data: Data) -> None:
    model = network(dropout=0.5, checkpoint="sqrt", **OPTIONS[option]).eval()
    nodes, edges = torch.export.Dim("nodes"), torch.export.Dim("edges")
    program = torch.export.export(
        model,
        (data.x, data.edge_index),
        dynamic_shapes={"x": {0: nodes}, "edge_index": {1: edges}},
    )
    for graph in (data, random_graph(12)):
        found = program.module()(graph.x, graph.edge_index)
        torch.testing.assert_close(found, model(graph.x, graph.edge_index))


def test_functional_transforms(data: Data) -> None:
    model = network(3, act="tanh")

    def run(x: Tensor) -> Tensor:
        return model(x, data.edge_index)

    forward = torch.func.jacfwd(run)(data.x)
    torch.testing.assert_close(torch.func.jacrev(run)(data.x), forward)


@BY_CHECKPOINT
@pytest.mark.parametrize("option", ["default", "convex"])
def test_can_be_diagnosed(checkpoint: str, option: str, data: Data) -> None:
    options = OPTIONS[option]
    reports = [
        gf.diagnose(network(checkpoint=kind, **options), data, controls="none")
        for kind in ("none", checkpoint)
    ]
    plain, other = (
        report.observations.select("gradient.state", run="model") for report in reports
    )
    assert [row.place for row in plain] == [row.place for row in other]
    values = [[row.value for row in rows] for rows in (plain, other)]
    assert len(values[0]) == 6
    assert values[0] == pytest.approx(values[1])


# repr and bad input -------------------------------------------------------------------


def test_repr_tells_where_the_matrices_are_from() -> None:
    model = GNNSSM(3, 4, 2, 4, conv=pyg.SAGEConv, act="tanh")
    assert repr(model) == (
        "GNNSSM(3, 4, 2, num_layers=4, conv=SAGEConv, act=Tanh(), "
        "state=Scalar(1, channels=4), input=Scalar(0.5, channels=4), "
        "data-free default)"
    )
    assert repr(network(state=Scalar(0.5))).endswith(", given)")
    assert "persistent=Scalar(0.1, channels=4)" in repr(network(persistent=Scalar(0.1)))
    assert "act=sin" in repr(network(act=torch.sin))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, r"`num_layers` must be an integer >= 1. Got 0."),
        ({"num_layers": -2}, r"`num_layers` must be an integer >= 1. Got -2."),
        ({"num_layers": 2.0}, r"`num_layers` must be an integer >= 1. Got 2.0."),
        ({"hidden_channels": 0}, r"`hidden_channels` must be an integer >= 1. Got 0."),
        ({"out_channels": -1}, r"`out_channels` must be an integer >= 1. Got -1."),
        ({"in_channels": 0}, r"`in_channels` must be .*, or -1 to take it .* Got 0."),
        ({"act": "rleu"}, r"`act` must be the name of an activation .* Got 'rleu'"),
        ({"act": 3}, r"`act` must be a function, a name or None. Got int: pass"),
        ({"norm": "lyer"}, r"`norm` must be the name of a normal.* Got 'lyer'"),
        ({"norm": 3}, r"`norm` must be a name, a function of the width or None. Got"),
        ({"checkpoint": "all"}, r"`checkpoint` must be one of 'none', 'sqrt', 'every'"),
        ({"readout": "graph"}, r"`readout` must be one of 'node', 'mean', 'sum', 'max"),
        ({"dropout_on": "state"}, r"`dropout_on` must be one of 'output', 'input'. Go"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\). Got 1.0."),
        ({"dropout": -0.1}, r"`dropout` must be in \[0, 1\). Got -0.1."),
        ({"strength": math.nan}, r"`strength` must be a finite number. Got nan"),
        ({"state": Scalar(1.0, 5)}, r"Scalar is made for 5 channels. Got 4: give"),
        ({"input": 0.5}, r"`input` must be a Transition. Got float: pass `input=Sca"),
        ({"identity_mapping": 0.0}, r"`identity_mapping` must be a positive number"),
        ({"conv": "GCN"}, r"`conv` must be a class of layers or a function .* Got str"),
        ({"conv": pyg.GCNConv(4, 4)}, r"`conv` must be a class .* Got GCNConv: each"),
        ({"conv": lambda i, o: None}, r"`conv` must return a torch.nn.Module. Got Non"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    sizes = {"in_channels": 3, "hidden_channels": 4, "out_channels": 2, "num_layers": 3}
    with pytest.raises((TypeError, ValueError), match=message):
        GNNSSM(**(sizes | options))


def test_layers_of_changing_width_are_refused(data: Data) -> None:
    model = network(conv=lambda i, o: pyg.GATConv(i, o, heads=2))
    message = r"GATConv must keep the width 4 of the state. It returns 8: pass .*concat"
    with pytest.raises(ValueError, match=message):
        model(data.x, data.edge_index)


def test_growing_states_are_warned_about() -> None:
    with pytest.warns(UserWarning, match=r"modulus 1.5 > 1: the state overflows"):
        network(state=Scalar(1.5, trainable=True))
    with pytest.warns(UserWarning, match=r"fixed state matrix .* after about 396 la"):
        network(500, state=Scalar(6.0))
    model = network(state=Diagonal(trainable=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.eval()
    with torch.no_grad():
        model.state.values.fill_(1.1)
    with pytest.warns(UserWarning, match=r"modulus 1.1 > 1: .* `set_scale\(0.9091\)`"):
        model.eval()
