"""Shells by all-pairs shortest paths in dense matrices, to compare with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data


def hop_distances(data: Data) -> Tensor:
    """Hops along the edges from u to v, of shape (N, N); -1 where there is no path."""
    size = data.num_nodes
    reach = torch.eye(size, dtype=torch.float64)
    step = torch.zeros(size, size, dtype=torch.float64)
    step[data.edge_index[0], data.edge_index[1]] = 1
    found = torch.full((size, size), -1)
    for hop in range(size):
        found[(reach > 0) & (found < 0)] = hop
        reach = (reach @ step > 0).double()
    return found


def with_shells(data: Data, k: int) -> Data:
    """A copy with the attributes that ``KHopShells(k)`` adds."""
    distance = hop_distances(data)
    source, target = ((distance >= 1) & (distance <= k)).nonzero().unbind(1)
    data = data.clone()
    data.shell_index = torch.stack([source, target])
    data.shell_hop = distance[source, target]
    return data
