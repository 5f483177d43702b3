r"""Breadth-first search from many nodes at once: the pairs exactly h hops apart.

A pair of source u and target v of a graph of N nodes is written as the number
:math:`u N + v`, so that rising numbers are sorted by source, then target.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["Frontier", "frontier_search", "is_dense", "packed_search", "search"]

DENSE = 4096
"""Largest number of nodes that are searched as bits: a byte per pair takes 16 MiB."""
BYTES = 1 << 24
"""Memory of a table of nodes or edges by sources."""
STEPS = 1 << 20
"""Edges walked at once, with a few numbers of 8 bytes for each."""


def search(
    edge_index: np.ndarray, num_nodes: int, k: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Pairs up to ``k`` hops apart, shell by shell.

    Graphs of up to 4,096 nodes are searched as a matrix of bits, larger ones by the
    frontiers of their sources. ``benchmarks/khop_shells.py`` measures both.

    Args:
        edge_index: Edges from u to v, of shape (2, E); may have loops and repetitions.
        num_nodes: Number of nodes N.
        k: Largest number of hops.

    Yields:
        A number of hops, from 1, and pairs that far apart, in rising order. Hops rise
        by one as long as there are pairs, for one block of sources after another.

    Example:
        >>> path = np.array([[0, 1], [1, 2]])
        >>> [(hop, pairs.tolist()) for hop, pairs in search(path, 3, 5)]
        [(1, [1, 5]), (2, [2])]
    """
    chosen = packed_search if is_dense(num_nodes) else frontier_search
    yield from chosen(edge_index, num_nodes, k)


def is_dense(num_nodes: int) -> bool:
    """Whether a search of the whole graph is cheap, however many pairs it finds."""
    return num_nodes <= DENSE


def packed_search(
    edge_index: np.ndarray, num_nodes: int, k: int
) -> Iterator[tuple[int, np.ndarray]]:
    r"""As :func:`search`, with 64 targets in a word.

    .. math:: B_h(u) = B_{h-1}(u) \cup \bigcup_{u \to w} B_{h-1}(w)

    The shell is what the ball :math:`B_h` has more than the one before.
    """
    nodes = np.arange(num_nodes)
    source = np.concatenate([nodes, edge_index[0]])  # with a loop no row is empty
    target = np.concatenate([nodes, edge_index[1]])[np.argsort(source, kind="stable")]
    degree = np.bincount(source, minlength=num_nodes)
    first = degree.cumsum() - degree
    words = -(-num_nodes // 64)
    diagonal = np.eye(num_nodes, 64 * words, dtype=bool)
    ball = np.packbits(diagonal, axis=1, bitorder="little").view(np.uint64)
    width = max(1, BYTES // max(1, 8 * len(target)))
    for hop in range(1, k + 1):
        larger = np.empty_like(ball)
        for lo in range(0, words, width):
            columns = slice(lo, lo + width)
            np.bitwise_or.reduceat(
                ball[target, columns], first, axis=0, out=larger[:, columns]
            )
        shell = (larger ^ ball).view(np.uint8)
        bits = np.unpackbits(shell, axis=1, count=num_nodes, bitorder="little")
        pairs = np.flatnonzero(bits)
        if not pairs.size:
            return
        yield hop, pairs
        ball = larger


def frontier_search(
    edge_index: np.ndarray, num_nodes: int, k: int
) -> Iterator[tuple[int, np.ndarray]]:
    """As :func:`search`, by steps from the last shell of a block of sources."""
    rows = max(1, BYTES // num_nodes)
    frontier = Frontier(edge_index, num_nodes, rows)
    for lo in range(0, num_nodes, rows):
        block = np.arange(lo, min(lo + rows, num_nodes))
        yield from enumerate(frontier.shells(block, k), 1)


class Frontier:
    """A graph to search from some of its nodes.

    Takes time in proportion to the edges that leave the pairs found.

    Args:
        edge_index: Edges, of shape (2, E).
        num_nodes: Number of nodes.
        rows: Largest number of sources that are searched from at once.
    """

    def __init__(self, edge_index: np.ndarray, num_nodes: int, rows: int) -> None:
        source, target = edge_index
        order = np.argsort(source, kind="stable")
        self.num_nodes = num_nodes
        self.first = np.searchsorted(source[order], np.arange(num_nodes + 1))
        self.target = target[order]
        self.seen = np.zeros(min(rows, num_nodes) * num_nodes, dtype=bool)

    def shells(self, sources: np.ndarray, k: int) -> Iterator[np.ndarray]:
        """Pairs at 1, 2, ... hops, up to ``k`` or as long as there are any."""
        # Pairs are numbered by the position of the source in the block.
        found = [np.arange(len(sources)) * self.num_nodes + sources]
        self.seen[found[0]] = True
        for _ in range(k):
            pairs = self._beyond(found[-1])
            if not pairs.size:
                break
            found.append(pairs)
            row = pairs // self.num_nodes
            yield pairs + (sources[row] - row) * self.num_nodes
        # Not all of it: on a large graph most was never touched.
        for pairs in found:
            self.seen[pairs] = False

    def _beyond(self, pairs: np.ndarray) -> np.ndarray:
        """The pairs one edge farther that were not yet seen."""
        base = pairs // self.num_nodes * self.num_nodes
        start = self.first[pairs - base]
        degree = self.first[pairs - base + 1] - start
        ends = degree.cumsum()
        cuts = np.flatnonzero(np.diff(ends // STEPS)) + 1
        parts = (np.split(each, cuts) for each in (base, start, degree))
        return np.sort(
            np.concatenate([self._walk(*p) for p in zip(*parts, strict=True)])
        )

    def _walk(
        self, base: np.ndarray, start: np.ndarray, degree: np.ndarray
    ) -> np.ndarray:
        shift = np.repeat(start - (degree.cumsum() - degree), degree)
        reached = self.target[np.arange(len(shift)) + shift] + np.repeat(base, degree)
        fresh = np.sort(reached[~self.seen[reached]])
        # Three times as fast as np.unique, which hashes (NumPy 2.4).
        fresh = fresh[np.diff(fresh, prepend=-1) > 0]
        self.seen[fresh] = True
        return fresh
