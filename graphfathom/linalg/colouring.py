r"""Groups of rows and columns by which a sparse matrix is read from few products.

Rows that have no column in common may be summed: of :math:`w^\top A`, with :math:`w`
the indicator of such a group, every entry belongs to one row. A column with many
entries forbids all groups; it is read by a product :math:`A v` instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from graphfathom.linalg.components import csr_parts, csr_shape

__all__ = ["Colouring", "bicolour", "colour_rows"]


@dataclass(frozen=True, eq=False)
class Colouring:
    """A plan to read every entry of a sparse matrix."""

    rows: np.ndarray
    """Group of each row, -1 for a row that is read by columns alone, of shape (m,)."""
    columns: np.ndarray
    """Group of each column, -1 for a column that is read by rows, of shape (n,)."""

    @property
    def num_row_groups(self) -> int:
        """Number of products with the transpose."""
        return int(self.rows.max(initial=-1)) + 1

    @property
    def num_column_groups(self) -> int:
        """Number of products with the matrix."""
        return int(self.columns.max(initial=-1)) + 1


def colour_rows(pattern: csr_array) -> np.ndarray:
    """Groups of rows without a common column, greedily, the fullest rows first.

    Args:
        pattern: Matrix of shape (m, n) whose stored entries count, also zeros.

    Returns:
        Group of each row, -1 for an empty row, of shape (m,). There are at least as
        many groups as the fullest column has entries.

    Example:
        >>> colour_rows(csr_array(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])))
        array([0, 1, 0])

    References:
        | What Color Is Your Jacobian? Graph Coloring for Computing Derivatives
          (Gebremedhin, Manne and Pothen, 2005)
    """
    rowptr, col = (part.tolist() for part in csr_parts(pattern)[:2])
    groups = np.full(len(rowptr) - 1, -1)
    # Bit g of `taken[j]`: a row of group g has an entry in column j.
    taken = [0] * csr_shape(pattern)[1]
    for i in np.argsort(-np.diff(rowptr), kind="stable").tolist():
        columns = col[rowptr[i] : rowptr[i + 1]]
        if not columns:
            continue
        used = 0
        for j in columns:
            used |= taken[j]
        free = ~used & (used + 1)  # the lowest bit that is not set
        groups[i] = free.bit_length() - 1
        for j in columns:
            taken[j] |= free
    return groups


def bicolour(
    pattern: csr_array, row_price: float = 1.0, column_price: float = 1.0
) -> Colouring:
    """The cheapest plan found: crowded columns by themselves, the rest by rows.

    Which columns have many entries is tried out: those with more than a half, a
    quarter, ... of the fullest one's, none of them and all. A star of n nodes takes
    three groups and not n.

    Args:
        pattern: As in :func:`colour_rows`.
        row_price: Price of one row group.
        column_price: Price of one column group.

    Returns:
        The plan.

    Raises:
        ValueError: If a price is not positive.
    """
    if not (row_price > 0 and column_price > 0):
        raise ValueError(
            "`row_price` and `column_price` must be positive. Got "
            f"{row_price} and {column_price}."
        )
    plans = [_plan(pattern, limit) for limit in _limits(pattern)]
    return min(
        plans,
        key=lambda plan: (
            row_price * plan.num_row_groups + column_price * plan.num_column_groups
        ),
    )


def _limits(pattern: csr_array) -> Iterator[int]:
    limit = int(_column_counts(pattern).max(initial=0))
    yield limit
    while limit:
        limit //= 2
        yield limit


def _plan(pattern: csr_array, limit: int) -> Colouring:
    full = _column_counts(pattern) > limit
    columns = colour_rows(_kept(pattern, full).T.tocsr())
    return Colouring(colour_rows(_kept(pattern, ~full)), columns)


def _column_counts(pattern: csr_array) -> np.ndarray:
    return np.bincount(csr_parts(pattern)[1], minlength=csr_shape(pattern)[1])


def _kept(pattern: csr_array, columns: np.ndarray) -> csr_array:
    """The pattern without the other columns, of the same shape."""
    rowptr, col, _ = csr_parts(pattern)
    keep = columns[col]
    before = np.concatenate([[0], np.cumsum(keep)])
    parts = (np.ones(int(before[-1])), col[keep], before[rowptr])
    return csr_array(parts, shape=pattern.shape)
