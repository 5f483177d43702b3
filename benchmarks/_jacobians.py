"""Single layers on random graphs, and their Jacobians as torch computes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.utils import barabasi_albert_graph, erdos_renyi_graph

import graphfathom as gf

MEAN_DEGREE = 6
FAMILIES = ("Erdos-Renyi", "Barabasi-Albert")


class Layer(nn.Module):
    """One layer and an activation."""

    def __init__(
        self, conv: nn.Module, act: Callable[[Tensor], Tensor] | None = torch.relu
    ) -> None:
        super().__init__()
        self.conv, self.act = conv, act

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Node features to node features."""
        x = self.conv(x, edge_index)
        return x if self.act is None else self.act(x)


def graph(family: str, num_nodes: int, channels: int, seed: int = 0) -> Data:
    """A random graph of mean degree 6 with Gaussian features in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "Erdos-Renyi":
            edge_index = erdos_renyi_graph(num_nodes, MEAN_DEGREE / (num_nodes - 1))
        else:
            edge_index = barabasi_albert_graph(num_nodes, MEAN_DEGREE // 2)
        x = torch.randn(num_nodes, channels, dtype=torch.float64)
    return Data(x=x, y=torch.zeros_like(x), edge_index=edge_index)


def ours(model: nn.Module, data: Data) -> gf.linalg.BlockSparseOperator:
    """From the model alone to its Jacobian, set-up included."""
    trace = gf.capture(gf.Problem(model, data))
    return gf.diagnostics.sparse_jacobian(trace, 1).matrix


def peer(model: nn.Module, data: Data, chunk: int) -> Tensor:
    """The dense Jacobian by ``torch.func.jacrev``, some rows at a time.

    The parameters must not require gradients, or the whole graph is kept.
    """

    def flat(x: Tensor) -> Tensor:
        return model(x.view_as(data.x), data.edge_index).flatten()

    return torch.func.jacrev(flat, chunk_size=chunk)(data.x.flatten())


def difference(matrix: gf.linalg.BlockSparseOperator, dense: Tensor) -> float:
    """Largest difference of any entry, relative to the largest entry."""
    entries = matrix.to_csr()
    largest = 0.0
    for begin in range(0, len(dense), 1000):  # a dense copy would double the memory
        rows = dense[begin : begin + 1000]
        own = torch.from_numpy(entries[begin : begin + 1000].toarray())
        largest = max(largest, float((rows.detach() - own).abs().max()))
    return largest / float(dense.detach().abs().max())
