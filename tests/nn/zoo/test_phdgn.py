"""PH-DGN against its equation on dense matrices, and its theory."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from dense_steps import adjacency, gcn, jacobian, shaken
from graphs import GRAPHS, directed_graph, random_graph
from torch import Tensor, nn

from graphfathom.nn.zoo.phdgn import PHDGN, PHDGNConv

KINDS = [
    {},
    {"damping": "param", "force": "mlp"},
    {"damping": "param+", "force": "dgn"},
    {"damping": "mlp", "force": "mlp"},
    {"damping": "dgn", "force": "dgn"},
]


def gradient(part: Any, z: Tensor, S: Tensor) -> Tensor:
    force = torch.tanh(z @ part.W.T + S @ z @ part.V.T + part.bias)
    return force @ part.W + S.T @ force @ part.V


def damping(part: Any, q: Tensor, S: Tensor) -> Tensor:
    if part.kind == "dgn":
        return torch.relu(S @ q @ part.weight.T)
    if part.kind != "mlp":
        return part.weight if part.kind == "param" else torch.relu(part.weight)
    for lin in part.lins:
        q = torch.relu(q @ lin.weight.T + (0 if lin.bias is None else lin.bias))
    return q


def force(part: Any, q: Tensor, S: Tensor, t: float) -> Tensor:
    state = torch.cat([q, torch.full((len(q), 1), t)], dim=1)
    if part.kind == "dgn":
        return torch.tanh(S @ state @ part.lins[0].weight.T)
    for lin in part.lins[:-1]:
        state = torch.sin(state @ lin.weight.T + lin.bias)
    return state @ part.lins[-1].weight.T


def update(layer: Any, h: Tensor, S: Tensor, t: float) -> Tensor:
    """One step, on matrices."""
    p, q = h[:, : h.shape[1] // 2], h[:, h.shape[1] // 2 :]
    velocity = gradient(layer.kinetic, p, S)
    q = q + layer.epsilon * velocity
    p = p - layer.epsilon * gradient(layer.potential, q, S)
    if layer.alpha:
        friction = damping(layer.damping, q, S) * velocity
        p = p - layer.epsilon * layer.alpha * friction
    if layer.beta:
        p = p + layer.epsilon * layer.beta * force(layer.force, q, S, t)
    return torch.cat([p, q], dim=1)


@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("aggregator", ["sum", "gcn"])
@pytest.mark.parametrize("kinds", KINDS)
def test_forward_is_the_equation(
    kinds: dict[str, str], aggregator: str, share_weights: bool
) -> None:
    options: Any = {"share_weights": share_weights, "epsilon": 0.3, **kinds}
    options |= {"alpha": 0.6, "beta": -0.7} if kinds else {}
    model = shaken(PHDGN(3, 6, 2, 3, aggregator, **options))
    data = directed_graph()
    for weight in (None, torch.rand(6) + 0.5):
        A = adjacency(data.edge_index, weight, 5)
        S = gcn(A) if aggregator == "gcn" else A
        h = model.encoder(data.x)
        for k in range(3):
            h = update(model.layers[0 if share_weights else k], h, S, 0.3 * k)
        found = model(data.x, data.edge_index, weight)
        torch.testing.assert_close(found, model.head(h), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("act", [nn.Tanh(), nn.Sigmoid(), nn.ReLU(), nn.Identity()])
@pytest.mark.parametrize("aggregator", ["sum", "gcn"])
def test_the_gradient_is_that_of_the_energy(aggregator: str, act: nn.Module) -> None:
    data, layer = directed_graph(), shaken(PHDGNConv(6, aggregator, act=act))
    h = (1e4 * torch.randn(5, 6)).requires_grad_()  # far out, where cosh overflows
    (found,) = torch.autograd.grad(layer.energy(h, data.edge_index), h)
    matrix = layer.adjacency(data.edge_index, None, h)
    p, q = h.chunk(2, dim=1)
    expected = torch.cat([layer.kinetic(p, matrix), layer.potential(q, matrix)], dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_energy_is_the_formula() -> None:
    data, layer = directed_graph(), shaken(PHDGNConv(4))
    h, S = torch.randn(5, 4), adjacency(data.edge_index, None, 5)
    expected = torch.tensor(0.0)
    for part, z in zip((layer.kinetic, layer.potential), h.chunk(2, 1), strict=True):
        u = z @ part.W.T + S @ z @ part.V.T + part.bias
        expected = expected + u.cosh().log().sum()
    torch.testing.assert_close(layer.energy(h, data.edge_index), expected)


def test_an_activation_without_an_antiderivative() -> None:
    layer = PHDGNConv(4, act=torch.sin)
    with pytest.raises(ValueError, match=r"`act` must be one of Tanh, .*act='tanh'"):
        layer.energy(torch.randn(2, 4), torch.tensor([[0], [1]]))


def defect(layer: nn.Module, h: Tensor, edge_index: Tensor) -> float:
    """How far a step is from a symplectic map."""
    J, half = jacobian(layer, h, edge_index), torch.eye(h.shape[1] // 2)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    Omega = torch.eye(len(h)).kron(turn.kron(half))
    return float((J.T @ Omega @ J - Omega).abs().max())


@pytest.mark.parametrize("aggregator", ["sum", "gcn"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_conservative_step_is_symplectic(graph: str, aggregator: str) -> None:
    data = GRAPHS[graph]()
    layer = shaken(PHDGNConv(6, aggregator, epsilon=0.3))
    h = torch.randn(data.num_nodes, 6)
    assert defect(layer, h, data.edge_index) < 1e-10


def test_a_damped_step_is_not_symplectic() -> None:
    data, layer = random_graph(), PHDGNConv(6, epsilon=0.3, alpha=0.5, damping="param")
    assert defect(shaken(layer), torch.randn(8, 6), data.edge_index) > 1e-3


@torch.no_grad()
def run(layer: Any, h: Tensor, edge_index: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Energy after each step, and the power that damping and force had in each."""
    S, energies, powers = layer.adjacency(edge_index, None, h), [], []
    energies.append(layer.energy(h, S))
    for k in range(1, steps + 1):
        velocity = layer.kinetic(h[:, :3], S)
        h = layer(h, S, step=k)
        power, q = torch.zeros(()), h[:, 3:]
        if layer.alpha:
            lost = layer.damping(q, S) * velocity.square()
            power = power - layer.alpha * lost.sum()
        if layer.beta:
            pushed = layer.force(q, S, layer.epsilon * (k - 1)) * velocity
            power = power + layer.beta * pushed.sum()
        energies.append(layer.energy(h, S))
        powers.append(power)
    return torch.stack(energies), torch.stack(powers)


def assert_halves(errors: list[float]) -> None:
    """With each half of a step size."""
    slopes = [math.log2(rough / fine) for rough, fine in pairwise(errors)]
    assert slopes == pytest.approx([1] * len(slopes), abs=0.1)


@pytest.mark.parametrize("aggregator", ["sum", "gcn"])
def test_the_energy_swings_by_the_step_size(aggregator: str) -> None:
    data, layer = random_graph(), PHDGNConv(6, aggregator)
    h, swings = torch.randn(8, 6), []
    for epsilon in (0.04, 0.02, 0.01):
        layer.epsilon = epsilon
        H, _ = run(layer, h, data.edge_index, round(12 / epsilon))
        swing = (H - H[0]).abs()
        first, last = swing.tensor_split(2)
        assert last.max() < 1.5 * first.max()  # no drift
        swings.append(float(swing.max()))
    assert_halves(swings)


@pytest.mark.parametrize("kinds", KINDS[1:])
def test_the_energy_changes_by_the_work_done(kinds: dict[str, str]) -> None:
    data = random_graph()
    for driven in ({"alpha": 1.0}, {"alpha": 1.0, "beta": 1.0}):
        layer = PHDGNConv(6, "gcn", **driven, **kinds)
        h, errors = torch.randn(8, 6), []
        for epsilon in (0.04, 0.02, 0.01):
            layer.epsilon = epsilon
            H, powers = run(layer, h, data.edge_index, round(4 / epsilon))
            unbalanced = H[1:] - H[0] - epsilon * powers.cumsum(0)
            errors.append(float(unbalanced.abs().max()))
        assert_halves(errors)


@pytest.mark.parametrize("damping", ["param+", "mlp", "dgn"])
def test_damping_takes_energy_away(damping: str) -> None:
    data, layer = random_graph(), PHDGNConv(6, epsilon=0.02, alpha=1, damping=damping)
    H, powers = run(layer, torch.randn(8, 6), data.edge_index, 400)
    assert (powers <= 0).all()
    assert powers.sum() < 0
    assert (H[::100].diff() < 0).all()


def test_time_advances_with_the_layers() -> None:
    data, layer = random_graph(), shaken(PHDGNConv(6, beta=1.0))
    h = torch.randn(8, 6)
    first, again, second = (layer(h, data.edge_index, step=k) for k in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregator": "mean"}, r"`aggregator` must be one of 'sum', 'gcn'. Got 'mea"),
        ({"hidden_channels": 5}, r"width of the state must be even.* Got 5: take 6."),
        ({"epsilon": 0.0}, r"`epsilon` must be a positive number. Got 0.0"),
        ({"alpha": float("inf")}, r"`alpha` must be a finite number. Got inf"),
        ({"beta": float("nan")}, r"`beta` must be a finite number. Got nan"),
        ({"damping": "relu"}, r"`damping` must be one of 'param', .*Got 'relu'"),
        ({"force": "sin"}, r"`force` must be one of 'mlp', 'dgn'. Got 'sin'"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    sizes = {"hidden_channels": 4, "num_layers": 2}
    with pytest.raises(ValueError, match=message):
        PHDGN(3, out_channels=2, **(sizes | options))
