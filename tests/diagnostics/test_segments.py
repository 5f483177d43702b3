"""The graph between two frames, and the pass that cuts it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import random_graph
from references import TOLERANCE, relative_error
from stubborn import gcn
from torch import Tensor, nn

from graphfathom.diagnostics.recorder import record
from graphfathom.diagnostics.sandbox import Sandbox
from graphfathom.diagnostics.segments import (
    CaptureError,
    NoLayersError,
    Replay,
    Segment,
)
from graphfathom.diagnostics.states import find_states
from graphfathom.problem import Problem

WEIGHT = nn.Parameter(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))


def leaves(*sizes: int) -> tuple[Tensor, ...]:
    """Random vectors that start a graph."""
    return tuple(torch.randn(size, requires_grad=True) for size in sizes)


def segment(function: Callable[..., tuple[Tensor, ...]], *sizes: int) -> Segment:
    """The graph of a function of vectors."""
    inputs = leaves(*sizes)
    outputs = function(*inputs)
    order = tuple(reversed(range(len(outputs))))
    return Segment(inputs, outputs, outputs, order, parameters=(WEIGHT,))


FUNCTIONS: dict[str, tuple[Callable[..., tuple[Tensor, ...]], tuple[int, ...]]] = {
    "one vector": (lambda x: ((WEIGHT @ x).tanh(),), (3,)),
    "two of two": (lambda x, y: (x * y.sum(), y.exp()), (3, 2)),
    "two to one": (lambda x, y: (x @ WEIGHT * y,), (3, 3)),
    "handed on": (lambda x, y: (WEIGHT @ x, y), (3, 2)),
    "unused input": (lambda x, y: (x.sin(),), (3, 2)),
    "linear": (lambda x: (2 * x,), (3,)),
    "constant": (lambda x: (torch.ones(2),), (3,)),
    "partly constant": (lambda x: (x.sin(), torch.ones(2)), (3,)),
}

functions = pytest.mark.parametrize(
    ("function", "sizes"), FUNCTIONS.values(), ids=FUNCTIONS.keys()
)


def jacobian(found: Segment, function: Callable[..., Any]) -> Tensor:
    """The dense Jacobian of all outputs in all inputs."""
    sizes = [x.numel() for x in found.inputs]

    def flat(vector: Tensor) -> Tensor:
        return torch.cat(function(*vector.split(sizes)))

    return torch.func.jacrev(flat)(torch.cat(found.inputs).detach())


def cotangents(found: Segment) -> tuple[Tensor, ...]:
    """A random vector for each output."""
    return tuple(torch.randn_like(output) for output in found.outputs)


@functions
def test_products_are_those_of_the_dense_jacobian(
    function: Callable[..., Any], sizes: tuple[int, ...]
) -> None:
    found = segment(function, *sizes)
    dense = jacobian(found, function)
    w = cotangents(found)
    pulled, _ = found.vjp(w)
    assert relative_error(torch.cat(pulled), torch.cat(w) @ dense) < TOLERANCE
    v = tuple(torch.randn_like(x) for x in found.inputs)
    for _ in range(2):  # the second product uses the graph of the first
        pushed = torch.cat(found.jvp(v))
        assert relative_error(pushed, dense @ torch.cat(v)) < TOLERANCE
    found.release()
    assert torch.equal(torch.cat(found.jvp(v)), pushed)


def test_gradients_of_parameters_come_when_asked() -> None:
    found = segment(FUNCTIONS["one vector"][0], 3)
    (w,) = cotangents(found)
    _, none = found.vjp((w,))
    assert none == ()
    _, (gradient,) = found.vjp((w,), with_parameters=True)
    (x,), y = found.inputs, found.outputs[0]
    assert gradient is not None
    assert torch.allclose(gradient, torch.outer(w * (1 - y**2), x))
    _, (missing,) = segment(FUNCTIONS["linear"][0], 3).vjp((w,), with_parameters=True)
    assert missing is None


def test_an_output_computed_from_another_ones_leaf() -> None:
    # Symplectic: y = x + f(x, y), z = x * y, with the graph cut at y.
    (x,) = leaves(3)
    y = x + WEIGHT @ x.sin()
    leaf = y.detach().requires_grad_()
    z = x * leaf.exp()
    found = Segment((x,), (y, z), (leaf, z), (1, 0), (WEIGHT,), coupled=True)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = x + WEIGHT @ x.sin()
        return y, x * y.exp()

    dense = jacobian(found, function)
    w, v = cotangents(found), torch.randn(3)
    pulled, (gradient,) = found.vjp(w, with_parameters=True)
    assert relative_error(pulled[0], torch.cat(w) @ dense) < TOLERANCE
    assert relative_error(torch.cat(found.jvp((v,))), dense @ v) < TOLERANCE
    expected = torch.autograd.grad(function(x), WEIGHT, w)
    assert gradient is not None
    assert relative_error(gradient, expected[0]) < TOLERANCE


def test_refusals_are_value_errors() -> None:
    assert issubclass(CaptureError, ValueError)
    assert issubclass(NoLayersError, CaptureError)


def test_a_pass_cut_at_its_states_gives_the_same_output() -> None:
    problem = Problem(gcn(), random_graph())
    box = Sandbox(problem, "eval")
    with box.running() as safe:
        recording = record(safe)
        plan = find_states(recording)
        expected = safe.run().detach()
        for keep in (True, False):
            replay = Replay(recording, plan, 1, 4, keep)
            with torch.enable_grad(), replay:
                output = safe.call()
            assert torch.equal(output.detach(), expected)
            wanted = {i for j in range(1, 5) for i in plan.frames[j]}
            assert replay.leaves.keys() == wanted - set(plan.frames[0])
            # Where states are only kept, nothing is cut.
            assert bool(replay.raw) is not keep
            found = replay.leaves.values()
            assert all(leaf.requires_grad is not keep for leaf in found)


def test_graphs_exist_between_the_chosen_frames_only() -> None:
    problem = Problem(gcn(4), random_graph())
    with Sandbox(problem, "eval").running() as safe:
        recording = record(safe)
        plan = find_states(recording)
        replay = Replay(recording, plan, 2, 3, False)
        with torch.enable_grad(), replay:
            output = safe.call()
    assert output.grad_fn is None
    (first,), (second,) = plan.frames[2], plan.frames[3]
    # What comes before the first cut is a constant, what follows has a graph.
    assert replay.raw[first].grad_fn is None
    assert replay.raw[second].grad_fn is not None
    assert replay.leaves[first].is_leaf


def test_another_sequence_of_calls_is_refused() -> None:
    problem = Problem(gcn(), random_graph())
    with Sandbox(problem, "eval").running() as safe:
        recording = record(safe)
        plan = find_states(recording)
        replay = Replay(recording, plan, 0, 4, False)
        match = r"does not repeat itself: call 0 was \['\w+'\] and is now 'arange'"
        with pytest.raises(CaptureError, match=match), replay:
            torch.arange(3)
