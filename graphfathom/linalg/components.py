"""All eigenvalues and singular values of a sparse matrix, component by component."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from graphfathom.linalg.operator import DEFAULT_BYTE_BUDGET

__all__ = [
    "csr_parts",
    "csr_shape",
    "is_symmetric",
    "sparse_eigenvalues",
    "sparse_singular_values",
]


def csr_parts(matrix: csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row pointer, columns and values, which SciPy leaves without types."""
    parts: Any = (matrix.indptr, matrix.indices, matrix.data)
    return parts


def csr_shape(matrix: csr_array) -> tuple[int, int]:
    """Its shape, likewise."""
    shape: Any = matrix.shape
    return shape


def is_symmetric(matrix: csr_array, tol: float = 1e-12) -> bool:
    """Whether a square matrix equals its transpose, up to rounding.

    Args:
        matrix: The matrix.
        tol: Largest difference, relative to the largest entry.
    """
    difference = abs(matrix - matrix.T)
    scale = abs(matrix).max() if matrix.nnz else 0.0
    return difference.nnz == 0 or bool(difference.max() <= tol * scale)


def sparse_eigenvalues(
    matrix: csr_array, *, byte_budget: int = DEFAULT_BYTE_BUDGET
) -> Tensor:
    """All eigenvalues of a square sparse matrix.

    Rows and columns that are not connected form blocks of their own, each of which is
    solved densely: n^3 operations become the sum of the cubes of the blocks.

    Args:
        matrix: Of shape (n, n).
        byte_budget: Largest size of the densest block in float64. Default 1 GiB.

    Returns:
        Of shape (n,), real and ascending if the matrix is symmetric, else complex.

    Raises:
        ValueError: If the matrix is not square, or a block is over the budget.

    Example:
        >>> sparse_eigenvalues(csr_array(np.diag([2.0, 1.0])))
        tensor([1., 2.], dtype=torch.float64)
    """
    _check_square(matrix)
    symmetric = is_symmetric(matrix)
    solve = torch.linalg.eigvalsh if symmetric else torch.linalg.eigvals
    parts = [solve(block) for block in _blocks(matrix, byte_budget)]
    kind = torch.float64 if symmetric else torch.complex128
    values = torch.cat([torch.zeros(0, dtype=kind), *parts])
    return values.sort().values if symmetric else values


def sparse_singular_values(
    matrix: csr_array, *, byte_budget: int = DEFAULT_BYTE_BUDGET
) -> Tensor:
    """All singular values of a square sparse matrix, descending.

    Arguments and errors are those of :func:`sparse_eigenvalues`, whose absolute values
    they are if the matrix is symmetric.
    """
    _check_square(matrix)
    if is_symmetric(matrix):
        values = sparse_eigenvalues(matrix, byte_budget=byte_budget).abs()
    else:
        parts = map(torch.linalg.svdvals, _blocks(matrix, byte_budget))
        values = torch.cat([torch.zeros(0, dtype=torch.float64), *parts])
    return values.sort(descending=True).values


def _blocks(matrix: csr_array, byte_budget: int) -> Iterator[Tensor]:
    count, label = connected_components(matrix, directed=False)
    sizes = np.bincount(label, minlength=count)
    need = 8 * int(sizes.max(initial=0)) ** 2
    if need > byte_budget:
        raise ValueError(
            f"`byte_budget` must be at least {need}, the bytes of the largest block as "
            f"a dense matrix. Got {byte_budget}. Raise it, or estimate the spectrum "
            "from products."
        )
    order = np.argsort(label, kind="stable")
    matrix = csr_array(matrix[order][:, order])
    single = np.flatnonzero(sizes[label[order]] == 1)
    if len(single):  # one by one would take longer than all others together
        diagonal = torch.from_numpy(matrix.diagonal()[single].astype(np.float64))
        yield from diagonal.view(-1, 1, 1)
    begin = 0
    for size in sizes.tolist():
        if size > 1:
            part = matrix[begin : begin + size, begin : begin + size].toarray()
            yield torch.from_numpy(part.astype(np.float64))
        begin += size


def _check_square(matrix: csr_array) -> None:
    m, n = csr_shape(matrix)
    if m != n:
        raise ValueError(f"`matrix` must be square. Got shape ({m}, {n}).")
