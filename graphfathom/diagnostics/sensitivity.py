r"""How much the row of one node changes with that of another, in any network.

Glossary:
    sensitivity of v to u: a norm of the block :math:`J_{vu}` of a
        :class:`~graphfathom.diagnostics.node_jacobian.NodeJacobian`.
    hop: one edge in the direction of the messages, so from u to v.
    exact zero: no path leads from u to v, or every path is shut (dead activations, more
        hops than the layers go); also what is smaller than the range of the dtype
        allows beside the largest entry, 1e-308 in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.node_norms import NORMS, log10_sum, norms_by_root
from graphfathom.diagnostics.trace import BYTE_BUDGET

__all__ = [
    "NORMS",
    "PairSensitivity",
    "Price",
    "Sensitivity",
    "pair_sensitivity",
    "price",
    "sensitivity_of",
    "sensitivity_to",
]

PRODUCT_BUDGET = 20_000
"""Default for the products: half an hour at 0.1 seconds, a deep network on Cora."""


@dataclass(frozen=True)
class Price:
    """What a measure takes, known before it runs."""

    products: int
    """Products with the derivative; each is one pass through the layers."""
    bytes: int
    """Bytes of the result and of the vectors on the way, without the network."""

    def __str__(self) -> str:
        return f"{self.products:,} products and {self.bytes / 2**20:,.0f} MiB"


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Sensitivities between some roots and all nodes."""

    roots: Tensor
    """The roots, of shape (R,)."""
    norm: str
    """One of :data:`NORMS`."""
    direction: str
    """``"of"`` the roots to all nodes, or of all nodes ``"to"`` the roots."""
    log10: Tensor
    """Decimal logarithms of the norms, of shape (R, N); -inf for an exact zero, NaN
    where the network is not finite."""
    distance: Tensor
    """Hops on the shortest path of messages, of shape (R, N); -1 without one."""

    @property
    def relative(self) -> Tensor:
        """Logarithms of the shares in the total of a root; NaN if that is zero."""
        return self.log10 - log10_sum(self.log10, 1)[:, None]

    def explain(self, position: int, node: int) -> str:
        """One sentence about a root, by its position in ``roots``, and a node."""
        root = int(self.roots[position])
        pair = (root, node) if self.direction == "of" else (node, root)
        numbers = self.log10[position, node], self.distance[position, node]
        return _sentence(*pair, float(numbers[0]), int(numbers[1]))


@dataclass(frozen=True, eq=False)
class PairSensitivity:
    """Sensitivities of the nodes of some pairs."""

    targets: Tensor
    """The nodes v, of shape (P,)."""
    sources: Tensor
    """The nodes u, of shape (P,)."""
    norm: str
    """One of :data:`NORMS`."""
    log10: Tensor
    """Decimal logarithms of the norms of :math:`J_{vu}`, of shape (P,); -inf for an
    exact zero, NaN where the network is not finite."""
    relative: Tensor
    """Logarithms of the shares in the total of v over all nodes, of shape (P,)."""
    distance: Tensor
    """Hops from u to v, of shape (P,); -1 without a path."""

    def explain(self, position: int) -> str:
        """One sentence about a pair."""
        pair = int(self.targets[position]), int(self.sources[position])
        return _sentence(
            *pair, float(self.log10[position]), int(self.distance[position])
        )


def sensitivity_of(
    jacobian: NodeJacobian,
    roots: int | Sequence[int] | Tensor | None = None,
    *,
    norm: str = "frobenius",
    product_budget: int = PRODUCT_BUDGET,
    byte_budget: int = BYTE_BUDGET,
) -> Sensitivity:
    r"""How much every node changes some roots.

    .. math:: \| J_{vu} \|, \qquad v \text{ a root},\ u = 1, \dots, N

    Args:
        jacobian: The derivative between the two states.
        roots: The nodes v. Default: all, which is for small graphs.
        norm: One of :data:`NORMS`.
        product_budget: VJPs that may be made; a root takes ``jacobian.out_width``.
        byte_budget: Bytes that may be taken.

    Raises:
        ValueError: If a root is no node, the norm is not known, or the price is above a
            budget; then nothing has been computed.

    Example:
        >>> from torch_geometric.data import Data
        >>> from torch_geometric.nn import SGConv
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> trace = gf.capture(gf.Problem(SGConv(3, 1, K=1), data))
        >>> found = sensitivity_of(NodeJacobian(trace), 1)
        >>> found.distance
        tensor([[ 1,  0, -1]])
        >>> found.explain(0, 2)
        'node 1 to node 2: exact zero: no path.'

    References:
        | Representation Learning on Graphs with Jumping Knowledge Networks
        | (Xu et al., 2018), Definition 3.1, https://arxiv.org/abs/1806.03536
    """
    return _sensitivity(jacobian, roots, norm, "of", product_budget, byte_budget)


def sensitivity_to(
    jacobian: NodeJacobian,
    roots: int | Sequence[int] | Tensor | None = None,
    *,
    norm: str = "frobenius",
    product_budget: int = PRODUCT_BUDGET,
    byte_budget: int = BYTE_BUDGET,
) -> Sensitivity:
    r"""How much some roots change every node.

    .. math:: \| J_{vu} \|, \qquad u \text{ a root},\ v = 1, \dots, N

    Args:
        jacobian: The derivative between the two states.
        roots: The nodes u. Default: all.
        norm: One of :data:`NORMS`.
        product_budget: JVPs that may be made; a root takes ``jacobian.in_width``.
        byte_budget: Bytes that may be taken.

    Raises:
        ValueError: As :func:`sensitivity_of`.
        JacobianError: If a layer cannot be differentiated twice.

    Example:
        >>> from torch_geometric.data import Data
        >>> from torch_geometric.nn import SGConv
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> trace = gf.capture(gf.Problem(SGConv(3, 1, K=1), data))
        >>> sensitivity_to(NodeJacobian(trace), 1).distance
        tensor([[-1,  0,  1]])
    """
    return _sensitivity(jacobian, roots, norm, "to", product_budget, byte_budget)


def pair_sensitivity(
    jacobian: NodeJacobian,
    targets: int | Sequence[int] | Tensor,
    sources: int | Sequence[int] | Tensor,
    *,
    norm: str = "frobenius",
    product_budget: int = PRODUCT_BUDGET,
    byte_budget: int = BYTE_BUDGET,
) -> PairSensitivity:
    r"""How much one node of a pair changes the other.

    Args:
        jacobian: The derivative between the two states.
        targets: The nodes v, of shape (P,).
        sources: The nodes u, of shape (P,).
        norm: One of :data:`NORMS`.
        product_budget: VJPs that may be made; each different v takes
            ``jacobian.out_width``.
        byte_budget: Bytes that may be taken.

    Raises:
        ValueError: As :func:`sensitivity_of`, or if there are not as many sources as
            targets.

    Example:
        >>> from torch_geometric.data import Data
        >>> from torch_geometric.nn import SGConv
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> trace = gf.capture(gf.Problem(SGConv(3, 1, K=1), data))
        >>> pair_sensitivity(NodeJacobian(trace), [1, 1], [0, 2]).distance
        tensor([ 1, -1])
    """
    v = as_nodes(jacobian, targets, "targets")
    u = as_nodes(jacobian, sources, "sources")
    if len(u) != len(v):
        raise ValueError(
            f"`targets` and `sources` must be pairs. Got {len(v)} and {len(u)} nodes."
        )
    roots, place = v.unique(return_inverse=True)
    found = sensitivity_of(
        jacobian,
        roots,
        norm=norm,
        product_budget=product_budget,
        byte_budget=byte_budget,
    )
    at = place, u
    return PairSensitivity(
        v, u, norm, found.log10[at], found.relative[at], found.distance[at]
    )


def price(
    jacobian: NodeJacobian,
    num_roots: int,
    *,
    norm: str = "frobenius",
    direction: str = "of",
    num_samples: int | None = None,
) -> Price:
    """What sensitivities between some roots and all nodes take.

    Args:
        jacobian: The derivative between the two states.
        num_roots: Number of roots, at least 1.
        norm: One of :data:`NORMS`.
        direction: ``"of"`` the roots to all nodes or of all nodes ``"to"`` the roots.
        num_samples: Probes per root, where the norm is estimated. Default: it is exact.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from torch_geometric.data import Data
        >>> from torch_geometric.nn import SGConv
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> trace = gf.capture(gf.Problem(SGConv(3, 2, K=1), data))
        >>> price(NodeJacobian(trace), num_roots=3).products
        6
    """
    _check_choice("norm", norm, NORMS)
    _check_choice("direction", direction, ("of", "to"))
    for name, value in (("num_roots", num_roots), ("num_samples", num_samples)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1. Got {value}.")
    widths = (jacobian.out_width, jacobian.in_width)
    own, other = widths if direction == "of" else widths[::-1]
    products = num_roots * (own if num_samples is None else num_samples)
    nodes = jacobian.num_nodes
    # A logarithm and a distance for each pair; norms of a root before they are joined.
    result = (2 * num_roots + own) * nodes * 8
    block = 2 * own * other * nodes * 8 if norm == "operator" else 0
    size = result + block + jacobian.moving_bytes(products)
    return Price(products, size)


def as_nodes(
    jacobian: NodeJacobian, nodes: int | Sequence[int] | Tensor | None, name: str
) -> Tensor:
    """Indices of nodes on the CPU; all of them if None."""
    count = jacobian.num_nodes
    if nodes is None:
        return torch.arange(count)
    found = torch.as_tensor(nodes).reshape(-1).cpu()
    if len(found) and (found.is_floating_point() or found.dtype == torch.bool):
        raise TypeError(
            f"`{name}` must hold indices of nodes. Got {found.dtype}: take "
            "`mask.nonzero()` of a mask."
        )
    wrong = found[(found < 0) | (found >= count)]
    if not len(found) or len(wrong):
        seen = int(wrong[0]) if len(wrong) else "none"
        raise ValueError(f"`{name}` must be nodes, 0 to {count - 1}. Got {seen}.")
    return found.long()


def check_price(cost: Price, product_budget: int, byte_budget: int) -> None:
    """Refuse what is above a budget."""
    for name, need, budget in (
        ("product_budget", cost.products, product_budget),
        ("byte_budget", cost.bytes, byte_budget),
    ):
        if need > budget:
            raise ValueError(
                f"`{name}` must be at least {need:,} for this measure, which takes "
                f"{cost}. Got {budget:,}: raise it or name fewer roots."
            )


def _sensitivity(
    jacobian: NodeJacobian,
    nodes: int | Sequence[int] | Tensor | None,
    norm: str,
    direction: str,
    product_budget: int,
    byte_budget: int,
) -> Sensitivity:
    roots = as_nodes(jacobian, nodes, "roots")
    cost = price(jacobian, len(roots), norm=norm, direction=direction)
    check_price(cost, product_budget, byte_budget)
    logs = torch.stack([*norms_by_root(jacobian, roots, norm, direction)])
    distance = jacobian.distances(roots, backward=direction == "of")
    return Sensitivity(roots, norm, direction, logs, distance)


def _sentence(target: int, source: int, log10: float, distance: int) -> str:
    pair = f"node {target} to node {source}"
    hops = "no path" if distance < 0 else f"{distance} hop{'s' * (distance != 1)}"
    if math.isnan(log10):
        return f"{pair}: not finite; {hops}."
    if log10 > -math.inf:
        return f"{pair}: 10^{log10:.2f}; {hops}."
    if distance < 0:
        return f"{pair}: exact zero: no path."
    return (
        f"{pair}: zero, though {hops} apart: more hops than the layers go, dead or "
        "rounded activations, or below the range of the dtype."
    )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {', '.join(choices)}. Got {value!r}."
        )
