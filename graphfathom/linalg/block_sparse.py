"""A sparse matrix of dense blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from graphfathom.linalg.operator import DEFAULT_BYTE_BUDGET, AbstractLinearOperator

if TYPE_CHECKING:
    from scipy.sparse import bsr_array, csr_array

__all__ = ["BlockSparseOperator"]

INDEX_BYTES = 4
"""SciPy indexes with 32 bits where they suffice."""


@final
class BlockSparseOperator(AbstractLinearOperator):
    r"""A matrix of :math:`N \times M` blocks of equal size, most of them zero (BSR).

    Block e stands in block row i with ``rowptr[i] <= e < rowptr[i + 1]`` and in block
    column ``col[e]``. A graph layer has one block for each pair of neighbours: its
    Jacobian takes the indices of the graph, not of its entries.

    Args:
        rowptr: Where the blocks of each block row begin, of shape (N + 1,).
        col: Block column of each block, of shape (E,).
        blocks: The blocks, of shape (E, r, c).
        num_block_cols: Number of block columns M.

    Raises:
        ValueError: If the shapes do not fit or a column is out of range.

    Example:
        >>> blocks = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
        >>> rowptr, col = torch.tensor([0, 1, 2]), torch.tensor([1, 0])
        >>> BlockSparseOperator(rowptr, col, blocks, 2).to_dense()
        tensor([[0., 0., 1., 2.],
                [3., 4., 0., 0.]])
    """

    def __init__(
        self, rowptr: Tensor, col: Tensor, blocks: Tensor, num_block_cols: int
    ) -> None:
        if blocks.dim() != 3 or not blocks.is_floating_point():
            raise ValueError(
                "`blocks` must be real floats of shape (E, r, c). Got "
                f"{blocks.dtype} with shape {tuple(blocks.shape)}."
            )
        count = blocks.shape[0]
        if col.shape != (count,) or rowptr.dim() != 1 or int(rowptr[-1]) != count:
            raise ValueError(
                f"`rowptr` must end at {count}, the number of blocks, and `col` hold "
                f"one column for each. Got {int(rowptr[-1])} and {tuple(col.shape)}."
            )
        if count and not 0 <= int(col.min()) <= int(col.max()) < num_block_cols:
            raise ValueError(
                f"`col` must lie in [0, {num_block_cols - 1}], the block columns. Got "
                f"values in [{int(col.min())}, {int(col.max())}]."
            )
        self.rowptr, self.col, self.blocks = rowptr, col, blocks
        self.num_block_cols = num_block_cols
        rows = torch.arange(len(rowptr) - 1, device=col.device)
        self._row = rows.repeat_interleave(rowptr.diff())

    @property
    def shape(self) -> tuple[int, int]:
        """Sizes of the matrix, not of its blocks."""
        _, r, c = self.blocks.shape
        return (len(self.rowptr) - 1) * r, self.num_block_cols * c

    @property
    def dtype(self) -> torch.dtype:
        """Type of the blocks."""
        return self.blocks.dtype

    @property
    def device(self) -> torch.device:
        """Place of the blocks."""
        return self.blocks.device

    @property
    def row(self) -> Tensor:
        """Block row of each block, of shape (E,)."""
        return self._row

    @property
    def nbytes(self) -> int:
        """Bytes of blocks and indices."""
        parts = (self.rowptr, self.col, self.blocks)
        return sum(part.numel() * part.element_size() for part in parts)

    def matvec(self, v: Tensor) -> Tensor:
        """The blocks times the parts of ``v``."""
        _, r, c = self.blocks.shape
        parts = v.reshape(self.num_block_cols, c, 1)[self.col]
        products = torch.bmm(self.blocks, parts).squeeze(-1)
        out = products.new_zeros(len(self.rowptr) - 1, r)
        return out.index_add(0, self._row, products).flatten()

    def rmatvec(self, w: Tensor) -> Tensor:
        """The transposed blocks times the parts of ``w``."""
        _, r, c = self.blocks.shape
        parts = w.reshape(len(self.rowptr) - 1, r, 1)[self._row]
        products = torch.bmm(self.blocks.mT, parts).squeeze(-1)
        out = products.new_zeros(self.num_block_cols, c)
        return out.index_add(0, self.col, products).flatten()

    def price(self, layout: str) -> int:
        """Bytes that a conversion allocates.

        Args:
            layout: ``"bsr"``: the blocks are shared; ``"csr"``: every entry of a block
                has a value and an index of its own; ``"dense"``.

        Raises:
            ValueError: If there is no such layout.
        """
        m, n = self.shape
        entries, size = self.blocks.numel(), self.blocks.element_size()
        prices = {
            "bsr": (self.rowptr.numel() + self.col.numel()) * INDEX_BYTES,
            "csr": entries * (size + INDEX_BYTES) + (m + 1) * INDEX_BYTES,
            "dense": m * n * size,
        }
        if layout not in prices:
            raise ValueError(
                f"`layout` must be one of {', '.join(prices)}. Got {layout!r}."
            )
        return prices[layout]

    def to_bsr(self) -> bsr_array:
        """The matrix for SciPy; on a CPU the blocks are shared, not copied."""
        from scipy.sparse import bsr_array

        small = max(self.blocks.shape[0], *self.shape) < 2**31
        index = torch.int32 if small else torch.int64
        parts = (self.blocks.detach(), self.col.to(index), self.rowptr.to(index))
        arrays = tuple(part.cpu().numpy() for part in parts)
        # SciPy's stub has no block arrays.
        return bsr_array(arrays, shape=self.shape)  # pyright: ignore

    def to_csr(self, *, byte_budget: int = DEFAULT_BYTE_BUDGET) -> csr_array:
        """The matrix for SciPy, entry by entry.

        Args:
            byte_budget: Largest size of the result. Default 1 GiB, as ``to_dense``.

        Raises:
            ValueError: If it would be larger; nothing was allocated then.
        """
        price = self.price("csr")
        if price > byte_budget:
            raise ValueError(
                f"`byte_budget` must be at least {price}, the bytes of the CSR form. "
                f"Got {byte_budget}. Raise it, or use `to_bsr`, which copies nothing."
            )
        return self.to_bsr().tocsr()
