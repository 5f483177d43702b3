"""Deep linear networks whose products are known in closed form."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.problem import Problem

__all__ = ["ScaledChain", "complete_graph", "ring", "scaled_chain"]


class ScaledChain(nn.Module):
    """One graph convolution, called again and again: H <- A H (c I).

    It is shared because a thousand modules take ten times longer to trace.
    """

    def __init__(
        self, width: int, depth: int, scale: float, *, self_loops: bool = True
    ) -> None:
        super().__init__()
        self.conv = GCNConv(width, width, bias=False, add_self_loops=self_loops)
        self.conv.lin.weight.data = scale * torch.eye(width)
        self.depth = depth

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for _ in range(self.depth):
            x = self.conv(x, edge_index)
        return x


def with_targets(num_nodes: int, edge_index: Tensor, width: int) -> Data:
    generator = torch.Generator().manual_seed(0)
    kind = {"generator": generator, "dtype": torch.float64}
    x, y = torch.randn(2, num_nodes, width, **kind).to(torch.get_default_dtype())
    return Data(x=x, y=y, edge_index=edge_index)


def complete_graph(num_nodes: int, width: int = 2) -> Data:
    """Each node beside each other: with self-loops a GCN averages over all of them."""
    pairs = torch.cartesian_prod(torch.arange(num_nodes), torch.arange(num_nodes)).t()
    return with_targets(num_nodes, pairs[:, pairs[0] != pairs[1]], width)


def ring(num_nodes: int, width: int = 2) -> Data:
    """A 2-regular graph."""
    i = torch.arange(num_nodes)
    j = (i + 1) % num_nodes
    edges = torch.stack([torch.cat([i, j]), torch.cat([j, i])])
    return with_targets(num_nodes, edges, width)


def scaled_chain(
    depth: int, scale: float, data: Data, *, dtype: torch.dtype | None = torch.float64
) -> Trace:
    """The trace of a chain on a graph, in float64 unless told otherwise."""
    model = ScaledChain(data.x.size(1), depth, scale)
    return capture(Problem(model, data), dtype=dtype)
