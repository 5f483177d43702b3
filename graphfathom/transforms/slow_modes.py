"""The modes that a diffusion on a graph forgets last, which carry its bottlenecks."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.linalg import eigh
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import lobpcg

__all__ = ["slow_modes"]

# Up to this size all eigenvectors of a dense matrix take a fraction of a second.
DENSE = 500
# Cells of the coarse graph the iteration starts from.
CELLS = 1000
ITERATIONS = 20


def slow_modes(adjacency: csr_array, rank: int) -> tuple[np.ndarray, np.ndarray]:
    r"""The least eigenvalues of the Laplacian above 0 and their eigenvectors.

    Exact up to 500 nodes or where ``rank`` is a fifth of the nodes. Else a fixed number
    of LOBPCG iterations, from the modes of a graph of 1,000 cells; values and vectors
    are then exact on the subspace found (Rayleigh-Ritz). On a grid of 100,000 nodes
    the least of 32 values is 5 % too large.

    Args:
        adjacency: Symmetric, of a connected graph, of shape :math:`(N, N)`.
        rank: Number of modes; at most :math:`N - 1` are returned.

    Returns:
        Eigenvalues in ascending order and orthonormal vectors in columns.

    Example:
        >>> import numpy as np
        >>> path = csr_array(np.array([[0., 1, 0], [1, 0, 1], [0, 1, 0]]))
        >>> slow_modes(path, rank=5)[0].round(6).tolist()
        [1.0, 3.0]
    """
    degree = adjacency.sum(axis=1)
    size = len(degree)
    rank = min(rank, size - 1)
    laplacian = (diags_array(degree) - adjacency).tocsr()
    if size <= DENSE or 5 * rank >= size:
        return eigh(laplacian.toarray(), subset_by_index=[1, rank])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of vectors that have not yet converged
        modes = lobpcg(
            laplacian,
            _coarse_modes(adjacency, laplacian, rank),
            M=diags_array(1 / degree),
            Y=np.ones((size, 1)),
            tol=0.0,
            maxiter=ITERATIONS,
            largest=False,
        )[1]
    modes = np.linalg.qr(modes - modes.mean(axis=0))[0]
    values, mixture = eigh(modes.T @ (laplacian @ modes))
    return values, modes @ mixture


def _coarse_modes(adjacency: csr_array, laplacian: csr_array, rank: int) -> np.ndarray:
    """Modes of the graph of cells, constant on each: a node joins its nearest seed."""
    size = len(laplacian.diagonal())
    number = min(size, max(CELLS, 2 * rank))
    seeds = np.sort(np.random.default_rng(0).permutation(size)[:number])
    nearest = dijkstra(
        adjacency,
        indices=seeds,
        unweighted=True,
        min_only=True,
        return_predecessors=True,
    )[2]
    cell = np.searchsorted(seeds, nearest)
    height = np.bincount(cell, minlength=number)[cell] ** -0.5
    lift = csr_array((height, (np.arange(size), cell)), shape=(size, number))
    coarse = (lift.T @ laplacian @ lift).toarray()
    return lift @ eigh(coarse, subset_by_index=[1, rank])[1]
