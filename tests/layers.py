"""Graph layers written by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch_geometric.nn import MessagePassing


class DenseLayer(nn.Module):
    """A graph layer that no library knows: adj @ lin(x)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lin = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        return adj @ self.lin(x)


class GatedEdgeConv(MessagePassing):
    """Gated graph convolution that returns new edge states beside the node states."""

    def __init__(self, channels: int) -> None:
        super().__init__(aggr="add")
        self.source = nn.Linear(channels, channels)
        self.target = nn.Linear(channels, channels)
        self.edge = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.root = nn.Linear(channels, channels)

    def forward(self, x: Tensor, edge_index: Tensor, e: Tensor) -> tuple[Tensor, ...]:
        source, target = edge_index
        e = self.source(x)[source] + self.target(x)[target] + self.edge(e)
        return self.propagate(edge_index, x=x, gate=e.sigmoid()), e

    def message(self, x_j: Tensor, gate: Tensor) -> Tensor:
        return gate * self.value(x_j)

    def update(self, inputs: Tensor, x: Tensor) -> Tensor:
        return inputs + self.root(x)


class DoubleTanh(torch.autograd.Function):
    """A custom tanh that can be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


class OnceTanh(DoubleTanh):
    """The same, but its backward cannot be differentiated."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


class DetachedTanh(DoubleTanh):
    """The same, but its backward silently forgets how it depends on its argument."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad.detach() * (1 - y * y)


class CustomConv(MessagePassing):
    """A convolution whose messages pass through a custom autograd function."""

    def __init__(self, channels: int, function: type[DoubleTanh]) -> None:
        super().__init__(aggr="add")
        self.lin = nn.Linear(channels, channels)
        self.function = function

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.propagate(edge_index, x=self.lin(x))

    def message(self, x_j: Tensor) -> Tensor:
        return self.function.apply(x_j)
