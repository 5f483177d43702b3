"""GRAND, diffusion whose conductance is attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import Linear, MessagePassing
from torch_geometric.utils import softmax

from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import check_choice, check_positive

__all__ = ["GRAND", "Attention", "GRANDConv"]


class Attention(nn.Module):
    r"""Scaled dot products, normalised over the neighbours and the node itself.

    .. math:: a_{ij} = \frac{1}{H} \sum_{h=1}^{H} \mathrm{softmax}_{j \in N(i) \cup i}
        \frac{\langle Q_h x_i + b_h, K_h x_j \rangle}{\sqrt{d / H}}

    Loops among the edges have the weight 0: what a node keeps is 1 less the others.

    Args:
        channels: Width :math:`d` of the features.
        heads: Number of heads :math:`H`.

    Shapes:
        - **input:** node features :math:`(N, d)`, edge indices :math:`(2, E)`
        - **output:** weights of the edges :math:`(E)`

    Raises:
        ValueError: If ``heads`` does not divide ``channels``.
    """

    def __init__(self, channels: int, heads: int = 1) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(
                f"`heads` must divide the width, {channels}. Got {heads}: pass for "
                "example 1."
            )
        self.heads = heads
        self.query = Linear(channels, channels)
        # A bias would add the same to all logits of a node, which softmax takes off.
        self.key = Linear(channels, channels, bias=False)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.query.reset_parameters()
        self.key.reset_parameters()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Node features to weights of the edges."""
        source, target = edge_index
        nodes, heads = torch.arange(x.size(0), device=x.device), self.heads
        query = self.query(x).unflatten(-1, (heads, -1))
        key = self.key(x).unflatten(-1, (heads, -1))
        logits = (query[target] * key[source]).sum(-1)
        logits = logits.masked_fill((source == target).unsqueeze(-1), -torch.inf)
        logits = torch.cat([logits, (query * key).sum(-1)]) / math.sqrt(key.size(-1))
        # One long vector: to `capture`, sums that have a row for each node are a layer.
        index = torch.cat([target, nodes]).unsqueeze(-1) * heads
        index = index + torch.arange(heads, device=x.device)
        weight = softmax(logits.flatten(), index.flatten(), num_nodes=len(x) * heads)
        return weight.view(-1, heads)[: len(source)].mean(-1)


class GRANDConv(MessagePassing):
    r"""One step of the equation :math:`\dot{x}_i = \alpha \sum_j a_{ij} (x_j - x_i)`.

    The sum is :math:`(A - I) X`, as the rows of :math:`A` add up to 1 with what a node
    keeps itself; as differences, equal features stay equal without rounding.

    Args:
        channels: Width of the features.
        heads: Number of heads, or None to take the weights :math:`a_{ij}` as
            ``edge_weight``.
        epsilon: Step size.
        method: ``"euler"`` or ``"rk4"``.

    Raises:
        ValueError: If a layer without heads is called without ``edge_weight``.
    """

    def __init__(
        self,
        channels: int,
        heads: int | None = 1,
        epsilon: float = 1.0,
        method: str = "euler",
    ) -> None:
        super().__init__(aggr="add")
        self.epsilon = epsilon
        self.method = method
        self.attention = None if heads is None else Attention(channels, heads)
        self.alpha = nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        """Draw the weights anew; the rate starts from a half."""
        super().reset_parameters()
        if self.attention is not None:
            self.attention.reset_parameters()
        nn.init.zeros_(self.alpha)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None
    ) -> Tensor:
        """Node features to node features of the same width."""
        if self.attention is None and edge_weight is None:
            raise ValueError(
                "`edge_weight` must be given to a layer without heads. Got None: pass "
                "what `Attention` returns, or build the layer with `heads=1`."
            )

        def rate(x: Tensor) -> Tensor:
            weight = edge_weight
            if self.attention is not None:
                weight = self.attention(x, edge_index)
            flow = self.propagate(edge_index, x=x, edge_weight=weight)
            return self.alpha.sigmoid() * flow

        return METHODS[self.method](rate, x, self.epsilon)

    def message(self, x_i: Tensor, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        """What flows along an edge."""
        return edge_weight.unsqueeze(-1) * (x_j - x_i)


class GRAND(GraphNetwork):
    r"""Graph Neural Diffusion, whose layers are steps of a diffusion equation.

    .. math:: \dot{H} = \sigma(\alpha) \, (A(H) - I) H

    with :math:`A` of :class:`Attention`, the scalar :math:`\alpha` learned and
    :math:`\sigma` the sigmoid; a layer is a step of size :math:`\epsilon`. The rows of
    :math:`A` add up to 1, so constant features stay. For
    :math:`\epsilon \sigma(\alpha) \le 1` the Euler step is an average over a node and
    its neighbours: no feature leaves the range it starts in.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        method: ``"euler"``, or ``"rk4"``, the classical method of Runge and Kutta with
            four evaluations a step.
        linear: Whether :math:`A(H_0)` serves all layers (GRAND-l), or each evaluation
            has its own :math:`A(H)` (GRAND-nl).
        heads: Number of heads, whose attention is averaged. It divides
            ``hidden_channels``.
        epsilon: Step size :math:`\epsilon`.
        share_weights: Whether all steps have the same weights, as in the paper.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`; ``act`` serves
            ``encoder_act`` alone.

    Raises:
        ValueError: If a number or a choice is not as described.

    Example:
        >>> GRAND(1433, 64, 7, num_layers=18)
        GRAND(1433, 64, 7, num_layers=18, method=euler, linear=False, heads=1,
        epsilon=1.0, share_weights=True)

    References:
        | GRAND: Graph Neural Diffusion (Chamberlain et al., 2021)
        | https://arxiv.org/abs/2106.10934

    Differs from the paper:
        Edge weights are not used: attention takes their place, and each node attends
        to itself too, as in the official code. That code (1) may add a source
        :math:`\beta H_0`, left out; (2) has a bias in the keys, which softmax takes
        off; (3) starts with all attention weights at 1e-5, here they are random;
        (4) takes the 3/8 rule for RK4, also of order 4; (5) has ReLU before the head.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        method: str = "euler",
        *,
        linear: bool = False,
        heads: int = 1,
        epsilon: float = 1.0,
        share_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        check_choice("method", method, tuple(METHODS))
        check_positive(epsilon=epsilon)

        def layer(k: int, act: Act) -> nn.Module:
            own = None if linear else heads
            return GRANDConv(hidden_channels, own, epsilon, method)

        options = {"method": method, "linear": linear, "heads": heads}
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            share_weights=share_weights,
            options=options | {"epsilon": epsilon},
            **kwargs,
        )
        self.attention = Attention(hidden_channels, heads) if linear else None

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The edges, with the attention of all layers as their weights if linear."""
        weight = None if self.attention is None else self.attention(x, edge_index)
        return edge_index, given | {"edge_weight": weight}


Rate = Callable[[Tensor], Tensor]


def _euler(rate: Rate, x: Tensor, epsilon: float) -> Tensor:
    return x + epsilon * rate(x)


def _rk4(rate: Rate, x: Tensor, epsilon: float) -> Tensor:
    first = rate(x)
    second = rate(x + epsilon / 2 * first)
    third = rate(x + epsilon / 2 * second)
    fourth = rate(x + epsilon * third)
    return x + epsilon / 6 * (first + 2 * second + 2 * third + fourth)


METHODS: dict[str, Callable[[Rate, Tensor, float], Tensor]] = {
    "euler": _euler,
    "rk4": _rk4,
}
