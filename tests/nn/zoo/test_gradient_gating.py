"""Gradient gating against dense algebra, and what its gate keeps."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from dense_steps import shaken
from graphs import GRAPHS, isolated_node, random_graph, ring_graph
from references import gcn, gcn_matrix
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import GATConv, GCNConv

from graphfathom.nn.zoo.gradient_gating import GradientGating, GradientGatingConv


def dense_rate(gated: Tensor, data: Data, p: float, aggr: str) -> Tensor:
    """The rates, from all pairs of nodes."""
    source, target = data.edge_index
    near = torch.zeros(len(gated), len(gated)).index_put(
        (target, source), torch.ones(())
    )
    gaps = (gated[:, None] - gated).abs() ** p
    total = (near[:, :, None] * gaps).sum(1)
    if aggr == "mean":
        total = total / near.sum(1, keepdim=True).clamp(min=1)
    return total.tanh()


@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("aggr", ["mean", "sum"])
@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_forward_is_the_dense_equation(
    p: float, aggr: str, share_weights: bool
) -> None:
    options = {"p": p, "aggr": aggr, "share_weights": share_weights}
    model = shaken(GradientGating(3, 8, 2, 3, **options))
    for make in GRAPHS.values():
        data = make()
        smoothing = gcn_matrix(data)
        x = data.x @ model.encoder.weight.T + model.encoder.bias
        for k in range(3):
            layer = model.layers[0 if share_weights else k]
            gated = gcn(layer.gate, smoothing, x).relu()
            rate = dense_rate(gated, data, p, aggr)
            x = x + rate * (gcn(layer.conv, smoothing, x).relu() - x)
        found = model(data.x, data.edge_index)
        torch.testing.assert_close(found, model.head(x), rtol=1e-10, atol=1e-10)


def test_any_layer_is_gated() -> None:
    data, conv = random_graph(), partial(GATConv, heads=2, concat=False)
    model = shaken(GradientGating(3, 8, 2, 2, conv, act="tanh"))
    layer, x = model.layers[0], model.encoder(data.x)
    for _ in range(2):
        rate = dense_rate(layer.gate(x, data.edge_index).tanh(), data, 2, "mean")
        x = (1 - rate) * x + rate * layer.conv(x, data.edge_index).tanh()
    torch.testing.assert_close(model(data.x, data.edge_index), model.head(x))


@pytest.mark.parametrize(
    ("conv", "make"), [(GCNConv, ring_graph), (GATConv, random_graph)]
)
@pytest.mark.parametrize("p", [1.5, 2.0])
def test_equal_features_stay(conv: Any, make: Any, p: float) -> None:
    data, model = make(), shaken(GradientGating(3, 8, 2, 64, conv, p=p))
    x = torch.randn(3).expand(data.num_nodes, 3)
    found = model(x, data.edge_index)
    expected = model.head(model.encoder(x))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_a_node_without_neighbours_stays_exactly() -> None:
    data, model = isolated_node(), shaken(GradientGating(3, 8, 2, 8))
    found = model(data.x, data.edge_index)
    assert torch.equal(found[4:], model.head(model.encoder(data.x))[4:])
    assert not torch.isclose(found, model.head(model.encoder(data.x)))[:4].any()


@pytest.mark.parametrize("aggr", ["mean", "sum"])
def test_a_step_lies_between_what_is_and_what_is_proposed(aggr: str) -> None:
    data = random_graph()
    layer = shaken(GradientGatingConv(3, aggr=aggr, act=torch.relu))
    proposed = layer.conv(data.x, data.edge_index).relu()
    found = layer(data.x, data.edge_index)
    share = (found - data.x) / (proposed - data.x)
    assert (share >= -1e-14).all()
    assert (share < 1).all()
    assert share.max() > 0.1


def test_edge_weights_reach_the_layers_that_take_them() -> None:
    data, model = random_graph(), GradientGating(3, 8, 2, 3)
    weight = torch.rand(data.num_edges)
    plain = model(data.x, data.edge_index)
    ones = torch.ones_like(weight)
    torch.testing.assert_close(model(data.x, data.edge_index, ones), plain)
    assert not torch.allclose(model(data.x, data.edge_index, weight), plain)
    deaf = GradientGating(3, 8, 2, 3, GATConv)
    found = deaf(data.x, data.edge_index, weight)
    assert torch.equal(found, deaf(data.x, data.edge_index))


@pytest.mark.parametrize(("p", "expected"), [(1.0, 0.0), (1.5, 0.0), (2.0, 2.0)])
def test_second_derivative_where_neighbours_are_equal(
    p: float, expected: float
) -> None:
    layer, zero = GradientGatingConv(1, p=p), torch.zeros(1, 1)
    found = torch.func.hessian(lambda x: layer.message(zero, x).sum())(zero)
    assert found.item() == expected


def test_repr() -> None:
    expected = "GradientGating(3, 8, 2, num_layers=4, conv=GCNConv, p=2.0, aggr=mean, "
    assert repr(GradientGating(3, 8, 2, 4)) == expected + "share_weights=True)"


@pytest.mark.parametrize("p", [0.5, float("inf"), float("nan")])
def test_powers_below_one_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"`p` must be a number >= 1. Got .* below 1"):
        GradientGating(3, 8, 2, 4, p=p)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"`aggr` must be one of 'mean', 'sum'. Got"):
        GradientGating(3, 8, 2, 4, aggr="max")
    conv: Any = GATConv(8, 8)
    with pytest.raises(TypeError, match=r"`conv` must be a class of layers or a func"):
        GradientGating(3, 8, 2, 4, conv)
