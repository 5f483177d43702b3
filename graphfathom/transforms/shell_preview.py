"""What the shells of a graph take, before they are made."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from graphfathom.transforms.shell_search import Frontier, is_dense, search

__all__ = ["ShellPreview", "preview_shells"]

PAIR_BYTES = 24
"""Source, target and number of hops, in int64."""
ENOUGH = 4_000_000
"""Pairs of the sample after which no more sources are searched from. Fewer than 64 then
have 62,500 on average, which a graph with billions of pairs has."""
FEWEST = 8
"""Sources of any sample, so that it has a standard error."""


@dataclass(frozen=True, repr=False)
class ShellPreview:
    """Numbers of pairs in the shells of a graph, counted or estimated from a sample."""

    k: int
    """Largest number of hops asked for."""
    num_nodes: int
    """Nodes of the graph."""
    num_edges: int
    """Columns of its ``edge_index``."""
    num_sources: int
    """Nodes that were searched from."""
    pairs: tuple[float, ...]
    """Number of pairs at 1, 2, ... hops, up to the largest distance seen."""
    stderr: tuple[float, ...]
    """Their standard errors; 0 if all nodes were searched from."""
    total: float
    """Number of pairs in all shells."""
    total_stderr: float
    """Its standard error. The shells are not independent: theirs do not tell it."""

    @property
    def is_exact(self) -> bool:
        """Whether all nodes were searched from."""
        return self.num_sources == self.num_nodes

    @property
    def num_bytes(self) -> float:
        """Bytes of ``shell_index`` and ``shell_hop``."""
        return PAIR_BYTES * self.total

    @property
    def times_edges(self) -> float:
        """Number of pairs over that of edges; 0 without edges."""
        return self.total / max(self.num_edges, 1)

    def largest_k(self, max_pairs: int) -> int:
        """The largest k, up to the one asked for, with at most so many pairs in all."""
        fits = sum(so_far <= max_pairs for so_far in accumulate(self.pairs))
        return self.k if fits == len(self.pairs) else fits

    def __str__(self) -> str:
        return (
            f"{self._count(self.total, self.total_stderr)} pairs, "
            f"{_short(self.num_bytes / 1e6)} MB, {_short(self.times_edges)} times the "
            "edges"
        )

    def __repr__(self) -> str:
        lines = [
            f"ShellPreview(k={self.k}): {self.num_nodes:,} nodes, {self.num_edges:,} "
            f"edges, searched from {self.num_sources:,} nodes"
        ]
        for hop, numbers in enumerate(zip(self.pairs, self.stderr, strict=True), 1):
            lines.append(f"  hop {hop}: {self._count(*numbers)}")
        lines.append(f"  in all: {self}")
        if (last := len(self.pairs)) < self.k:
            so_far = "" if self.is_exact else " of the sample"
            lines.append(f"  No pair{so_far} is farther apart than hop {last}.")
        return "\n".join(lines)

    def _count(self, value: float, stderr: float) -> str:
        if self.is_exact:
            return f"{value:,.0f}"
        return f"about {value:,.0f} ± {stderr:,.0f}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def preview_shells(
    edge_index: np.ndarray,
    num_nodes: int,
    k: int,
    num_sources: int,
    generator: torch.Generator | None,
) -> ShellPreview:
    """As :meth:`~graphfathom.transforms.KHopShells.preview`, of arrays.

    Args:
        edge_index: Edges, of shape (2, E).
        num_nodes: Number of nodes.
        k: Largest number of hops.
        num_sources: Nodes to search from where not all are, at least 2.
        generator: Source of randomness. A new one with seed 0 if None.
    """
    if num_nodes <= num_sources or is_dense(num_nodes):
        sampled = num_nodes
        shells, whole = _counted(edge_index, num_nodes, k)
    else:
        generator = generator or torch.Generator().manual_seed(0)
        drawn = torch.randperm(num_nodes, generator=generator)[:num_sources]
        counts = _by_source(Frontier(edge_index, num_nodes, 1), drawn.numpy(), k)
        sampled = len(counts)
        shells = [_estimate(column, num_nodes) for column in counts.T]
        whole = _estimate(counts.sum(axis=1), num_nodes)
    return ShellPreview(
        k=k,
        num_nodes=num_nodes,
        num_edges=edge_index.shape[1],
        num_sources=sampled,
        pairs=tuple(value for value, _ in shells),
        stderr=tuple(stderr for _, stderr in shells),
        total=whole[0],
        total_stderr=whole[1],
    )


def _counted(
    edge_index: np.ndarray, num_nodes: int, k: int
) -> tuple[list[tuple[float, float]], tuple[float, float]]:
    """Numbers of pairs in each shell and in all, with errors of 0."""
    numbers: Counter[int] = Counter()
    for hop, pairs in search(edge_index, num_nodes, k):
        numbers[hop] += len(pairs)
    shells = [(float(numbers[hop]), 0.0) for hop in sorted(numbers)]
    return shells, (float(numbers.total()), 0.0)


def _by_source(frontier: Frontier, sources: np.ndarray, k: int) -> np.ndarray:
    """Numbers of pairs by source and hop, of fewer sources where those have many."""
    rows: list[list[int]] = []
    for source in sources:
        rows.append([len(pairs) for pairs in frontier.shells(source[None], k)])
        if len(rows) >= FEWEST and sum(map(sum, rows)) > ENOUGH:
            break
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows], dtype=float)


def _estimate(counts: np.ndarray, num_nodes: int) -> tuple[float, float]:
    """Sum over all nodes and its standard error, from those drawn without return."""
    drawn = len(counts)
    variance = float(counts.var(ddof=1)) * (1 - drawn / num_nodes) / drawn
    return num_nodes * float(counts.mean()), num_nodes * math.sqrt(variance)
