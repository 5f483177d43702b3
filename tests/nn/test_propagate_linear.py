"""The fused layer against the same formula composed and dense, in every kind of use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import graphs
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, hessian, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from graphfathom.nn import (
    Adjacency,
    GCNConv,
    gcn_adjacency,
    propagate,
    propagate_linear,
)

SIZE = 7
EDGES = {
    "symmetric": graphs.random_graph(7).edge_index,
    "directed": graphs.directed_graph().edge_index,
    "no edges": torch.empty(2, 0, dtype=torch.long),
}
GRAPH = pytest.mark.parametrize("name", EDGES)
BIAS = pytest.mark.parametrize("biased", [False, True])
Layer = Callable[..., Tensor]


def adjacency_of(name: str) -> Adjacency:
    return gcn_adjacency(EDGES[name], num_nodes=SIZE, dtype=torch.float64)


def inputs_of(biased: bool, size: int = SIZE) -> tuple[Tensor, ...]:
    x, weight = torch.randn(size, 3), torch.randn(2, 3)
    given = (x, weight, torch.randn(2)) if biased else (x, weight)
    return tuple(t.double().requires_grad_() for t in given)


def fused(adjacency: Adjacency) -> Layer:
    return lambda *inputs: propagate_linear(adjacency, *inputs)


def dense(adjacency: Adjacency) -> Layer:
    matrix = adjacency.to_dense()
    return lambda x, weight, bias=0.0: matrix @ x @ weight.t() + bias


@GRAPH
@BIAS
def test_equals_the_dense_formula_with_its_gradients(name: str, biased: bool) -> None:
    inputs, adjacency = inputs_of(biased), adjacency_of(name)
    found, expected = (layer(adjacency)(*inputs) for layer in (fused, dense))
    assert_close(found, expected)
    cotangent = torch.randn_like(found)
    assert_close(
        torch.autograd.grad(found, inputs, cotangent),
        torch.autograd.grad(expected, inputs, cotangent),
    )


@GRAPH
@BIAS
def test_derivatives_of_both_modes_and_orders(name: str, biased: bool) -> None:
    layer, inputs = fused(adjacency_of(name)), inputs_of(biased)
    assert torch.autograd.gradcheck(
        layer, inputs, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(
        layer, inputs, check_fwd_over_rev=True, check_batched_grad=True
    )


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_some_gradients_alone(wanted: tuple[int, ...]) -> None:
    inputs = tuple(
        t.detach().requires_grad_(place in wanted)
        for place, t in enumerate(inputs_of(True))
    )
    adjacency = adjacency_of("directed")
    leaves = [inputs[place] for place in wanted]
    found, expected = (
        torch.autograd.grad(layer(adjacency)(*inputs).square().sum(), leaves)
        for layer in (fused, dense)
    )
    assert_close(found, expected)


@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian])
@pytest.mark.parametrize("argnums", [0, 1, 2])
def test_transforms(transform: Any, argnums: int) -> None:
    inputs = tuple(t.detach() for t in inputs_of(True))
    adjacency = adjacency_of("directed")

    def transformed(layer: Layer) -> Tensor:
        return transform(lambda *a: layer(*a).square().sum(0), argnums)(*inputs)

    assert_close(transformed(fused(adjacency)), transformed(dense(adjacency)))


def test_ensembles_of_parameters() -> None:
    conv, adjacency = GCNConv(3, 2).double(), adjacency_of("directed")
    x = torch.randn(SIZE, 3).double()
    stacked = {
        name: torch.stack([p.detach(), 2 * p.detach() + 1])
        for name, p in conv.named_parameters()
    }
    found = vmap(lambda p: functional_call(conv, p, (x, adjacency)))(stacked)
    for place in range(2):
        one = {name: p[place] for name, p in stacked.items()}
        assert_close(found[place], functional_call(conv, one, (x, adjacency)))


def test_edge_weights_have_gradients() -> None:
    weights = torch.rand(EDGES["directed"].shape[1]).double().requires_grad_()
    inputs = inputs_of(True)

    def gradient(form: Callable[[Adjacency], Layer]) -> Tensor:
        layer = form(gcn_adjacency(EDGES["directed"], weights, SIZE))
        return torch.autograd.grad(layer(*inputs).square().sum(), weights)[0]

    found, expected = gradient(fused), gradient(dense)
    assert_close(found, expected)


def test_edge_weights_have_tangents() -> None:
    weights, tangent = torch.rand(2, EDGES["directed"].shape[1]).double()
    inputs = inputs_of(True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(weights, tangent)
        adjacency = gcn_adjacency(EDGES["directed"], dual, SIZE)
        found = forward_ad.unpack_dual(fused(adjacency)(*inputs)).tangent
    _, expected = jvp(
        lambda w: dense(gcn_adjacency(EDGES["directed"], w, SIZE))(*inputs),
        (weights,),
        (tangent,),
    )
    assert_close(found, expected)


def test_leading_dimensions_and_mixed_precision() -> None:
    adjacency, (x, weight, bias) = adjacency_of("symmetric"), inputs_of(True)
    batch = torch.stack([x, 2 * x])
    assert_close(
        propagate_linear(adjacency, batch, weight, bias),
        torch.stack([dense(adjacency)(each, weight, bias) for each in batch]),
    )
    narrow = tuple(t.float() for t in (x, weight, bias))
    assert propagate_linear(adjacency, *narrow).dtype == torch.float64
    single = adjacency.to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = propagate_linear(single, *narrow)
        expected = propagate(single, F.linear(*narrow[:2])) + narrow[2]
    assert torch.equal(found, expected)
    assert not torch.equal(found, propagate_linear(single, *narrow))


def test_the_graph_has_one_node_and_saves_its_inputs() -> None:
    adjacency, inputs = adjacency_of("symmetric"), inputs_of(True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda _: None):
        out = propagate_linear(adjacency, *inputs)
    known = {id(t) for t in (*inputs[:2], *vars(adjacency).values())}
    assert {id(t) for t in saved} <= known
    before = out.grad_fn.next_functions
    assert {type(node).__name__ for node, _ in before if node} == {"AccumulateGrad"}


@pytest.mark.parametrize("place", ["value", "weight"])
def test_a_change_before_the_backward_pass_is_noticed(place: str) -> None:
    adjacency, (x, weight) = adjacency_of("symmetric"), inputs_of(False)
    out = propagate_linear(adjacency, x, weight).sum()
    with torch.no_grad():
        (adjacency.value if place == "value" else weight).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()


def test_the_output_may_be_changed_in_place() -> None:
    adjacency, inputs = adjacency_of("symmetric"), inputs_of(True)
    found = torch.autograd.grad(fused(adjacency)(*inputs).relu_().sum(), inputs)
    expected = torch.autograd.grad(dense(adjacency)(*inputs).relu().sum(), inputs)
    assert_close(found, expected)


def test_checkpoints_recompute_it() -> None:
    adjacency, inputs = adjacency_of("symmetric"), inputs_of(True)
    out: Any = checkpoint(fused(adjacency), *inputs, use_reentrant=False)
    expected = torch.autograd.grad(dense(adjacency)(*inputs).sum(), inputs)
    assert_close(torch.autograd.grad(out.sum(), inputs), expected)


def test_hooks_of_the_linear_map_are_called() -> None:
    conv, x = GCNConv(3, 2), torch.randn(SIZE, 3)
    adjacency = gcn_adjacency(EDGES["symmetric"], num_nodes=SIZE)
    plain = conv(x, adjacency)
    handle = conv.lin.register_forward_hook(lambda *call: 2 * call[-1])
    assert_close(conv(x, adjacency), 2 * plain)
    handle.remove()
    assert torch.equal(conv(x, adjacency), plain)


def test_another_linear_map_is_called() -> None:
    conv, x = GCNConv(3, 2), torch.randn(SIZE, 3)
    adjacency = gcn_adjacency(EDGES["symmetric"], num_nodes=SIZE)
    conv.lin = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Tanh())
    assert_close(conv(x, adjacency), propagate(adjacency, conv.lin(x)))


@pytest.mark.parametrize("size", [0, 1])
def test_the_smallest_graphs(size: int) -> None:
    adjacency = gcn_adjacency(EDGES["no edges"], num_nodes=size, dtype=torch.float64)
    x, weight, bias = inputs_of(True, size)
    out = propagate_linear(adjacency, x, weight, bias)
    assert_close(out, x @ weight.t() + bias)
    assert_close(torch.autograd.grad(out.sum(), bias)[0], size * torch.ones_like(bias))


def test_nan_reaches_the_neighbours_alone() -> None:
    adjacency, (x, weight) = adjacency_of("directed"), inputs_of(False)
    x = x.detach().clone()
    x[1] = torch.nan
    reached = adjacency.to_dense()[:, 1] != 0
    found = propagate_linear(adjacency, x, weight)
    assert torch.equal(found.isnan().all(1), reached)
    assert torch.equal(found.isnan().any(1), reached)


def test_bad_input() -> None:
    x, weight = inputs_of(False)
    adjacency = adjacency_of("directed")
    with pytest.raises(TypeError, match="must be an Adjacency"):
        propagate_linear(EDGES["directed"], x, weight)  # pyright: ignore
    with pytest.raises(ValueError, match=r"must have shape \(\*, 7, F\).*Got \(6, 3\)"):
        propagate_linear(adjacency, x[1:], weight)
