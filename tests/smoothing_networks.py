"""Networks for which backward oversmoothing is proved, and some that go without it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from scipy.sparse import csr_array, eye_array
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

import graphfathom as gf
from graphfathom.theory.stochastic import smoothing_rate

__all__ = ["WIDTH", "Dense", "Propagation", "Vanilla", "graph", "identity"]

SIZE, WIDTH = 100, 16

Propagation = Callable[[Tensor, int], csr_array]


class Vanilla(nn.Module):
    """tanh(P X W) as often as it is deep, with orthogonal W, and a linear head."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            GCNConv(WIDTH, WIDTH, normalize=False, bias=False) for _ in range(depth)
        )
        for conv in self.convs:
            nn.init.orthogonal_(conv.lin.weight)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, edge_index, edge_weight).tanh()
        return self.head(x)


class Dense(nn.Module):
    """Linear layers as torch initialises them: the graph is there and not used."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.lins = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        for lin in self.lins:
            x = lin(x).tanh()
        return self.head(x)


def identity(edge_index: Tensor, num_nodes: int) -> csr_array:
    return csr_array(eye_array(num_nodes))


@cache
def graph(
    propagation: Propagation, avg_degree: float, seed: int = 0, homophily: float = 0.8
) -> tuple[Data, float]:
    """A block model with the entries of P as weights of its edges, and lambda."""
    data = gf.datasets.csbm(SIZE, 2, avg_degree, homophily, WIDTH, seed=seed)
    matrix = propagation(data.edge_index, SIZE)
    entries = matrix.tocoo()
    data.edge_index = torch.stack([torch.from_numpy(i).long() for i in entries.coords])
    data.edge_weight = torch.from_numpy(entries.data)
    return data, smoothing_rate(matrix).rate
