"""SONAR against dense algebra, and the energy of its waves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_steps import shaken
from graphs import GRAPHS, random_graph
from torch import Tensor
from torch_geometric.data import Data

from graphfathom.nn.zoo.sonar import SONAR, Resistance, SONARLayer

H = 0.1


def laplacian(data: Data, weight: Tensor) -> Tensor:
    """The dense Laplacian of weighted edges."""
    a = torch.zeros(data.num_nodes, data.num_nodes)
    a = a.index_put((data.edge_index[1], data.edge_index[0]), weight)
    return a.sum(1).diag() - a


def resistances(net: Any, x: Tensor, data: Data) -> Tensor:
    """The same weights, edge by edge."""
    found = []
    for u, v in data.edge_index.T.tolist():
        scores = [
            net.lin_output(torch.tanh(net.lin_hidden(torch.cat([x[i], x[j]]))))
            for i, j in ((u, v), (v, u))
        ]
        found.append(net.positive((scores[0] + scores[1]) / 2))
    return torch.stack(found).squeeze(1) if found else torch.zeros(0)


def stepped(layer: Any, big: Tensor, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """One step with the Laplacian as a matrix."""
    w = layer.weight @ layer.weight.T if layer.symmetric else layer.weight
    change = big @ x @ w
    if layer.damping is not None:
        change = change + layer.damping(x).clamp(min=0) * v
    if layer.forcing is not None:
        change = change - torch.tanh(layer.forcing(x))
    v = v - H * change
    return x + H * v, v


@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resistance": "recomputed", "positive": "relu"},
        {"velocity": "zero", "damping": False, "symmetric": False},
        {"forcing": False},
    ],
)
def test_forward_is_the_dense_equation(
    options: dict[str, Any], share_weights: bool
) -> None:
    model = shaken(SONAR(3, 8, 2, 3, H, share_weights=share_weights, **options))
    for make in GRAPHS.values():
        data = make()
        x = model.encoder(data.x)
        v = x * 0 if model.velocity is None else x @ model.velocity.weight.T
        big = None
        if model.resistance is not None:
            big = laplacian(data, resistances(model.resistance, x, data))
        for k in range(3):
            layer = model.layers[0 if share_weights else k]
            if big is None:
                here = laplacian(data, resistances(layer.resistance, x, data))
            else:
                here = big
            x, v = stepped(layer, here, x, v)
        found = model(data.x, data.edge_index)
        torch.testing.assert_close(found, model.head(x), rtol=1e-10, atol=1e-10)


def energies(
    layer: SONARLayer, data: Data, weight: Tensor, num_steps: int
) -> tuple[Tensor, Tensor]:
    """The modified energy before and behind each step, and what changes it."""
    big = laplacian(data, weight)
    w = layer.weight @ layer.weight.T

    def energy(x: Tensor, v: Tensor) -> Tensor:
        return (v * v).sum() / 2 + ((x - H * v) * (big @ x @ w)).sum() / 2

    x, v = torch.randn(8, 4), torch.randn(8, 4)
    found, powers = [energy(x, v)], []
    for _ in range(num_steps):
        (y, u), push = layer(x, v, data.edge_index, weight), torch.zeros(8, 4)
        if layer.damping is not None:
            push = push + layer.damping(x).relu() * v
        if layer.forcing is not None:
            push = push - layer.act(layer.forcing(x))
        powers.append(-H / 2 * ((u + v) * push).sum())
        x, v = y, u
        found.append(energy(x, v))
    return torch.stack(found).detach(), torch.stack(powers).detach()


def undirected_weights(data: Data) -> Tensor:
    return 0.1 + data.edge_index.sum(0).double() / 10


def test_a_free_wave_keeps_its_energy() -> None:
    data = random_graph()
    layer = SONARLayer(4, torch.tanh, H, damping=False, forcing=False)
    found, _ = energies(layer, data, undirected_weights(data), 2000)
    torch.testing.assert_close(found, found[:1].expand(2001), rtol=1e-10, atol=0)


@pytest.mark.parametrize("forcing", [True, False])
def test_friction_and_force_change_the_energy_as_stated(forcing: bool) -> None:
    data = random_graph()
    layer = shaken(SONARLayer(4, torch.tanh, H, forcing=forcing))
    found, powers = energies(layer, data, undirected_weights(data), 50)
    torch.testing.assert_close(found.diff(), powers, rtol=1e-9, atol=1e-9)


def test_friction_alone_never_adds_energy() -> None:
    data = random_graph()
    layer = SONARLayer(4, torch.tanh, H, forcing=False)
    found, _ = energies(layer, data, undirected_weights(data), 500)
    assert (found.diff() <= 0).all()
    assert found[-1] < 0.5 * found[0]


def test_constants_rest() -> None:
    data = random_graph()
    layer = SONARLayer(4, torch.tanh, H, damping=False, forcing=False)
    constant = torch.randn(4).expand(8, 4)
    x, v = layer(constant, torch.zeros(8, 4), data.edge_index)
    assert torch.equal(x, constant)
    assert not v.any()


@pytest.mark.parametrize("positive", ["abs", "relu"])
def test_resistances_are_positive_and_symmetric(positive: str) -> None:
    data, x = random_graph(), torch.randn(8, 4)
    net = shaken(Resistance(4, torch.tanh, positive), std=2.0)
    weight = net(x, data.edge_index)
    assert (weight >= 0).all()
    assert weight.any()
    torch.testing.assert_close(net(x, data.edge_index.flip(0)), weight)


@pytest.mark.parametrize("resistance", ["fixed", "recomputed"])
def test_given_weights_multiply_the_learned(resistance: str) -> None:
    data = random_graph()
    model = SONAR(3, 8, 2, 4, resistance=resistance)
    plain = model(data.x, data.edge_index)
    ones = torch.ones(data.num_edges)
    torch.testing.assert_close(model(data.x, data.edge_index, ones), plain)
    nothing = model(data.x, data.edge_index, 0 * ones)
    torch.testing.assert_close(nothing, model(data.x, data.edge_index[:, :0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0.0}, r"`step_size` must be a positive number. Got 0.0"),
        ({"resistance": "none"}, r"`resistance` must be one of 'fixed'"),
        ({"positive": "exp"}, r"`positive` must be one of 'abs', 'relu'. Got 'exp'"),
        ({"velocity": "random"}, r"`velocity` must be one of 'linear', 'zero'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SONAR(3, 8, 2, 4, **options)
