"""The networks of ``networks.py`` with their references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import layers
import networks
import torch
import torch.nn.functional as F
from graphs import random_graph
from pyg_cases import WIDTH, basic, chain
from references import Case, Map, State, gcn, gcn_matrix
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN, MLP, GCNConv, SAGEConv


def residual(form: str) -> Case:
    """x + conv(tanh(x)) in one of the Python forms."""
    data = random_graph()
    adj = gcn_matrix(data)
    readout = nn.Linear(WIDTH, 2)
    model = networks.PreActivation(WIDTH, 3, readout, form)
    keep = torch.ones(WIDTH)
    if form.startswith("x[:"):
        keep[2:] = 0.0
    return Case(
        model,
        data,
        lambda x: (model.encoder(x),),
        tuple(
            lambda x, conv=conv: (x + keep * gcn(conv, adj, x.tanh()),)
            for conv in model.convs
        ),
        (lambda x: (readout(x),),),
    )


def gcnii() -> Case:
    """GCNII: ((1 - b) I + b W) ((1 - a) A x + a x0)."""
    data = random_graph()
    adj = gcn_matrix(data)
    readout = nn.Linear(WIDTH, 2)
    model = networks.GCNII(WIDTH, 3, readout)

    def layer(k: int) -> Map:
        def step(x: Tensor, x0: Tensor) -> State:
            beta = model.convs[k].beta
            h = 0.8 * adj @ x + 0.2 * x0
            return ((1 - beta) * h + beta * h @ model.convs[k].weight1).tanh(), x0

        return step

    return Case(
        model,
        data,
        lambda x: (model.encoder(x).tanh(),),
        (lambda x: layer(0)(x, x), layer(1), lambda x, x0: layer(2)(x, x0)[:1]),
        (lambda x: (readout(x),),),
    )


def graphcon() -> Case:
    """Oscillators: the state is (position, velocity)."""
    data = random_graph()
    adj = gcn_matrix(data)
    readout = nn.Linear(WIDTH, 2)
    model = networks.GraphCON(WIDTH, 3, readout)

    def step(k: int, x: Tensor, y: Tensor) -> State:
        y = y + 0.5 * (gcn(model.convs[k], adj, x).tanh() - 0.7 * x - 0.3 * y)
        return x + 0.5 * y, y

    return Case(
        model,
        data,
        lambda x: (model.encoder(x),),
        (
            lambda x: step(0, x, x),
            lambda x, y: step(1, x, y),
            lambda x, y: step(2, x, y)[:1],
        ),
        (lambda x: (readout(x),),),
    )


def delayed() -> Case:
    """DRew with delay: the state is (x_k, x_{k-1}) while a layer still reads it."""
    data = random_graph()
    adj = gcn_matrix(data)
    reach = (adj @ adj > 0) & (adj == 0)
    data.far_edge_index = reach.nonzero().t().contiguous().flip(0)
    far = gcn_matrix(Data(edge_index=data.far_edge_index, num_nodes=data.num_nodes))
    readout = nn.Linear(WIDTH, 2)
    model = networks.DelayedNet(WIDTH, 4, readout)

    def step(k: int, x: Tensor, before: Tensor) -> State:
        out = gcn(model.near[k], adj, x) + gcn(model.far[k - 1], far, before)
        return x + out.tanh(), x

    return Case(
        model,
        data,
        lambda x: (model.encoder(x),),
        (
            lambda x: (x + gcn(model.near[0], adj, x).tanh(), x),
            lambda x, before: step(1, x, before),
            lambda x, before: step(2, x, before),
            lambda x, before: step(3, x, before)[:1],
        ),
        (lambda x: (readout(x),),),
        call=lambda model, x: model(x, data.edge_index, data.far_edge_index),
    )


def long_skip() -> Case:
    """A two-step recurrence: the state is (x_k, x_{k-1})."""
    data = random_graph()
    adj = gcn_matrix(data)
    model = networks.LongSkip(WIDTH, 3)

    def step(k: int, x: Tensor, before: Tensor) -> State:
        return gcn(model.convs[k], adj, x).tanh() + before, x

    return Case(
        model,
        data,
        lambda x: (model.encoder(x),),
        (
            lambda x: step(0, x, x),
            lambda x, before: step(1, x, before),
            lambda x, before: step(2, x, before)[:1],
        ),
    )


def input_injection() -> Case:
    """The raw features are read by every layer: the state is (h, x).

    State 0 is x alone, from which the encoder makes h.
    """
    data = random_graph()
    adj = gcn_matrix(data)
    readout = nn.Linear(WIDTH, 2)
    model = networks.InputInjection(WIDTH, 3, readout)

    def step(k: int, h: Tensor, x: Tensor) -> State:
        return (gcn(model.convs[k], adj, h) + model.inject[k](x)).tanh(), x

    return Case(
        model,
        data,
        lambda x: (x,),
        (
            lambda x: step(0, model.encoder(x), x),
            lambda h, x: step(1, h, x),
            lambda h, x: step(2, h, x)[:1],
        ),
        (lambda h: (readout(h),),),
    )


def feed_forward() -> Case:
    """x + lin(tanh(conv(x))): the linear map belongs to the layer."""
    data = random_graph()
    adj = gcn_matrix(data)
    readout = nn.Linear(WIDTH, 2)
    model = networks.FeedForward(WIDTH, 3, readout)
    pairs = zip(model.convs, model.lins, strict=True)
    return Case(
        model,
        data,
        lambda x: (model.encoder(x),),
        tuple(
            lambda x, conv=conv, lin=lin: (x + lin(gcn(conv, adj, x).tanh()),)
            for conv, lin in pairs
        ),
        (lambda x: (readout(x),),),
    )


def virtual_node() -> Case:
    """The node in the middle is a state only where it is not a function of x.

    Behind layer 1 it is computed from x alone; behind layer 3 nothing that matters
    reads it any more.
    """
    data = random_graph()
    adj = gcn_matrix(data)
    readout = nn.Linear(WIDTH, 2)
    model = networks.VirtualNode(WIDTH, 4, readout)

    def conv(k: int, x: Tensor) -> Tensor:
        return gcn(model.convs[k], adj, x).tanh()

    def update(v: Tensor, x: Tensor) -> Tensor:
        return v + model.lin(x.mean(dim=0, keepdim=True))

    def second(x: Tensor) -> State:
        v = update(model.first, x)
        x = conv(1, x + v)
        v = update(v, x)
        return x + v, v

    def third(x: Tensor, v: Tensor) -> State:
        x = conv(2, x)
        return (x + update(v, x),)

    return Case(
        model,
        data,
        lambda x: (model.encoder(x) + model.first,),
        (lambda x: (conv(0, x),), second, third, lambda x: (conv(3, x),)),
        (lambda x: (readout(x),),),
    )


def weighted() -> Case:
    """Edge weights that depend on the state are no part of it."""
    data = random_graph()
    readout = nn.Linear(WIDTH, 2)
    model = networks.WeightedNet(WIDTH, 3, readout)
    source, target = data.edge_index

    def layer(conv: GCNConv) -> Map:
        def step(x: Tensor) -> State:
            weight = (x[source] * x[target]).sum(dim=-1).sigmoid()
            eye = torch.eye(data.num_nodes)
            adj = eye.index_put((target, source), weight, accumulate=True)
            scale = adj.sum(dim=1).pow(-0.5)
            return (gcn(conv, scale[:, None] * adj * scale, x).tanh(),)

        return step

    return Case(
        model,
        data,
        lambda x: (model.encoder(x),),
        tuple(layer(conv) for conv in model.convs),
        (lambda x: (readout(x),),),
    )


def edge_states() -> Case:
    """GatedGCN: the state is (node states, edge states).

    The first edge states do not depend on the features: they are no part of state 0.
    """
    data = random_graph()
    data.edge_attr = torch.randn(data.num_edges, 2)
    readout = nn.Linear(WIDTH, 2)
    model = networks.EdgeStateNet(WIDTH, 3, readout)
    source, target = data.edge_index
    gather = F.one_hot(source, data.num_nodes).double()
    scatter = F.one_hot(target, data.num_nodes).double().t()

    def step(k: int, x: Tensor, e: Tensor) -> State:
        conv = model.convs[k]
        gate = conv.source(x)[source] + conv.target(x)[target] + conv.edge(e)
        h = conv.root(x) + scatter @ (gate.sigmoid() * (gather @ conv.value(x)))
        return x + h.tanh(), e + gate.tanh()

    return Case(
        model,
        data,
        lambda x: (model.node_encoder(x),),
        (
            lambda x: step(0, x, model.edge_encoder(data.edge_attr)),
            lambda x, e: step(1, x, e),
            lambda x, e: step(2, x, e)[:1],
        ),
        (lambda x: (readout(x),),),
        call=lambda model, x: model(x, data.edge_index, data.edge_attr),
    )


def dense_net() -> Case:
    """adj @ lin(x) in a module that no library knows."""
    data = random_graph()
    data.adj = gcn_matrix(data)
    model = networks.DenseNet([3, WIDTH, WIDTH, 2])

    def layer(k: int) -> Map:
        act = torch.tanh if k < 2 else (lambda x: x)
        return lambda x: (act(data.adj @ model.layers[k].lin(x)),)

    return Case(
        model,
        data,
        maps=(layer(0), layer(1), layer(2)),
        call=lambda model, x: model(x, data.adj),
    )


def inline_dense_net() -> Case:
    """The same mixing, but by no module."""
    data = random_graph()
    data.adj = gcn_matrix(data)
    data.x = torch.randn(data.num_nodes, WIDTH)
    model = networks.InlineDenseNet(WIDTH, 3)
    return Case(
        model,
        data,
        maps=tuple(
            lambda x, lin=lin: ((data.adj @ lin(x)).tanh(),) for lin in model.lins
        ),
        call=lambda model, x: model(x, data.adj),
    )


def shared_conv() -> Case:
    """One convolution called three times is three layers."""
    data = random_graph()
    adj = gcn_matrix(data)
    readout = nn.Linear(WIDTH, 2)
    model = networks.SharedConv(WIDTH, 3, readout)
    return Case(
        model,
        data,
        lambda x: (model.encoder(x),),
        (lambda x: (gcn(model.conv, adj, x).tanh(),),) * 3,
        (lambda x: (readout(x),),),
    )


def parallel_convs() -> Case:
    """Two convolutions of one state are one layer."""
    data = random_graph()
    pairs = [(GCNConv(WIDTH, WIDTH), SAGEConv(WIDTH, WIDTH)) for _ in range(3)]
    encoder = nn.Linear(3, WIDTH)
    model = networks.ParallelConvs(pairs, encoder)
    adj = gcn_matrix(data)
    return Case(
        model,
        data,
        lambda x: (encoder(x),),
        tuple(
            lambda x, a=a, b=b: ((gcn(a, adj, x) + b(x, data.edge_index)).tanh(),)
            for a, b in pairs
        ),
    )


def custom(function: type[layers.DoubleTanh]) -> Callable[[], Case]:
    """A convolution with a custom autograd function inside."""

    def build() -> Case:
        case = chain(lambda: layers.CustomConv(WIDTH, function))
        source, target = case.data.edge_index
        adj = torch.zeros(case.data.num_nodes, case.data.num_nodes)
        adj[target, source] = 1.0
        convs = case.model.convs
        maps = tuple(
            lambda x, conv=conv: ((adj @ conv.lin(x).tanh()).tanh(),) for conv in convs
        )
        return Case(case.model, case.data, case.start, maps, case.tail)

    return build


def wrapped_output(form: str, **options: Any) -> Case:
    """A model that returns its output among other things."""
    case = basic(GCN)()
    model = networks.WrappedOutput(case.model, form)
    pick = 0 if form == "tuple" else "logits"

    def call(model: nn.Module, x: Tensor) -> Tensor:
        return model(x, case.data.edge_index)[pick]

    if options.get("picked"):
        options = {"forward_fn": lambda model, data: call(model, data.x)}
    return Case(model, case.data, maps=case.maps, call=call, options=options)


def no_messages() -> Case:
    """A network that never looks at the graph."""
    data = random_graph()
    model = MLP([3, WIDTH, WIDTH, 2], norm=None)
    call: Callable[[nn.Module, Tensor], Tensor] = lambda model, x: model(x)  # noqa: E731
    return Case(model, data, call=call)
