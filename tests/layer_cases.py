"""Small networks whose layers have a Jacobian in closed form."""

from __future__ import annotations

import torch
from graphs import path_graph
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import (
    GCN,
    DeepGCNLayer,
    GCN2Conv,
    GCNConv,
    GraphConv,
    GraphSAGE,
    SAGEConv,
)

import graphfathom as gf
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.problem import Problem

WIDTH = 4


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
