"""GCNII, a network with initial residual and identity mapping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GCN2Conv

from graphfathom.nn.dropout import dropout as drop
from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import check_nonnegative
from graphfathom.nn.recompute import State

__all__ = ["GCNII", "GCNIILayer"]


class GCNIILayer(nn.Module):
    """PyG's layer between dropout and activation.

    Args:
        conv: The layer.
        act: The activation.
        dropout: Probability of dropping an entry of what the layer reads of the state.
    """

    def __init__(
        self,
        conv: GCN2Conv,
        act: Callable[[Tensor], Tensor] = torch.relu,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.act = act
        self.dropout = dropout

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.conv.reset_parameters()

    def forward(
        self,
        x: Tensor,
        x_0: Tensor,
        edge_index: Any,
        edge_weight: Tensor | None = None,
    ) -> State:
        """The state and the first state to the next state and the first."""
        x = drop(x, self.dropout, self.training)
        return self.act(self.conv(x, x_0, edge_index, edge_weight)), x_0


class GCNII(GraphNetwork):
    r"""GCNII, whose layers mix in the initial state, on PyG's layer.

    The layer is :class:`~torch_geometric.nn.conv.GCN2Conv`.

    .. math::
        H_0 = \sigma(X W_\mathrm{in} + b_\mathrm{in}), \qquad
        H_\ell = \sigma\bigl(((1 - \alpha) \hat{P} H_{\ell-1} + \alpha H_0)
        ((1 - \beta_\ell) I + \beta_\ell W_\ell)\bigr), \qquad
        \beta_\ell = \log(\theta / \ell + 1),

    with :math:`\hat{P} = \hat{D}^{-1/2} (A + I) \hat{D}^{-1/2}`.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        alpha: Share of the initial state. Default 0.1: PyG's ``gcn2_cora.py``.
        theta: Strength of the identity mapping, lambda in the paper. Default 0.5:
            PyG's ``gcn2_cora.py``.
        shared_weights: One weight for both terms; False gives GCNII*.
        dropout: Probability of dropping an entry of :math:`X`, of the input of every
            layer and of what the head sees.
        share_weights: Whether all layers have the same weights; their
            :math:`\beta_\ell` stay their own.
        act: The activation :math:`\sigma`.
        encoder_act: Whether it also acts on the encoded features.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        ValueError: If a number or a choice is not as described.

    Example:
        >>> GCNII(1433, 64, 7, num_layers=64)
        GCNII(1433, 64, 7, num_layers=64, alpha=0.1, theta=0.5)

    References:
        | Simple and Deep Graph Convolutional Networks
        | (Chen et al., 2020), https://arxiv.org/abs/2007.02133

    Differs from the paper:
        Nothing in the equation. In the official code of GCNII* the identity map acts on
        the one term and the weights on the other without :math:`\alpha`; PyG's layer
        follows the paper.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        alpha: float = 0.1,
        theta: float = 0.5,
        *,
        shared_weights: bool = True,
        dropout: float = 0.0,
        share_weights: bool = False,
        act: str | Act | None = "relu",
        encoder_act: bool = True,
        **kwargs: Any,
    ) -> None:
        _check(alpha, theta)
        self.alpha = alpha
        self.theta = theta
        self.shared_weights = shared_weights

        def layer(k: int, act: Act) -> nn.Module:
            conv = GCN2Conv(hidden_channels, alpha, theta, k, shared_weights)
            return GCNIILayer(conv, act, dropout)

        options = {"alpha": alpha, "theta": theta}
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            dropout=dropout,
            encoder_act=encoder_act,
            options=options | ({"share_weights": True} if share_weights else {}),
            **kwargs,
        )
        if share_weights:
            self._tie()

    def _tie(self) -> None:
        """Give all layers the weights of the first: one layer has but one beta."""
        convs: list[Any] = [layer.conv for layer in self.layers]
        for conv in convs[1:]:
            conv.weight1, conv.weight2 = convs[0].weight1, convs[0].weight2

    def start(self, x: Tensor, graph: Any, given: dict[str, Any]) -> State:
        """The encoded features, twice."""
        return x, x


def _check(alpha: float, theta: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must be in [0, 1]. Got {alpha}.")
    check_nonnegative(theta=theta)
