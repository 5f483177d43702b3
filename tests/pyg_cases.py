"""Networks made of PyG's own models and layers, with their references."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import torch
import torch.nn.functional as F
from graphs import GRAPHS, hetero_graph, path_graph, random_graph, ring_graph
from references import Case, Map, State, batch_norm, gcn, gcn_matrix
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import (
    APPNP,
    GCN,
    PNA,
    AntiSymmetricConv,
    DeepGCNLayer,
    GatedGraphConv,
    GCNConv,
    GINConv,
    GPSConv,
    HeteroConv,
    LayerNorm,
    SAGEConv,
    Sequential,
    SGConv,
    global_add_pool,
)

WIDTH = 4


def basic(
    kind: type[nn.Module], jk: str | None = None, graph: str = "", **options: Any
) -> Callable[[], Case]:
    """GCN, GAT, GIN, GraphSAGE or PNA of three layers."""

    def build() -> Case:
        data = GRAPHS[graph]() if graph else random_graph()
        if kind is PNA:
            options["deg"] = torch.tensor([0, 1, 2, 3, 2])
            options["aggregators"] = ["mean", "max", "std"]
            options["scalers"] = ["identity", "amplification"]
        model = kind(3, WIDTH, num_layers=3, out_channels=2, jk=jk, **options)
        edge_index = data.edge_index

        def layer(k: int) -> Map:
            closing = k == 2 and jk is None
            act = (lambda x: x) if closing else torch.relu
            norm = model.norms[k]
            return lambda x: (act(batch_norm(norm, model.convs[k](x, edge_index))),)

        close = None
        tail: tuple[Map, ...] = ()
        if jk == "last":
            tail = (lambda x: (model.lin(x),),)
        elif jk is not None:

            def close(states: list[State]) -> Tensor:
                return model.lin(model.jk([state[0] for state in states[1:]]))

        maps = (layer(0), layer(1), layer(2))
        return Case(model, data, maps=maps, tail=tail, close=close)

    return build


def eval_batch_norm() -> Case:
    """A trained network in eval mode uses the running statistics."""
    case = basic(GCN, norm="batch_norm")()
    for norm in case.model.norms[:2]:
        norm.module.running_mean.normal_()
        norm.module.running_var.uniform_(0.5, 2.0)
        norm.module.num_batches_tracked.fill_(5)
    model, edge_index = case.model.eval(), case.data.edge_index

    def layer(k: int) -> Map:
        act = torch.relu if k < 2 else (lambda x: x)
        return lambda x: (act(model.norms[k](model.convs[k](x, edge_index))),)

    return Case(model, case.data, maps=(layer(0), layer(1), layer(2)))


def deep_gcn(block: str, *, first_conv: bool = False, **options: Any) -> Case:
    """Three DeepGCNLayers of one block."""
    data = random_graph()
    adj = gcn_matrix(data)
    widths = [WIDTH] * 4
    if block == "dense":
        widths = [2, 4, 8, 16]
    layers = []
    for k in range(3):
        out = widths[k] if block == "dense" else WIDTH
        normed = widths[k] if block in ("res+", "dense") else WIDTH
        conv = GCNConv(widths[k], out)
        norm, act = LayerNorm(normed), nn.ReLU()
        layers.append(DeepGCNLayer(conv, norm, act, block=block, **options))
    encoder = nn.Linear(3, widths[0])
    readout = nn.Linear(widths[3], 2)
    model = networks.DeepGCN(layers, encoder, readout, first_conv=first_conv)

    def layer(k: int) -> Map:
        conv, norm = layers[k].conv, layers[k].norm

        def after(x: Tensor) -> Tensor:
            return norm(gcn(conv, adj, x)).relu()

        if first_conv and k == 0:
            return lambda x: (gcn(conv, adj, x),)
        return {
            "res+": lambda x: (x + gcn(conv, adj, norm(x).relu()),),
            "res": lambda x: (x + after(x),),
            "dense": lambda x: (torch.cat([x, after(x)], dim=-1),),
            "plain": lambda x: (after(x),),
        }[block]

    tail: tuple[Map, ...] = (lambda x: (readout(x),),)
    if first_conv:
        tail = (lambda x: (layers[0].norm(x).relu(),), *tail)
    maps = (layer(0), layer(1), layer(2))
    return Case(model, data, lambda x: (encoder(x),), maps, tail)


def chain(
    make: Callable[[], nn.Module],
    *,
    act: Callable[[Tensor], Tensor] = torch.tanh,
    num_layers: int = 3,
    **options: Any,
) -> Case:
    """Encoder, convolutions of one kind with an activation, read-out."""
    data = random_graph()
    convs = [make() for _ in range(num_layers)]
    encoder, readout = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
    model = networks.Chain(convs, encoder, readout, act, **options)
    extra = {}
    if options.get("edge_features"):
        data.edge_attr = torch.randn(data.num_edges, 2)
        extra["edge_attr"] = data.edge_attr

    def layer(conv: nn.Module) -> Map:
        return lambda x: (act(conv(x, data.edge_index, **extra)),)

    return Case(
        model,
        data,
        lambda x: (encoder(x),),
        tuple(layer(conv) for conv in convs),
        (lambda x: (readout(x),),),
        call=lambda model, x: model(x, data.edge_index, *extra.values()),
    )


def opened(conv: nn.Module, maps: Callable[[Tensor], tuple[Map, ...]]) -> Case:
    """A module that propagates many times inside one call."""
    data = random_graph()
    encoder, readout = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
    model = networks.Opened(conv, encoder, readout)
    tail: tuple[Map, ...] = (lambda x: (readout(x),),)
    if isinstance(conv, SGConv):
        tail = (lambda x: (conv.lin(x),), *tail)
    steps = maps(gcn_matrix(data))
    return Case(model, data, lambda x: (encoder(x),), steps, tail)


def appnp() -> Case:
    """x <- (1 - a) A x + a x0, four times."""

    def maps(adj: Tensor) -> tuple[Map, ...]:
        def step(x: Tensor, x0: Tensor) -> State:
            return 0.8 * adj @ x + 0.2 * x0, x0

        return (
            lambda x: step(x, x),
            step,
            step,
            lambda x, x0: step(x, x0)[:1],
        )

    return opened(APPNP(K=4, alpha=0.2), maps)


def antisymmetric() -> Case:
    """x <- x + eps tanh((W - W' - gamma I) x + phi(x) + b), three times."""
    conv = AntiSymmetricConv(WIDTH, num_iters=3, epsilon=0.3, gamma=0.2)
    nn.init.normal_(conv.bias)

    def maps(adj: Tensor) -> tuple[Map, ...]:
        def step(x: Tensor) -> State:
            weight = conv.W - conv.W.t() - 0.2 * torch.eye(WIDTH)
            h = x @ weight.t() + gcn(conv.phi, adj, x) + conv.bias
            return (x + 0.3 * h.tanh(),)

        return (step,) * 3

    return opened(conv, maps)


def gated_graph() -> Case:
    """x <- GRU(sum of the neighbours' x W, x), three times."""
    conv = GatedGraphConv(WIDTH, num_layers=3)
    data = random_graph()
    source, target = data.edge_index
    adj = torch.zeros(data.num_nodes, data.num_nodes)
    adj[target, source] = 1.0

    def maps(_: Tensor) -> tuple[Map, ...]:
        return tuple(
            lambda x, k=k: (gru(conv.rnn, adj @ x @ conv.weight[k], x),)
            for k in range(3)
        )

    return opened(conv, maps)


def gru(cell: nn.GRUCell, message: Tensor, x: Tensor) -> Tensor:
    """The gated recurrent unit, written out."""
    given = F.linear(message, cell.weight_ih, cell.bias_ih).chunk(3, dim=1)
    own = F.linear(x, cell.weight_hh, cell.bias_hh).chunk(3, dim=1)
    reset, update = (given[0] + own[0]).sigmoid(), (given[1] + own[1]).sigmoid()
    new = (given[2] + reset * own[2]).tanh()
    return (1 - update) * new + update * x


def simplified() -> Case:
    """x <- A x, three times, then one linear map."""
    return opened(SGConv(WIDTH, WIDTH, K=3), lambda adj: (lambda x: (adj @ x,),) * 3)


def gps(**options: Any) -> Case:
    """Local convolution and global attention side by side, written out."""
    case = chain(
        lambda: GPSConv(WIDTH, GCNConv(WIDTH, WIDTH), heads=2, **options),
        act=lambda x: x,
        num_layers=2,
    )
    adj = gcn_matrix(case.data)

    def layer(conv: GPSConv) -> Map:
        def step(x: Tensor) -> State:
            local = batch_norm(conv.norm1, x + gcn(conv.conv, adj, x))
            h = local + batch_norm(conv.norm2, x + attention(conv.attn, x))
            return (batch_norm(conv.norm3, h + conv.mlp(h)),)

        return step

    maps = tuple(layer(conv) for conv in case.model.convs)
    return Case(case.model, case.data, case.start, maps, case.tail)


def attention(module: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Softmax attention over all rows, written out."""
    packed = F.linear(x, module.in_proj_weight, module.in_proj_bias)
    split = packed.reshape(len(x), 3, module.num_heads, module.head_dim)
    query, key, value = split.permute(1, 2, 0, 3)
    weights = (query @ key.mT / module.head_dim**0.5).softmax(dim=-1)
    return module.out_proj((weights @ value).transpose(0, 1).reshape(len(x), -1))


def hetero() -> Case:
    """HeteroConv: three relations, two node types; authors are read by no output."""
    data = hetero_graph()
    encoders = {"paper": nn.Linear(3, WIDTH), "author": nn.Linear(2, WIDTH)}
    kinds = data.edge_types
    convs = [
        HeteroConv({kind: SAGEConv((WIDTH, WIDTH), WIDTH) for kind in kinds})
        for _ in range(3)
    ]
    readout = nn.Linear(WIDTH, 2)
    model = networks.HeteroNet(encoders, convs, readout)

    def layer(k: int) -> Map:
        def step(paper: Tensor, author: Tensor) -> State:
            xs = {"paper": paper, "author": author}
            out = convs[k](xs, data.edge_index_dict)
            return out["paper"].tanh(), out["author"].tanh()

        return step

    return Case(
        model,
        data,
        lambda xs: (encoders["paper"](xs["paper"]), encoders["author"](xs["author"])),
        (layer(0), layer(1), lambda *state: layer(2)(*state)[:1]),
        (lambda paper: (readout(paper),),),
        call=lambda model, xs: model(xs, data.edge_index_dict),
        options={"target": data["paper"].y},
    )


def graph_level() -> Case:
    """A batch of two graphs and one output for each of them."""
    graphs = [path_graph(4), ring_graph(5)]
    for label, graph in enumerate(graphs):
        graph.y = torch.tensor([label])
    data = Batch.from_data_list(graphs)
    convs = [GINConv(nn.Linear(WIDTH, WIDTH)) for _ in range(2)]
    encoder, readout = nn.Linear(3, WIDTH), nn.Linear(WIDTH, 2)
    model = networks.Chain(convs, encoder, nn.Identity())
    pooled = nn.ModuleDict({"body": model, "readout": readout})

    def call(module: nn.Module, x: Tensor) -> Tensor:
        body = module["body"](x, data.edge_index)
        return module["readout"](global_add_pool(body, data.batch))

    return Case(
        pooled,
        data,
        lambda x: (encoder(x),),
        tuple(
            lambda x, conv=conv: (conv(x, data.edge_index).tanh(),) for conv in convs
        ),
        (
            lambda x: (global_add_pool(x, data.batch),),
            lambda x: (readout(x),),
        ),
        call=call,
        options={"forward_fn": lambda model, data: call(model, data.x)},
    )


def sequential() -> Case:
    """PyG's Sequential, whose forward is generated from strings."""
    data = random_graph()
    adj = gcn_matrix(data)
    convs = [GCNConv(3, WIDTH), GCNConv(WIDTH, WIDTH), GCNConv(WIDTH, 2)]
    model = Sequential(
        "x, edge_index",
        [
            (convs[0], "x, edge_index -> x"),
            nn.Tanh(),
            (convs[1], "x, edge_index -> x"),
            nn.Tanh(),
            (convs[2], "x, edge_index -> x"),
        ],
    )
    return Case(
        model,
        data,
        maps=(
            lambda x: (gcn(convs[0], adj, x).tanh(),),
            lambda x: (gcn(convs[1], adj, x).tanh(),),
            lambda x: (gcn(convs[2], adj, x),),
        ),
    )


def sparse() -> Case:
    """The graph as a sparse matrix instead of an edge index."""
    case = basic(GCN)()
    data = case.data
    adj = torch.zeros(data.num_nodes, data.num_nodes)
    adj[data.edge_index[1], data.edge_index[0]] = 1.0
    data.adj_t = adj.to_sparse_csr()

    def call(model: nn.Module, x: Tensor) -> Tensor:
        return model(x, data.adj_t)

    return Case(
        case.model,
        data,
        maps=case.maps,
        call=call,
        options={"forward_fn": lambda model, data: model(data.x, data.adj_t)},
    )


def compiled() -> Case:
    """A model inside torch.compile."""
    case = basic(GCN)()
    model = torch.compile(case.model, backend="eager")
    return Case(model, case.data, maps=case.maps)


def distributed() -> Case:
    """A model inside DistributedDataParallel, in a group of one process."""
    if not torch.distributed.is_initialized():
        store = Path(tempfile.mkdtemp()) / "store"
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{store}", rank=0, world_size=1
        )
    case = basic(GCN)()
    model = nn.parallel.DistributedDataParallel(case.model)
    return Case(model, case.data, maps=case.maps)
