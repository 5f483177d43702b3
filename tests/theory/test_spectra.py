"""Closed forms of spectra against dense Jacobians and against samples."""

from __future__ import annotations

import math

import graphs
import pytest
import torch
from torch import Tensor
from torch.func import jacrev
from torch.testing import assert_close

from graphfathom.nn import gcn_adjacency
from graphfathom.theory import (
    gcn_singular_values,
    marchenko_pastur_density,
    random_gcn_moments,
    state_space_eigenvalues,
    state_space_singular_value_bounds,
)

GRAPHS = {
    "random": graphs.random_graph(7).edge_index,
    "directed": graphs.directed_graph().edge_index,
    "no edges": torch.empty(2, 0, dtype=torch.long),
}
EYE = torch.eye(2)
BY_GRAPH = pytest.mark.parametrize("graph", GRAPHS)


def matrix_of(graph: str) -> Tensor:
    adjacency = gcn_adjacency(GRAPHS[graph], num_nodes=7, dtype=torch.float64)
    return adjacency.to_dense()


def jacobian(function, x: Tensor) -> Tensor:
    return jacrev(function)(x).reshape(-1, x.numel())


@BY_GRAPH
@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (1, 1)])
def test_lemma_3_1(graph: str, shape: tuple[int, int]) -> None:
    matrix, weight = matrix_of(graph), torch.randn(shape).double()
    dense = jacobian(lambda h: matrix @ h @ weight, torch.randn(7, shape[0]).double())
    found = gcn_singular_values(torch.linalg.svdvals(matrix), weight)
    expected = torch.linalg.svdvals(dense)
    assert len(found) == 7 * min(shape)
    assert_close(found, expected[: len(found)])
    assert float(expected[len(found) :].abs().sum()) < 1e-12  # structural zeros


def test_eigenvalues_of_a_symmetric_matrix_are_as_good() -> None:
    matrix, weight = matrix_of("random"), torch.randn(3, 3).double()
    by_eigenvalues = gcn_singular_values(torch.linalg.eigvalsh(matrix), weight)
    by_values = gcn_singular_values(torch.linalg.svdvals(matrix), weight)
    assert_close(by_eigenvalues, by_values)


@pytest.mark.parametrize(("m", "p", "v"), [(4, 4, 0.25), (3, 6, 1.0), (6, 2, 0.1)])
def test_theorem_3_2(m: int, p: int, v: float) -> None:
    singular = torch.linalg.svdvals(matrix_of("directed"))
    mean, variance = random_gcn_moments(singular, m, p, v)
    draws = math.sqrt(v) * torch.randn(200_000, m, p).double()
    products = draws.mT @ draws
    first = torch.diagonal(products, dim1=1, dim2=2).mean(1)  # pooled over j
    second = products.square().sum((1, 2)) / p
    for place in (0, 3, 6):
        square = singular[place] ** 2
        gamma, gamma_2 = square * first, square**2 * second
        error = 4 * gamma.std() / math.sqrt(len(gamma))
        assert abs(gamma.mean() - mean[place]) < error
        error = 4 * gamma_2.std() / math.sqrt(len(gamma_2))
        assert abs(gamma_2.mean() - mean[place] ** 2 - variance[place]) < error


def test_a_regular_graph_shrinks_the_mean_square_by_its_degree_and_one() -> None:
    nodes = torch.arange(12)
    cycle = torch.stack([nodes, (nodes + 1) % 12])
    both = torch.cat([cycle, cycle.flip(0)], dim=1)
    matrix = gcn_adjacency(both, num_nodes=12, dtype=torch.float64).to_dense()
    mean, _ = random_gcn_moments(torch.linalg.svdvals(matrix), 5, 5, 1 / 5)
    assert float(mean.mean()) == pytest.approx(1 / 3)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0, 2.0, 10.0])
@pytest.mark.parametrize("variance", [0.3, 2.0])
def test_moments_of_marchenko_pastur(ratio: float, variance: float) -> None:
    low, high = (variance * (1 + s * math.sqrt(ratio)) ** 2 for s in (-1, 1))
    # Nodes of Chebyshev, against the roots at both ends of the support.
    angle = (torch.arange(20_000) + 0.5).double() * math.pi / 20_000
    x = 0.5 * (low + high) + 0.5 * (high - low) * angle.cos()
    density, mass = marchenko_pastur_density(x, ratio, variance)
    step = 0.5 * (high - low) * angle.sin() * math.pi / 20_000
    moments = [float((density * step * x**k).sum()) for k in range(3)]
    assert moments[0] + mass == pytest.approx(1, abs=1e-4)
    assert moments[1] == pytest.approx(variance, rel=1e-6)
    assert moments[2] == pytest.approx(variance**2 * (1 + ratio), rel=1e-6)


def test_marchenko_pastur_is_the_limit_of_samples() -> None:
    weight = torch.randn(2000, 500).double() / math.sqrt(2000)
    values = torch.linalg.eigvalsh(weight.mT @ weight)
    edges = torch.linspace(0.2, 2.3, 8).double()
    counts = torch.histogram(values, edges).hist / 500
    for left, right, share in zip(edges[:-1], edges[1:], counts, strict=True):
        grid = torch.linspace(float(left), float(right), 1001).double()
        density, _ = marchenko_pastur_density(grid, 0.25)
        assert float(share) == pytest.approx(
            float(torch.trapezoid(density, grid)), abs=0.01
        )


@BY_GRAPH
def test_proposition_3_3(graph: str) -> None:
    matrix = matrix_of(graph)
    weight, state, inner = (torch.randn(3, 3).double() for _ in range(3))
    inner = 0.2 * inner
    x = torch.randn(7, 3).double()

    def message(h: Tensor) -> Tensor:
        return (matrix @ h @ weight).tanh()

    dense = jacobian(lambda h: h @ state.mT + message(h) @ inner.mT, x)
    norm = float(torch.linalg.matrix_norm(jacobian(message, x), 2))
    lower, upper = state_space_singular_value_bounds(state, inner, norm)
    found = torch.linalg.svdvals(dense).reshape(3, 7)
    assert bool((found >= lower[:, None] - 1e-12).all())
    assert bool((found <= upper[:, None] + 1e-12).all())


def test_the_bounds_of_proposition_3_3_are_attained() -> None:
    eye = torch.eye(2).double()
    lower, upper = state_space_singular_value_bounds(eye, 0.5 * eye, 0.4)
    for sign, bound in ((-1, lower), (1, upper)):
        assert_close(torch.linalg.svdvals(eye + sign * 0.2 * eye), bound)


@BY_GRAPH
def test_eigenvalues_of_a_linear_state_space_layer(graph: str) -> None:
    matrix = matrix_of(graph)
    weight, inner = torch.randn(2, 3, 3).double()
    x = torch.randn(7, 3).double()
    dense = jacobian(lambda h: 0.9 * h + matrix @ h @ weight @ inner.mT, x)
    found = state_space_eigenvalues(0.9, torch.linalg.eigvals(matrix), weight, inner)
    # Traces of powers: eigenvalues of a matrix that is not normal move when sorted.
    for power in (1, 2, 3, 4):
        expected = torch.linalg.matrix_power(dense, power).trace()
        assert_close((found**power).sum().real, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: gcn_singular_values(torch.eye(3), torch.eye(2)),
            r"\(n,\).*Got \(3, 3",
        ),
        (
            lambda: gcn_singular_values(torch.ones(3), torch.ones(2)),
            r"must be a matrix",
        ),
        (lambda: random_gcn_moments(torch.ones(3), 0, 2, 1.0), r"`in_channels`.*Got 0"),
        (lambda: random_gcn_moments(torch.ones(3), 2, 2, math.nan), r"Got nan"),
        (lambda: marchenko_pastur_density(torch.ones(3), 0.0), r"`ratio`.*Got 0.0"),
        (
            lambda: state_space_singular_value_bounds(
                torch.ones(2, 3), torch.eye(2), 1
            ),
            r"`state` must have shape \(d, d\). Got \(2, 3\)",
        ),
        (
            lambda: state_space_singular_value_bounds(EYE, EYE, -1.0),
            r"`message_norm` must be >= 0. Got -1.0",
        ),
        (
            lambda: state_space_eigenvalues(
                1, torch.eye(2), torch.eye(2), torch.eye(2)
            ),
            r"`propagation` must have shape",
        ),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
