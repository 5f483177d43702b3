"""The normalised adjacency against PyG's, as dense matrices."""

from __future__ import annotations

import copy
import itertools
import pickle

import graphs
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torch.utils import _pytree
from torch_geometric import EdgeIndex
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from graphfathom.nn.adjacency import FLOWS, Adjacency, compressed, gcn_adjacency

SEVEN_NODES = {
    "random": graphs.random_graph(7).edge_index,
    "directed": graphs.directed_graph().edge_index,
    "isolated node": graphs.isolated_node().edge_index,
    "no edges": torch.empty(2, 0, dtype=torch.long),
    "loops": torch.tensor([[0, 1, 1, 2, 2, 6], [1, 0, 1, 2, 3, 6]]),
    "twice the same": torch.tensor([[0, 0, 0, 1, 1, 4], [1, 1, 2, 0, 1, 4]]),
    "int32": graphs.path_graph(7).edge_index.int(),
    "not contiguous": torch.randint(7, (20, 2)).t(),
}
GRAPH = pytest.mark.parametrize("name", SEVEN_NODES)
SIZE = 7


def dense(edge_index: Tensor, weight: Tensor, size: int = SIZE) -> Tensor:
    """Row by target."""
    matrix = torch.zeros(size, size, dtype=weight.dtype)
    places = (edge_index[1].long(), edge_index[0].long())
    return matrix.index_put(places, weight, accumulate=True)


def weights_of(edge_index: Tensor) -> Tensor:
    return torch.rand(edge_index.shape[1]) + 0.5


@GRAPH
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("improved", "loops", "flow"),
    [*itertools.product([False, True], [False, True], FLOWS)],
)
def test_equals_the_norm_of_pyg(
    name: str, weighted: bool, improved: bool, loops: bool, flow: str
) -> None:
    edge_index = SEVEN_NODES[name]
    weight = weights_of(edge_index) if weighted else None
    found = gcn_adjacency(
        edge_index, weight, SIZE, improved=improved, add_self_loops=loops, flow=flow
    )
    expected = gcn_norm(
        edge_index, weight, SIZE, improved, loops, flow, torch.get_default_dtype()
    )
    matrix = dense(*expected)
    if flow == "target_to_source":
        matrix = matrix.t()
    assert_close(found.to_dense(), matrix)
    assert_close(found.t().to_dense(), matrix.t())


@GRAPH
def test_without_norm_it_is_the_graph(name: str) -> None:
    edge_index, weight = SEVEN_NODES[name], weights_of(SEVEN_NODES[name])
    found = gcn_adjacency(edge_index, weight, SIZE, normalize=False)
    assert_close(found.to_dense(), dense(edge_index, weight))
    found = gcn_adjacency(edge_index, None, SIZE, normalize=False, dtype=torch.float32)
    assert_close(found.to_dense(), dense(edge_index, torch.ones_like(weight).float()))


@GRAPH
@pytest.mark.parametrize("loops", [False, True])
def test_symmetric_exactly_where_the_matrix_is(name: str, loops: bool) -> None:
    edge_index = SEVEN_NODES[name][:, torch.randperm(SEVEN_NODES[name].shape[1])]
    found = gcn_adjacency(edge_index, None, SIZE, add_self_loops=loops)
    matrix = dense(edge_index, torch.ones(edge_index.shape[1]))
    assert found.symmetric == torch.equal(matrix, matrix.t())
    assert (found.t() is found) == found.symmetric
    weighted = gcn_adjacency(edge_index, torch.ones(edge_index.shape[1]), SIZE)
    assert not weighted.symmetric


def test_entries_ascend_in_each_row() -> None:
    edge_index = torch.randint(20, (2, 100))
    found = gcn_adjacency(edge_index, torch.rand(100), 20)
    for side in (found, found.t()):
        assert torch.equal(side.row * 20 + side.col, (side.row * 20 + side.col).msort())
        assert side.rowptr[-1] == side.col.shape[0] == 120


def test_a_compiled_graph_has_the_same_matrix() -> None:
    compiled = torch.compile(
        gcn_adjacency, dynamic=True, fullgraph=True, backend="aot_eager"
    )
    for name in ("random", "loops", "no edges"):
        edge_index = SEVEN_NODES[name]
        assert_close(
            compiled(edge_index, None, SIZE).to_dense(),
            gcn_adjacency(edge_index, None, SIZE).to_dense(),
        )


@pytest.mark.parametrize("size", [1, 50, 2**16 + 1])
def test_entries_are_in_the_order_of_stable_sorts(size: int) -> None:
    source, target = torch.randint(size, (2, 3000)).repeat(1, 2)
    value = torch.arange(6000.0)
    found = compressed(source, target, value, size, constant=False)
    order = source.sort(stable=True).indices
    order = order[target[order].sort(stable=True).indices]
    assert torch.equal(found.value, value[order])
    assert torch.equal(found.col, source[order])
    assert torch.equal(found.row, target[order])
    t_order = found.col.sort(stable=True).indices
    assert torch.equal(found.t().value, found.value[t_order])
    assert torch.equal(found.t().col, found.row[t_order])
    assert torch.equal(found.t().row, found.col[t_order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_degrees_of_half_precision_do_not_saturate(dtype: torch.dtype) -> None:
    spokes = torch.arange(1, 4000)
    star = torch.stack([spokes, torch.zeros_like(spokes)])
    half, full = (
        gcn_adjacency(star, num_nodes=4000, dtype=kind)
        for kind in (dtype, torch.float32)
    )
    assert half.value.dtype == dtype
    assert torch.equal(half.value, full.value.to(dtype))


@pytest.mark.parametrize("name", ["random", "loops", "directed"])
@pytest.mark.parametrize("improved", [False, True])
def test_gradients_of_weights_equal_those_of_pyg(name: str, improved: bool) -> None:
    edge_index = SEVEN_NODES[name]
    weight = weights_of(edge_index).requires_grad_()
    probe = torch.randn(SIZE, SIZE)
    found = gcn_adjacency(edge_index, weight, SIZE, improved=improved).to_dense()
    expected = dense(*gcn_norm(edge_index, weight, SIZE, improved))
    ours, theirs = (
        torch.autograd.grad((probe * matrix).sum(), weight)[0]
        for matrix in (found, expected)
    )
    assert_close(ours, theirs)
    assert torch.autograd.gradgradcheck(
        lambda w: gcn_adjacency(edge_index, w, SIZE, improved=improved).value, weight
    )


def test_degree_zero_gives_no_weight_and_no_slope() -> None:
    edge_index = torch.tensor([[0, 2, 1], [1, 1, 0]])
    weight = torch.tensor([1.0, -1.0, 1.0], requires_grad=True)
    found = gcn_adjacency(edge_index, weight, 3, add_self_loops=False)
    assert not found.to_dense().any()
    found.value.sum().backward()
    assert torch.equal(weight.grad, torch.zeros(3))


def test_a_negative_degree_is_nan_as_in_pyg() -> None:
    edge_index = torch.tensor([[0, 1], [1, 0]])
    weight = torch.tensor([-3.0, 1.0])
    found = gcn_adjacency(edge_index, weight).to_dense()
    expected = dense(*gcn_norm(edge_index, weight), size=2)
    assert_close(found, expected, equal_nan=True)
    assert found.isnan().any()


def test_small_graphs() -> None:
    none = torch.empty(2, 0, dtype=torch.long)
    assert gcn_adjacency(none, num_nodes=1).to_dense().tolist() == [[1.0]]
    assert gcn_adjacency(none).num_nodes == 0
    assert gcn_adjacency(none).to_dense().shape == (0, 0)


def test_an_edge_index_of_pyg_is_taken() -> None:
    edge_index = graphs.path_graph(4).edge_index
    found = gcn_adjacency(EdgeIndex(edge_index, sparse_size=(4, 4)))
    assert_close(found.to_dense(), gcn_adjacency(edge_index).to_dense())
    assert type(found.col) is Tensor


@pytest.mark.parametrize("weighted", [False, True])
def test_copies_and_precision(weighted: bool) -> None:
    edge_index = graphs.path_graph(4).edge_index
    found = gcn_adjacency(edge_index, torch.rand(6) if weighted else None)
    single = found.to(torch.float32)
    assert single.value.dtype == single.t().value.dtype == torch.float32
    assert single.col.dtype == torch.int64
    assert found.to(found.value.dtype) is found
    leaves, spec = _pytree.tree_flatten(found)
    copies = (
        copy.deepcopy(found),
        pickle.loads(pickle.dumps(found)),
        _pytree.tree_unflatten(leaves, spec),
    )
    for other in copies:
        assert isinstance(other, Adjacency)
        assert other.symmetric == found.symmetric
        assert torch.equal(other.to_dense(), found.to_dense())
    assert all(isinstance(leaf, Tensor) for leaf in leaves if leaf is not None)


def test_the_builder_passes_opcheck() -> None:
    source, target = graphs.random_graph(7).edge_index
    torch.library.opcheck(torch.ops.graphfathom.compress, (source, target, 7))


PATH = graphs.path_graph(3).edge_index
BAD = {
    "list": (([[0], [1]],), {}, TypeError, "`edge_index` must be .* Got list"),
    "sparse": ((torch.eye(3).to_sparse(),), {}, TypeError, "Got a tensor of .*sparse"),
    "floats": ((PATH.double(),), {}, TypeError, "integers. Got a tensor of torch.fl"),
    "shape": ((PATH.t(),), {}, ValueError, r"shape \(2, E\). Got \(4, 2\)"),
    "one row": ((PATH[0],), {}, ValueError, r"shape \(2, E\). Got \(4,\)"),
    "weights": ((PATH, torch.ones(3)), {}, ValueError, r"shape \(4,\), one .* \(3,\)"),
    "integer weights": ((PATH, torch.ones(4).long()), {}, TypeError, "Got .*int64"),
    "no tensor": ((PATH, [1.0] * 4), {}, TypeError, "of floats. Got list"),
    "too few nodes": ((PATH, None, 2), {}, ValueError, "from 0 to 1, .* Got 2"),
    "negative": ((PATH - 1, None, 3), {}, ValueError, "from 0 to 2, .* Got -1"),
    "flow": ((PATH,), {"flow": "up"}, ValueError, "`flow` must be one .* Got 'up'"),
    "loops": (
        (PATH,),
        {"normalize": False, "add_self_loops": True},
        ValueError,
        "`add_self_loops` must be False if `normalize` is",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    args, kwargs, error, message = BAD[name]
    with pytest.raises(error, match=message):
        gcn_adjacency(*args, **kwargs)
