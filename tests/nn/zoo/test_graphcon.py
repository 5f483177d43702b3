"""GraphCON against dense algebra, closed forms and conserved quantities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_steps import shaken
from graphs import GRAPHS, random_graph
from references import dense_jacobian, gcn, gcn_matrix
from torch import Tensor, nn
from torch_geometric.nn import GATConv

from graphfathom.nn.propagation import gcn_adjacency
from graphfathom.nn.zoo.graphcon import GraphCON, GraphCONLayer


def oscillator(**numbers: float) -> GraphCONLayer:
    """A layer without force: its entries are oscillators on their own."""
    layer = GraphCONLayer(3, **numbers)  # pyright: ignore[reportArgumentType]
    nn.init.zeros_(layer.conv.lin.weight)
    return layer


@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_forward_is_the_dense_equation(share_weights: bool, residual: bool) -> None:
    numbers = {"epsilon": 0.7, "alpha": 0.3, "gamma": 1.2}
    shape = {"share_weights": share_weights, "residual": residual}
    model = shaken(GraphCON(3, 8, 2, 3, act="tanh", **numbers, **shape))
    for make in GRAPHS.values():
        data = make()
        smoothing = gcn_matrix(data)
        x = y = data.x @ model.encoder.weight.T + model.encoder.bias
        for k in range(3):
            layer = model.layers[0 if share_weights else k]
            force = gcn(layer.conv, smoothing, x)
            if residual:
                force = force + x @ layer.lin.weight.T + layer.lin.bias
            y = (1 - 0.7 * 0.3) * y + 0.7 * (torch.tanh(force) - 1.2 * x)
            x = x + 0.7 * y
        found = model(data.x, data.edge_index)
        torch.testing.assert_close(found, model.head(x), rtol=1e-10, atol=1e-10)


def test_any_layer_is_the_coupling() -> None:
    data, model = random_graph(), shaken(GraphCON(3, 8, 2, 3, GATConv))
    conv = model.layers[0].conv
    x = y = model.encoder(data.x)
    for _ in range(3):
        y = y + 0.1 * (conv(x, data.edge_index).relu() - x - y)
        x = x + 0.1 * y
    torch.testing.assert_close(model(data.x, data.edge_index), model.head(x))


def test_edge_weights_reach_the_layers_that_take_them() -> None:
    data, model = random_graph(), GraphCON(3, 8, 2, 3)
    weight = torch.rand(data.num_edges)
    plain = model(data.x, data.edge_index)
    ones = torch.ones_like(weight)
    torch.testing.assert_close(model(data.x, data.edge_index, ones), plain)
    assert not torch.allclose(model(data.x, data.edge_index, weight), plain)
    deaf = GraphCON(3, 8, 2, 3, GATConv)
    found = deaf(data.x, data.edge_index, weight)
    assert torch.equal(found, deaf(data.x, data.edge_index))


def test_edges_and_their_adjacency_are_the_same_graph() -> None:
    data, layer = random_graph(), shaken(GraphCONLayer(3))
    weight, y = torch.rand(data.num_edges), torch.randn(8, 3)
    found = layer(data.x, y, gcn_adjacency(data.edge_index, weight))
    expected = layer(data.x, y, data.edge_index, weight)
    torch.testing.assert_close(found, expected)


def test_without_force_it_is_the_power_of_a_small_matrix() -> None:
    epsilon, alpha, gamma = 0.3, 0.4, 1.7
    layer, data = oscillator(epsilon=epsilon, alpha=alpha, gamma=gamma), random_graph()
    matrix = torch.tensor(
        [
            [1 - epsilon**2 * gamma, epsilon * (1 - epsilon * alpha)],
            [-epsilon * gamma, 1 - epsilon * alpha],
        ]
    )
    x, y = data.x, torch.randn(8, 3)
    start = torch.stack([x, y])
    for _ in range(50):
        x, y = layer(x, y, data.edge_index)
    power = torch.linalg.matrix_power(matrix, 50)
    expected = torch.tensordot(power, start, 1)
    torch.testing.assert_close(torch.stack([x, y]), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_an_undamped_oscillator_keeps_its_modified_energy(gamma: float) -> None:
    epsilon = 0.5
    layer, data = oscillator(epsilon=epsilon, alpha=0.0, gamma=gamma), random_graph()

    def energy(x: Tensor, y: Tensor) -> Tensor:
        return gamma * x.square() + y.square() - epsilon * gamma * x * y

    x, y = data.x, torch.randn(8, 3)
    before, plain = energy(x, y), gamma * x.square() + y.square()
    drift = torch.zeros(8, 3)
    for _ in range(1000):
        x, y = layer(x, y, data.edge_index)
        drift = torch.maximum(drift, (gamma * x.square() + y.square() - plain).abs())
    torch.testing.assert_close(energy(x, y), before, rtol=1e-11, atol=0)
    assert (drift > 0.01 * plain).all()  # the energy itself is not kept


def test_jacobian_of_a_step_and_its_volume() -> None:
    epsilon, alpha, gamma = 0.6, 0.5, 1.3
    data, (n, d) = random_graph(), (8, 3)
    numbers = {"epsilon": epsilon, "alpha": alpha, "gamma": gamma}
    layer = shaken(GraphCONLayer(3, act=torch.tanh, **numbers))
    x, y = data.x, torch.randn(n, d)
    smoothing = gcn_matrix(data)
    slope = 1 - gcn(layer.conv, smoothing, x).tanh().square()
    force = slope.flatten().diag() @ torch.kron(smoothing, layer.conv.lin.weight)
    pull, eye = force - gamma * torch.eye(n * d), torch.eye(n * d)
    rows = [
        torch.cat([eye + epsilon**2 * pull, epsilon * (1 - epsilon * alpha) * eye], 1),
        torch.cat([epsilon * pull, (1 - epsilon * alpha) * eye], 1),
    ]
    found = dense_jacobian(lambda x, y: layer(x, y, data.edge_index), (x, y))
    torch.testing.assert_close(found, torch.cat(rows), rtol=1e-10, atol=1e-10)
    volume = torch.tensor((1 - epsilon * alpha) ** (n * d))
    torch.testing.assert_close(torch.linalg.det(found), volume)


def test_defaults_of_the_official_code_are_a_plain_network() -> None:
    data, model = random_graph(), shaken(GraphCON(3, 8, 2, 4, epsilon=1.0))
    x = model.encoder(data.x)
    for _ in range(4):
        x = model.layers[0].conv(x, data.edge_index).relu()
    found = model(data.x, data.edge_index)
    torch.testing.assert_close(found, model.head(x), rtol=1e-10, atol=1e-10)


def test_repr() -> None:
    expected = "GraphCON(3, 8, 2, num_layers=4, conv=GATConv, epsilon=0.1, alpha=1.0, "
    expected += "gamma=1.0, residual=False, share_weights=True)"
    assert repr(GraphCON(3, 8, 2, 4, GATConv)) == expected


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"`epsilon` must be a positive number"):
        GraphCON(3, 8, 2, 4, epsilon=-0.1)
    with pytest.raises(ValueError, match=r"`alpha` must be a number >= 0. Got -1.0"):
        GraphCON(3, 8, 2, 4, alpha=-1.0)
    with pytest.raises(ValueError, match=r"`gamma` must be a number >= 0. Got nan"):
        GraphCON(3, 8, 2, 4, gamma=float("nan"))
    conv: Any = GATConv(8, 8)
    with pytest.raises(TypeError, match=r"`conv` must be a class of layers or a func"):
        GraphCON(3, 8, 2, 4, conv)
