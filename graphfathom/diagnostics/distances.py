"""Sensitivity by distance, split into what the model and what the graph does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, diags_array, eye_array
from torch import Tensor

from graphfathom.diagnostics.influence import sensitivity_by_distance
from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.node_norms import log10_sum
from graphfathom.diagnostics.observations import Observation

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["distance_observations", "distance_products", "log10_walks"]

NUM_ROOTS = 32
"""Nodes whose sensitivity to all others is sampled, by one product each: two standard
errors of the mean cover the truth in 93 to 96 of 100 cases."""


def distance_products(trace: Trace) -> int:
    """Products with one layer that :func:`distance_observations` takes."""
    return min(NUM_ROOTS, len(trace.states[-1].main)) * trace.num_layers


def distance_observations(
    trace: Trace, generator: torch.Generator
) -> list[Observation]:
    r"""Root mean square of :math:`\|\partial h_v / \partial h_u\|_F` by hops.

    Between state 0, of F channels, and state L, over the P pairs of nodes with a path:

    .. math:: \log_{10} s_r = \text{model}_r + \text{topology}_r
        + \tfrac12 \log_{10} \frac{N F}{P}, \qquad
        \text{topology}_r = \log_{10}
        \frac{\operatorname{rms}_{d(u, v) = r} (\hat A^L)_{vu}}
        {\operatorname{rms}_{d(u, v) < \infty} (\hat A^L)_{vu}}

    The topology term is that of the graph alone: what a pair of nodes has of all walks
    of L steps, 0 if all pairs have alike. The model term is the rest; summed over all
    distances it is the gain of random directions, 0 for an isometry on a graph without
    a bottleneck.

    Args:
        trace: The network.
        generator: Source of randomness.

    Returns:
        At ``distance:r``: ``sensitivity`` with its standard error,
        ``sensitivity.model``, ``sensitivity.topology`` and ``sensitivity.pairs``.

    Raises:
        ValueError: If the rows of the states are not nodes, or the edges are not known.
    """
    jacobian = NodeJacobian(trace, 0, trace.num_layers)
    size = jacobian.num_nodes
    if size < 2:
        return []
    found = sensitivity_by_distance(
        jacobian,
        num_roots=NUM_ROOTS if size > NUM_ROOTS else None,
        num_samples=1,
        generator=generator,
    )
    pairs = found.pairs.double() * (found.hops >= 0)
    distance = jacobian.distances(found.roots, backward=True)
    walks = log10_walks(jacobian.edge_index, size, found.roots, trace.num_layers)
    rows, dtype = [], trace.precision
    topology = _relative(walks, distance, found.hops, pairs)
    scale = math.log10(size * jacobian.in_width / float(pairs.sum())) / 2
    for r, value, stderr, part, count in zip(
        found.hops.tolist(),
        found.log10.tolist(),
        found.stderr.tolist(),
        topology.tolist(),
        found.pairs.tolist(),
        strict=True,
    ):
        if r < 0 or math.isnan(value):
            continue
        rest = value - part - scale if part > -math.inf else math.nan
        for name, number, error, unit in (
            ("sensitivity", value, stderr, "log10"),
            ("sensitivity.model", rest, stderr, "log10"),
            ("sensitivity.topology", part, None, "log10"),
            ("sensitivity.pairs", count, None, "1"),
        ):
            place = f"distance:{r}"
            rows.append(Observation(name, place, number, error, unit, dtype))
    return rows


def log10_walks(
    edge_index: Tensor, num_nodes: int, roots: Tensor, num_layers: int
) -> Tensor:
    r"""Decimal logarithms of :math:`(\hat A^L)_{vu}` for roots v and all nodes u.

    .. math:: \hat A = \tilde D^{-1/2} (A + I)\, \tilde D^{-1/2}

    with out-degrees on the side of the sources of a directed graph, so that it is GCN's
    operator of an undirected one.

    Args:
        edge_index: Edges :math:`u \to v`, of shape (2, E).
        num_nodes: Number of nodes N.
        roots: The nodes v, of shape (R,).
        num_layers: Number of steps L.

    Returns:
        Of shape (R, N), -inf where no walk of L steps with pauses leads.
    """
    source, target = edge_index.cpu().numpy()
    places = (np.ones(len(source)), (target, source))
    matrix = csr_array(coo_array(places, shape=(num_nodes, num_nodes)))
    matrix = csr_array(matrix + eye_array(num_nodes))
    received, sent = (np.asarray(matrix.sum(axis)) for axis in (1, 0))
    matrix = diags_array(received**-0.5) @ matrix @ diags_array(sent**-0.5)
    walks = np.zeros((num_nodes, len(roots)))
    walks[roots.cpu().numpy(), np.arange(len(roots))] = 1
    turned, scale = csr_array(matrix.T), np.zeros(len(roots))
    for _ in range(num_layers):
        walks = turned @ walks
        largest = walks.max(axis=0)
        walks, scale = walks / largest, scale + np.log10(largest)
    return torch.from_numpy(walks).log10().T + torch.from_numpy(scale)[:, None]


def _relative(logs: Tensor, distance: Tensor, hops: Tensor, pairs: Tensor) -> Tensor:
    """Root mean squares at each distance over that of all pairs, in decades.

    The means over the roots stand for those over all nodes.
    """
    means = []
    for r in hops.tolist():
        values = 2 * logs[distance == r]
        found = log10_sum(values, 0) - math.log10(max(len(values), 1))
        means.append(found if r >= 0 and len(values) else torch.tensor(-math.inf))
    squares = torch.stack([torch.as_tensor(mean).double() for mean in means])
    total = log10_sum(squares + pairs.log10(), 0) - pairs.sum().log10()
    return (squares - total) / 2
