"""Gradient gating, where differences between neighbours decide what moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import build_convs, check_choice
from graphfathom.nn.propagation import GCNConv
from graphfathom.nn.zoo.choices import edge_names, taken_by

__all__ = ["GradientGating", "GradientGatingConv"]

AGGREGATIONS = ("mean", "sum")


class GradientGatingConv(MessagePassing):
    """A layer and a second one whose differences along edges gate it.

    Args:
        channels: Width of the features.
        conv: ``conv(in_channels, out_channels)`` returns a layer.
        p: Power of the differences.
        aggr: ``"mean"`` or ``"sum"`` over the neighbours.
        act: The activation.
    """

    def __init__(
        self,
        channels: int,
        conv: Callable[..., nn.Module] = GCNConv,
        p: float = 2.0,
        aggr: str = "mean",
        act: Act | None = None,
    ) -> None:
        check_choice("aggr", aggr, AGGREGATIONS)
        super().__init__(aggr=aggr)
        self.p = p
        self.act = nn.Identity() if act is None else act
        convs = build_convs(conv, channels, 2, None, {})
        self.conv: Any = convs[0]
        self.gate: Any = convs[1]
        self._edges = edge_names(self.conv)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        super().reset_parameters()
        self.conv.reset_parameters()
        self.gate.reset_parameters()

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None
    ) -> Tensor:
        """Node features to node features of the same width."""
        given = taken_by(self._edges, edge_weight=edge_weight)
        proposed = self.act(self.conv(x, edge_index, **given))
        gated = self.act(self.gate(x, edge_index, **given))
        rate = self.propagate(edge_index, x=gated).tanh()
        return (1 - rate) * x + rate * proposed

    def message(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        """How far the two ends of an edge are apart."""
        gap = x_j - x_i
        if self.p == 2:
            return gap.square()
        # For p < 2 the second derivative is infinite at 0, and NaN times a slope of 0.
        tied = gap == 0
        return torch.where(tied, 0.0, torch.where(tied, 1.0, gap).abs() ** self.p)


class GradientGating(GraphNetwork):
    r"""Gradient gating (G²) around any layer.

    .. math::
        \tau_i = \tanh\Bigl(\operatorname*{mean}_{j \in N(i)}
        |\hat{x}_j - \hat{x}_i|^p\Bigr), \qquad \hat{X} = \sigma(\hat{F}(X, G)), \qquad
        X^+ = (1 - \tau) \odot X + \tau \odot \sigma(F(X, G))

    with two layers :math:`F` and :math:`\hat{F}` of one kind. Where a gate's features
    are equal among neighbours, :math:`\tau = 0` and the node stays as it is, and so
    does one without neighbours.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        conv: :math:`F`: ``conv(in_channels, out_channels)`` returns a layer of PyG's
            kind. Several heads: ``functools.partial(GATConv, heads=4, concat=False)``.
        p: Power :math:`p` of the differences, at least 1. Default 2: the official
            code's.
        aggr: ``"mean"`` as the official code has it, or ``"sum"`` as the paper.
        act: The activation :math:`\sigma`.
        share_weights: Whether all layers have the same weights, as in the official
            code.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        TypeError: If ``conv`` is not a function that returns a module.
        ValueError: If a number or a choice is not as described.

    Example:
        >>> GradientGating(1433, 64, 7, num_layers=128)
        GradientGating(1433, 64, 7, num_layers=128, conv=GCNConv, p=2.0, aggr=mean,
        share_weights=True)

    References:
        | Gradient Gating for Deep Multi-Rate Learning on Graphs (Rusch et al., 2023)
        | https://arxiv.org/abs/2210.00513

    Differs from the paper:
        The gate takes the mean over the neighbours where the paper has the sum: the
        published numbers are the code's, and a sum opens the gates of hubs first. Edge
        weights act in :math:`F` and :math:`\hat{F}`, not in the mean. Powers below 1
        are refused: their slope is infinite where neighbours are equal. The code's
        gates compare along outgoing edges, here along incoming ones; its heads of GAT
        are averaged in groups of neighbouring features, not over heads.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        conv: Callable[..., nn.Module] = GCNConv,
        *,
        p: float = 2.0,
        aggr: str = "mean",
        act: str | Act | None = "relu",
        share_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        if not 1 <= p < torch.inf:
            raise ValueError(
                f"`p` must be a number >= 1. Got {p!r}: below 1 the gate's slope is "
                "infinite where neighbours are equal."
            )

        def layer(k: int, act: Act) -> nn.Module:
            return GradientGatingConv(hidden_channels, conv, p, aggr, act)

        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            share_weights=share_weights,
            **kwargs,
        )
        name = type(self.layers[0].conv).__name__
        self.options = {"conv": name, "p": p, "aggr": aggr}
