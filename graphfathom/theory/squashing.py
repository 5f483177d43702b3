"""Sensitivity of one node to another: Theorem 5.1."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SensitivityBound", "sensitivity_bound"]


@dataclass(frozen=True)
class SensitivityBound:
    r"""The bound of Theorem 5.1, split into what the model and what the graph does."""

    model: float
    r"""The model term :math:`k \log_{10}(c_\sigma w d)`."""
    topology: Tensor
    r"""The topology term :math:`\log_{10} (O^k)_{vu}` of every node v, of shape
    :math:`(n)`; -inf where no walk of k steps leads from u to v."""

    @property
    def log10(self) -> Tensor:
        """Logarithm to the base 10 of the bound, of shape :math:`(n)`."""
        return self.model + self.topology


def sensitivity_bound(
    edge_index: Tensor,
    num_nodes: int,
    root: int,
    num_layers: int,
    *,
    max_weight: float,
    channels: int,
    edge_weight: Tensor | None = None,
    residual: float = 0.0,
    message: float = 1.0,
    slope: float = 1.0,
) -> SensitivityBound:
    r"""How much the features of one node can change those of the others, Theorem 5.1.

    .. math:: \left\| \frac{\partial h_v^{(k)}}{\partial h_u^{(0)}} \right\|_1
        \le (c_\sigma w d)^k \, (O^k)_{vu}, \qquad O = c_r I + c_a A

    for layers :math:`h_v^+ = \sigma(c_r W_r h_v + c_a \sum_u A_{vu} W_a h_u)`. The norm
    is the largest sum of absolute entries of a column. Powers are formed in logarithms,
    so that they neither overflow nor become 0 on the way.

    Args:
        edge_index: Edges :math:`u \to v`, of shape :math:`(2, E)`.
        num_nodes: Number of nodes :math:`n`.
        root: The node :math:`u`.
        num_layers: Number of layers :math:`k`.
        max_weight: The largest absolute entry :math:`w` of all weights.
        channels: Width :math:`d`.
        edge_weight: Entries :math:`A_{vu}`, of shape :math:`(E)`; their absolute values
            are taken. Default: 1.
        residual: The number :math:`|c_r|`.
        message: The number :math:`|c_a|`.
        slope: Lipschitz constant :math:`c_\sigma` of the activation.

    Raises:
        ValueError: If a number is negative or not finite, or the root is no node.

    Example:
        >>> path = torch.tensor([[0, 1], [1, 2]])
        >>> bound = sensitivity_bound(path, 3, 0, 2, max_weight=0.5, channels=2)
        >>> bound.model, bound.topology
        (0.0, tensor([-inf, -inf, 0.], dtype=torch.float64))

    References:
        | On Over-Squashing in Message Passing Neural Networks
        | (Di Giovanni et al., 2023), https://arxiv.org/abs/2302.02941
        | On Vanishing Gradients, Over-Smoothing, and Over-Squashing in GNNs
        | (Arroyo et al., 2025), https://arxiv.org/abs/2502.10818, Theorem 5.1
    """
    numbers = {"residual": residual, "message": message, "slope": slope}
    for name, value in (numbers | {"max_weight": max_weight}).items():
        if not 0 <= value < math.inf:
            raise ValueError(f"`{name}` must be >= 0 and finite. Got {value}.")
    if not 0 <= root < num_nodes:
        raise ValueError(f"`root` must be a node, 0 to {num_nodes - 1}. Got {root}.")
    if num_layers < 0 or channels < 1:
        raise ValueError(
            "`num_layers` must be >= 0 and `channels` >= 1. Got "
            f"{num_layers} and {channels}."
        )
    source, target = edge_index
    nodes = torch.arange(num_nodes, device=source.device)
    weight = torch.ones(len(source), dtype=torch.float64, device=source.device)
    if edge_weight is not None:
        weight = edge_weight.detach().abs().double()
    if weight.shape != source.shape or not bool(weight.isfinite().all()):
        raise ValueError(
            f"`edge_weight` must hold {len(source)} finite numbers, one for each edge. "
            f"Got {tuple(weight.shape)}, not finite: {int((~weight.isfinite()).sum())}."
        )
    weight = torch.cat([message * weight, weight.new_full((num_nodes,), residual)])
    places = torch.cat([source, nodes]), torch.cat([target, nodes])
    logs = weight.new_full((num_nodes,), -math.inf)
    logs[root] = 0.0
    for _ in range(num_layers):
        logs = _log_product(*places, weight.log(), logs)
    model = slope * max_weight * channels
    term = num_layers * (math.log10(model) if model else -math.inf) if num_layers else 0
    return SensitivityBound(float(term), logs / math.log(10))


def _log_product(source: Tensor, target: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """Of a matrix and a vector, all of them logarithms."""
    terms = weight + x[source]
    top = torch.full_like(x, -math.inf).scatter_reduce(0, target, terms, "amax")
    # Where nothing arrives, -inf is not to be taken from -inf.
    shift = torch.where(top.isneginf(), 0.0, top)
    sums = torch.zeros_like(x).index_add(0, target, (terms - shift[target]).exp())
    return shift + sums.log()
