"""Small graphs, and the catalogue of networks against which the tracer is tested."""

from __future__ import annotations

import handwritten_cases as own
import layers
import pyg_cases as pyg
from graphs import GRAPHS, hetero_graph, make_graph, random_graph
from pyg_cases import WIDTH
from references import Case, Entry, State, dense_jacobian, float64, gcn_matrix
from torch import nn
from torch_geometric.nn import (
    GAT,
    GCN,
    GIN,
    PNA,
    GATv2Conv,
    GCNConv,
    GraphSAGE,
    SAGEConv,
)

__all__ = [
    "CATALOGUE",
    "GRAPHS",
    "Case",
    "Entry",
    "State",
    "dense_jacobian",
    "float64",
    "gcn_matrix",
    "hetero_graph",
    "make_graph",
    "random_graph",
]

KINDS: dict[str, type[nn.Module]] = {
    "GCN": GCN,
    "GAT": GAT,
    "GIN": GIN,
    "GraphSAGE": GraphSAGE,
    "PNA": PNA,
}

CATALOGUE: tuple[Entry, ...] = (
    *(
        Entry(f"{name}{f' jk={jk}' if jk else ''}", pyg.basic(kind, jk))
        for name, kind in KINDS.items()
        for jk in (None, "cat", "max", "lstm", "last")
    ),
    *(Entry(f"GCN on {name}", pyg.basic(GCN, graph=name)) for name in GRAPHS),
    Entry("GCN batch norm", pyg.basic(GCN, norm="batch_norm")),
    Entry("GCN batch norm eval", pyg.eval_batch_norm),
    Entry("GCN dropout", pyg.basic(GCN, dropout=0.5)),
    Entry("GCN jk=cat dropout", pyg.basic(GCN, "cat", dropout=0.5)),
    Entry("GCN layer norm jk=last", pyg.basic(GCN, "last", norm="layer_norm")),
    Entry("GCN in-place relu", pyg.basic(GCN, act_kwargs={"inplace": True})),
    Entry("GCN cached", pyg.basic(GCN, cached=True)),
    Entry("GCN sparse adjacency", pyg.sparse),
    Entry("GAT two heads", pyg.basic(GAT, heads=2)),
    Entry("PyG Sequential", pyg.sequential),
    Entry("GCN compiled", pyg.compiled),
    Entry("GCN distributed", pyg.distributed),
    *(
        Entry(f"DeepGCN {block}", lambda block=block: pyg.deep_gcn(block))
        for block in ("res+", "res", "dense", "plain")
    ),
    Entry("DeepGCN res+ dropout", lambda: pyg.deep_gcn("res+", dropout=0.5)),
    Entry("DeepGCN res+ first conv", lambda: pyg.deep_gcn("res+", first_conv=True)),
    Entry(
        "DeepGCN res+ checkpointed",
        lambda: pyg.deep_gcn("res+", ckpt_grad=True),
        match="message-passing layer",
    ),
    Entry("GCNII", own.gcnii),
    Entry("APPNP", pyg.appnp),
    Entry("AntiSymmetricConv", pyg.antisymmetric),
    Entry("GatedGraphConv", pyg.gated_graph),
    Entry("SGConv", pyg.simplified),
    Entry("GPS batch norm", pyg.gps),
    Entry("GPS no norm", lambda: pyg.gps(norm=None)),
    Entry(
        "GATv2 edge features",
        lambda: pyg.chain(
            lambda: GATv2Conv(WIDTH, WIDTH, edge_dim=2), edge_features=True
        ),
    ),
    Entry(
        "SAGE product",
        lambda: pyg.chain(lambda: SAGEConv(WIDTH, WIDTH, aggr="mul")),
    ),
    Entry("HeteroConv", pyg.hetero),
    Entry("graph level", pyg.graph_level),
    Entry(
        "keyword calls", lambda: pyg.chain(lambda: GCNConv(WIDTH, WIDTH), keywords=True)
    ),
    Entry("dense layers", own.dense_net),
    Entry("dense inline", own.inline_dense_net),
    Entry("GraphCON", own.graphcon),
    Entry("DRew delayed", own.delayed),
    Entry("long skip", own.long_skip),
    Entry("input injection", own.input_injection),
    Entry("feed-forward", own.feed_forward),
    Entry("virtual node", own.virtual_node),
    Entry("edge weights of x", own.weighted),
    Entry("edge states", own.edge_states),
    *(
        Entry(form, lambda form=form: own.residual(form))
        for form in ("x = x + h", "x += h")
    ),
    *(
        Entry(form, lambda form=form: own.residual(form), match="changed in place")
        for form in ("x.add_(h)", "x[:, :2] += h[:, :2]")
    ),
    Entry("shared conv", own.shared_conv),
    Entry("parallel convs", own.parallel_convs),
    Entry("custom function", own.custom(layers.DoubleTanh)),
    Entry("custom function once", own.custom(layers.OnceTanh), match="differentiat"),
    Entry(
        "custom function detached",
        own.custom(layers.DetachedTanh),
        match="twice|inconsistent",
    ),
    Entry("output picked", lambda: own.wrapped_output("tuple", picked=True)),
    Entry("returns a tuple", lambda: own.wrapped_output("tuple"), match="tuple"),
    Entry("returns a dict", lambda: own.wrapped_output("dict"), match="dict"),
    Entry("no messages", own.no_messages, match="message"),
)
