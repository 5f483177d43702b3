"""GCNII against its equation on dense matrices."""

from __future__ import annotations

import math

import pytest
import torch

from graphfathom.nn.zoo import GCNII


@pytest.mark.parametrize("shared_weights", [True, False])
def test_forward_is_the_equation(shared_weights: bool) -> None:
    model = GCNII(3, 4, 2, num_layers=3, shared_weights=shared_weights)
    x = torch.randn(4, 3)
    edge_index = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
    adjacency = torch.eye(4)
    adjacency[edge_index[0], edge_index[1]] = 1
    scale = adjacency.sum(1).rsqrt()
    smoothing = scale[:, None] * adjacency * scale
    h = x_0 = torch.relu(x @ model.encoder.weight.T + model.encoder.bias)
    for layer, conv in enumerate(model.convs, start=1):
        beta = math.log(0.5 / layer + 1)
        first = (1 - beta) * torch.eye(4) + beta * conv.weight1
        second = first
        if not shared_weights:
            second = (1 - beta) * torch.eye(4) + beta * conv.weight2
        h = torch.relu(0.9 * smoothing @ h @ first + 0.1 * x_0 @ second)
    expected = h @ model.readout.weight.T + model.readout.bias
    torch.testing.assert_close(model(x, edge_index), expected)


def test_edge_weights_of_one_change_nothing() -> None:
    model = GCNII(3, 4, 2, num_layers=3)
    x, edge_index = torch.randn(3, 3), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    weighted = model(x, edge_index, torch.ones(4))
    torch.testing.assert_close(weighted, model(x, edge_index))
    assert not torch.allclose(model(x, edge_index, torch.full((4,), 3.0)), weighted)


def test_dropout_only_in_training() -> None:
    model = GCNII(3, 4, 2, num_layers=3, dropout=0.5)
    x, edge_index = torch.randn(3, 3), torch.tensor([[0, 1], [1, 0]])
    assert not torch.equal(model(x, edge_index), model(x, edge_index))
    model.eval()
    assert torch.equal(model(x, edge_index), model(x, edge_index))


def test_repr() -> None:
    expected = "GCNII(3, 4, 2, num_layers=5, alpha=0.1, theta=0.5)"
    assert repr(GCNII(3, 4, 2, num_layers=5)) == expected


def test_no_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`num_layers` must be >= 1. Got 0."):
        GCNII(3, 4, 2, num_layers=0)
