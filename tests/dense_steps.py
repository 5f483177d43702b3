"""What tests of a layer on dense matrices need: parameters, matrices, Jacobians."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def shaken(module: nn.Module, std: float = 0.5) -> Any:
    """The module with random parameters, so that no bias is 0."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module


@torch.no_grad()
def perturbed(module: nn.Module) -> Any:
    """The module with random numbers added to its parameters, biases too."""
    for parameter in module.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def adjacency(edge_index: Tensor, weight: Tensor | None, num_nodes: int) -> Tensor:
    """The matrix whose row i holds what node i receives."""
    weight = torch.ones(edge_index.shape[1]) if weight is None else weight
    places = (edge_index[1], edge_index[0])
    matrix = torch.zeros(num_nodes, num_nodes)
    return matrix.index_put(places, weight, accumulate=True)


def gcn(A: Tensor) -> Tensor:
    """What GCN makes of an adjacency without self-loops."""
    A = A + torch.eye(len(A))
    root = A.sum(1).rsqrt()
    return root[:, None] * A * root


def jacobian(layer: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    """The derivative of a layer, of shape (N F, N F)."""
    found: Any = torch.autograd.functional.jacobian(lambda x: layer(x, edge_index), x)
    return found.reshape(x.numel(), x.numel())
