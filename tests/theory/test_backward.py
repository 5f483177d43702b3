"""Backward oversmoothing: every bound on random networks, in dense matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from graphfathom.theory.backward import (
    LIPSCHITZ_TANH,
    backward_bound,
    deviation_factors,
    gradient_split,
    log10_deviation_bounds,
    mean_error_bound,
)

NODES = 12


def stochastic(seed: int) -> Tensor:
    """A symmetric, doubly stochastic matrix of a random connected graph."""
    generator = torch.Generator().manual_seed(seed)
    links = torch.rand(NODES, NODES, generator=generator).double() < 0.3
    graph = torch.eye(NODES).double().roll(1, 0) + links
    graph = ((graph + graph.mT) > 0).double().fill_diagonal_(0)
    laplacian = torch.diag(graph.sum(1)) - graph
    return torch.eye(NODES).double() - laplacian / (graph.sum(1).max() + 1)


def second(matrix: Tensor) -> float:
    values = torch.linalg.eigvalsh(matrix).abs().sort(descending=True).values
    return float(values[1])


@dataclass
class Run:
    """One forward and backward pass, all matrices at hand."""

    matrix: Tensor
    weights: list[Tensor]
    states: list[Tensor]
    errors: list[Tensor]
    gradients: list[Tensor]

    @property
    def scales(self) -> Tensor:
        return torch.stack(
            [torch.linalg.matrix_norm(w.detach(), 2) for w in self.weights]
        )


def run(depth: int, scale: float, seed: int, trained: bool) -> Run:
    """A tanh network with squared loss; its head is fitted or random."""
    matrix = stochastic(seed)
    torch.manual_seed(seed)
    x, y = torch.randn(NODES, 4), torch.randn(NODES, 2)
    weights = [
        (scale * torch.linalg.qr(torch.randn(4, 4)).Q).requires_grad_()
        for _ in range(depth)
    ]
    states, hidden = [x], []
    for w in weights:
        hidden.append(matrix @ states[-1] @ w)
        hidden[-1].retain_grad()
        states.append(hidden[-1].tanh())
    seen = (matrix @ states[-1]).detach()
    head = torch.randn(4, 2)
    if trained:
        ridge = seen.mT @ seen + 1e-3 * torch.eye(4)
        head = torch.linalg.solve(ridge, seen.mT @ y)
    head.requires_grad_()
    hidden.append(matrix @ states[-1] @ head)
    hidden[-1].retain_grad()
    (hidden[-1] - y).square().mean().backward()
    weights.append(head)
    errors, gradients = ([t.grad for t in part] for part in (hidden, weights))
    states = [state.detach() for state in states]
    return Run(matrix, weights, states, errors, gradients)


def deviation(x: Tensor) -> float:
    return float((x - x.mean(0)).norm())


CASES = pytest.mark.parametrize(
    ("depth", "scale", "trained"),
    [
        (4, 1.0, True),
        (4, 1.0, False),
        (10, 0.7, True),
        (40, 1.0, True),
        (40, 1.2, False),
    ],
)


@CASES
@pytest.mark.parametrize("seed", range(3))
def test_all_bounds_hold(depth: int, scale: float, trained: bool, seed: int) -> None:
    found = run(depth, scale, seed, trained)
    lam = second(found.matrix)
    x = found.states[0]
    start = deviation(x) / math.sqrt(NODES)
    forward = log10_deviation_bounds(lam, found.scales, start)
    for bound, state in zip(forward, found.states, strict=False):
        assert deviation(state) / math.sqrt(NODES) <= 10 ** float(bound) * (1 + 1e-9)
    last = found.errors[-1]
    bound = backward_bound(
        lam,
        found.scales,
        lipschitz=LIPSCHITZ_TANH,
        num_nodes=NODES,
        feature_norm=float(x.norm()),
        feature_deviation=start,
        mean_error=math.sqrt(NODES) * float(last.mean(0).norm()),
        error_deviation=deviation(last),
    )
    for k in range(depth + 1):
        error, gradient = found.errors[k], found.gradients[k]
        u = math.sqrt(NODES) * float(error.mean(0).norm())
        assert u <= 10 ** float(bound.mean[k]) * (1 + 1e-9)
        assert deviation(error) <= 10 ** float(bound.deviation[k]) * (1 + 1e-9)
        assert float(gradient.norm()) <= 10 ** float(bound.gradient[k]) * (1 + 1e-9)


def test_gradient_split_is_the_gradient() -> None:
    found = run(6, 1.0, 0, trained=False)
    for k in range(7):
        split = gradient_split(found.matrix @ found.states[k], found.errors[k])
        torch.testing.assert_close(split.mean + split.deviation, found.gradients[k])
    f, b = torch.ones(5, 3), torch.randn(5, 2)
    assert not gradient_split(f, b).deviation.any()
    assert gradient_split(f, b - b.mean(0)).mean.abs().max() < 1e-12


def test_mean_error_of_a_trained_head() -> None:
    for trained in (False, True):
        found = run(5, 0.9, 1, trained)
        seen, error = found.matrix @ found.states[-1], found.errors[-1]
        bound = mean_error_bound(
            float(found.gradients[-1].norm()),
            float(seen.mean(0).norm()),
            deviation(seen),
            deviation(error),
            NODES,
        )
        assert float(error.mean(0).norm()) <= bound
    assert mean_error_bound(1.0, 0.0, 1.0, 1.0, 3) == math.inf


def test_bound_vanishes_with_depth_where_the_head_is_trained() -> None:
    """Equation (6.6): L a^L in every layer; without the training, of order 1."""

    def largest(depth: int, mean_error: float) -> float:
        bound = backward_bound(
            0.3,
            torch.ones(depth + 1),
            lipschitz=LIPSCHITZ_TANH,
            num_nodes=10,
            feature_norm=1.0,
            feature_deviation=0.3,
            mean_error=mean_error,
            error_deviation=1.0,
        )
        return float(bound.gradient[:-1].max())

    slope = (largest(200, 0.0) - largest(100, 0.0)) / 100
    assert slope == pytest.approx(math.log10(0.3), abs=0.01)
    assert largest(200, 1.0) == pytest.approx(largest(100, 1.0), abs=1e-6)


def test_networks_without_nodes_of_their_own_do_not_vanish() -> None:
    """Equation (6.7): an MLP of any depth, stationary in its head, still learns."""
    torch.manual_seed(0)
    x, y = torch.randn(NODES, 4), torch.randn(NODES, 2)
    found = []
    for matrix in (torch.eye(NODES), stochastic(0)):
        for depth in (3, 10, 30):
            first = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
            first = first.double().requires_grad_()
            h = (matrix @ x @ first).relu()
            for _ in range(depth - 1):
                h = (matrix @ h).relu()
            seen = torch.cat([matrix @ h, torch.ones(NODES, 1)], 1)
            head = torch.linalg.lstsq(seen.detach(), y).solution
            head = head if matrix[0, 0] == 1 else _ridge(seen.detach(), y)
            (gradient,) = torch.autograd.grad((seen @ head - y).square().mean(), first)
            found.append(float(gradient.norm()))
    assert found[0] > 0.01
    assert found[1:3] == pytest.approx([found[0]] * 2)
    assert found[5] < 1e-3 * found[3]


def _ridge(seen: Tensor, y: Tensor) -> Tensor:
    gram = seen.mT @ seen + 1e-3 * torch.eye(seen.shape[1])
    return torch.linalg.solve(gram, seen.mT @ y)


@pytest.mark.parametrize("carry", [0.5, 1.0])
def test_state_space_layers_keep_the_differences(carry: float) -> None:
    """Equation (6.8), where the forward signal is constant and the bound exact."""
    matrix = stochastic(2)
    torch.manual_seed(0)
    w, b = torch.randn(4, 4), 0.3 * torch.randn(4, 4)
    low, high = deviation_factors(
        carry,
        second(matrix),
        float(torch.linalg.matrix_norm(w, 2)),
        float(torch.linalg.matrix_norm(b, 2)),
    )
    h = torch.randn(4).expand(NODES, 4).clone().requires_grad_()
    out = carry * h + (matrix @ h @ w).tanh() @ b.mT
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        error = torch.randn(NODES, 4, generator=generator).double()
        (before,) = torch.autograd.grad(out, h, error, retain_graph=True)
        factor = deviation(before) / deviation(error)
        assert low * (1 - 1e-9) <= factor <= high * (1 + 1e-9)


def test_bad_input() -> None:
    ones = torch.ones(3)
    options = {
        "lipschitz": 1.0,
        "num_nodes": 3,
        "feature_norm": 1.0,
        "feature_deviation": 1.0,
        "mean_error": 0.0,
        "error_deviation": 1.0,
    }
    with pytest.raises(ValueError, match=r"`eigenvalue` must be in \[0, 1\].*Got 1.5"):
        backward_bound(1.5, ones, **options)
    with pytest.raises(ValueError, match=r"`mean_error` must be >= 0. Got nan"):
        backward_bound(0.5, ones, **(options | {"mean_error": math.nan}))
    with pytest.raises(ValueError, match=r"`scales` must hold one norm"):
        log10_deviation_bounds(0.5, -ones, 1.0)
    with pytest.raises(ValueError, match=r"one row for each node. Got shapes \(3,\)"):
        gradient_split(ones, ones)
    with pytest.raises(ValueError, match=r"at least one row"):
        gradient_split(torch.ones(0, 2), torch.ones(0, 2))
    with pytest.raises(ValueError, match=r"`num_nodes` >= 1"):
        mean_error_bound(1.0, 1.0, 1.0, 1.0, 0)
