"""Identity-mapped messages around any convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from graphfathom.nn.propagation import (
    AnyAdjacency,
    GCNConv,
    gcn_adjacency,
    propagate,
    propagate_linear,
)

__all__ = ["IdentityMappedConv"]


class IdentityMappedConv(nn.Module):
    r"""A convolution mixed with plain smoothing.

    .. math:: (1 - \beta) \hat{A} X + \beta \, \mathrm{conv}(X)

    With GCN's convolution this is :math:`\hat{A} X ((1 - \beta) I + \beta W^\top) +
    \beta b`: the weight of GCNII, which is close to the identity for a small
    :math:`\beta`.

    Args:
        conv: A convolution that keeps the width.
        beta: The share :math:`\beta` of the convolution, in [0, 1].

    Shapes:
        - **input:** node features :math:`(N, F)`, edge indices :math:`(2, E)` or an
          adjacency of N nodes, then what the convolution takes
        - **output:** node features :math:`(N, F)`

    Raises:
        ValueError: If ``beta`` lies outside [0, 1].

    Example:
        >>> IdentityMappedConv(GCNConv(8, 8), beta=0.1)
        IdentityMappedConv(
          beta=0.1
          (conv): GCNConv(8, 8)
        )

    References:
        | Simple and Deep Graph Convolutional Networks (Chen et al., 2020)
        | https://arxiv.org/abs/2007.02133
    """

    def __init__(self, conv: nn.Module, beta: float) -> None:
        super().__init__()
        if not 0 <= beta <= 1:
            raise ValueError(f"`beta` must be in [0, 1]. Got {beta}.")
        self.conv = conv
        self.beta = beta

    def reset_parameters(self) -> None:
        """Draw the weights of the convolution anew."""
        self.conv.reset_parameters()  # pyright: ignore[reportCallIssue]

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        *args: Any,
        smoothing: AnyAdjacency | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Node features to node features."""
        if isinstance(edge_index, AnyAdjacency):
            smoothing = edge_index
        if smoothing is edge_index and isinstance(self.conv, GCNConv):
            weight = self.conv.lin.weight
            one = torch.eye(*weight.shape, dtype=weight.dtype, device=weight.device)
            # Of the weights and not of the features: these are many times larger.
            mixed, bias = torch.lerp(one, weight, self.beta), self.conv.bias
            bias = None if bias is None else self.beta * bias
            return propagate_linear(edge_index, x, mixed, bias)
        if smoothing is None:
            graph: Any = edge_index
            smoothing = gcn_adjacency(graph, num_nodes=x.size(0), dtype=x.dtype)
        message = self.conv(x, edge_index, *args, **kwargs)
        return torch.lerp(propagate(smoothing, x), message.to(x.dtype), self.beta)

    def extra_repr(self) -> str:
        """The share of the convolution."""
        return f"beta={self.beta:g}"
