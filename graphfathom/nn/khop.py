r"""Aggregation over shells: the nodes at exactly k hops.

The shells of a graph are what :class:`~graphfathom.transforms.KHopShells` adds to it:
``shell_index``, pairs of source and target of shape (2, S), and ``shell_hop``, how many
hops they are apart, of shape (S,), from 1.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from graphfathom.nn.adjacency import Adjacency, gcn_adjacency
from graphfathom.nn.propagation import propagate

__all__ = ["Shells", "gather_shells", "khop_adjacency", "propagate_shells"]


@dataclasses.dataclass(frozen=True, eq=False)
class Shells:
    r"""Matrices :math:`\hat{A}_1, \dots, \hat{A}_K` of the shells of a graph."""

    adjacencies: tuple[Adjacency, ...]

    def __len__(self) -> int:
        return len(self.adjacencies)

    def __getitem__(self, hop: int) -> Adjacency:
        """The matrix of the shell at ``hop`` hops, counted from 1."""
        return self.adjacencies[hop - 1]


def khop_adjacency(
    shell_index: Tensor | None,
    shell_hop: Tensor | None,
    num_nodes: int,
    num_hops: int,
    *,
    add_self_loops: bool = True,
    normalize: bool = True,
    batch: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Shells:
    r"""The matrices that layers of GCN would multiply with, one for each shell.

    Args:
        shell_index: Pairs of source and target, of shape (2, S).
        shell_hop: Hops between them, of shape (S,).
        num_nodes: Number of nodes.
        num_hops: Number of shells K. Beyond the largest distance they are empty.
        add_self_loops: Whether each shell also has the node itself.
        normalize: Whether entries are :math:`1/\sqrt{d_i d_j}` with the degrees in the
            shell, or 1.
        batch: Graph of each node.
        dtype: Precision of the values.

    Raises:
        ValueError: If there are no shells.
    """
    if shell_index is None or shell_hop is None:
        raise ValueError(
            "The data must have `shell_index` and `shell_hop`. Got none: apply "
            f"`KHopShells({num_hops})` of graphfathom.transforms first."
        )
    found = []
    for hop in range(1, num_hops + 1):
        found.append(
            gcn_adjacency(
                shell_index[:, shell_hop == hop],
                None,
                num_nodes,
                add_self_loops=add_self_loops,
                normalize=normalize,
                dtype=dtype,
            )
        )
    return Shells(tuple(found))


def propagate_shells(shells: Shells, x: Tensor) -> Tensor:
    r"""The sum :math:`\sum_k \hat{A}_k X_k`, from shape (K, N, F) to (N, F)."""
    parts = [propagate(a, x_k) for a, x_k in zip(shells.adjacencies, x, strict=True)]
    return torch.stack(parts).sum(0)


def gather_shells(shells: Shells, x: Tensor) -> Tensor:
    r"""The products :math:`\hat{A}_k X`, from shape (N, F) to (K, N, F)."""
    return torch.stack([propagate(a, x) for a in shells.adjacencies])
