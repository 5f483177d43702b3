r"""The symmetrised graph that measures of smoothness are defined on.

Two nodes are joined by one edge if an edge is stored in either direction. Parallel
edges of one direction add their weights; if both directions are stored, as PyG does for
undirected graphs, the weight is the mean of the two. Self-loops and edges of weight 0
are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

__all__ = ["GraphStructure", "Kind"]

Kind = Literal["constant", "degree"]
r"""What a propagation keeps on a component: constants if it is stochastic, multiples of
the root of the degrees with a self-loop, the kernel of :math:`I - \hat A`, for GCN."""


@dataclass(frozen=True, eq=False)
class GraphStructure:
    r"""Edges, degrees and components of the symmetrised graph, computed once.

    Example:
        >>> path = torch.tensor([[0, 1], [1, 2]])
        >>> GraphStructure.from_edge_index(path, num_nodes=4).component
        tensor([0, 0, 0, 1])
    """

    num_nodes: int
    """Number of nodes N."""
    source: Tensor
    """The smaller end of each edge, of shape (E,)."""
    target: Tensor
    """The larger end of each edge, of shape (E,)."""
    weight: Tensor
    """The weight of each edge in float64, above 0, of shape (E,)."""
    root_degree: Tensor
    """Square roots of the degrees with one self-loop of weight 1, of shape (N,)."""
    component: Tensor
    """Index of the connected component of each node, of shape (N,)."""
    num_components: int
    """Number of connected components."""

    @classmethod
    def from_edge_index(
        cls, edge_index: Tensor, num_nodes: int, edge_weight: Tensor | None = None
    ) -> GraphStructure:
        """Symmetrise a stored graph and find its degrees and components.

        Args:
            edge_index: Ends of the stored edges, of shape (2, number of stored edges).
            num_nodes: Number of nodes N, at least 1.
            edge_weight: One finite weight >= 0 per stored edge. Ones if None.

        Returns:
            The structure, on the device of ``edge_index``.

        Raises:
            TypeError: If ``edge_index`` does not hold integers.
            ValueError: If an argument has the wrong shape or range.
        """
        _check_edge_index(edge_index, num_nodes)
        ends = edge_index.long()
        if edge_weight is None:
            weight = torch.ones(ends.shape[1], dtype=torch.float64, device=ends.device)
        else:
            _check_edge_weight(edge_weight, ends.shape[1])
            weight = edge_weight.detach().to(ends.device, torch.float64)
        source, target, weight = _symmetrised(ends, weight, num_nodes)
        degree = weight.new_zeros(num_nodes)
        degree = degree.index_add(0, source, weight).index_add(0, target, weight)
        coordinates = (source.cpu().numpy(), target.cpu().numpy())
        adjacency = coo_array(
            (weight.cpu().numpy(), coordinates), shape=(num_nodes, num_nodes)
        )
        num_components, component = connected_components(adjacency, directed=False)
        return cls(
            num_nodes=num_nodes,
            source=source,
            target=target,
            weight=weight,
            root_degree=(degree + 1).sqrt(),
            component=torch.from_numpy(component).to(ends.device, torch.long),
            num_components=int(num_components),
        )

    def kernel_part(self, x: Tensor, kind: Kind = "constant") -> Tensor:
        """Nearest features that a propagation leaves alone, of the shape of ``x``.

        Args:
            x: Features, of shape (N, F).
            kind: What a propagation leaves alone.
        """
        base = self._kept[kind].to(x)
        if self.num_components == 1:
            return base * (base.mT @ x)
        shape = (self.num_components, x.shape[1])
        products = x.new_zeros(shape).index_add(0, self.component, base * x)
        return base * products[self.component]

    @cached_property
    def _kept(self) -> dict[Kind, Tensor]:
        """What is left alone, of shape (N, 1) and of norm 1 on each component."""
        kept: dict[Kind, Tensor] = {}
        for kind in get_args(Kind):
            base = self.root_degree.clone()
            if kind == "constant":
                base.fill_(1.0)
            norms = base.new_zeros(self.num_components)
            norms.index_add_(0, self.component, base.square())
            kept[kind] = (base / norms.sqrt()[self.component]).unsqueeze(1)
        return kept


def _symmetrised(
    ends: Tensor, weight: Tensor, num_nodes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Smaller ends, larger ends and weights of the edges of the symmetrised graph."""
    keep = (ends[0] != ends[1]) & (weight > 0)
    ends, weight = ends[:, keep], weight[keep]
    pairs, position = (ends.amin(0) * num_nodes + ends.amax(0)).unique(
        return_inverse=True
    )
    total = weight.new_zeros(len(pairs)).index_add(0, position, weight)
    upward, downward = torch.zeros_like(total), torch.zeros_like(total)
    upward[position[ends[0] < ends[1]]] = 1
    downward[position[ends[0] > ends[1]]] = 1
    return pairs // num_nodes, pairs % num_nodes, total / (upward + downward)


def _check_edge_index(edge_index: Tensor, num_nodes: int) -> None:
    if num_nodes < 1:
        raise ValueError(f"`num_nodes` must be at least 1. Got {num_nodes}.")
    dtype = edge_index.dtype
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise TypeError(
            f"`edge_index` must hold integers. Got {dtype}. Convert it with `.long()`."
        )
    if edge_index.ndim != 2 or edge_index.shape[0] != 2:
        raise ValueError(
            f"`edge_index` must have shape (2, E). Got {tuple(edge_index.shape)}."
        )
    if edge_index.numel() == 0:
        return
    smallest, largest = int(edge_index.min()), int(edge_index.max())
    if smallest < 0 or largest >= num_nodes:
        raise ValueError(
            f"`edge_index` must lie in [0, {num_nodes - 1}], the nodes. Got values in "
            f"[{smallest}, {largest}]."
        )


def _check_edge_weight(edge_weight: Tensor, num_stored: int) -> None:
    if edge_weight.shape != (num_stored,):
        raise ValueError(
            f"`edge_weight` must have shape ({num_stored},), one weight per stored "
            f"edge. Got {tuple(edge_weight.shape)}."
        )
    if not (edge_weight.isfinite() & (edge_weight >= 0)).all():
        raise ValueError(
            f"`edge_weight` must be finite and >= 0, or degrees have no square root. "
            f"Got values in [{float(edge_weight.min())}, {float(edge_weight.max())}]."
        )
