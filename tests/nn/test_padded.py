"""The padded adjacency of a batch against the sparse one, in every kind of use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import graphs
import pytest
import torch
import torch_geometric.nn
from torch import Tensor
from torch.func import functional_call, hessian, jacfwd, jacrev, jvp, vmap
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

from graphfathom.nn import GCNConv, adjacency_for, padded, propagate, propagate_linear
from graphfathom.nn.adjacency import Adjacency, compressed, gcn_entries
from graphfathom.nn.models import GNNSSM
from graphfathom.nn.padded import PaddedAdjacency

WIDTH = 3
BATCHES: dict[str, list[Data]] = {
    "equal sizes": [graphs.ring_graph(), graphs.random_graph(6), graphs.path_graph()],
    "sizes differ": [graphs.path_graph(4), graphs.random_graph(7), graphs.one_node()],
    "directed": [graphs.directed_graph(), graphs.path_graph(3)],
    "isolated nodes": [graphs.isolated_node(), graphs.no_edges()],
    "one graph": [graphs.random_graph(5)],
    "one node": [graphs.one_node()],
    "a graph without nodes": [
        graphs.path_graph(3),
        graphs.make_graph(0, []),
        graphs.directed_graph(),
        graphs.make_graph(0, []),
    ],
}
BATCH = pytest.mark.parametrize("name", BATCHES)
Pair = tuple[PaddedAdjacency, Adjacency]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dense work wherever it is possible."""
    worth = dict.fromkeys([torch.float32, torch.float64], (1e9, 0))
    monkeypatch.setattr(padded, "WORTH", worth)


def batch_of(name: str) -> Data:
    return Batch.from_data_list(BATCHES[name])  # pyright: ignore


def both(name: str, weight: Tensor | None = None, **options: Any) -> Pair:
    """The matrix of GCN in both forms."""
    data = batch_of(name)
    entries = gcn_entries(data.edge_index, weight, data.num_nodes, **options)
    blocks = padded.padded(*entries[:3], data.batch)
    assert blocks is not None
    return blocks, compressed(*entries, constant=weight is None)


def weights_of(name: str) -> Tensor:
    return torch.rand(batch_of(name).num_edges) + 0.5


@BATCH
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_equals_the_sparse_matrix(name: str, weighted: bool, normalize: bool) -> None:
    weight = weights_of(name) if weighted else None
    ours, sparse = both(name, weight, normalize=normalize)
    assert ours.num_nodes == sparse.num_nodes
    assert_close(ours.to_dense(), sparse.to_dense())
    assert_close(ours.t().to_dense(), sparse.t().to_dense())
    x = torch.randn(2, ours.num_nodes, WIDTH)
    for one, other in ((ours, sparse), (ours.t(), sparse.t())):
        assert_close(propagate(one, x), propagate(other, x), rtol=0, atol=1e-12)


def test_equal_sizes_need_no_copies() -> None:
    assert both("equal sizes")[0].node is None
    assert both("sizes differ")[0].node is not None


def test_repeated_entries_are_added_up() -> None:
    source, target = torch.tensor([[0, 0, 1], [1, 1, 0]])
    found = padded.padded(source, target, torch.ones(3), torch.zeros(2).long())
    assert found is not None
    assert_close(found.to_dense(), torch.tensor([[0.0, 1.0], [2.0, 0.0]]))


# Derivatives --------------------------------------------------------------------------


def layer(name: str, which: int) -> Callable[..., Tensor]:
    """A layer as a function of edge weights, features, weights and bias."""

    def run(weight: Tensor, x: Tensor, theta: Tensor, bias: Tensor) -> Tensor:
        return propagate_linear(both(name, weight)[which], x, theta, bias).pow(3)

    return run


def arguments(name: str) -> tuple[Tensor, ...]:
    size = batch_of(name).num_nodes
    assert size is not None
    shapes = (size, 2), (2, 2), (2,)
    found = weights_of(name), *(torch.randn(shape) for shape in shapes)
    return tuple(tensor.requires_grad_() for tensor in found)


@pytest.mark.parametrize("name", ["sizes differ", "directed", "isolated nodes"])
def test_derivatives_of_both_modes_and_orders(name: str) -> None:
    ours, inputs = layer(name, 0), arguments(name)
    assert torch.autograd.gradcheck(
        ours, inputs, check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(
        ours, inputs, check_fwd_over_rev=True, check_batched_grad=True
    )


@BATCH
def test_gradients_of_two_orders_equal_the_sparse_ones(name: str) -> None:
    inputs, found = arguments(name), []
    for which in (0, 1):
        out = layer(name, which)(*inputs)
        slopes = torch.autograd.grad(out.sum(), inputs, create_graph=True)
        total = sum(slope.square().sum() for slope in slopes)
        found.append((out, *slopes, *torch.autograd.grad(total, inputs)))
    assert_close(*found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("argnums", range(4))
@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian])
def test_transforms(transform: Any, argnums: int) -> None:
    inputs = tuple(tensor.detach() for tensor in arguments("directed"))
    found = []
    for which in (0, 1):
        run = layer("directed", which)
        total = transform(lambda *a, run=run: run(*a).sum(0), argnums)
        found.append(total(*inputs))
    assert_close(*found)


def test_batched_features_and_parameters() -> None:
    ours, sparse = both("sizes differ")
    x = torch.randn(4, ours.num_nodes, WIDTH)
    assert_close(
        vmap(lambda x: propagate(ours, x))(x), vmap(lambda x: propagate(sparse, x))(x)
    )
    conv = GCNConv(WIDTH, 2)
    stacked = {k: torch.randn(5, *p.shape) for k, p in conv.named_parameters()}
    several = (
        vmap(lambda p, a=a: functional_call(conv, p, (x[0], a)))(stacked)
        for a in (ours, sparse)
    )
    assert_close(*several)


def test_tangents_of_the_edge_weights() -> None:
    weight, tangent = torch.rand(2, batch_of("directed").num_edges) + 0.5
    x = torch.randn(batch_of("directed").num_nodes, WIDTH)
    found = (
        jvp(lambda w, i=i: propagate(both("directed", w)[i], x), (weight,), (tangent,))
        for i in (0, 1)
    )
    assert_close(*found)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
)
def test_half_precision_is_added_up_in_float32(
    dtype: torch.dtype, tolerance: float
) -> None:
    size = 1000
    source, target = torch.ones(size, size).nonzero().t()
    batch = torch.zeros(size, dtype=torch.long)
    value = torch.rand(size * size).to(dtype)
    ours = padded.padded(source, target, value, batch)
    assert ours is not None
    x = torch.rand(size, WIDTH).to(dtype)
    found, exact = propagate(ours, x), ours.to_dense().double() @ x.double()
    assert found.dtype == dtype
    assert ((found.double() - exact) / exact).abs().max() < tolerance


def test_autocast_changes_no_product() -> None:
    ours, sparse = both("sizes differ", dtype=torch.float32)
    conv, x = GCNConv(WIDTH, 2).float(), torch.randn(ours.num_nodes, WIDTH).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = conv(x, ours), conv(x, sparse)
    assert found.dtype == expected.dtype
    assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("weighted", [False, True])
def test_compiles_into_one_graph_for_all_sizes(weighted: bool) -> None:
    def network(adjacency: PaddedAdjacency, x: Tensor) -> Tensor:
        return propagate(adjacency, propagate(adjacency, x).tanh()).sum()

    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="aot_eager")
    for name in ("sizes differ", "directed", "isolated nodes"):
        weight = weights_of(name).requires_grad_() if weighted else None
        x = torch.randn(int(batch_of(name).num_nodes or 0), WIDTH, requires_grad=True)
        inputs = [x] if weight is None else [x, weight]
        slopes = (
            torch.autograd.grad(f(both(name, weight)[0], x), inputs)
            for f in (compiled, network)
        )
        assert_close(*slopes)


@BATCH
@pytest.mark.usefixtures("always")
def test_equals_the_layers_of_pyg_with_two_derivatives(name: str) -> None:
    data, weight = batch_of(name), weights_of(name).requires_grad_()
    peer, conv = torch_geometric.nn.GCNConv(WIDTH, 2), GCNConv(WIDTH, 2)
    conv.load_state_dict(peer.state_dict())
    x = torch.randn(int(data.num_nodes or 0), WIDTH, requires_grad=True)
    graph = adjacency_for([conv], data.edge_index, weight, len(x), batch=data.batch)
    assert isinstance(graph, PaddedAdjacency)
    outs = conv(x, graph), peer(x, data.edge_index, weight)
    assert_close(*outs)
    found = []
    for module, out in zip((conv, peer), outs, strict=True):
        inputs = [x, weight, *module.parameters()]
        slopes = torch.autograd.grad(out.pow(3).sum(), inputs, create_graph=True)
        total = sum(slope.square().sum() for slope in slopes)
        found.append((*slopes, *torch.autograd.grad(total, inputs)))
    assert_close(*found)


# The choice ---------------------------------------------------------------------------


class Watch(TorchFunctionMode):
    """Sees every call and changes none, as a diagnosis does."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


def chosen(name: str = "sizes differ", **changes: Any) -> object:
    data = batch_of(name)
    given = {"edge_index": data.edge_index, "batch": data.batch} | changes
    conv = GCNConv(WIDTH, 2)
    return type(adjacency_for([conv], num_nodes=data.num_nodes, **given))


def refusals() -> Iterator[tuple[str, dict[str, Any]]]:
    data = batch_of("sizes differ")
    batch, edges = data.batch, data.edge_index
    across = torch.cat([edges, torch.tensor([[0], [11]])], 1)
    yield "no batch", {"batch": None}
    yield "unsorted", {"batch": batch.flip(0)}
    yield "negative", {"batch": batch - 1}
    yield "too short", {"batch": batch[1:]}
    yield "floats", {"batch": batch.double()}
    yield "edge across", {"edge_index": across}
    yield "half precision", {"dtype": torch.bfloat16}


REFUSED = dict(refusals())


@pytest.mark.usefixtures("always")
def test_dense_where_it_can_be() -> None:
    assert chosen() is PaddedAdjacency


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("why", REFUSED)
def test_sparse_where_it_must_be(why: str) -> None:
    assert chosen(**REFUSED[why]) is Adjacency


@pytest.mark.usefixtures("always")
def test_sparse_where_others_look_on() -> None:
    with Watch():
        assert chosen() is Adjacency
    kinds = []
    look = vmap(lambda x: kinds.append(chosen()) or x, randomness="same")
    look(torch.zeros(2))
    assert kinds == [Adjacency]


def complete(size: int) -> Data:
    index = torch.ones(size, size).fill_diagonal_(0).nonzero().t().contiguous()
    return Data(edge_index=index, num_nodes=size)


@pytest.mark.parametrize("dtype", padded.WORTH)
def test_the_rule_is_one_of_density_and_size(dtype: torch.dtype) -> None:
    def kind(graph: Data) -> object:
        data = Batch.from_data_list([graph] * 3)
        edges, batch = data.edge_index, data.batch  # pyright: ignore
        conv = GCNConv(2, 2)
        size = data.num_nodes
        return type(adjacency_for([conv], edges, None, size, dtype, batch))

    _, smallest = padded.WORTH[dtype]
    assert kind(complete(smallest)) is PaddedAdjacency
    assert kind(complete(smallest - 1)) is Adjacency
    assert kind(graphs.ring_graph(smallest)) is Adjacency


@pytest.mark.parametrize("options", [{}, {"identity_mapping": 0.5}])
def test_a_model_gives_the_same_on_both(
    options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    data, found = batch_of("sizes differ"), []
    model = GNNSSM(WIDTH, 4, 1, num_layers=3, readout="mean", **options)
    for dense in (False, True):
        if dense:
            request.getfixturevalue("always")
        out = model(data.x, data.edge_index, batch=data.batch)
        slopes = torch.autograd.grad(out.square().sum(), [*model.parameters()])
        found.append((out, *slopes))
    assert_close(*found)


def test_bad_input() -> None:
    ours, _ = both("directed")
    with pytest.raises(ValueError, match=r"must have shape \(\*, 8, F\).* Got \(7, 3"):
        propagate(ours, torch.ones(7, WIDTH))
    with pytest.raises(TypeError, match="`x` must be a tensor of floats"):
        propagate(ours, torch.ones(8, WIDTH).long())
    with pytest.raises(ValueError, match="`edge_weight` must be None beside"):
        GCNConv(WIDTH, 2)(torch.ones(8, WIDTH), ours, torch.ones(3))


def test_moves_and_shows_itself() -> None:
    ours, _ = both("sizes differ")
    assert ours.to(torch.float32).value.dtype == torch.float32
    assert str(ours) == (
        "PaddedAdjacency(num_nodes=12, num_graphs=3, size=7, dtype=torch.float64)"
    )
