"""SWAN against its equation on dense matrices, and its theory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_steps import adjacency, gcn, jacobian, shaken
from graphs import GRAPHS, directed_graph, isolated_node, random_graph
from torch import Tensor, nn

from graphfathom.nn.zoo.swan import SWAN, EdgeScore, SWANConv

VARIANTS = ("antisymmetric", "normalized", "sum", "gcn")
BOUNDED = VARIANTS[1:]


def matrices(A: Tensor, aggregator: str) -> tuple[Tensor, Tensor]:
    """P and what is antisymmetric in space, of a dense adjacency."""
    B = (A + A.T) / 2
    B = B - B.diag().diag()
    degree = B.sum(1)
    inverse = torch.where(degree > 0, 1 / degree, 0)
    walk = inverse[:, None] * B
    if aggregator == "gcn":
        return gcn(B), walk - walk.T
    if aggregator == "sum":
        return B, walk - walk.T
    root = inverse.sqrt()
    return root[:, None] * B * root, walk - walk.T


def update(layer: Any, h: Tensor, A: Tensor) -> Tensor:
    """One step, on matrices."""
    if layer.score is not None:
        pairs = h[:, None] + h
        hidden = torch.nn.functional.leaky_relu(layer.score.lin1(pairs), 0.2)
        A = A * torch.sigmoid(layer.score.lin2(hidden)[..., 0])
    P, Q = matrices(A, layer.aggregator)
    V, gamma = layer.V, layer.gamma
    if layer.aggregator == "antisymmetric":
        V = V - V.T
    own = h @ (layer.W - layer.W.T - gamma * torch.eye(len(V))).T
    u = own + P @ h @ V.T + layer.bias
    if layer.beta:
        u = u + layer.beta * Q @ h @ (layer.Z + layer.Z.T).T
    return h + layer.epsilon * torch.tanh(u)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("aggregator", VARIANTS)
def test_forward_is_the_equation(
    aggregator: str, weighted: bool, share_weights: bool, learned: bool
) -> None:
    options: Any = {"share_weights": share_weights, "learned": learned}
    options |= {"epsilon": 0.3, "gamma": 0.2, "beta": -0.5}
    model = shaken(SWAN(3, 4, 2, 3, aggregator, **options))
    for data in (directed_graph(), isolated_node()):
        weight = torch.rand(data.num_edges) + 0.5 if weighted else None
        h = model.encoder(data.x)
        for k in range(3):
            A = adjacency(data.edge_index, weight, len(h))
            h = update(model.layers[0 if share_weights else k], h, A)
        found = model(data.x, data.edge_index, weight)
        torch.testing.assert_close(found, model.head(h), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("learned", [True, False])
def test_a_layer_alone_is_the_equation(learned: bool) -> None:
    data, layer = random_graph(), shaken(SWANConv(3, learned=learned))
    expected = update(layer, data.x, adjacency(data.edge_index, None, 8))
    torch.testing.assert_close(layer(data.x, data.edge_index), expected)


def test_self_loops_are_left_out() -> None:
    data, model = random_graph(), SWAN(3, 4, 2, num_layers=2)
    looped = torch.cat([data.edge_index, torch.tensor([[0, 3], [0, 3]])], dim=1)
    expected = model(data.x, data.edge_index)
    torch.testing.assert_close(model(data.x, looped), expected)


def right_hand_side(layer: SWANConv, x: Tensor, edge_index: Tensor) -> Tensor:
    """Its Jacobian, of shape (N F, N F)."""
    step = jacobian(layer, x, edge_index)
    return (step - torch.eye(len(step))) / layer.epsilon


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_jacobian_is_antisymmetric(graph: str, beta: float) -> None:
    data = GRAPHS[graph]()
    layer = shaken(SWANConv(3, gamma=0.0, beta=beta, act=nn.Identity()))
    layer.epsilon = 1.0
    J = right_hand_side(layer, data.x, data.edge_index)
    assert (J + J.T).abs().max() < 1e-12
    assert torch.linalg.eigvals(J).real.abs().max() < 1e-12


@pytest.mark.parametrize("gamma", [0.3, -0.3])
def test_gamma_is_the_real_part(gamma: float) -> None:
    data = random_graph()
    layer = shaken(SWANConv(3, gamma=gamma, beta=0.7, act=nn.Identity()))
    J = right_hand_side(layer, data.x, data.edge_index)
    assert (torch.linalg.eigvals(J).real + gamma).abs().max() < 1e-12


def test_an_increasing_activation_keeps_the_eigenvalues_imaginary() -> None:
    data = random_graph()
    layer = shaken(SWANConv(3, gamma=0.0, beta=0.7))
    J = right_hand_side(layer, data.x, data.edge_index)
    assert (J + J.T).abs().max() > 0.1
    assert torch.linalg.eigvals(J).real.abs().max() < 1e-8  # not a normal matrix
    assert torch.linalg.eigvals(J).imag.abs().max() > 0.1


@pytest.mark.parametrize("aggregator", BOUNDED)
def test_the_other_variants_are_bounded_only(aggregator: str) -> None:
    data = random_graph()
    layer = shaken(SWANConv(3, aggregator, gamma=0.0, act=nn.Identity()))
    J = right_hand_side(layer, data.x, data.edge_index)
    P, _ = matrices(adjacency(data.edge_index, None, 8), aggregator)
    bound = torch.linalg.matrix_norm(P, 2) * torch.linalg.matrix_norm(layer.V, 2)
    real = torch.linalg.eigvals(J).real.abs().max()
    assert 0.05 < real <= bound


def test_learned_weights_keep_the_norm() -> None:
    data = random_graph()
    layer = shaken(SWANConv(3, gamma=0.2, learned=True, act=nn.Identity()))
    nn.init.zeros_(layer.bias)
    rate = (layer(data.x, data.edge_index) - data.x) / layer.epsilon
    norm = data.x.square().sum()
    torch.testing.assert_close((data.x * rate).sum(), -0.2 * norm)


def test_a_factor_is_the_same_in_both_directions() -> None:
    x, y, score = torch.randn(5, 3), torch.randn(5, 3), EdgeScore(3)
    assert torch.equal(score(x, y), score(y, x))


def test_without_beta_there_are_no_weights_for_it() -> None:
    names = [name for name, _ in SWANConv(3, beta=0.0).named_parameters()]
    assert names == ["W", "V", "bias"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregator": "mean"}, r"`aggregator` must be one of 'antisym.*Got 'mean'"),
        ({"epsilon": -1.0}, r"`epsilon` must be a positive number. Got -1.0"),
        ({"gamma": float("inf")}, r"`gamma` must be a finite number. Got inf"),
        ({"beta": float("nan")}, r"`beta` must be a finite number. Got nan"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SWAN(3, 4, 2, num_layers=2, **options)
