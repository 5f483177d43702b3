"""Jacobians between states, as operators and against dense matrices."""

from __future__ import annotations

import functools

import pytest
import torch
from checks import check_operator
from graphs import random_graph
from problems import CATALOGUE, Entry
from references import TOLERANCE, relative_error
from stubborn import gcn
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import SGConv

from graphfathom.diagnostics.jacobian import (
    JacobianError,
    flatten,
    state_size,
    unflatten,
)
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.problem import Problem

NAMES = ("GCN", "GAT", "GCN jk=cat", "GCNII", "GraphCON", "edge states", "SAGE product")
some = pytest.mark.parametrize("name", NAMES)


def find(name: str) -> Entry:
    """An entry of the catalogue."""
    return next(entry for entry in CATALOGUE if entry.name == name)


@functools.cache
def traced(name: str) -> Trace:
    """The trace of an entry; no test changes it."""
    return capture(find(name).case().problem())


@some
def test_it_is_an_operator_in_every_way(name: str) -> None:
    operator = traced(name).jacobian(0, 2)
    check_operator(operator, operator.to_dense())


@some
def test_the_chain_rule(name: str) -> None:
    trace = traced(name)
    steps = [trace.jacobian(k, k + 1).to_dense() for k in range(trace.num_layers)]
    for i in range(trace.num_layers):
        product = torch.eye(steps[i].shape[1])
        for j in range(i, trace.num_layers):
            product = steps[j] @ product
            found = trace.jacobian(i, j + 1).to_dense()
            assert relative_error(found, product) < TOLERANCE


@some
def test_a_state_in_itself_is_the_identity(name: str) -> None:
    trace = traced(name)
    for k in range(trace.num_layers + 1):
        operator = trace.jacobian(k, k)
        assert torch.equal(operator.to_dense(), torch.eye(operator.shape[0]))


@pytest.mark.parametrize("name", ["GCN", "GAT", "SAGE product"])
def test_finite_differences_agree(name: str) -> None:
    case, trace = find(name).case(), traced(name)
    v = torch.randn(state_size(trace.states[0]))
    (direction,) = unflatten(v, trace.states[0])
    step = 1e-6

    def end(distance: float) -> Tensor:
        state = (trace.states[0].main + distance * direction,)
        for function in case.maps:
            state = function(*state)
        return state[0].detach().reshape(-1)

    # Central differences: their error is of the order of the square of the step.
    slope = (end(step) - end(-step)) / (2 * step)
    assert relative_error(trace.jacobian(0, 3).matvec(v), slope) < 1e-7


@some
def test_flattening_and_back(name: str) -> None:
    for state in traced(name).states:
        v = torch.randn(state_size(state))
        tensors = unflatten(v, state)
        assert torch.equal(flatten(tensors, state), v)
        for label, tensor, held in zip(
            state.names, tensors, state.tensors, strict=True
        ):
            assert tensor.shape == held.shape
            assert label not in state.taps or not tensor.any()


def test_a_linear_network_is_its_own_jacobian() -> None:
    data: Data = random_graph()
    model = SGConv(3, 3, K=1, bias=False)
    with torch.no_grad():
        model.lin.weight.copy_(torch.eye(3))
    problem = Problem(model, data)
    operator = capture(problem).jacobian(0, 1)
    x = data.x.reshape(-1)
    assert torch.allclose(operator.matvec(x), problem.run().detach().reshape(-1))


def test_shape_and_kind_are_those_of_the_states() -> None:
    trace = traced("GCNII")
    operator = trace.jacobian(0, 2)
    # Behind layer 2 the first state is carried along.
    assert operator.shape == (64, 32)
    assert operator.dtype == torch.float64
    assert operator.device == torch.device("cpu")
    assert (operator.i, operator.j) == (0, 2)


def test_taps_are_left_out() -> None:
    trace = traced("GCN jk=cat")
    assert len(trace.states[3].tensors) > 1
    assert trace.jacobian(2, 3).shape == (32, 32)


@pytest.mark.parametrize(("i", "j"), [(-1, 1), (0, 4), (2, 1)])
def test_states_that_do_not_follow_are_refused(i: int, j: int) -> None:
    match = rf"must satisfy 0 <= i <= j <= 3, the states. Got i = {i}, j = {j}"
    with pytest.raises(ValueError, match=match):
        traced("GCN").jacobian(i, j)


@pytest.mark.parametrize("name", ["custom function once", "custom function detached"])
def test_a_wrong_second_derivative_is_refused_by_name(name: str) -> None:
    with pytest.raises(JacobianError, match=r"`convs\.1`.*differentiated twice"):
        traced(name).jacobian(1, 2)


def test_a_layer_that_raises_when_differentiated_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace = capture(Problem(gcn(), random_graph()))

    def refuse(*_: Tensor) -> None:
        raise RuntimeError("derivative for foo is not implemented")

    monkeypatch.setattr(trace.segment(2), "jvp", refuse)
    match = r"`convs\.1` cannot be differentiated twice, .*: derivative for foo"
    with pytest.raises(JacobianError, match=match):
        trace.jacobian(1, 2)
    assert trace.jacobian(0, 1).shape == (32, 24)
