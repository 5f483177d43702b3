"""Shells: the pairs of nodes at exactly 1, 2, ..., k hops, for layers that use them."""

from __future__ import annotations

from itertools import chain
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from graphfathom.transforms.shell_preview import ShellPreview, preview_shells
from graphfathom.transforms.shell_search import search

__all__ = ["KHopShells"]

MAX_PAIRS = 10_000_000


@functional_transform("k_hop_shells")
class KHopShells(BaseTransform):
    r"""Add the pairs of nodes that are exactly 1, 2, ..., k hops apart.

    .. math:: \mathcal{S}_h = \{(u, v) : d(u, v) = h\}, \qquad 1 \le h \le k

    with :math:`d(u, v)` the least number of edges on a path from u to v, in the
    direction of messages: in a directed graph the shells of a node hold those it sends
    to. Edge weights, self-loops and repeated edges have no effect.

    The graph gets ``shell_index``, sources u and targets v of shape :math:`(2, S)`, and
    ``shell_hop``, the numbers h of shape :math:`(S)`, both in int64; sorted by hop,
    then source, then target. Batches shift ``shell_index`` as they do ``edge_index``.
    A transform that changes nodes or edges does not change the shells: apply this one
    last.

    Where no pair is ``k`` hops apart, the last shells are empty and ``shell_hop.max()``
    is less than ``k``; :meth:`preview` says so.

    Args:
        k: Largest number of hops.
        max_pairs: Number of pairs S above which a graph is refused. Default 10 million,
            which take 240 MB; Cora has 6.0 million at 10 hops, 566 times its edges.

    Raises:
        ValueError: If ``k`` or ``max_pairs`` is not an integer >= 1; when called, if a
            graph has more pairs, or edges that lead nowhere. Large graphs are refused
            by :meth:`preview` before pairs are made, or else once there are too many.
        TypeError: When called with anything but one homogeneous graph with edges.

    Example:
        >>> from torch_geometric.data import Data
        >>> transform = KHopShells(k=3)
        >>> transform
        KHopShells(k=3)
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> data = transform(Data(edge_index=path, num_nodes=3))
        >>> data.shell_index[:, data.shell_hop == 2]
        tensor([[0, 2],
                [2, 0]])
        >>> transform.preview(data)
        ShellPreview(k=3): 3 nodes, 4 edges, searched from 3 nodes
          hop 1: 4
          hop 2: 2
          in all: 6 pairs, 0.000144 MB, 1.5 times the edges
          No pair is farther apart than hop 2.
    """

    def __init__(self, k: int, *, max_pairs: int = MAX_PAIRS) -> None:
        self.k = _integer("k", k, 1)
        self.max_pairs = _integer("max_pairs", max_pairs, 1)

    def forward(self, data: Data) -> Data:
        """The graph with its shells; the one given is not changed."""
        edge_index, num_nodes = _graph(data)
        if num_nodes * (num_nodes - 1) > self.max_pairs:
            self._check_cost(self.preview(data))
        shells: list[list[np.ndarray]] = []
        total = 0
        for hop, pairs in search(edge_index.cpu().numpy(), num_nodes, self.k):
            total += len(pairs)
            if total > self.max_pairs:
                raise ValueError(
                    f"{self._wanted()} Got more, where the search was stopped: choose "
                    "a smaller `k` or a larger `max_pairs`."
                )
            if hop > len(shells):
                shells.append([])
            shells[hop - 1].append(pairs)
        index, hops = _columns(shells, num_nodes)
        data.shell_index = index.to(edge_index.device)
        data.shell_hop = hops.to(edge_index.device)
        return data

    def preview(
        self,
        data: Data,
        *,
        num_sources: int = 64,
        generator: torch.Generator | None = None,
    ) -> ShellPreview:
        r"""Count the pairs of each shell, or estimate how many there are; keep none.

        .. math:: |\mathcal{S}_h| \approx \frac{N}{m} \sum_{i=1}^{m} n_h(u_i), \qquad
            \text{stderr} = N \sqrt{\Bigl(1 - \frac{m}{N}\Bigr) \frac{1}{m}
            \operatorname{var}_i n_h(u_i)}

        with :math:`n_h(u)` the number of nodes h hops from u, and m sources drawn
        without replacement. In graphs of up to 4,096 nodes all are sources; less than m
        are if they have 4 million pairs before, where the graph has billions.

        Args:
            data: The graph, whatever its number of pairs.
            num_sources: Number m of sources in a larger graph. Default 64: the standard
                error is an eighth of the spread over nodes.
            generator: Source of randomness. A new one with seed 0 if None.

        Raises:
            ValueError: If ``num_sources`` is not an integer >= 2; or as when called,
                but not for the number of pairs.
            TypeError: As when called.
        """
        edge_index, num_nodes = _graph(data)
        return preview_shells(
            edge_index.cpu().numpy(),
            num_nodes,
            self.k,
            _integer("num_sources", num_sources, 2),
            generator,
        )

    def _check_cost(self, preview: ShellPreview) -> None:
        # Three standard errors: a graph that fits is not to be refused by bad luck.
        if preview.total - 3 * preview.total_stderr <= self.max_pairs:
            return
        fits = preview.largest_k(self.max_pairs)
        smaller = f"`k` <= {fits}" if fits else "another graph (no `k` is small enough)"
        raise ValueError(
            f"{self._wanted()} Got {preview}: choose {smaller} or a larger `max_pairs`."
        )

    def _wanted(self) -> str:
        return (
            f"The shells up to hop {self.k} must have at most {self.max_pairs:,} pairs "
            "(`max_pairs`)."
        )

    def __repr__(self) -> str:
        options = [f"k={self.k}"]
        if self.max_pairs != MAX_PAIRS:
            options.append(f"max_pairs={self.max_pairs}")
        return f"{type(self).__name__}({', '.join(options)})"


def _integer(name: str, value: Any, least: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer >= {least}. Got {value!r}.")
    return int(value)


def _graph(data: Any) -> tuple[Tensor, int]:
    """Edges and number of nodes of a graph that can be searched."""
    if not isinstance(data, Data) or isinstance(data, Batch):
        raise TypeError(
            "`data` must be one homogeneous graph, a Data. Got "
            f"{type(data).__name__}: apply KHopShells to each graph before they are "
            "batched, and to one kind of nodes and edges at a time."
        )
    edge_index = data.edge_index
    if not isinstance(edge_index, Tensor) or edge_index.layout != torch.strided:
        raise TypeError(
            "`data.edge_index` must be a dense tensor of shape (2, E). Got "
            f"{type(edge_index).__name__}: apply KHopShells before ToSparseTensor."
        )
    if edge_index.is_floating_point() or edge_index.dtype == torch.bool:
        raise TypeError(
            f"`data.edge_index` must be of integers. Got {edge_index.dtype}: call "
            "`edge_index.long()`."
        )
    data.validate()
    return edge_index.as_subclass(Tensor).long(), int(data.num_nodes or 0)


def _columns(shells: list[list[np.ndarray]], num_nodes: int) -> tuple[Tensor, Tensor]:
    """The pairs as sources and targets, and their numbers of hops; empties the list."""
    lengths = [sum(map(len, blocks)) for blocks in shells]
    index = np.empty((2, sum(lengths)), dtype=np.int64)
    source, target = index
    if shells:
        np.concatenate(list(chain(*shells)), out=target)
    shells.clear()  # the pairs are not needed beside the columns
    np.floor_divide(target, num_nodes, out=source)
    target -= num_nodes * source
    # Not torch.repeat_interleave: it starts all threads for the smallest graph.
    hops = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return torch.from_numpy(index), torch.from_numpy(hops)
