"""DGC against powers and the exponential of dense matrices."""

from __future__ import annotations

import pytest
import torch
from graphs import GRAPHS, directed_graph, random_graph, undirected
from references import gcn_matrix
from torch import Tensor

from graphfathom.nn.propagation import gcn_adjacency
from graphfathom.nn.zoo.dgc import DGC, DGCConv


def step(smoothing: Tensor, epsilon: float) -> Tensor:
    return (1 - epsilon) * torch.eye(len(smoothing)) + epsilon * smoothing


@pytest.mark.parametrize("name", GRAPHS)
def test_forward_is_a_power_of_the_dense_step(name: str) -> None:
    data, model = GRAPHS[name](), DGC(3, 8, 2, num_layers=6, time=4.0)
    power = torch.linalg.matrix_power(step(gcn_matrix(data), 4 / 6), 6)
    expected = model.head(power @ model.encoder(data.x))
    found = model(data.x, data.edge_index)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_edge_weights_are_those_of_the_adjacency() -> None:
    data, model = directed_graph(), DGC(3, 8, 2, num_layers=3, time=2.0)
    weight = torch.rand(data.num_edges).requires_grad_()
    source, target = data.edge_index
    dense = torch.eye(data.num_nodes).index_put((target, source), weight)
    scale = dense.sum(1).rsqrt()
    smoothing = scale[:, None] * dense * scale
    power = torch.linalg.matrix_power(step(smoothing, 2 / 3), 3)
    expected = model.head(power @ model.encoder(data.x))
    found = model(data.x, data.edge_index, weight)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    slopes = [torch.autograd.grad(y.square().sum(), weight) for y in (found, expected)]
    torch.testing.assert_close(*slopes)


def test_edges_and_their_adjacency_are_the_same_graph() -> None:
    data, conv = random_graph(), DGCConv(0.5)
    found = conv(data.x, gcn_adjacency(data.edge_index))
    assert torch.equal(found, conv(data.x, data.edge_index))
    model = DGC(3, 8, 2, num_layers=3)
    found = model(data.x, gcn_adjacency(data.edge_index))
    assert torch.equal(found, model(data.x, data.edge_index))


def test_without_an_encoder_it_is_the_paper_s() -> None:
    data, model = random_graph(), DGC(3, 3, 2, num_layers=5, time=3.0)
    with torch.no_grad():
        model.encoder.weight.copy_(torch.eye(3))
        model.encoder.bias.zero_()
    x = torch.linalg.matrix_power(step(gcn_matrix(data), 3 / 5), 5) @ data.x
    torch.testing.assert_close(model(data.x, data.edge_index), model.head(x))


def test_error_to_the_exponential_halves_when_steps_double() -> None:
    data, time = random_graph(), 5.27
    smoothing = gcn_matrix(data)
    exact = torch.matrix_exp(-time * (torch.eye(len(smoothing)) - smoothing)) @ data.x

    def error(count: int) -> float:
        x, conv = data.x, DGCConv(time / count)
        for _ in range(count):
            x = conv(x, data.edge_index)
        return (x - exact).norm().item()

    errors = [error(count) for count in (128, 256, 512)]
    assert errors[-1] < 0.01 * exact.norm()
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("name", ["path", "ring", "random", "isolated node"])
@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0])
def test_no_mode_grows_in_steps_up_to_one(name: str, epsilon: float) -> None:
    modes = torch.linalg.eigvalsh(step(gcn_matrix(GRAPHS[name]()), epsilon))
    assert modes.abs().max() <= 1 + 1e-12


def test_a_longer_step_lets_a_mode_grow() -> None:
    degree, epsilon = 8, 1.3
    data = undirected(16, [(i, degree + j) for i in range(8) for j in range(8)])
    side = torch.ones(16, 1).index_fill(0, torch.arange(degree), -1.0)
    # The two sides of a bipartite graph have the eigenvalue (1 - d) / (1 + d).
    mode = 1 - epsilon * 2 * degree / (1 + degree)
    assert mode < -1
    torch.testing.assert_close(DGCConv(epsilon)(side, data.edge_index), mode * side)


def test_repr() -> None:
    model = DGC(3, 8, 2, num_layers=4, time=1.0)
    assert repr(model) == "DGC(3, 8, 2, num_layers=4, time=1.0)"
    assert repr(model.layers[0]) == "DGCConv(epsilon=0.25)"


@pytest.mark.parametrize("time", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_that_is_not_positive_is_refused(time: float) -> None:
    with pytest.raises(ValueError, match=r"`time` must be a positive number. Got"):
        DGC(3, 8, 2, num_layers=4, time=time)
