r"""Sensitivity by distance: how much reaches a node from how many hops away."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.node_norms import log10_norms, log10_sum, norms_by_root
from graphfathom.diagnostics.sensitivity import (
    PRODUCT_BUDGET,
    as_nodes,
    check_price,
    price,
)
from graphfathom.diagnostics.trace import BYTE_BUDGET

__all__ = [
    "Influence",
    "SensitivityByDistance",
    "influence",
    "sensitivity_by_distance",
]

SEARCH_BUDGET = 10**10
"""Nodes and edges visited to count the pairs at each distance: some minutes."""
ROOTS_TOGETHER = 256
"""Breadth-first searches of which the distances are held at a time."""


@dataclass(frozen=True, eq=False)
class SensitivityByDistance:
    """Root mean square of the Frobenius norms of all pairs at each distance."""

    hops: Tensor
    """The distances from u to v, of shape (H,), from 0; last -1 for the pairs without a
    path, if there are any."""
    log10: Tensor
    """Decimal logarithms of the root mean squares, of shape (H,); -inf for exact zeros,
    NaN at distances that no root of the sample has or if not finite."""
    stderr: Tensor
    """Their standard errors in decades, of shape (H,); 0 where nothing is random."""
    pairs: Tensor
    """Number of pairs at each distance over which the mean goes, of shape (H,)."""
    roots: Tensor
    """The nodes v that were measured."""


@dataclass(frozen=True, eq=False)
class Influence:
    r"""Sums of L1 norms over the nodes at each distance from a root."""

    roots: Tensor
    """The nodes v, of shape (R,)."""
    log10: Tensor
    """Decimal logarithms of :math:`I_r(v)`, of shape (R, K + 1) for r = 0, ..., K."""

    @property
    def mean(self) -> Tensor:
        """Decimal logarithms of the means over the roots, of shape (K + 1,)."""
        return log10_sum(self.log10, 0) - math.log10(len(self.roots))

    @property
    def normalized(self) -> Tensor:
        """Means over the roots in units of that at 0 hops, of shape (K + 1,)."""
        return 10 ** (self.mean - self.mean[0])

    @property
    def breadth(self) -> float:
        """Mean distance in hops from which influence comes; NaN if a root has none."""
        shares = 10 ** (self.log10 - log10_sum(self.log10, 1)[:, None])
        hops = torch.arange(shares.shape[1], dtype=torch.float64)
        return float((shares @ hops).mean())


def sensitivity_by_distance(
    jacobian: NodeJacobian,
    roots: int | Sequence[int] | Tensor | None = None,
    *,
    num_roots: int | None = None,
    num_samples: int | None = None,
    generator: torch.Generator | None = None,
    product_budget: int = PRODUCT_BUDGET,
    byte_budget: int = BYTE_BUDGET,
) -> SensitivityByDistance:
    r"""Mean squared sensitivity of all pairs of nodes at each distance.

    .. math:: m_r = \frac{\sum_v S_r(v)}{\sum_v n_r(v)}, \qquad
        S_r(v) = \sum_{u:\, d(u, v) = r} \|J_{vu}\|_F^2
        = \mathbb E \sum_{u:\, d(u, v) = r} \|J_{vu}^\top w\|^2

    with random signs w and the number :math:`n_r(v)` of nodes at r hops, counted for
    all roots. Drawing the roots, the signs or both leaves :math:`m_r` unbiased. Signs
    on several roots at once would not: a node is not equally far from all of them.

    The standard error is that of sampling in two stages, roots without replacement and
    signs within them. One sample per root says nothing of the second stage; then the
    spread between roots is taken for both, which is too large. Take all roots with one
    sample where that is affordable: for 160 roots of a GCN of 8 layers on a graph of
    Cora's size, two standard errors covered the truth in 97 of 100 cases; for 16 roots
    in 91 to 96, with two samples in 88. **Drawn roots may miss what carries it**, and
    the standard error cannot know: one isolated node made 82 % of it at 0 hops, and
    32 roots of the 160 covered the truth there in 20 of 100 cases, in 85 to 95 from 1
    hop on.

    Args:
        jacobian: The derivative between the two states.
        roots: The nodes v that the mean is over. Default: all.
        num_roots: How many of them are drawn and measured. Default: all.
        num_samples: Probes w per root, each one VJP. Default: exact, with
            ``jacobian.out_width`` VJPs per root.
        generator: Source of randomness. The global one if None.
        product_budget: VJPs that may be made.
        byte_budget: Bytes that may be taken.

    Returns:
        Logarithms of :math:`\sqrt{m_r}`, with standard errors by the delta method.

    Raises:
        ValueError: If an argument is out of range, nothing says how large the error is,
            or the price is above the budget.

    Example:
        >>> from torch_geometric.data import Data
        >>> from torch_geometric.nn import SGConv
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> trace = gf.capture(gf.Problem(SGConv(3, 1, K=1), data))
        >>> found = sensitivity_by_distance(NodeJacobian(trace))
        >>> found.hops, found.pairs
        (tensor([ 0,  1,  2, -1]), tensor([3, 2, 1, 3]))

    References:
        | Sampling Techniques (Cochran, 3rd ed., 1977), Chapter 10
    """
    population = as_nodes(jacobian, roots, "roots")
    count = len(population) if num_roots is None else num_roots
    _check_sample(count, len(population), num_samples)
    cost = price(jacobian, count, num_samples=num_samples)
    check_price(cost, product_budget, byte_budget)
    pairs = _count_pairs(jacobian, population)
    chosen = population
    if num_roots is not None:
        source = "cpu" if generator is None else generator.device
        order = torch.randperm(len(population), generator=generator, device=source)
        chosen = population[order.cpu()[:count]]
    sums, seen = _squares(jacobian, chosen, num_samples, len(pairs), generator)
    value, stderr = _two_stage(sums, len(chosen) / len(population), num_samples)
    # Sums over the roots that were drawn become a mean over the pairs of all.
    value = value + math.log10(len(population)) - pairs.log10()
    value[~seen] = math.nan
    stderr[~seen] = math.nan
    hops = torch.arange(len(pairs))
    hops[-1] = -1
    kept = pairs > 0
    return SensitivityByDistance(
        hops[kept], value[kept] / 2, stderr[kept] / 2, pairs[kept].long(), chosen
    )


def influence(
    jacobian: NodeJacobian,
    roots: int | Sequence[int] | Tensor | None = None,
    *,
    max_hops: int | None = None,
    product_budget: int = PRODUCT_BUDGET,
    byte_budget: int = BYTE_BUDGET,
) -> Influence:
    r"""Influence by distance of an L1 Jacobian, exact.

    .. math:: I_r(v) = \sum_{u:\, d(u, v) = r} \|J_{vu}\|_1, \qquad
        R = \frac{1}{|V|} \sum_{v} \frac{\sum_r r\, I_r(v)}{\sum_r I_r(v)}

    with the sum of absolute entries of a block. These are the numbers of
    ``torch_geometric.utils.total_influence``: ``log10`` is its matrix for
    ``average=False``, ``normalized`` the vector for ``normalize=True``, ``breadth`` its
    second result. Nodes without a path and beyond ``max_hops`` are left out.

    **Differs from PyG:** The derivative is that of the network on the whole graph. PyG
    runs the network on the subgraph of ``max_hops`` hops around a root. That is the
    same if ``max_hops`` is larger than the number of hops that the layers go; else
    degrees and paths at the rim are cut, and the numbers are not those of the network.

    Args:
        jacobian: The derivative between the two states, such as ``NodeJacobian(trace)``
            from the input to the output.
        roots: The nodes v. Default: all.
        max_hops: The largest distance K. Default: the largest one from any root.
        product_budget: VJPs that may be made; a root takes ``jacobian.out_width``.
        byte_budget: Bytes that may be taken.

    Raises:
        ValueError: If an argument is out of range or the price above the budget.

    Example:
        >>> from torch_geometric.data import Data
        >>> from torch_geometric.nn import SGConv
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> trace = gf.capture(gf.Problem(SGConv(3, 1, K=1), data))
        >>> influence(NodeJacobian(trace), 2).normalized
        tensor([1., 1., 0.], dtype=torch.float64)

    References:
        | Towards Quantifying Long-Range Interactions in Graph Machine Learning
        | (Liang et al., 2025), Section 4, https://arxiv.org/abs/2503.09008
    """
    nodes = as_nodes(jacobian, roots, "roots")
    if max_hops is not None and max_hops < 0:
        raise ValueError(f"`max_hops` must be >= 0. Got {max_hops}.")
    cost = price(jacobian, len(nodes), norm="l1")
    check_price(cost, product_budget, byte_budget)
    distance = jacobian.distances(nodes, backward=True)
    last = int(distance.max()) if max_hops is None else max_hops
    rows = norms_by_root(jacobian, nodes, "l1", "of")
    sums = [
        _by_hop(row, hops, last + 1) for row, hops in zip(rows, distance, strict=True)
    ]
    return Influence(nodes, torch.stack(sums))


def _check_sample(count: int, size: int, num_samples: int | None) -> None:
    if not 1 <= count <= size:
        raise ValueError(
            f"`num_roots` must be in [1, {size}], the number of roots. Got {count}."
        )
    if count == 1 and (size > 1 or num_samples == 1):
        raise ValueError(
            "`num_roots` must be at least 2, or there is no standard error. Got 1: "
            "draw more, or name one root in `roots` and take 2 samples."
        )


def _count_pairs(jacobian: NodeJacobian, roots: Tensor) -> Tensor:
    """Pairs at 0, 1, ... hops and, last, without a path; in float64."""
    steps = len(roots) * (jacobian.num_nodes + jacobian.edge_index.shape[1])
    if steps > SEARCH_BUDGET:
        raise ValueError(
            f"`roots` must be fewer: counting the pairs visits {steps:,} nodes and "
            f"edges, above {SEARCH_BUDGET:,}. Name some of the {len(roots):,} nodes."
        )
    total = torch.zeros(jacobian.num_nodes + 1, dtype=torch.long)
    for part in roots.split(ROOTS_TOGETHER):
        found = jacobian.distances(part, backward=True) + 1
        total += found.reshape(-1).bincount(minlength=len(total))
    last = int(total.nonzero().max())
    return torch.cat([total[1 : last + 1], total[:1]]).double()


def _squares(
    jacobian: NodeJacobian,
    roots: Tensor,
    num_samples: int | None,
    num_groups: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Logarithms of the sums of squares, of shape (roots, samples, groups).

    Also which groups any of the roots has.
    """
    distance = jacobian.distances(roots, backward=True)
    groups = torch.where(distance < 0, num_groups - 1, distance)
    seen = groups.reshape(-1).bincount(minlength=num_groups) > 0
    if num_samples is None:
        rows = norms_by_root(jacobian, roots, "frobenius", "of")
        samples, pick = 1, groups
    else:
        shape = len(roots) * num_samples, jacobian.out_width
        source = "cpu" if generator is None else generator.device
        signs = 2 * torch.randint(2, shape, generator=generator, device=source) - 1
        products = jacobian.pull(
            roots.repeat_interleave(num_samples), signs.cpu().double()
        )
        rows = (log10_norms(product, 2) for product in products)
        samples, pick = num_samples, groups.repeat_interleave(num_samples, 0)
    sums = [
        _by_hop(2 * row, hops, num_groups) for row, hops in zip(rows, pick, strict=True)
    ]
    return torch.stack(sums).view(len(roots), samples, num_groups), seen


def _by_hop(logs: Tensor, hops: Tensor, num_groups: int) -> Tensor:
    """Logarithms of the sums over the nodes at 0 to ``num_groups`` - 1 hops."""
    kept = (hops >= 0) & (hops < num_groups)
    logs, hops = logs[kept], hops[kept]
    top = torch.full((num_groups,), -math.inf, dtype=logs.dtype)
    top = top.scatter_reduce(0, hops, logs, "amax")
    # Where all is zero, -inf is not to be taken from -inf.
    shift = torch.where(top.isneginf(), 0.0, top)
    sums = torch.zeros_like(top).index_add(0, hops, 10 ** (logs - shift[hops]))
    return shift + sums.log10()


def _two_stage(
    sums: Tensor, fraction: float, num_samples: int | None
) -> tuple[Tensor, Tensor]:
    """Logarithms of the means over roots and samples, and their standard errors."""
    top = sums.amax((0, 1))
    shift = torch.where(top.isneginf(), 0.0, top)
    values = 10 ** (sums - shift)
    count, samples = values.shape[:2]
    by_root = values.mean(1)
    mean = by_root.mean(0)
    between = by_root.var(0) if count > 1 else torch.zeros_like(mean)
    within = torch.zeros_like(mean)
    if num_samples is not None:
        within = values.var(1).mean(0) / samples if samples > 1 else between
    variance = ((1 - fraction) * between + fraction * within) / count
    relative = variance.sqrt() / torch.where(mean == 0, 1, mean)
    return shift + mean.log10(), relative / math.log(10)
