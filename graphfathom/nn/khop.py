r"""Aggregation over shells: the nodes at exactly k hops.

The shells of a graph are what :class:`~graphfathom.transforms.KHopShells` adds to it:
``shell_index``, pairs of source and target of shape (2, S), and ``shell_hop``, how many
hops they are apart, of shape (S,), from 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from graphfathom.nn.adjacency import Adjacency, compressed, gcn_entries
from graphfathom.nn.propagation import propagate_linear
from graphfathom.nn.spmm import spmm

__all__ = [
    "Shells",
    "gather_shells",
    "khop_adjacency",
    "propagate_linear_shells",
    "propagate_shells",
]

LANES = 16
"""Widths that are multiples of it are quicker to multiply on a CPU: products of 15,018
rows with 30 columns took 1.1 ms, with 32 columns 0.8 ms, forward and backward."""


@dataclasses.dataclass(frozen=True, eq=False)
class Shells:
    r"""Matrices :math:`\hat{A}_1, \dots, \hat{A}_K` of the shells of a graph.

    They are sparse: K shells, which are disjoint, have a density of at most 1/K on
    average, and dense blocks pay from 1/2 on (:mod:`graphfathom.nn.padded`).

    Args:
        blocks: The block-diagonal matrix of them all, of K N rows.
        num_hops: Number of shells K.
    """

    blocks: Adjacency
    num_hops: int
    # Not a cached_property: torch.compile does not enter its lock.
    _made: dict[str, Adjacency] = dataclasses.field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return self.num_hops

    @property
    def num_nodes(self) -> int:
        """Number of nodes :math:`N`."""
        return self.blocks.num_nodes // self.num_hops

    def __getitem__(self, hop: int) -> Adjacency:
        """The matrix of the shell at ``hop`` hops, counted from 1."""
        if not 1 <= hop <= self.num_hops:
            raise IndexError(f"`hop` must be in [1, {self.num_hops}]. Got {hop}.")
        cut = self._masked if torch.compiler.is_compiling() else self._cut
        own = cut(hop, self.blocks)
        return Adjacency(*own, *(() if self.symmetric else cut(hop, self.blocks.t())))

    @property
    def symmetric(self) -> bool:
        """Whether every matrix serves as its own transpose."""
        return self.blocks.symmetric

    @property
    def tall(self) -> Adjacency:
        """The matrices below one another, of shape (K N, N)."""
        if "tall" not in self._made:
            a = self.blocks
            transpose = self._merged(a.t())
            columns = a.col % self.num_nodes
            self._made["tall"] = Adjacency(a.rowptr, columns, a.value, *transpose)
        return self._made["tall"]

    @property
    def wide(self) -> Adjacency:
        """The matrices side by side, of shape (N, K N)."""
        if self.symmetric:
            return self.tall.t()
        if "wide" not in self._made:
            t = self.blocks.t()
            transpose = t.rowptr, t.col % self.num_nodes, t.value
            self._made["wide"] = Adjacency(*self._merged(self.blocks), *transpose)
        return self._made["wide"]

    def _cut(self, hop: int, blocks: Adjacency) -> tuple[Tensor, Tensor, Tensor]:
        """``rowptr``, ``col`` and ``value`` of one block."""
        row, rows = (hop - 1) * self.num_nodes, self.num_nodes
        rowptr = blocks.rowptr[row : row + rows + 1]
        first, last = int(rowptr[0]), int(rowptr[-1])
        return rowptr - first, blocks.col[first:last] - row, blocks.value[first:last]

    def _masked(self, hop: int, blocks: Adjacency) -> tuple[Tensor, Tensor, Tensor]:
        """The same with zeros for the other shells: no size depends on the data.

        So it compiles, at the price of K times the work.
        """
        rowptr, col, value = self._merged(blocks)
        own = col // self.num_nodes == hop - 1
        return rowptr, col % self.num_nodes, torch.where(own, value, 0.0)

    def _merged(self, blocks: Adjacency) -> tuple[Tensor, Tensor, Tensor]:
        """The rows of one node in all blocks as one row, shell after shell."""
        counts, ends = blocks.rowptr.diff(), blocks.rowptr[1:]
        by_node = counts.view(self.num_hops, self.num_nodes).t()
        new_ends = by_node.flatten().cumsum(0)
        moved = new_ends.view(by_node.shape).t().flatten() - ends
        length = blocks.col.shape[0]
        place = moved.repeat_interleave(counts, output_size=length)
        place = place + torch.arange(length, device=place.device)
        rowptr = torch.cat([ends.new_zeros(1), by_node.sum(1).cumsum(0)])
        col = torch.empty_like(blocks.col).index_copy(0, place, blocks.col)
        value = torch.empty_like(blocks.value).index_copy(0, place, blocks.value)
        return rowptr, col, value


def khop_adjacency(
    shell_index: Tensor | None,
    shell_hop: Tensor | None,
    num_nodes: int,
    num_hops: int,
    *,
    add_self_loops: bool = True,
    normalize: bool = True,
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
        dtype: Precision of the values. torch's default if None.

    Raises:
        ValueError: If there are no shells, or ``num_hops`` is below 1.
    """
    if shell_index is None or shell_hop is None:
        raise ValueError(
            "The data must have `shell_index` and `shell_hop`. Got none: apply "
            f"`KHopShells({num_hops})` of graphfathom.transforms first."
        )
    if num_hops < 1:
        raise ValueError(f"`num_hops` must be at least 1. Got {num_hops}.")
    pairs, weight = _wanted(shell_index, shell_hop, num_hops, dtype)
    # One copy of the graph for each shell.
    entries = gcn_entries(
        pairs[:2] + pairs[2] * num_nodes,
        weight,
        num_nodes * num_hops,
        add_self_loops=add_self_loops,
        normalize=normalize,
        dtype=dtype,
    )
    return Shells(compressed(*entries, constant=True), num_hops)


def propagate_shells(shells: Shells, x: Tensor) -> Tensor:
    r"""The sum :math:`\sum_k \hat{A}_k X_k`, from shape (K, N, F) to (N, F)."""
    _check(x, (len(shells), shells.num_nodes))
    dtype = torch.promote_types(shells.blocks.value.dtype, x.dtype)
    return spmm(shells.wide.to(dtype), x.to(dtype).flatten(0, 1))


def propagate_linear_shells(
    shells: Shells, x: Sequence[Tensor], weight: Tensor
) -> Tensor:
    r"""The sum :math:`\sum_k \hat{A}_k X_k W_k` over the first shells.

    Shell by shell, what is on its way stays in the cache: one product for all of them,
    of as many times the rows, takes longer.

    Args:
        shells: The matrices of K shells.
        x: The features :math:`X_k`, of shape (N, F), of the first K' shells; the same
            tensor may occur more than once.
        weight: The weights :math:`W_k`, of shape (K', F, F').

    Raises:
        ValueError: If there are not as many features as weights, 1 to K.
    """
    if not 1 <= len(x) == len(weight) <= len(shells):
        raise ValueError(
            f"`x` and `weight` must have one entry for each of the first 1 to "
            f"{len(shells)} shells. Got {len(x)} and {len(weight)}."
        )
    width = weight.shape[2]
    below, right = (_padding(size, x[0]) for size in weight.shape[1:])
    weight = F.pad(weight, (0, right, 0, below))
    padded = {id(part): F.pad(part, (0, below)) if below else part for part in x}
    first, *others = (
        propagate_linear(shells[k], padded[id(part)], matrix.t())
        for k, (part, matrix) in enumerate(zip(x, weight.unbind(), strict=True), 1)
    )
    return sum(others, first)[:, :width]


def _padding(size: int, like: Tensor) -> int:
    """Columns of zeros that make products quicker: an eighth more at most."""
    rest = -size % LANES
    return rest if like.device.type == "cpu" and 8 * rest <= size else 0


def gather_shells(shells: Shells, x: Tensor) -> Tensor:
    r"""The products :math:`\hat{A}_k X`, from shape (N, F) to (K, N, F)."""
    _check(x, (shells.num_nodes,))
    dtype = torch.promote_types(shells.blocks.value.dtype, x.dtype)
    out = spmm(shells.tall.to(dtype), x.to(dtype))
    return out.view(len(shells), *x.shape)


def _wanted(
    shell_index: Tensor, shell_hop: Tensor, num_hops: int, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor | None]:
    """Source, target and shell from 0 of the pairs within reach, and their weights."""
    pairs = torch.stack([*shell_index, shell_hop.clamp(1, num_hops) - 1])
    inside = (shell_hop >= 1) & (shell_hop <= num_hops)
    if torch.compiler.is_compiling():  # the number of pairs must not depend on the data
        return pairs, inside.to(dtype or torch.get_default_dtype())
    return (pairs if bool(inside.all()) else pairs[:, inside]), None


def _check(x: Tensor, rows: tuple[int, ...]) -> None:
    if x.shape[:-1] != rows:
        wanted = ", ".join(map(str, rows))
        raise ValueError(f"`x` must have shape ({wanted}, F). Got {tuple(x.shape)}.")
