r"""Effective resistance and commute time: how far apart two nodes are for messages.

Each edge is a resistor whose conductance is its weight. Two nodes are joined by one
resistor if an edge is stored in either direction; parallel edges of one direction add
their weights, and if both directions are stored the weight is their mean. Self-loops
and edges of weight 0 are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from torch import Tensor

__all__ = ["commute_time", "effective_resistance", "total_effective_resistance"]

# Floats in one block of right-hand sides, 128 MB: solves in blocks are several times
# faster than one by one.
BLOCK = 2**24
# Relative error of the potentials above which no number is given.
TOLERANCE = 1e-6


def effective_resistance(
    edge_index: Tensor,
    num_nodes: int,
    *,
    root: int | None = None,
    pairs: Tensor | None = None,
    edge_weight: Tensor | None = None,
) -> Tensor:
    r"""The voltage between two nodes when a unit current flows from one to the other.

    .. math:: R_{uv} = (e_u - e_v)^\top L^+ (e_u - e_v), \qquad L = D - W

    By Black et al., the smaller the sum over all pairs, the more the features of one
    node can change those of the others: over-squashing is large resistance. Each pair
    costs one solve with a sparse factor of :math:`L`. The factor is small for trees,
    grids and citation graphs, and nearly dense for random graphs of high degree.

    Args:
        edge_index: Ends of the stored edges, of shape :math:`(2, E)`.
        num_nodes: Number of nodes :math:`N`.
        root: The node u, for the resistances to all nodes v.
        pairs: Nodes u and v, of shape :math:`(2, P)`, in place of ``root``.
        edge_weight: Conductances, finite and >= 0, of shape :math:`(E)`. Default: 1.

    Returns:
        Resistances in float64, of shape :math:`(N)` or :math:`(P)`, in units of one
        over the unit of the weights; inf between components.

    Raises:
        TypeError: If ``edge_index`` or ``pairs`` does not hold integers.
        ValueError: If a shape or value is not as described, or the weights differ so
            much that rounding would change voltages by more than a millionth.

    Example:
        >>> path = torch.tensor([[0, 1], [1, 2]])
        >>> effective_resistance(path, 4, root=0)
        tensor([0., 1., 2., inf], dtype=torch.float64)

    References:
        | Understanding Oversquashing in GNNs through the Lens of Effective Resistance
        | (Black et al., 2023), https://arxiv.org/abs/2302.06835
    """
    found, _ = _measured(edge_index, num_nodes, root, pairs, edge_weight)
    return torch.from_numpy(found).to(edge_index.device)


def commute_time(
    edge_index: Tensor,
    num_nodes: int,
    *,
    root: int | None = None,
    pairs: Tensor | None = None,
    edge_weight: Tensor | None = None,
) -> Tensor:
    r"""Expected number of steps of a random walk from one node to another and back.

    .. math:: C_{uv} = R_{uv} \sum_{w \sim u} d_w

    with the degrees :math:`d` of the component of u. The walk crosses an edge with a
    probability proportional to its weight and never stays where it is. Di Giovanni et
    al. bound the sensitivity of a node to another by this time.

    Args:
        edge_index: As in :func:`effective_resistance`, and so are all arguments.
        num_nodes: Number of nodes :math:`N`.
        root: The node u, for the times to all nodes v.
        pairs: Nodes u and v, in place of ``root``.
        edge_weight: Weights of the edges.

    Returns:
        Steps in float64, of shape :math:`(N)` or :math:`(P)`; inf between components.

    Raises:
        TypeError: As :func:`effective_resistance`.
        ValueError: As :func:`effective_resistance`.

    Example:
        >>> path = torch.tensor([[0, 1], [1, 2]])
        >>> commute_time(path, 3, root=0)
        tensor([0., 4., 8.], dtype=torch.float64)

    References:
        | The Electrical Resistance of a Graph Captures its Commute and Cover Times
        | (Chandra et al., 1989), https://doi.org/10.1145/73007.73062
        | On Over-Squashing in Message Passing Neural Networks
        | (Di Giovanni et al., 2023), https://arxiv.org/abs/2302.02941
    """
    found, volume = _measured(edge_index, num_nodes, root, pairs, edge_weight)
    finite = np.isfinite(found)  # the volume of a node without edges is 0
    found[finite] *= volume[finite]
    return torch.from_numpy(found).to(edge_index.device)


def total_effective_resistance(
    edge_index: Tensor, num_nodes: int, edge_weight: Tensor | None = None
) -> float:
    r"""The sum of the resistances of all pairs of nodes, also called Kirchhoff index.

    .. math:: R_\mathrm{tot} = \sum_{u < v} R_{uv} = N \operatorname{tr} L^+

    Costs one solve for each node.

    Args:
        edge_index: As in :func:`effective_resistance`, and so are all arguments.
        num_nodes: Number of nodes :math:`N`.
        edge_weight: Conductances of the edges.

    Returns:
        The sum; inf if the graph is not connected.

    Raises:
        TypeError: As :func:`effective_resistance`.
        ValueError: As :func:`effective_resistance`.

    Example:
        >>> total_effective_resistance(torch.tensor([[0, 1], [1, 2]]), 3)
        4.0
    """
    conductance = _conductance(edge_index, num_nodes, edge_weight)
    if connected_components(conductance, directed=False)[0] > 1:
        return math.inf
    network = _Grounded(conductance, ground=int(conductance.sum(axis=1).argmax()))
    # With G the inverse without the ground, padded by zeros: N tr G - 1' G 1.
    nodes, total = np.arange(num_nodes), 0.0
    for block in network.blocks(num_nodes):
        potential = network.potentials(network.currents(nodes[block], 1.0))
        trace = potential[nodes[block], np.arange(potential.shape[1])].sum()
        total += num_nodes * trace - potential.sum()
    return float(total)


# Networks -----------------------------------------------------------------------------


class _Grounded:
    """A connected network with one node at voltage 0."""

    def __init__(self, conductance: csr_array, ground: int) -> None:
        degree = conductance.sum(axis=1)
        self.size = len(degree)
        self.rest = np.flatnonzero(np.arange(self.size) != ground)
        self.factor = None
        if self.size == 1:
            return
        laplacian = (diags_array(degree) - conductance).tocsr()
        inner = laplacian[self.rest][:, self.rest].tocsc()
        options = {"SymmetricMode": True}  # no pivots: the matrix is definite
        try:
            self.factor = splu(
                inner,
                permc_spec="MMD_AT_PLUS_A",
                diag_pivot_thresh=0.0,
                options=options,
            )
            to_ground = conductance[[ground]].toarray()[0, self.rest]
            # Each row of L sums to 0, so these currents lift every node to voltage 1.
            error = np.abs(self.factor.solve(to_ground) - 1).max()
        except RuntimeError:  # exactly singular
            error = math.inf
        if not error <= TOLERANCE:
            smallest, largest = conductance.data.min(), conductance.data.max()
            raise ValueError(
                "`edge_weight` must not differ so much that rounding decides the "
                f"result. Got weights from {smallest:.3g} to {largest:.3g} and a "
                f"relative error of {error:.1g}: drop the smallest."
            )

    def blocks(self, number: int) -> Iterator[slice]:
        step = max(1, BLOCK // self.size)
        return (slice(i, min(i + step, number)) for i in range(0, number, step))

    def currents(self, nodes: np.ndarray, amount: float) -> np.ndarray:
        """One column for each node, where the current enters, of shape (N, P)."""
        current = np.zeros((self.size, len(nodes)))
        current[nodes, np.arange(len(nodes))] = amount
        return current

    def potentials(self, current: np.ndarray) -> np.ndarray:
        potential = np.zeros_like(current)
        if self.factor is not None:
            potential[self.rest] = self.factor.solve(current[self.rest])
        return potential

    def resistances(self, ends: np.ndarray) -> np.ndarray:
        """Between nodes of this network, of shape (P)."""
        found = np.zeros(ends.shape[1])
        for block in self.blocks(ends.shape[1]):
            u, v = ends[:, block]
            current = self.currents(u, 1.0) + self.currents(v, -1.0)
            potential = self.potentials(current)
            columns = np.arange(len(u))
            found[block] = potential[u, columns] - potential[v, columns]
        return found


def _measured(
    edge_index: Tensor,
    num_nodes: int,
    root: int | None,
    pairs: Tensor | None,
    edge_weight: Tensor | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Resistances of the pairs, and the sum of the degrees around each."""
    conductance = _conductance(edge_index, num_nodes, edge_weight)
    ends = _ends(root, pairs, num_nodes)
    component = connected_components(conductance, directed=False)[1]
    volume = np.bincount(component, weights=conductance.sum(axis=1))
    found = np.full(ends.shape[1], math.inf)
    inside = component[ends[0]] == component[ends[1]]
    for label in np.unique(component[ends[0, inside]]):
        mine = np.flatnonzero(inside & (component[ends[0]] == label))
        nodes = np.flatnonzero(component == label)
        places = np.searchsorted(nodes, ends[:, mine])
        # The ground is an end of the first pair: from a root, of every pair, so that
        # no voltages are subtracted.
        network = _Grounded(conductance[nodes][:, nodes], ground=int(places[0, 0]))
        found[mine] = network.resistances(places)
    return found, volume[component[ends[0]]]


def _conductance(
    edge_index: Tensor, num_nodes: int, edge_weight: Tensor | None
) -> csr_array:
    """The symmetric matrix of the weights, without a diagonal."""
    if num_nodes < 1:
        raise ValueError(f"`num_nodes` must be at least 1. Got {num_nodes}.")
    ends = _as_nodes(edge_index, num_nodes, "edge_index")
    weight = np.ones(ends.shape[1])
    if edge_weight is not None:
        _check_weight(edge_weight, ends.shape[1])
        weight = edge_weight.detach().cpu().double().numpy()
    keep = (ends[0] != ends[1]) & (weight > 0)
    shape = (num_nodes, num_nodes)
    stored = coo_array((weight[keep], tuple(ends[:, keep])), shape=shape).tocsr()
    once = stored.copy()
    once.data[:] = 1
    total, directions = (stored + stored.T).tocsr(), (once + once.T).tocsr()
    total.sort_indices()
    directions.sort_indices()
    total.data /= directions.data
    return total


def _ends(root: int | None, pairs: Any, num_nodes: int) -> np.ndarray:
    """The pairs asked for, of shape (2, P)."""
    if (root is None) == (pairs is None):
        raise ValueError(
            "Exactly one of `root` and `pairs` must be given. Got "
            f"{'neither' if root is None else 'both'}."
        )
    if pairs is not None:
        return _as_nodes(pairs, num_nodes, "pairs")
    if root is None or not 0 <= root < num_nodes:
        raise ValueError(f"`root` must be a node, 0 to {num_nodes - 1}. Got {root}.")
    return np.stack([np.full(num_nodes, root), np.arange(num_nodes)])


def _as_nodes(given: Tensor, num_nodes: int, name: str) -> np.ndarray:
    dtype = given.dtype
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise TypeError(
            f"`{name}` must hold integers. Got {dtype}. Convert it with `.long()`."
        )
    if given.ndim != 2 or given.shape[0] != 2:
        raise ValueError(
            f"`{name}` must have shape (2, number). Got {tuple(given.shape)}."
        )
    nodes = given.long().cpu().numpy()
    if nodes.size and not (nodes.min() >= 0 and nodes.max() < num_nodes):
        raise ValueError(
            f"`{name}` must lie in [0, {num_nodes - 1}], the nodes. Got values in "
            f"[{nodes.min()}, {nodes.max()}]."
        )
    return nodes


def _check_weight(edge_weight: Tensor, num_stored: int) -> None:
    if edge_weight.shape != (num_stored,):
        raise ValueError(
            f"`edge_weight` must have shape ({num_stored},), one weight per stored "
            f"edge. Got {tuple(edge_weight.shape)}."
        )
    if not bool((edge_weight.isfinite() & (edge_weight >= 0)).all()):
        raise ValueError(
            "`edge_weight` must be finite and >= 0, as conductances are. Got values "
            f"in [{float(edge_weight.min())}, {float(edge_weight.max())}]."
        )
