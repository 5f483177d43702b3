"""Zeros, subnormal and non-finite numbers in the caller's own precision."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from chains import ScaledChain, complete_graph, ring
from problems import CATALOGUE, random_graph
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphfathom.diagnostics.numerics import numeric_observations, subnormal_share
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def cast(data: Data, dtype: torch.dtype) -> Data:
    return data.apply(lambda t: t.to(dtype) if t.is_floating_point() else t)


def measured(model: nn.Module, data: Data, dtype: torch.dtype) -> Observations:
    problem = Problem(model.to(dtype), cast(data, dtype))
    return Observations(numeric_observations(capture(problem, dtype=None)))


def share(table: Observations, name: str) -> list[float]:
    return table.series(name)[1]


@each_dtype
def test_subnormal_numbers_are_counted(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    subnormal = [least, -least, tiny / 2, -tiny * 0.75]
    other = [0.0, -0.0, tiny, -tiny, 1.0, math.inf, -math.inf, math.nan]
    tensor = torch.tensor(subnormal + other, dtype=dtype)
    assert int((tensor == 0).sum()) == 2, "the smallest numbers are not rounded to 0"
    assert subnormal_share(tensor) == 4 / 12
    assert subnormal_share(tensor[:4]) == 1
    assert subnormal_share(tensor[4:]) == 0


@each_dtype
def test_a_tensor_without_entries_has_no_share(dtype: torch.dtype) -> None:
    assert subnormal_share(torch.empty(0, 3, dtype=dtype)) == 0


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_shares_are_exact_on_a_chain_of_powers_of_two(dtype: torch.dtype) -> None:
    """Without edges a layer halves every number: state k is 2^-k, without rounding."""
    data = ring(4)
    data.edge_index = data.edge_index[:, :0]
    data.x = torch.ones(4, 2)
    data.x[0] = 2.0**-20
    depth = 170 if dtype != torch.float64 else 40
    table = measured(ScaledChain(2, depth, 0.5), data, dtype)
    info = torch.finfo(dtype)
    normal, least = math.log2(info.tiny), math.log2(info.tiny * info.eps)
    for k in range(depth + 1):
        powers = [-20 - k, -k, -k, -k]
        place = f"state:{k}"
        zeros = sum(power < least for power in powers) / 4
        subnormal = sum(least <= power < normal for power in powers) / 4
        assert table.value("exact_zeros", place) == zeros
        assert table.value("subnormals", place) == subnormal
        assert table.value("non_finite", place) == 0


def hidden_states(model: nn.Module, data: Data) -> list[Tensor]:
    """Inputs of all layers of a GCN by hooks, without the tracer; with gradients."""
    states: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not args[0].requires_grad:
            args = (args[0].requires_grad_(), *args[1:])
        states.append(args[0])

    handles = [conv.register_forward_pre_hook(keep) for conv in model.convs]
    states.append(model(data.x, data.edge_index))
    for handle in handles:
        handle.remove()
    return states


@functools.cache
def deep_gcn(dtype: torch.dtype) -> tuple[GCN, Data, Observations]:
    """The same 320 layers in any precision; tanh, because ReLU can die altogether."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GCN(3, 4, 320, 2, act="tanh", bias=False).to(dtype)
    for parameter in model.parameters():
        parameter.data *= 0.6
    data = cast(random_graph(), dtype)
    return model, data, measured(model, data.clone(), dtype)


def test_shares_are_those_of_a_plain_run() -> None:
    """A 320-layer GCN underflows in float32, forwards and backwards."""
    model, data, table = deep_gcn(torch.float32)
    states = hidden_states(model, data.clone().apply(torch.clone))
    loss = nn.functional.cross_entropy(states[-1], data.y)
    gradients = torch.autograd.grad(loss, states)
    tiny = torch.finfo(torch.float32).tiny
    for prefix, tensors in (("", states), ("gradient_", gradients)):
        zeros = [float((t == 0).double().mean()) for t in tensors]
        small = [float(((t != 0) & (t.abs() < tiny)).double().mean()) for t in tensors]
        assert share(table, f"{prefix}zeros" if prefix else "exact_zeros") == zeros
        assert share(table, f"{prefix}subnormals") == small
        assert max(zeros) == 1
        assert max(small) > 0


def test_zero_in_float32_is_not_zero_in_float64() -> None:
    model, data, single = deep_gcn(torch.float32)
    empty = [k for k, value in enumerate(share(single, "exact_zeros")) if value == 1]
    assert empty, "the features of some layer underflow"
    assert empty == list(range(empty[0], 321)), "and stay zero to the end"
    assert empty[0] > 50
    plain = hidden_states(model, data.clone().apply(torch.clone))
    assert empty[0] == next(k for k, state in enumerate(plain) if not state.any())
    double = deep_gcn(torch.float64)[2]
    for name in ("exact_zeros", "subnormals", "gradient_zeros", "gradient_subnormals"):
        assert max(share(double, name)) == 0


def test_overflow_is_seen_where_it_happens() -> None:
    """Layers that multiply by 1e15: float32 ends at 3e38, float64 does not."""
    data = complete_graph(4)
    data.x = torch.ones(4, 2)
    single = measured(ScaledChain(2, 5, 1e15), data.clone(), torch.float32)
    assert share(single, "non_finite") == [0, 0, 0, 1, 1, 1]
    double = measured(ScaledChain(2, 5, 1e15), data.clone(), torch.float64)
    assert share(double, "non_finite") == [0] * 6


def test_a_bad_loss_gradient_is_counted() -> None:
    data = complete_graph(4)
    data.y = torch.full_like(data.y, math.nan)
    mask = torch.ones(4, dtype=torch.bool)
    problem = Problem(ScaledChain(2, 3, 1.0), data, mask=mask)
    table = Observations(numeric_observations(capture(problem, dtype=None)))
    assert share(table, "gradient_non_finite") == [1] * 4
    assert share(table, "non_finite") == [0] * 4


def test_without_labels_only_features_are_counted() -> None:
    data = random_graph()
    del data.y
    table = measured(GCN(3, 4, 2, 2), data, torch.float64)
    assert table.names() == ["exact_zeros", "subnormals", "non_finite"]


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_the_precision_is_the_callers(dtype: torch.dtype) -> None:
    table = measured(GCN(3, 4, 2, 2), random_graph(), dtype)
    assert {row.dtype for row in table} == {str(dtype).removeprefix("torch.")}
    assert {row.unit for row in table} == {"share"}
    for name in table.names():
        assert table.series(name)[0] == [0, 1, 2]
        assert all(0 <= value <= 1 for value in share(table, name))


def test_under_autocast_features_have_its_precision() -> None:
    entry = next(entry for entry in CATALOGUE if entry.name == "dense layers")
    case = entry.case()
    data = cast(case.data, torch.float32)
    problem = Problem(case.model.float(), data, **case.options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        table = Observations(numeric_observations(capture(problem, dtype=None)))
    kinds = [row.dtype for row in table.select("exact_zeros")]
    assert kinds == ["float32", "bfloat16", "bfloat16", "bfloat16"]
