"""Sensitivity by distance, split into what the model and what the graph does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphfathom.diagnostics.by_distance import (
    SensitivityByDistance,
    sensitivity_by_distance,
)
from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.node_norms import log10_sum
from graphfathom.diagnostics.observations import Observation
from graphfathom.theory.squashing import sensitivity_bound

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["distance_observations", "distance_products", "log10_walks"]

NUM_ROOTS = 32
"""Nodes whose sensitivity to all others is sampled, by one product each: two standard
errors of the mean cover the truth in 93 to 96 of 100 cases."""

SHARE = 0.1
"""Of the pairs that are far from each other."""
DEPTHS = 2.5
"""Layers per hop from which a far pair is heard on Cora's graph, not on a dumbbell."""


def distance_products(trace: Trace) -> int:
    """Products with one layer that :func:`distance_observations` takes, about."""
    return min(NUM_ROOTS, len(trace.states[-1].main)) * trace.num_layers


def distance_observations(
    trace: Trace, generator: torch.Generator
) -> list[Observation]:
    r"""Root mean square of :math:`\|\partial h_v / \partial h_u\|_F` by hops.

    Between state 0, of F channels, and state L, over the P pairs of N nodes that have a
    path:

    .. math:: \log_{10} s_r = \text{model}_r + \text{topology}_r
        + \tfrac12 \log_{10} \frac{N F}{P}, \qquad
        \text{topology}_r = \log_{10}
        \frac{\operatorname{rms}_{d(u, v) = r} (\hat A^L)_{vu}}
        {\operatorname{rms}_{d(u, v) < \infty} (\hat A^L)_{vu}}

    The topology term is that of the graph alone: what a pair of nodes has of all walks
    of L steps, 0 if all pairs have alike. The model term is the rest. Where it is the
    same at all distances, as for layers :math:`\hat A H W`, it is the gain of random
    directions, :math:`\tfrac12 \log_{10} (\|J\|_F^2 / N F)`.

    Args:
        trace: The network.
        generator: Source of randomness.

    Returns:
        At ``distance:r``: ``sensitivity`` with its standard error,
        ``sensitivity.model``, ``sensitivity.topology`` and ``sensitivity.pairs``; and
        ``layers.state_space``, the share of layers with matrices :math:`\Lambda` and B;
        and ``sensitivity.far``, the distance that a tenth of the pairs reach, if there
        are 2.5 layers for each of its hops: with fewer, few walks go there anywhere.
        Nothing for less than two nodes.

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
    topology, pairs = (
        _topology(jacobian, found, trace.num_layers),
        float(_joined(found).sum()),
    )
    model = found.log10 - topology - math.log10(size * jacobian.in_width / pairs) / 2
    # A layer that sees farther than one hop reaches what walks do not.
    model = torch.where(topology.isneginf(), math.nan, model)
    rows, dtype = [], trace.precision
    for i, r in enumerate(found.hops.tolist()):
        if r < 0 or bool(found.log10[i].isnan()):
            continue
        error = float(found.stderr[i])
        for name, value, stderr, unit in (
            ("sensitivity", found.log10[i], error, "log10"),
            ("sensitivity.model", model[i], error, "log10"),
            ("sensitivity.topology", topology[i], None, "log10"),
            ("sensitivity.pairs", found.pairs[i], None, "1"),
        ):
            place = f"distance:{r}"
            rows.append(Observation(name, place, float(value), stderr, unit, dtype))
    formed = [part.input is not None for part in trace.messages]
    share = sum(formed) / len(formed)
    rows.append(Observation("layers.state_space", "model", share, None, "share"))
    counts = dict(zip(found.hops.tolist(), found.pairs.tolist(), strict=True))
    far = _far(counts, set(found.hops[model.isfinite()].tolist()))
    if 2 <= far <= trace.num_layers / DEPTHS:
        rows.append(Observation("sensitivity.far", "model", far, None, "hops"))
    return rows


def _far(pairs: dict[int, int], known: set[int]) -> int:
    """The farthest known distance that a tenth of the joined pairs reach; 0 if none."""
    total = sum(count for r, count in pairs.items() if r >= 0)
    beyond = {r: sum(n for d, n in pairs.items() if d >= r) for r in known if r > 0}
    return max((r for r, n in beyond.items() if n >= SHARE * total), default=0)


def log10_walks(
    edge_index: Tensor, num_nodes: int, roots: Tensor, num_layers: int
) -> Tensor:
    r"""Decimal logarithms of :math:`(\hat A^L)_{vu}` for roots v and all nodes u.

    .. math:: \hat A = \tilde D^{-1/2} (A + I)\, \tilde D^{-1/2}

    with the numbers of edges that leave a node on the side of the sources u, and of
    those that enter it on that of the targets v: for an undirected graph, GCN's
    operator. Self-loops in the data are the ones of I.

    Args:
        edge_index: Edges :math:`u \to v`, of shape (2, E).
        num_nodes: Number of nodes N.
        roots: The nodes v, of shape (R,).
        num_layers: Number of steps L.

    Returns:
        Of shape (R, N), in float64; -inf where no walk of L steps with pauses leads.
    """
    edge_index = edge_index.cpu()
    loops = torch.arange(num_nodes).expand(2, -1)
    kept = edge_index[:, edge_index[0] != edge_index[1]]
    source, target = torch.cat([kept, loops], dim=1)
    sent, received = (end.bincount().double()[end] for end in (source, target))
    found = [
        sensitivity_bound(
            torch.stack([target, source]),  # back along the edges, from v to u
            num_nodes,
            root,
            num_layers,
            max_weight=1.0,
            channels=1,
            edge_weight=(sent * received).rsqrt(),
        ).topology
        for root in roots.tolist()
    ]
    return torch.stack(found)


def _joined(found: SensitivityByDistance) -> Tensor:
    """Pairs at each distance, none without a path."""
    return found.pairs.double() * (found.hops >= 0)


def _topology(
    jacobian: NodeJacobian, found: SensitivityByDistance, num_layers: int
) -> Tensor:
    """Root mean squares of walks at each distance over that of all pairs, in decades.

    Sums over the roots stand for those over all nodes, as in the sensitivities.
    """
    distance = jacobian.distances(found.roots, backward=True)
    walks = log10_walks(
        jacobian.edge_index, jacobian.num_nodes, found.roots, num_layers
    )
    sums = torch.full((len(found.hops),), -math.inf, dtype=torch.float64)
    for i, r in enumerate(found.hops.tolist()):
        if r >= 0:
            sums[i] = log10_sum(2 * walks[distance == r], 0)
    pairs = _joined(found)
    total = log10_sum(sums, 0) - pairs.sum().log10()
    return (sums - pairs.log10() - total) / 2
