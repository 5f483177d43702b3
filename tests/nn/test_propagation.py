"""The product with an adjacency against the dense product, in every kind of use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import graphs
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from graphfathom.nn import Adjacency, GCNConv, gcn_adjacency, propagate, spmm

Case = tuple[Adjacency, Tensor]
GRAPHS = {
    "symmetric": graphs.random_graph(7).edge_index,
    "directed": graphs.directed_graph().edge_index,
    "isolated node": graphs.isolated_node().edge_index,
    "no edges": torch.empty(2, 0, dtype=torch.long),
    "twice the same": torch.tensor([[0, 0, 0, 1, 1, 4], [1, 1, 2, 0, 1, 4]]),
}
GRAPH = pytest.mark.parametrize("name", GRAPHS)
SIZE, WIDTH = 7, 3


def bare(name: str, weight: Tensor | None = None) -> Adjacency:
    """Without loops, so that some rows are empty."""
    return gcn_adjacency(GRAPHS[name], weight, SIZE, normalize=False)


def weights(name: str) -> Tensor:
    """Of both signs."""
    return torch.randn(GRAPHS[name].shape[1])


def product(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """As a function of the weights and the features."""
    return lambda weight, x: propagate(bare(name, weight), x)


def dense_product(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    source, target = GRAPHS[name]

    def multiply(weight: Tensor, x: Tensor) -> Tensor:
        matrix = torch.zeros(SIZE, SIZE, dtype=x.dtype)
        matrix = matrix.index_put((target, source), weight, accumulate=True)
        return matrix @ x

    return multiply


@GRAPH
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_dense_product(name: str, weighted: bool) -> None:
    adjacency = bare(name, weights(name) if weighted else None)
    x = torch.randn(SIZE, WIDTH)
    for side in (adjacency, adjacency.t()):
        assert_close(propagate(side, x), side.to_dense() @ x)


@pytest.mark.parametrize("shape", [(SIZE, 0), (SIZE, 1), (2, SIZE, 3), (2, 0, SIZE, 3)])
def test_shapes(shape: tuple[int, ...]) -> None:
    adjacency, x = bare("directed", weights("directed")), torch.randn(shape)
    assert_close(propagate(adjacency, x), adjacency.to_dense() @ x)


def test_features_that_are_not_contiguous() -> None:
    adjacency = bare("directed")
    for x in (torch.randn(3, SIZE).t(), torch.randn(14, 6)[::2, ::3]):
        assert_close(propagate(adjacency, x), adjacency.to_dense() @ x)
    x = torch.ones(1, 3).expand(SIZE, 3)
    assert_close(propagate(adjacency, x), adjacency.to_dense() @ x)


@pytest.mark.parametrize("size", [0, 1])
def test_the_smallest_graphs(size: int) -> None:
    adjacency = gcn_adjacency(torch.empty(2, 0, dtype=torch.long), num_nodes=size)
    x = torch.randn(size, WIDTH, requires_grad=True)
    out = propagate(adjacency, x)
    assert torch.equal(out, x)
    out.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 1e-3), (torch.bfloat16, 8e-3), (torch.float32, 1e-5)],
)
def test_error_of_each_precision(dtype: torch.dtype, tolerance: float) -> None:
    # Rows of 1,000 entries: sums in half precision would be far off.
    edge_index = torch.randint(50, (2, 50_000))
    adjacency = gcn_adjacency(edge_index, torch.rand(50_000), normalize=False)
    x = torch.rand(50, 4).to(dtype)
    rounded = adjacency.to(dtype)
    exact = rounded.to(torch.float64).to_dense() @ x.double()
    found = propagate(rounded, x)
    assert found.dtype == dtype
    assert ((found.double() - exact) / exact).abs().max() < tolerance


def test_the_wider_precision_wins() -> None:
    single = bare("directed").to(torch.float32)
    half, double = (torch.ones(SIZE, 1, dtype=d) for d in (torch.half, torch.double))
    assert propagate(single, half).dtype == torch.float32
    assert propagate(single, double).dtype == torch.float64


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_what_is_not_finite_reaches_the_neighbours_alone(
    value: float, weight: float
) -> None:
    edge_index = GRAPHS["directed"]
    adjacency = bare("directed", torch.full((edge_index.shape[1],), weight))
    x = torch.ones(SIZE, 2)
    x[1, 0] = value
    found = propagate(adjacency, x)
    reached = torch.zeros(SIZE, 2, dtype=torch.bool)
    reached[edge_index[1, edge_index[0] == 1], 0] = True
    assert torch.equal(~found.isfinite(), reached)


# Derivatives --------------------------------------------------------------------------


@GRAPH
def test_first_and_second_derivatives(name: str) -> None:
    inputs = weights(name).requires_grad_(), torch.randn(SIZE, 2, requires_grad=True)
    for fast in (False, True):
        options = {"check_forward_ad": True, "check_batched_grad": not fast}
        options["fast_mode"] = fast
        assert torch.autograd.gradcheck(product(name), inputs, **options)
    assert torch.autograd.gradgradcheck(product(name), inputs, check_fwd_over_rev=True)


def test_derivatives_of_a_symmetric_matrix() -> None:
    adjacency, x = bare("symmetric"), torch.randn(SIZE, 2, requires_grad=True)
    assert adjacency.symmetric

    def quartic(x: Tensor) -> Tensor:
        return propagate(adjacency, propagate(adjacency, x).square())

    assert torch.autograd.gradcheck(quartic, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(quartic, (x,), check_fwd_over_rev=True)


@GRAPH
def test_third_derivative_in_all_inputs(name: str) -> None:
    args = weights(name), torch.randn(SIZE, 2)
    if not len(args[0]):
        pytest.skip("nothing to differentiate by")

    def third(function: Callable[..., Tensor]) -> Tensor:
        def scalar(weight: Tensor, x: Tensor) -> Tensor:
            return function(weight, x.sin()).pow(3).sum()

        slope = grad(lambda *args: grad(scalar)(*args).square().sum(), argnums=1)
        return grad(lambda *args: slope(*args).sum())(*args)

    assert_close(third(product(name)), third(dense_product(name)))


@GRAPH
@pytest.mark.parametrize("argnums", [0, 1])
@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian])
def test_jacobians(name: str, argnums: int, transform: Any) -> None:
    args = weights(name), torch.randn(SIZE, 2)

    def squared(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda weight, x: function(weight, x).square()

    ours, theirs = (
        transform(squared(function(name)), argnums)(*args)
        for function in (product, dense_product)
    )
    assert_close(ours, theirs)


@GRAPH
def test_tangents_forward_and_backward(name: str) -> None:
    args = weights(name), torch.randn(SIZE, 2)
    tangents = torch.randn_like(args[0]), torch.randn_like(args[1])
    ours, theirs = product(name), dense_product(name)
    assert_close(jvp(ours, args, tangents), jvp(theirs, args, tangents))
    assert_close(vjp(ours, *args)[1](tangents[1]), vjp(theirs, *args)[1](tangents[1]))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(args[1], tangents[1])
        found = forward_ad.unpack_dual(ours(args[0], dual)).tangent
    assert_close(found, theirs(args[0], tangents[1]))


@GRAPH
@pytest.mark.parametrize("in_dims", [(None, 0), (None, 1), (0, None), (0, 0), (1, 2)])
def test_vmap(name: str, in_dims: tuple[int | None, ...]) -> None:
    shapes = (GRAPHS[name].shape[1],), (SIZE, 2)
    args = [
        torch.randn(shape if dim is None else (*shape[:dim], 4, *shape[dim:]))
        for shape, dim in zip(shapes, in_dims, strict=True)
    ]
    ours, theirs = (vmap(f(name), in_dims) for f in (product, dense_product))
    assert_close(ours(*args), theirs(*args))
    assert_close(grad_of_sum(ours)(*args), grad_of_sum(theirs)(*args))


def grad_of_sum(function: Callable[..., Tensor]) -> Callable[..., Any]:
    return grad(lambda *args: function(*args).pow(3).sum(), argnums=(0, 1))


def test_vmap_over_adjacencies_and_within_vmap() -> None:
    edges = [torch.randint(SIZE, (2, 9)) for _ in range(3)]
    several = [gcn_adjacency(e, torch.rand(9), SIZE) for e in edges]
    x = torch.randn(3, 2, SIZE, WIDTH)
    stacked = Adjacency(
        *(torch.stack(parts) for parts in zip(*map(leaves, several), strict=True))
    )
    found = vmap(vmap(propagate, (None, 0)))(stacked, x)
    for adjacency, one, result in zip(several, x, found, strict=True):
        assert_close(result, adjacency.to_dense() @ one)


def leaves(adjacency: Adjacency) -> list[Tensor]:
    return [getattr(adjacency, field.name) for field in dataclasses.fields(adjacency)]


def test_long_gradients_are_formed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    args = weights("symmetric"), torch.randn(SIZE, WIDTH)
    whole = grad_of_sum(product("symmetric"))(*args)
    monkeypatch.setattr(spmm, "CHUNK", 4)
    assert_close(grad_of_sum(product("symmetric"))(*args), whole)


def test_a_deep_stack_holds_no_features() -> None:
    adjacency, x = bare("symmetric"), torch.randn(SIZE, WIDTH, requires_grad=True)
    held: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: held.append(tensor) or tensor, lambda tensor: tensor
    ):
        propagate(adjacency, x)
    mine = {part.data_ptr() for part in leaves(adjacency)[:3]}
    assert {tensor.data_ptr() for tensor in held} <= mine


def test_checkpoints_and_reuse() -> None:
    weight, x = weights("directed").requires_grad_(), torch.randn(SIZE, WIDTH)
    adjacency = bare("directed", weight)
    plain = propagate(adjacency, propagate(adjacency, x).tanh()).sum()
    again = checkpoint(
        lambda a, x: propagate(a, propagate(a, x).tanh()).sum(),
        adjacency,
        x,
        use_reentrant=False,
    )
    first, second = (
        torch.autograd.grad(out, weight, retain_graph=True)[0] for out in (plain, again)
    )
    assert_close(first, second)


# The operator and its compilation -----------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_the_operator_passes_opcheck(weighted: bool) -> None:
    weight = weights("symmetric").requires_grad_() if weighted else None
    adjacency = bare("symmetric", weight)
    x = torch.randn(SIZE, WIDTH, requires_grad=True)
    parts = leaves(adjacency)
    args = (*parts[:3], x, *parts[3:])
    detached = [part.detach().clone() if part is not None else None for part in args]
    detached[3].requires_grad_()
    detached[2].requires_grad_(weighted)
    torch.library.opcheck(torch.ops.graphfathom.spmm, tuple(detached))


def twice(adjacency: Adjacency, x: Tensor) -> Tensor:
    return propagate(adjacency, propagate(adjacency, x).tanh()).square().sum()


@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.filterwarnings("ignore::DeprecationWarning"),
            ],
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("weighted", [False, True])
def test_compiles_into_one_graph_for_all_sizes(backend: str, weighted: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(twice, dynamic=True, fullgraph=True, backend=backend)
    for size in (7, 11, 30):
        edge_index = graphs.random_graph(size).edge_index
        weight = torch.rand(edge_index.shape[1]) if weighted else None
        inputs = [torch.randn(size, WIDTH), *([weight] if weighted else [])]
        for leaf in inputs:
            leaf.requires_grad_()
        ours, theirs = (
            torch.autograd.grad(f(gcn_adjacency(edge_index, weight), inputs[0]), inputs)
            for f in (compiled, twice)
        )
        assert_close(ours, theirs)


def test_compiles_with_the_adjacency_built_inside() -> None:
    torch._dynamo.reset()
    weight, x = weights("directed").abs().requires_grad_(), torch.randn(SIZE, WIDTH)

    def whole(weight: Tensor, x: Tensor) -> Tensor:
        return twice(gcn_adjacency(GRAPHS["directed"], weight, SIZE), x)

    compiled = torch.compile(whole, dynamic=True, fullgraph=True, backend="aot_eager")
    ours, theirs = (
        torch.autograd.grad(f(weight, x), weight) for f in (compiled, whole)
    )
    assert_close(ours, theirs)


@pytest.mark.parametrize("strict", [False, True])
def test_exports(strict: bool) -> None:
    conv, adjacency = GCNConv(WIDTH, 4), bare("directed")
    x = torch.randn(SIZE, WIDTH)
    program = torch.export.export(conv, (x, adjacency), strict=strict)
    calls = [str(node.target) for node in program.graph.nodes]
    assert "graphfathom.spmm.default" in calls
    assert_close(program.module()(x, adjacency), conv(x, adjacency))


def test_ensembles_of_parameters() -> None:
    convs, x = [GCNConv(WIDTH, 4) for _ in range(3)], torch.randn(SIZE, WIDTH)
    params, _ = torch.func.stack_module_state(convs)
    adjacency = bare("directed")
    found = vmap(lambda p: functional_call(convs[0], p, (x, adjacency)))(params)
    for conv, out in zip(convs, found, strict=True):
        assert_close(out, conv(x, adjacency))


# Bad input ----------------------------------------------------------------------------

X = torch.ones(SIZE, WIDTH)
BAD = {
    "edges": (
        lambda: (GRAPHS["directed"], X),
        TypeError,
        "Got Tensor: build one by gcn",
    ),
    "integers": (lambda: (bare("directed"), X.long()), TypeError, "`x` .* torch.int64"),
    "list": (lambda: (bare("directed"), [1.0]), TypeError, "`x` must .* Got list"),
    "vector": (
        lambda: (bare("directed"), X[:, 0]),
        ValueError,
        r"shape \(\*, 7, F\).* Got \(7,\)",
    ),
    "rows": (lambda: (bare("directed"), X[:5]), ValueError, r"one row .* Got \(5, 3\)"),
    "gradient": (
        lambda: (
            dataclasses.replace(
                bare("symmetric"), value=weights("symmetric").requires_grad_()
            ),
            X,
        ),
        ValueError,
        "`adjacency.value` must not require a gradient",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    make, error, message = BAD[name]
    with pytest.raises(error, match=message):
        propagate(*make())
