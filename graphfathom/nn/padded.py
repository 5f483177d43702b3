"""The adjacency of a batch of graphs as one dense block for each graph."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from graphfathom.nn.modes import is_observed

__all__ = ["PaddedAdjacency", "multiply", "padded"]

WORTH = {torch.float32: (1.0, 64), torch.float64: (2.0, 16)}
"""Places of the blocks for one entry, at most, and size of a block, at least.

Measured in steps of ten layers with the matrix built in each, on one core, for blocks
of 16 to 256 nodes, 16 to 64 features and densities from 0.16 to 0.8. In float64 dense
work was the faster from a density of 0.5 on, up to 1.4 times; in float32 below 64 nodes
it never was, and above only close to a density of 1. Other devices and precisions were
not measured, and stay sparse.
"""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PaddedAdjacency:
    r"""A block-diagonal matrix :math:`A`, its G blocks padded to the largest.

    It is used as an :class:`~graphfathom.nn.Adjacency` is. Its product is a dense one:
    what is not finite reaches all nodes of its graph, and not the neighbours alone.

    Args:
        value: The blocks, of shape :math:`(G, n, n)`, row by column, 0 in the padding.
        node: A node for each place of the blocks, of shape :math:`(G n)`: in the
            padding any node of the same graph. None if there is no padding.
        place: The place of each node, of shape :math:`(N)`. None likewise.

    Example:
        >>> triangles = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3]])
        >>> batch = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> padded(*triangles, torch.ones(6), batch)
        PaddedAdjacency(num_nodes=6, num_graphs=2, size=3, dtype=torch.float32)
    """

    # No name begins another, as in Adjacency.
    value: Tensor
    node: Tensor | None = None
    place: Tensor | None = None

    @property
    def num_nodes(self) -> int:
        """Number of nodes :math:`N`."""
        if self.place is None:
            return self.value.shape[0] * self.value.shape[1]
        return self.place.shape[0]

    @property
    def symmetric(self) -> bool:
        """False: the blocks are transposed where they are needed so."""
        return False

    def t(self) -> PaddedAdjacency:
        """The transpose, which shares all tensors."""
        return PaddedAdjacency(self.value.mT, self.node, self.place)

    def to(self, *args: Any, **kwargs: Any) -> PaddedAdjacency:
        """The matrix with its values as :meth:`torch.Tensor.to` would have them."""
        value = self.value.to(*args, **kwargs)
        indices = (self.node, self.place)
        moved = (None if i is None else i.to(value.device) for i in indices)
        return PaddedAdjacency(value, *moved)

    def to_dense(self) -> Tensor:
        """The matrix as a tensor of shape :math:`(N, N)`."""
        dense = torch.block_diag(*self.value)
        return dense if self.place is None else dense[self.place][:, self.place]

    def __repr__(self) -> str:
        count, size, _ = self.value.shape
        return (
            f"{type(self).__name__}(num_nodes={self.num_nodes}, num_graphs={count}, "
            f"size={size}, dtype={self.value.dtype})"
        )


torch.export.register_dataclass(
    PaddedAdjacency, serialized_type_name="graphfathom.nn.PaddedAdjacency"
)


def multiply(adjacency: PaddedAdjacency, x: Tensor) -> Tensor:
    """Matrix times features of shape (N, F), of one dtype, without checks."""
    count, size, _ = adjacency.value.shape
    if adjacency.node is not None:
        x = x.index_select(0, adjacency.node)
    # Half precision is added up in float32, as the sparse product does.
    wide = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        blocks = x.to(wide).reshape(count, size, x.shape[1])
        out = torch.bmm(adjacency.value.to(wide), blocks).flatten(0, 1).to(x.dtype)
    return out if adjacency.place is None else out.index_select(0, adjacency.place)


def padded(
    source: Tensor, target: Tensor, value: Tensor, batch: Tensor
) -> PaddedAdjacency | None:
    """The blocks of a batch, if it is one: sorted, and no edge between two graphs.

    Args:
        source: Column of each entry.
        target: Row of each entry.
        value: Value of each entry. Those of repeated entries are added up.
        batch: Graph of each node.
    """
    if not len(batch) or not bool((batch.diff() >= 0).all()):
        return None
    graph = batch.index_select(0, target)
    if not torch.equal(graph, batch.index_select(0, source)):
        return None
    counts = torch.bincount(batch)
    size, starts = int(counts.max()), counts.cumsum(0) - counts
    local = torch.arange(len(batch), device=batch.device) - starts[batch]
    row, column = local.index_select(0, target), local.index_select(0, source)
    blocks = value.new_zeros(len(counts) * size * size)
    blocks = blocks.index_add(0, (graph * size + row) * size + column, value)
    blocks = blocks.view(len(counts), size, size)
    if len(blocks) * size == len(batch):
        return PaddedAdjacency(blocks)
    slots = torch.arange(size, device=batch.device)
    # A graph without nodes has no node of its own: any does.
    node = starts[:, None] + torch.minimum(slots, counts[:, None] - 1).clamp(min=0)
    node = node.flatten().clamp(max=len(batch) - 1)
    return PaddedAdjacency(blocks, node, batch * size + local)


def pays(batch: Any, num_nodes: int, num_entries: int, dtype: torch.dtype) -> bool:
    """Whether dense work on the graphs of a batch is the faster."""
    if (
        torch.compiler.is_compiling()  # which cannot know the sizes
        or torch._C._are_functorch_transforms_active()
        or is_observed()
        or not isinstance(batch, Tensor)
        or batch.dtype != torch.long
        or batch.shape != (num_nodes,)
        or batch.device.type != "cpu"
        or dtype not in WORTH
        or num_nodes == 0
        or int(batch.min()) < 0
    ):
        return False
    counts = torch.bincount(batch)
    size = int(counts.max())
    places = len(counts) * size * size
    most, smallest = WORTH[dtype]
    return size >= smallest and places <= most * num_entries
