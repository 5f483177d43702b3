"""Equations (6.2) to (6.5) and (6.8) at 4 to 40 layers, one by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from graphs import random_graph
from torch import Tensor

from graphfathom.theory.backward import (
    LIPSCHITZ_TANH,
    deviation_factors,
    gradient_split,
    mean_error_bound,
)
from graphfathom.theory.stochastic import sinkhorn, smoothing_rate

NODES, WIDTH = 8, 4
DEPTHS = pytest.mark.parametrize("depth", [4, 10, 20, 40])
SEEDS = pytest.mark.parametrize("seed", range(3))


@dataclass
class Pass:
    """A forward and a backward pass with all matrices at hand."""

    matrix: Tensor
    rate: float
    weights: list[Tensor]
    seen: list[Tensor]
    """F, what each layer's weights see."""
    hidden: list[Tensor]
    """H, before the activation."""
    errors: list[Tensor]
    """B, the gradient of the loss in H."""


def propagation() -> tuple[Tensor, float]:
    data = random_graph()
    matrix = sinkhorn(data.edge_index, NODES)
    return torch.from_numpy(matrix.toarray()), smoothing_rate(matrix).rate


def run(depth: int, seed: int, ridge: float | None = None) -> Pass:
    """Tanh, orthogonal weights, squared loss; the head is random or fitted."""
    matrix, rate = propagation()
    torch.manual_seed(seed)
    x, y = torch.randn(NODES, WIDTH), torch.randn(NODES, 2)
    weights = [torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q for _ in range(depth)]
    seen, hidden = [], []
    for w in weights:
        seen.append(matrix @ x)
        hidden.append((seen[-1] @ w).requires_grad_())
        x = hidden[-1].tanh()
    seen.append(matrix @ x)
    head = torch.randn(WIDTH, 2)
    if ridge is not None:
        f = seen[-1].detach()
        head = torch.linalg.solve(f.mT @ f + ridge * torch.eye(WIDTH), f.mT @ y)
    hidden.append(seen[-1] @ head)
    errors = torch.autograd.grad((hidden[-1] - y).square().mean(), hidden)
    detached = ([t.detach() for t in part] for part in (seen, hidden))
    return Pass(matrix, rate, [*weights, head], *detached, list(errors))


def rest(x: Tensor) -> Tensor:
    return x - x.mean(0)


def slack(found: Pass, k: int) -> float:
    """The number r_k of equation (6.2)."""
    scale = float(torch.linalg.matrix_norm(found.weights[k + 1], 2))
    return LIPSCHITZ_TANH * scale * float(rest(found.hidden[k]).norm())


@DEPTHS
@SEEDS
def test_backward_pass_is_linear_up_to_forward_smoothness(
    depth: int, seed: int
) -> None:
    """Equation (6.2)."""
    found = run(depth, seed)
    for k in range(depth):
        slope = 1 - found.hidden[k].mean(0).tanh().square()
        linear = found.matrix @ found.errors[k + 1] @ found.weights[k + 1].mT * slope
        error = float((found.errors[k] - linear).norm())
        size = float(found.errors[k + 1].norm())
        assert error <= slack(found, k) * size * (1 + 1e-9) + 1e-16


@DEPTHS
@SEEDS
def test_mean_and_deviation_recursions(depth: int, seed: int) -> None:
    """Equation (6.3): the propagation damps what differs, and not the mean."""
    found = run(depth, seed)
    for k in range(depth):
        scale = float(torch.linalg.matrix_norm(found.weights[k + 1], 2))
        u, v = parts(found.errors[k])
        u_next, v_next = parts(found.errors[k + 1])
        more = slack(found, k) * (u_next + v_next)
        assert u <= (scale * u_next + more) * (1 + 1e-9) + 1e-16
        assert v <= (found.rate * scale * v_next + more) * (1 + 1e-9) + 1e-16


def parts(error: Tensor) -> tuple[float, float]:
    mean = float(error.mean(0).norm())
    return math.sqrt(NODES) * mean, float(rest(error).norm())


@SEEDS
def test_the_mean_output_error_is_the_only_survivor(seed: int) -> None:
    """Behind equation (6.3): in the middle, one row is left, known from the output."""
    found = run(40, seed)
    expected = found.errors[-1].mean(0)
    for k in reversed(range(20, 40)):
        slope = 1 - found.hidden[k].mean(0).tanh().square()
        expected = expected @ found.weights[k + 1].mT * slope
    survivor = expected.expand(NODES, -1)
    torch.testing.assert_close(found.errors[20], survivor, rtol=1e-3, atol=0)


@DEPTHS
@SEEDS
def test_gradient_split_at_every_layer(depth: int, seed: int) -> None:
    """Equation (6.4)."""
    found = run(depth, seed)
    for f, b in zip(found.seen, found.errors, strict=True):
        split = gradient_split(f, b)
        dense = NODES * torch.outer(f.mean(0), b.mean(0))
        torch.testing.assert_close(split.mean, dense)
        torch.testing.assert_close(split.mean + split.deviation, f.mT @ b)


@DEPTHS
@SEEDS
@pytest.mark.parametrize("ridge", [None, 1e-3])
def test_mean_error_behind_the_head(depth: int, seed: int, ridge: float | None) -> None:
    """Equation (6.5)."""
    found = run(depth, seed, ridge)
    f, b = found.seen[-1], found.errors[-1]
    bound = mean_error_bound(
        float((f.mT @ b).norm()),
        float(f.mean(0).norm()),
        float(rest(f).norm()),
        float(rest(b).norm()),
        NODES,
    )
    assert float(b.mean(0).norm()) <= bound * (1 + 1e-9)


def sweep(step: Callable[[Tensor], Tensor], h: Tensor, depth: int) -> list[float]:
    """What differs in the error signal at every state, from the output back."""
    states = [h.clone().requires_grad_()]
    for _ in range(depth):
        states.append(step(states[-1]))
    error = torch.randn(NODES, WIDTH)
    found = torch.autograd.grad(states[-1], states, error)
    return [float(rest(g).norm()) for g in reversed(found)]


@DEPTHS
@pytest.mark.parametrize("carry", [0.5, 0.9, 1.0])
def test_state_space_networks_keep_what_differs(depth: int, carry: float) -> None:
    """Equation (6.8) at every layer, where nodes are alike and the bound is exact."""
    matrix, rate = propagation()
    torch.manual_seed(depth)
    w = torch.linalg.qr(torch.randn(WIDTH, WIDTH)).Q
    taken = 1 / math.sqrt(depth)
    low, high = deviation_factors(carry, rate, 1.0, taken)
    alike = torch.randn(WIDTH).expand(NODES, WIDTH)
    kept = sweep(lambda h: carry * h + taken * (matrix @ h @ w).tanh(), alike, depth)
    for before, after in itertools.pairwise(kept):
        assert low * (1 - 1e-9) <= after / before <= high * (1 + 1e-9)
    plain = sweep(lambda h: (matrix @ h @ w).tanh(), alike, depth)
    assert plain[-1] <= rate**depth * plain[0] * (1 + 1e-9)
