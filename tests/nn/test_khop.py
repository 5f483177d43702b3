"""All shells in one product against dense matrices, shell by shell."""

from __future__ import annotations

from collections.abc import Callable

import graphs
import pytest
import torch
from shells import hop_distances
from torch import Tensor
from torch.func import hessian, jacfwd, jacrev, jvp, vmap
from torch.testing import assert_close
from torch_geometric.data import Batch
from torch_geometric.nn import GCNConv

from graphfathom.nn import propagate
from graphfathom.nn.khop import (
    Shells,
    gather_shells,
    khop_adjacency,
    propagate_linear_shells,
    propagate_shells,
)

HOPS, WIDTH = 4, 3
GRAPHS = {
    **graphs.GRAPHS,
    "batch": lambda: Batch.from_data_list(
        [graphs.path_graph(), graphs.directed_graph(), graphs.one_node()]
    ),
    "no nodes": lambda: graphs.make_graph(0, []),
}
GRAPH = pytest.mark.parametrize("name", GRAPHS)
KIND = pytest.mark.parametrize(
    ("loops", "normalize"), [(True, True), (False, True), (False, False)]
)


def shells_of(name: str, num_hops: int = 9) -> tuple[Tensor, Tensor, int]:
    """Shells up to ``num_hops``, in no order, and the number of nodes."""
    data = GRAPHS[name]()
    distance = hop_distances(data)
    pairs = ((distance >= 1) & (distance <= num_hops)).nonzero()
    pairs = pairs[torch.randperm(len(pairs))].t()
    return pairs, distance[pairs[0], pairs[1]], int(data.num_nodes)


def dense(name: str, loops: bool, normalize: bool) -> Tensor:
    """The matrices, row by target, of shape (K, N, N)."""
    distance = hop_distances(GRAPHS[name]())
    found = []
    for hop in range(1, HOPS + 1):
        a = (distance.t() == hop).double() + (torch.eye(len(distance)) if loops else 0)
        root = a.sum(1).clamp(min=1e-300).rsqrt() * (a.sum(1) > 0)
        found.append(root[:, None] * a * root if normalize else a)
    return torch.stack(found)


def built(name: str, loops: bool = True, normalize: bool = True) -> Shells:
    return khop_adjacency(
        *shells_of(name), HOPS, add_self_loops=loops, normalize=normalize
    )


@GRAPH
@KIND
def test_each_shell_equals_its_dense_matrix(
    name: str, loops: bool, normalize: bool
) -> None:
    shells, expected = built(name, loops, normalize), dense(name, loops, normalize)
    assert len(shells) == HOPS
    for hop in range(1, HOPS + 1):
        assert_close(shells[hop].to_dense(), expected[hop - 1])
        assert_close(shells[hop].t().to_dense(), expected[hop - 1].t())
        assert shells[hop].symmetric == shells.symmetric


@GRAPH
@KIND
def test_products_with_their_gradients(name: str, loops: bool, normalize: bool) -> None:
    shells, expected = built(name, loops, normalize), dense(name, loops, normalize)
    size = expected.shape[1]
    x = torch.randn(HOPS, size, WIDTH, requires_grad=True)
    pairs = (
        (propagate_shells(shells, x), (expected @ x).sum(0)),
        (gather_shells(shells, x[0]), expected @ x[0]),
    )
    for found, wanted in pairs:
        assert_close(found, wanted)
        cotangent = torch.randn_like(found)
        assert_close(
            *(torch.autograd.grad(y, x, cotangent)[0] for y in (found, wanted))
        )


@GRAPH
@pytest.mark.parametrize(("width", "out"), [(3, 2), (30, 31), (32, 16)])
@pytest.mark.parametrize("hops", [1, HOPS])
def test_linear_maps_of_the_first_shells(
    name: str, width: int, out: int, hops: int
) -> None:
    shells, matrices = built(name), dense(name, True, True)
    x = torch.randn(2, shells.num_nodes, width, requires_grad=True)
    weight = torch.randn(hops, width, out, requires_grad=True)
    sources = [0, 1, 1, 0][:hops]
    found = propagate_linear_shells(shells, [x[i] for i in sources], weight)
    parts = [a @ x[i] @ w for a, i, w in zip(matrices, sources, weight, strict=False)]
    expected = torch.stack(parts).sum(0)
    assert_close(found, expected)
    cotangent = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad(found, (x, weight), cotangent),
        torch.autograd.grad(expected, (x, weight), cotangent),
        strict=True,
    ):
        assert_close(one, other)


def test_linear_maps_need_a_weight_for_each_feature() -> None:
    shells, x = built("path"), torch.randn(6, 3)
    for count, given in ((HOPS + 1, HOPS + 1), (0, 0), (2, 1)):
        weight = torch.randn(count, 3, 3)
        with pytest.raises(
            ValueError, match=rf"1 to 4 shells. Got {given} and {count}"
        ):
            propagate_linear_shells(shells, [x] * given, weight)


def test_an_undirected_graph_needs_no_transpose() -> None:
    assert built("random").symmetric
    assert built("random").tall.t_rowptr is not None
    assert not built("directed").symmetric


@pytest.mark.parametrize("name", ["random", "directed"])
@pytest.mark.parametrize("product", [propagate_shells, gather_shells])
def test_derivatives_of_both_modes_and_orders(
    name: str, product: Callable[[Shells, Tensor], Tensor]
) -> None:
    shells = built(name)
    shape = (HOPS, shells.num_nodes, 1)[product is gather_shells :]
    x = torch.randn(shape, requires_grad=True)

    def cubic(x: Tensor) -> Tensor:
        return product(shells, x).pow(3)

    assert torch.autograd.gradcheck(
        cubic, (x,), check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(
        cubic, (x,), check_fwd_over_rev=True, check_batched_grad=True
    )


def test_transforms() -> None:
    shells, matrices = built("directed"), dense("directed", True, True)
    x = torch.randn(shells.num_nodes, 2)

    def ours(x: Tensor) -> Tensor:
        return propagate_shells(shells, gather_shells(shells, x).sin())

    def theirs(x: Tensor) -> Tensor:
        return (matrices @ (matrices @ x).sin()).sum(0)

    for transform in (jacrev, jacfwd, lambda f: hessian(lambda x: f(x).sum(0))):
        assert_close(transform(ours)(x), transform(theirs)(x))
    batch = torch.randn(5, *x.shape)
    assert_close(vmap(ours)(batch), vmap(theirs)(batch))
    tangent = torch.randn_like(x)
    assert_close(jvp(ours, (x,), (tangent,)), jvp(theirs, (x,), (tangent,)))


@pytest.mark.parametrize("name", ["random", "directed", "batch"])
def test_equals_the_convolution_of_pyg_on_each_shell(name: str) -> None:
    index, hops, size = shells_of(name)
    shells, conv = khop_adjacency(index, hops, size, HOPS), GCNConv(WIDTH, 2)
    x = torch.randn(size, WIDTH, requires_grad=True)
    for hop in range(1, HOPS + 1):
        found = propagate(shells[hop], conv.lin(x)) + conv.bias
        expected = conv(x, index[:, hops == hop])
        assert_close(found, expected)
        wanted = [x, *conv.parameters()]
        slopes = (
            torch.autograd.grad(y.pow(3).sum(), wanted, create_graph=True)
            for y in (found, expected)
        )
        curves = [
            torch.autograd.grad(sum(s.square().sum() for s in some), wanted)
            for some in slopes
        ]
        assert_close(*curves)


def test_shells_out_of_reach() -> None:
    index, hops, size = shells_of("path")
    shells = khop_adjacency(index, hops, size, 20)
    assert_close(shells[20].to_dense(), torch.eye(size))
    bare = khop_adjacency(index, hops, size, 20, add_self_loops=False)
    assert_close(bare[20].to_dense(), torch.zeros(size, size))
    assert bare[20].col.numel() == 0


def test_hops_that_are_not_asked_for_are_left_out() -> None:
    index, hops, size = shells_of("path")
    few = khop_adjacency(index, hops, size, 2)
    alone = khop_adjacency(index[:, hops <= 2], hops[hops <= 2], size, 2)
    for hop in (1, 2):
        assert torch.equal(few[hop].to_dense(), alone[hop].to_dense())
    assert few.blocks.col.shape == alone.blocks.col.shape


@pytest.mark.parametrize("name", ["random", "directed"])
def test_compiles_for_all_sizes(name: str) -> None:
    def network(index: Tensor, hops: Tensor, x: Tensor) -> Tensor:
        shells = khop_adjacency(index, hops, len(x), 3)
        out = propagate_shells(shells, gather_shells(shells, x).sin())
        for hop in range(1, 4):
            out = propagate(shells[hop], out).tanh()
        return out.sum()

    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="aot_eager")
    for graph in (name, "batch"):
        index, hops, size = shells_of(graph)
        x = torch.randn(size, WIDTH, requires_grad=True)
        slopes = (
            torch.autograd.grad(f(index, hops, x), x)[0] for f in (compiled, network)
        )
        assert_close(*slopes)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float32, 1e-5)],
)
def test_precisions(dtype: torch.dtype, tolerance: float) -> None:
    index, hops, size = shells_of("random")
    shells = khop_adjacency(index, hops, size, HOPS, dtype=dtype)
    x = torch.rand(HOPS, size, WIDTH).to(dtype)
    found = propagate_shells(shells, x)
    assert found.dtype == dtype == gather_shells(shells, x[0]).dtype
    exact = propagate_shells(built("random"), x.double())
    assert_close(found.double(), exact, rtol=tolerance, atol=tolerance)
    assert propagate_shells(built("random"), x).dtype == torch.float64


def test_bad_input() -> None:
    index, hops, size = shells_of("path")
    with pytest.raises(ValueError, match=r"Got none: apply `KHopShells\(4\)`"):
        khop_adjacency(None, None, size, HOPS)
    with pytest.raises(ValueError, match=r"`num_hops` must be at least 1\. Got 0"):
        khop_adjacency(index, hops, size, 0)
    shells = khop_adjacency(index, hops, size, HOPS)
    for hop in (0, 5):
        with pytest.raises(IndexError, match=rf"`hop` must be in \[1, 4\]. Got {hop}"):
            shells[hop]
    with pytest.raises(ValueError, match=r"shape \(4, 6, F\). Got \(3, 6, 2\)"):
        propagate_shells(shells, torch.ones(3, 6, 2))
    with pytest.raises(ValueError, match=r"shape \(6, F\). Got \(6,\)"):
        gather_shells(shells, torch.ones(6))
