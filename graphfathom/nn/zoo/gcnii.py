"""GCNII, a network with initial residual and identity mapping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GCN2Conv

__all__ = ["GCNII"]


class GCNII(nn.Module):
    r"""GCNII, whose layers mix in the initial state, on PyG's layer.

    The layer is :class:`~torch_geometric.nn.conv.GCN2Conv`.

    .. math::
        H_0 = \sigma(X W_\mathrm{in} + b_\mathrm{in}), \qquad
        H_\ell = \sigma\bigl(((1 - \alpha) \hat{P} H_{\ell-1} + \alpha H_0)
        ((1 - \beta_\ell) I + \beta_\ell W_\ell)\bigr), \qquad
        \beta_\ell = \log(\theta / \ell + 1),

    with :math:`\hat{P} = \hat{D}^{-1/2} (A + I) \hat{D}^{-1/2}`; the output is
    :math:`H_L W_\mathrm{out} + b_\mathrm{out}`. Dropout acts on the input of every
    layer.

    Args:
        in_channels: Width of the input features.
        hidden_channels: Width of all hidden states.
        out_channels: Width of the output.
        num_layers: Number of graph convolutions :math:`L`.
        alpha: Share of the initial state. Default 0.1: PyG's ``gcn2_cora.py``.
        theta: Strength of the identity mapping, lambda in the paper. Default 0.5:
            PyG's ``gcn2_cora.py``.
        shared_weights: One weight for both terms; False gives GCNII*.
        dropout: Probability of dropping an entry of a layer's input.
        act: The activation :math:`\sigma`.

    Shapes:
        - **input:** node features :math:`(N, F_\mathrm{in})`, edge indices
          :math:`(2, E)`, edge weights :math:`(E)` *(optional)*
        - **output:** node features :math:`(N, F_\mathrm{out})`

    Raises:
        ValueError: If ``num_layers`` is below 1.

    Example:
        >>> GCNII(1433, 64, 7, num_layers=64)
        GCNII(1433, 64, 7, num_layers=64, alpha=0.1, theta=0.5)

    References:
        | Simple and Deep Graph Convolutional Networks (Chen et al., 2020)
        | https://arxiv.org/abs/2007.02133
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
        act: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"`num_layers` must be >= 1. Got {num_layers}.")
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.out_channels = out_channels
        self.num_layers = num_layers
        self.alpha = alpha
        self.theta = theta
        self.shared_weights = shared_weights
        self.dropout = dropout
        self.act = act
        self.encoder = nn.Linear(in_channels, hidden_channels)
        self.convs = nn.ModuleList(
            GCN2Conv(hidden_channels, alpha, theta, layer, shared_weights)
            for layer in range(1, num_layers + 1)
        )
        self.readout = nn.Linear(hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        modules: list[Any] = [self.encoder, *self.convs, self.readout]
        for module in modules:
            module.reset_parameters()

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None
    ) -> Tensor:
        """Node features to node outputs."""
        x = x_0 = self.act(self.encoder(self._drop(x)))
        for conv in self.convs:
            x = self.act(conv(self._drop(x), x_0, edge_index, edge_weight))
        return self.readout(self._drop(x))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.hidden_channels}, "
            f"{self.out_channels}, num_layers={self.num_layers}, alpha={self.alpha}, "
            f"theta={self.theta})"
        )

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
