"""How many of the pairs that could be joined are joined."""

from __future__ import annotations

import torch

from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.structure import GraphStructure

__all__ = ["density_observations"]

SMALLEST = 3
"""Nodes of a component: of two nodes, all pairs are always joined."""


def density_observations(structure: GraphStructure) -> list[Observation]:
    r"""Share of the pairs of nodes of one component that are joined by an edge.

    .. math:: \sum_c E_c \Big/ \sum_c \tfrac12 N_c (N_c - 1)

    over the components of three nodes or more.

    Args:
        structure: The graph.

    Returns:
        ``data.joined``; nothing if there is no such component.

    Example:
        >>> triangle = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> structure = GraphStructure.from_edge_index(triangle, num_nodes=4)
        >>> density_observations(structure)[0].value
        1.0
    """
    nodes = torch.bincount(structure.component, minlength=structure.num_components)
    large = nodes >= SMALLEST
    pairs = int((nodes * (nodes - 1) // 2)[large].sum())
    if pairs == 0:
        return []
    joined = int(large[structure.component[structure.source]].sum())
    return [Observation("data.joined", "model", joined / pairs, unit="share")]
