"""Every convolution that PyG exports, inside a small network.

The frame is always encoder -> conv -> tanh -> conv -> tanh -> read-out; what differs
is how a convolution is built, what it is called with and what its state is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch_geometric.nn as pyg
from graphs import hetero_graph, random_graph
from references import State, float64
from torch import Tensor, nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.nn import MessagePassing
from torch_geometric.nn import conv as pyg_conv

WIDTH = 4
NUM_CONVS = 66
"""Names in ``torch_geometric.nn.conv.__all__`` of PyG 2.8 without MessagePassing."""

Call = Callable[[nn.Module, State, Any], State]


def make_data() -> Data:
    """A graph with everything that some convolution asks for."""
    data = random_graph()
    generator = torch.Generator().manual_seed(3)
    num_nodes, num_edges = data.num_nodes, data.num_edges

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    data.edge_weight = 0.5 + uniform(num_edges)
    data.edge_attr = uniform(num_edges, 2)
    data.edge_type = torch.arange(num_edges) % 2
    data.node_type = torch.arange(num_nodes) % 2
    data.pos = uniform(num_nodes, 3)
    data.normal = F.normalize(uniform(num_nodes, 3) - 0.5, dim=1)
    data.far_edge_index = torch.tensor([[0, 2, 5, 7, 1], [4, 6, 1, 3, 7]])
    data.hyperedge_index = torch.tensor(
        [[0, 1, 2, 2, 3, 4, 4, 5, 6, 7], [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]]
    )
    # MeshCNN: every edge of a mesh (here: every row) has exactly four neighbours.
    around = [(i, (i + step) % num_nodes) for i in range(num_nodes) for step in OFFSETS]
    data.mesh_index = torch.tensor(around).t().flip(0).contiguous()
    return data


OFFSETS = (1, 2, 5, 7)


class Frame(nn.Module):
    """Encoder, two convolutions, read-out; the whole data object is the argument."""

    def __init__(self, convs: list[nn.Module], entry: ConvEntry) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.encoders = nn.ModuleDict(
            {"paper": nn.Linear(3, WIDTH), "author": nn.Linear(2, WIDTH)}
            if entry.hetero
            else {"x": nn.Linear(3, WIDTH)}
        )
        self.readout = nn.Linear(entry.width, 2)
        self.entry = entry

    def encode(self, data: Data | HeteroData) -> State:
        """State 0."""
        if isinstance(data, HeteroData):
            return tuple(self.encoders[k](data[k].x) for k in ("paper", "author"))
        return (self.entry.lift(self.encoders["x"](data.x)),)

    def step(self, k: int, state: State, data: Data | HeteroData) -> State:
        """State k -> state k + 1; the last one keeps what the read-out needs."""
        state = self.entry.call(self.convs[k], state, data)
        return state if k + 1 < len(self.convs) else state[:1]

    def forward(self, data: Data | HeteroData) -> Tensor:
        state = self.encode(data)
        for k in range(len(self.convs)):
            state = self.step(k, state, data)
        return self.readout(*self.close(state))

    def close(self, state: State) -> State:
        """What the read-out sees of the last state."""
        x = state[0]
        return (x[:, -1] if x.dim() == 3 else x,)


def after(call: Callable[[nn.Module, Tensor, Data], Tensor]) -> Call:
    """A call with one tensor as state, and tanh."""
    return lambda conv, state, data: (call(conv, state[0], data).tanh(),)


def with_arguments(*names: str, **keywords: str) -> Call:
    """conv(x, data.name, ..., keyword=data.name) and tanh."""

    def call(conv: nn.Module, x: Tensor, data: Data) -> Tensor:
        given = {keyword: data[name] for keyword, name in keywords.items()}
        return conv(x, *(data[name] for name in names), **given)

    return after(call)


def with_first_state(conv: nn.Module, state: State, data: Data) -> State:
    """conv(x, x0): GCN2Conv and FAConv read the first state at every layer."""
    x, x0 = state[0], state[-1]
    return conv(x, x0, data.edge_index).tanh(), x0


def with_dict(conv: nn.Module, state: State, data: HeteroData) -> State:
    """conv(x_dict, edge_index_dict)."""
    xs = dict(zip(("paper", "author"), state, strict=True))
    out = conv(xs, data.edge_index_dict)
    return out["paper"].tanh(), out["author"].tanh()


def with_history(conv: nn.Module, state: State, data: Data) -> State:
    """DNA attends to all earlier layers: the state grows."""
    (history,) = state
    x = conv(history, data.edge_index).tanh()
    return (torch.cat([history, x.unsqueeze(1)], dim=1),)


def coloured(conv: nn.Module, x: Tensor, data: Data) -> Tensor:
    """WLConv takes and returns integer colours."""
    colours = conv(x.argmax(dim=-1), data.edge_index)
    return F.one_hot(colours % WIDTH, WIDTH).to(x.dtype)


def fused_gat(conv: nn.Module, x: Tensor, data: Data) -> Tensor:
    """FusedGATConv takes the graph by rows and by columns."""
    return conv(x, *conv.to_graph_format(data.edge_index))


EDGES = with_arguments("edge_index")
WEIGHTED = with_arguments("edge_index", edge_weight="edge_weight")
ATTRIBUTED = with_arguments("edge_index", edge_attr="edge_attr")
TYPED = with_arguments("edge_index", edge_type="edge_type")


@dataclass(frozen=True)
class ConvEntry:
    """How one convolution is built and called."""

    name: str
    make: Callable[[int], nn.Module]
    """Index of the layer -> convolution."""
    call: Call = EDGES
    hetero: bool = False
    width: int = WIDTH
    """Features that the read-out sees."""
    lift: Callable[[Tensor], Tensor] = lambda x: x
    """What turns the encoded features into state 0."""

    @property
    def is_message_passing(self) -> bool:
        """Whether the class derives from PyG's MessagePassing."""
        return issubclass(getattr(pyg_conv, self.name), MessagePassing)

    def data(self) -> Data | HeteroData:
        """The graph of the network."""
        return hetero_graph() if self.hetero else make_data()

    def build(self) -> Frame:
        """The network, in float64 from seed 0.

        Raises:
            ImportError: If a package that the convolution needs is missing.
        """
        with torch.random.fork_rng(), float64():
            torch.manual_seed(0)
            return Frame([self.make(k) for k in range(2)], self)


def entry(name: str, *args: Any, call: Call = EDGES, **kwargs: Any) -> ConvEntry:
    """A convolution whose constructor takes plain arguments."""
    return ConvEntry(name, lambda _: getattr(pyg, name)(*args, **kwargs), call)


def wide(name: str, *args: Any, call: Call = EDGES, **kwargs: Any) -> ConvEntry:
    """A convolution from WIDTH to WIDTH channels."""
    return entry(name, WIDTH, WIDTH, *args, call=call, **kwargs)


def nested(
    name: str, make: Callable[[Any], nn.Module], call: Call = EDGES, **options: Any
) -> ConvEntry:
    """A convolution that is given other modules, fresh ones for each layer."""
    return ConvEntry(name, lambda _: make(getattr(pyg, name)), call, **options)


def mlp(in_channels: int = WIDTH, out_channels: int = WIDTH) -> nn.Module:
    """A small smooth network."""
    return nn.Sequential(nn.Linear(in_channels, out_channels), nn.Tanh())


def hetero_entry(name: str, make: Callable[[Any, HeteroData], nn.Module]) -> ConvEntry:
    """A convolution over dictionaries."""
    return ConvEntry(
        name,
        lambda _: make(getattr(pyg, name), hetero_graph()),
        with_dict,
        hetero=True,
    )


def hetero_conv(cls: Any, data: HeteroData) -> nn.Module:
    """SAGEConv for each relation."""
    kinds = data.edge_types
    return cls({kind: pyg.SAGEConv((WIDTH, WIDTH), WIDTH) for kind in kinds})


ENTRIES: tuple[ConvEntry, ...] = (
    entry("SimpleConv", call=WEIGHTED),
    wide("GCNConv", call=WEIGHTED),
    wide("ChebConv", K=3, call=WEIGHTED),
    wide("SAGEConv"),
    wide("CuGraphSAGEConv"),
    wide("GraphConv", call=WEIGHTED),
    wide(
        "GravNetConv",
        space_dimensions=2,
        propagate_dimensions=2,
        k=2,
        call=with_arguments(),
    ),
    entry("GatedGraphConv", WIDTH, num_layers=2, call=WEIGHTED),
    wide("ResGatedGraphConv", edge_dim=2, call=ATTRIBUTED),
    wide("GATConv", edge_dim=2, call=ATTRIBUTED),
    wide("CuGraphGATConv"),
    wide("FusedGATConv", add_self_loops=False, call=after(fused_gat)),
    wide("GATv2Conv", edge_dim=2, call=ATTRIBUTED),
    wide("TransformerConv", edge_dim=2, call=ATTRIBUTED),
    entry("AGNNConv"),
    wide("TAGConv", call=WEIGHTED),
    nested("GINConv", lambda cls: cls(mlp())),
    nested("GINEConv", lambda cls: cls(mlp(), edge_dim=2), ATTRIBUTED),
    wide("ARMAConv", num_stacks=2, num_layers=2, call=WEIGHTED),
    wide("SGConv", K=2, call=WEIGHTED),
    wide("SSGConv", alpha=0.1, K=2, call=WEIGHTED),
    entry("APPNP", K=2, alpha=0.1, call=WEIGHTED),
    wide("MFConv"),
    wide("RGCNConv", num_relations=2, call=TYPED),
    wide("FastRGCNConv", num_relations=2, call=TYPED),
    wide("CuGraphRGCNConv", num_relations=2, call=TYPED),
    wide("RGATConv", num_relations=2, call=TYPED),
    ConvEntry(
        "SignedConv",
        lambda k: pyg.SignedConv(WIDTH, WIDTH, first_aggr=k == 0),
        with_arguments("edge_index", "far_edge_index"),
        width=2 * WIDTH,
    ),
    ConvEntry(
        "DNAConv",
        lambda _: pyg.DNAConv(WIDTH, heads=2),
        with_history,
        lift=lambda x: x.unsqueeze(1),
    ),
    nested(
        "PointNetConv",
        lambda cls: cls(mlp(WIDTH + 3), mlp()),
        with_arguments("pos", "edge_index"),
    ),
    wide("GMMConv", dim=2, kernel_size=2, call=ATTRIBUTED),
    wide("SplineConv", dim=2, kernel_size=2, call=ATTRIBUTED),
    nested(
        "NNConv",
        lambda cls: cls(WIDTH, WIDTH, nn=nn.Linear(2, WIDTH * WIDTH)),
        ATTRIBUTED,
    ),
    entry("CGConv", WIDTH, dim=2, call=ATTRIBUTED),
    nested("EdgeConv", lambda cls: cls(mlp(2 * WIDTH))),
    nested("DynamicEdgeConv", lambda cls: cls(mlp(2 * WIDTH), k=2), with_arguments()),
    wide("XConv", dim=3, kernel_size=2, call=with_arguments("pos")),
    nested(
        "PPFConv",
        lambda cls: cls(mlp(WIDTH + 4), mlp()),
        with_arguments("pos", "normal", "edge_index"),
    ),
    wide("FeaStConv", heads=2),
    nested(
        "PointTransformerConv",
        lambda cls: cls(WIDTH, WIDTH, pos_nn=mlp(3), attn_nn=mlp()),
        with_arguments("pos", "edge_index"),
    ),
    wide("HypergraphConv", call=with_arguments("hyperedge_index")),
    wide("LEConv", call=WEIGHTED),
    wide(
        "PNAConv",
        aggregators=["mean", "max", "std"],
        scalers=["identity", "amplification"],
        deg=torch.tensor([0, 1, 2, 3, 2]),
        edge_dim=2,
        call=ATTRIBUTED,
    ),
    wide("ClusterGCNConv", diag_lambda=0.1),
    wide("GENConv", edge_dim=2, call=ATTRIBUTED),
    ConvEntry(
        "GCN2Conv",
        lambda k: pyg.GCN2Conv(WIDTH, alpha=0.1, theta=0.5, layer=k + 1),
        with_first_state,
    ),
    wide(
        "PANConv",
        filter_size=2,
        call=after(lambda conv, x, data: conv(x, data.edge_index)[0]),
    ),
    entry("WLConv", call=after(coloured)),
    entry("WLConvContinuous", call=WEIGHTED),
    wide("FiLMConv", num_relations=2, call=TYPED),
    wide("SuperGATConv"),
    entry("FAConv", WIDTH, call=with_first_state),
    wide("EGConv", num_heads=2, num_bases=2),
    wide("PDNConv", edge_dim=2, hidden_channels=2, call=ATTRIBUTED),
    wide("GeneralConv", in_edge_channels=2, attention=True, call=ATTRIBUTED),
    hetero_entry("HGTConv", lambda cls, g: cls(WIDTH, WIDTH, g.metadata(), heads=2)),
    wide(
        "HEATConv",
        num_node_types=2,
        num_edge_types=2,
        edge_type_emb_dim=2,
        edge_dim=2,
        edge_attr_emb_dim=2,
        call=with_arguments("edge_index", "node_type", "edge_type", "edge_attr"),
    ),
    hetero_entry("HeteroConv", hetero_conv),
    hetero_entry("HANConv", lambda cls, g: cls(WIDTH, WIDTH, g.metadata(), heads=2)),
    entry("LGConv", call=WEIGHTED),
    nested(
        "PointGNNConv",
        lambda cls: cls(mlp(WIDTH, 3), mlp(WIDTH + 3), mlp()),
        with_arguments("pos", "edge_index"),
    ),
    nested("GPSConv", lambda cls: cls(WIDTH, pyg.GCNConv(WIDTH, WIDTH), heads=2)),
    entry("AntiSymmetricConv", WIDTH, num_iters=2),
    nested("DirGNNConv", lambda cls: cls(pyg.GCNConv(WIDTH, WIDTH))),
    ConvEntry(
        "MixHopConv",
        lambda k: pyg.MixHopConv(WIDTH * (3 if k else 1), WIDTH, powers=[0, 1, 2]),
        WEIGHTED,
        width=3 * WIDTH,
    ),
    wide("MeshCNNConv", call=with_arguments("mesh_index")),
)

CONVS: Mapping[str, ConvEntry] = {item.name: item for item in ENTRIES}
