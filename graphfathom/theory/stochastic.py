r"""Symmetric stochastic propagations, for which backward oversmoothing is proved.

A matrix P with :math:`P = P^\top`, :math:`P 1 = 1` and entries >= 0 has eigenvalues in
:math:`[-1, 1]`. Those of modulus 1 belong to what it never smooths: one eigenvector for
each component. The largest modulus of all others, :math:`\lambda`, is the rate at which
it smooths all else.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.sparse import coo_array, csr_array, diags_array, eye_array
from torch import Tensor

from graphfathom.linalg.components import csr_shape, is_symmetric, sparse_eigenvalues

__all__ = ["Smoothing", "laplacian_walk", "sinkhorn", "smoothing_rate"]

MAX_STEPS = 100_000
TOLERANCE = 1e-12
"""How far the row sums may be from 1."""
UNIT = 1e-9
"""Eigenvalues so near to 1 in modulus belong to what is never smoothed."""


@dataclasses.dataclass(frozen=True)
class Smoothing:
    """How fast a symmetric stochastic matrix smooths."""

    rate: float
    r"""Largest modulus :math:`\lambda` below 1; 0 if there is none."""
    multiplicity: int
    """How often the eigenvalue 1 occurs: the number of components."""
    alternating: int
    """How often -1 occurs: bipartite components, which are never smoothed either."""


def laplacian_walk(edge_index: Tensor, num_nodes: int) -> csr_array:
    r"""The matrix :math:`P = I - (D - A) / (d_\mathrm{max} + 1)`.

    Args:
        edge_index: Edges of an undirected graph, both directions, of shape
            :math:`(2, E)`. Loops and repeated edges count once.
        num_nodes: Number of nodes.

    Raises:
        ValueError: If an edge is stored in one direction only.

    Example:
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> laplacian_walk(path, 3).toarray().round(2).tolist()
        [[0.67, 0.33, 0.0], [0.33, 0.33, 0.33], [0.0, 0.33, 0.67]]
    """
    adjacency = _adjacency(edge_index, num_nodes)
    degree = adjacency.sum(axis=1)
    top = float(np.max(degree, initial=0)) + 1
    return csr_array(eye_array(num_nodes) + (adjacency - diags_array(degree)) / top)


def sinkhorn(edge_index: Tensor, num_nodes: int) -> csr_array:
    r"""The matrix :math:`P = D_x (A + I) D_x` with rows and columns that sum to 1.

    The scales are the fixed point of :math:`x \leftarrow \sqrt{x / ((A + I) x)}`, which
    exists and is unique, as the diagonal is positive.

    Args:
        edge_index: As in :func:`laplacian_walk`.
        num_nodes: Number of nodes.

    Raises:
        ValueError: If an edge is stored in one direction only, or the row sums are not
            1 to 12 digits after 100,000 steps.

    Example:
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> sinkhorn(path, 3).sum(axis=1).round(9).tolist()
        [1.0, 1.0, 1.0]

    References:
        | The Sinkhorn-Knopp Algorithm: Convergence and Applications (Knight, 2008)
        | https://doi.org/10.1137/060659624
    """
    matrix = csr_array(_adjacency(edge_index, num_nodes) + eye_array(num_nodes))
    x = np.ones(num_nodes)
    for _ in range(MAX_STEPS):
        sums = x * (matrix @ x)
        if num_nodes == 0 or np.abs(sums - 1).max() <= TOLERANCE:
            return csr_array(diags_array(x) @ matrix @ diags_array(x))
        x = x / np.sqrt(sums)
    raise ValueError(
        f"`edge_index` must be a graph that {MAX_STEPS:,} steps balance. Got row sums "
        f"that differ from 1 by {np.abs(sums - 1).max():.1e}: use `laplacian_walk`."
    )


def smoothing_rate(matrix: csr_array) -> Smoothing:
    r"""The number :math:`\lambda` of a symmetric stochastic matrix.

    All eigenvalues are found, by component, so a connected graph should have no more
    than some thousand nodes.

    Args:
        matrix: The matrix P, of shape (n, n).

    Raises:
        ValueError: If it is not symmetric and stochastic, or too large.

    Example:
        >>> ring = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
        >>> found = smoothing_rate(sinkhorn(torch.cat([ring, ring.flip(0)], 1), 4))
        >>> round(found.rate, 6), found.multiplicity
        (0.333333, 1)
    """
    if csr_shape(matrix)[0] != csr_shape(matrix)[1] or not is_symmetric(matrix, 1e-9):
        raise ValueError(
            "`matrix` must be symmetric. Got one that is not: take `sinkhorn` or "
            "`laplacian_walk` of an undirected graph."
        )
    sums = np.asarray(matrix.sum(axis=1)).ravel()
    if np.abs(sums - 1).max(initial=0) > UNIT or matrix.min() < 0:
        raise ValueError(
            "`matrix` must have entries >= 0 and rows that sum to 1. Got a smallest "
            f"entry of {matrix.min():.3g} and sums from {sums.min():.3g} to "
            f"{sums.max():.3g}."
        )
    values = sparse_eigenvalues(matrix).real
    below = values[values.abs() < 1 - UNIT].abs()
    return Smoothing(
        float(below.max()) if len(below) else 0.0,
        int((values > 1 - UNIT).sum()),
        int((values < UNIT - 1).sum()),
    )


def _adjacency(edge_index: Tensor, num_nodes: int) -> csr_array:
    """Ones where there is an edge, without loops."""
    row, col = edge_index.cpu().numpy()
    kept = row != col
    ends = row[kept], col[kept]
    shape = (num_nodes, num_nodes)
    matrix = csr_array(coo_array((np.ones(kept.sum()), ends), shape=shape))
    matrix.data[:] = 1
    if not is_symmetric(matrix):
        raise ValueError(
            "`edge_index` must hold both directions of each edge. Got a directed graph:"
            " apply `torch_geometric.utils.to_undirected` first."
        )
    return matrix
