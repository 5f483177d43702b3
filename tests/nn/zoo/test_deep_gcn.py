"""DeepGCN against its equations."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.nn import GATConv, SAGEConv

from graphfathom.nn.zoo import DeepGCN

EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])


@pytest.mark.parametrize("block", ["res+", "res", "dense", "plain"])
def test_forward_is_the_equation(block: str) -> None:
    model = DeepGCN(3, 4, 2, num_layers=3, block=block)
    x = torch.randn(4, 3)
    h = model.encoder(x)
    for layer in model.layers:
        if block == "res+":
            h = h + layer.conv(torch.relu(layer.norm(h)), EDGES)
            continue
        new = torch.relu(layer.norm(layer.conv(h, EDGES)))
        if block == "res":
            h = h + new
        elif block == "dense":
            h = torch.cat([h, new], dim=-1)
        else:
            h = new
    expected = model.readout(torch.relu(model.norm(h)))
    torch.testing.assert_close(model(x, EDGES), expected)


def test_a_dense_network_grows_by_its_width() -> None:
    model = DeepGCN(3, 4, 2, num_layers=3, block="dense")
    assert [layer.conv.in_channels for layer in model.layers] == [4, 8, 12]
    assert model.readout.in_features == 16


@pytest.mark.parametrize("conv", [SAGEConv, GATConv])
def test_any_convolution(conv: type[nn.Module]) -> None:
    model = DeepGCN(3, 4, 2, num_layers=2, conv=conv)
    assert model(torch.randn(4, 3), EDGES).shape == (4, 2)
    assert f"conv={conv.__name__}" in repr(model)


def test_edge_weights_are_passed_on() -> None:
    model = DeepGCN(3, 4, 2, num_layers=2)
    x = torch.randn(4, 3)
    torch.testing.assert_close(model(x, EDGES, torch.ones(6)), model(x, EDGES))
    assert not torch.allclose(model(x, EDGES, torch.arange(6.0)), model(x, EDGES))


def test_norm_and_activation_are_constructors() -> None:
    model = DeepGCN(3, 4, 2, num_layers=2, norm=nn.BatchNorm1d, act=nn.Tanh)
    assert all(isinstance(layer.norm, nn.BatchNorm1d) for layer in model.layers)
    assert isinstance(model.norm, nn.BatchNorm1d)
    assert isinstance(model.act, nn.Tanh)


def test_repr() -> None:
    expected = "DeepGCN(3, 4, 2, num_layers=5, conv=GCNConv, block=res)"
    assert repr(DeepGCN(3, 4, 2, num_layers=5, block="res")) == expected


def test_no_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`num_layers` must be >= 1. Got 0."):
        DeepGCN(3, 4, 2, num_layers=0)


def test_an_unknown_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`block` must be one of .*Got 'res-'"):
        DeepGCN(3, 4, 2, num_layers=1, block="res-")
