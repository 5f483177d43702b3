"""GCNII against its equation on dense matrices."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from graphfathom.nn.zoo import GCNII

EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])


def smoothing() -> torch.Tensor:
    adjacency = torch.eye(4)
    adjacency[EDGES[0], EDGES[1]] = 1
    scale = adjacency.sum(1).rsqrt()
    return scale[:, None] * adjacency * scale


@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("shared_weights", [True, False])
def test_forward_is_the_equation(shared_weights: bool, share_weights: bool) -> None:
    options = {"shared_weights": shared_weights, "share_weights": share_weights}
    model = GCNII(3, 4, 2, num_layers=3, **options)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    x = torch.randn(4, 3)
    h = x_0 = torch.relu(x @ model.encoder.weight.T + model.encoder.bias)
    for k in range(3):
        beta = math.log(0.5 / (k + 1) + 1)
        conv = model.layers[0 if share_weights else k].conv
        first = (1 - beta) * torch.eye(4) + beta * conv.weight1
        second = first
        if not shared_weights:
            second = (1 - beta) * torch.eye(4) + beta * conv.weight2
        h = torch.relu(0.9 * smoothing() @ h @ first + 0.1 * x_0 @ second)
    expected = h @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x, EDGES), expected, rtol=1e-10, atol=1e-10)


def test_without_theta_the_weights_are_the_identity() -> None:
    model = GCNII(3, 4, 2, num_layers=5, theta=0.0)
    x = torch.randn(4, 3)
    h = x_0 = torch.relu(model.encoder(x))
    for _ in range(5):
        h = torch.relu(0.9 * smoothing() @ h + 0.1 * x_0)
    torch.testing.assert_close(model(x, EDGES), model.head(h))


def test_shared_layers_have_one_weight_and_their_own_beta() -> None:
    tied, free = (GCNII(3, 4, 2, 6, share_weights=s) for s in (True, False))
    counts = [sum(p.numel() for p in model.parameters()) for model in (tied, free)]
    assert counts[1] - counts[0] == 5 * 16
    assert len({layer.conv.beta for layer in tied.layers}) == 6
    assert "share_weights=True" in repr(tied)
    tied.reset_parameters()
    copied = copy.deepcopy(tied)
    for model in (tied, copied):
        first = model.layers[0].conv.weight1
        assert all(layer.conv.weight1 is first for layer in model.layers)


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
    with pytest.raises(
        ValueError, match=r"`num_layers` must be an integer >= 1. Got 0."
    ):
        GCNII(3, 4, 2, num_layers=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, r"`alpha` must be in \[0, 1\]. Got 1.5."),
        ({"theta": -1.0}, r"`theta` must be a number >= 0. Got -1.0."),
    ],
)
def test_bad_input(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GCNII(3, 4, 2, 1, **options)
