r"""Which new edges lower the effective resistance of a graph most, one after another.

An edge between u and v lowers the total resistance of a component of n nodes by

.. math:: n \, \frac{B_{uv}^2}{1 + R_{uv}}, \qquad R_{uv} = b^\top L^+ b, \quad
    B_{uv} = \| L^+ b \|, \quad b = e_u - e_v,

and turns :math:`L^+` into :math:`L^+ - L^+ b b^\top L^+ / (1 + R_{uv})`. Here
:math:`L^+ = \Phi C \Phi^\top` on the slowest modes :math:`\Phi`.
"""

from __future__ import annotations

import heapq

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from graphfathom.transforms.slow_modes import slow_modes

__all__ = ["shortcuts"]

# Pairs looked at for one edge: all of them up to 1,000 nodes.
PAIRS = 1_000_000
# Nodes whose pairs with all others are looked at, in larger graphs.
FEWEST = 64


def shortcuts(adjacency: csr_array, num_edges: int, rank: int) -> np.ndarray:
    """New edges, each inside a component, in the order in which they were chosen.

    Equally good pairs are taken by the order of the nodes. With ``rank`` at least the
    number of nodes less one and up to 1,000 nodes, each choice is the best there is.

    Args:
        adjacency: Symmetric pattern without diagonal, of shape :math:`(N, N)`.
        num_edges: Number of edges; fewer are returned if there is no room for them.
        rank: Number of modes kept for each component.

    Returns:
        Ends of the edges, of shape :math:`(2, K)`.

    Example:
        >>> path = csr_array(np.eye(5, k=1) + np.eye(5, k=-1))
        >>> shortcuts(path, num_edges=1, rank=4)
        array([[0],
               [4]])
    """
    number, label = connected_components(adjacency, directed=False)
    order = np.argsort(label, kind="stable")
    members = np.split(order, np.bincount(label, minlength=number).cumsum()[:-1])
    # A component of two nodes has no pair left to join.
    parts = [_Component(nodes, adjacency, rank) for nodes in members if len(nodes) > 2]
    heap = [(-part.gain, i) for i, part in enumerate(parts) if part.gain > -np.inf]
    heapq.heapify(heap)
    chosen: list[tuple[int, int]] = []
    while heap and len(chosen) < num_edges:
        part = parts[heap[0][1]]
        chosen.append(part.take())
        if part.gain > -np.inf:
            heapq.heapreplace(heap, (-part.gain, heap[0][1]))
        else:
            heapq.heappop(heap)
    return np.array(chosen, dtype=np.int64).reshape(-1, 2).T


class _Component:
    """A connected component, and the edge that would help it most."""

    def __init__(self, nodes: np.ndarray, adjacency: csr_array, rank: int) -> None:
        self.nodes = nodes
        self.adjacency = adjacency[nodes][:, nodes].astype(float)
        self.rank = min(rank, len(nodes) - 1)
        values, self.modes = slow_modes(self.adjacency, self.rank)
        self.inverse = np.diag(1 / values)
        self.num_taken = 0
        self.gain, self.pair = self._search()

    def take(self) -> tuple[int, int]:
        """Add the best edge and look for the next."""
        u, v = self.pair
        size = len(self.nodes)
        both = (np.ones(2), ([u, v], [v, u]))
        self.adjacency = self.adjacency + csr_array(both, shape=(size, size))
        self.num_taken += 1
        # New edges mend the slowest modes; others are then the slowest.
        is_partial = self.rank < size - 1
        if is_partial and self.num_taken % max(1, self.rank // 2) == 0:
            values, self.modes = slow_modes(self.adjacency, self.rank)
            self.inverse = np.diag(1 / values)
        else:
            step = self.modes[u] - self.modes[v]
            shift = self.inverse @ step
            self.inverse -= np.outer(shift, shift) / (1 + step @ shift)
        self.gain, self.pair = self._search()
        return int(self.nodes[u]), int(self.nodes[v])

    def _search(self) -> tuple[float, tuple[int, int]]:
        """The largest gain of a pair not yet joined, and the pair."""
        size = len(self.nodes)
        place = self.modes @ self.inverse
        length = (place**2).sum(axis=1)
        height = (place * self.modes).sum(axis=1)
        number = min(size, max(FEWEST, PAIRS // size))
        # Of the two ends of a longest line, one is far from the centre.
        rows = np.sort(np.argpartition(-length, number - 1)[:number])
        biharmonic = length[rows, None] + length - 2 * place[rows] @ place.T
        resistance = height[rows, None] + height - 2 * place[rows] @ self.modes.T
        gain = size * biharmonic / (1 + resistance)
        gain[self.adjacency[rows].nonzero()] = -np.inf
        gain[np.arange(number), rows] = -np.inf
        best = float(gain.max())
        # Rounding is not to decide between pairs that are equally good.
        first = int(np.argmax(gain >= best - 1e-9 * abs(best)))
        row, v = divmod(first, size)
        return best, (int(rows[row]), v)
