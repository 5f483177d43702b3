"""The layer that takes an adjacency against PyG's, in output and in gradients."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.testing import assert_close

from graphfathom.nn import (
    Adjacency,
    GCNConv,
    adjacency_for,
    gcn_adjacency,
    propagate,
    shared,
)

EDGES = torch.tensor([[0, 1, 1, 2, 3, 3, 0, 4], [1, 0, 2, 3, 2, 3, 1, 1]])
SIZE = 6
FLOWS = ("source_to_target", "target_to_source")
FLAGS = [
    {
        "improved": improved,
        "normalize": normalize,
        "add_self_loops": loops,
        "flow": flow,
        "bias": bias,
    }
    for improved, normalize, loops, flow, bias in itertools.product(
        [False, True], [False, True], [False, True], FLOWS, [False, True]
    )
    if normalize or not loops
]


def gradients(
    conv: nn.Module, graph: Any, x: Tensor, weight: Tensor | None, *args: Any
) -> tuple[Tensor, ...]:
    """The output, then the gradients of parameters, features and edge weights."""
    out = conv(x, graph, *args)
    leaves = [*conv.parameters(), x, *([] if weight is None else [weight])]
    return out, *torch.autograd.grad(out.pow(3).sum(), leaves)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: str([*flags.values()]))
def test_equals_the_layer_of_pyg(flags: dict[str, Any], weighted: bool) -> None:
    conv = pyg.GCNConv(3, 4, **flags)
    if conv.bias is not None:
        nn.init.normal_(conv.bias)
    twin = shared(conv)
    x = torch.randn(SIZE, 3, requires_grad=True)
    weight = torch.rand(EDGES.shape[1], requires_grad=True) if weighted else None
    adjacency = adjacency_for([twin], EDGES, weight, SIZE)
    assert isinstance(adjacency, Adjacency)
    expected = gradients(conv, EDGES, x, weight, weight)
    assert_close(gradients(twin, adjacency, x, weight), expected)
    assert_close(gradients(twin, EDGES, x, weight, weight), expected)


def test_a_deep_stack_with_one_adjacency_has_the_gradients_of_pyg() -> None:
    theirs = nn.ModuleList(pyg.GCNConv(3, 3) for _ in range(20))
    ours = nn.ModuleList(map(shared, theirs))
    x = torch.randn(SIZE, 3)

    def first_gradient(convs: nn.ModuleList, graph: Any) -> Tensor:
        h = x
        for conv in convs:
            h = conv(h, graph).tanh()
        return torch.autograd.grad(h.sum(), convs[0].lin.weight)[0]

    adjacency = adjacency_for(ours, EDGES, num_nodes=SIZE)
    assert_close(first_gradient(ours, adjacency), first_gradient(theirs, EDGES))


def test_is_constructed_as_in_pyg() -> None:
    ours, theirs = GCNConv(3, 4, improved=True), pyg.GCNConv(3, 4, improved=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(SIZE, 3)
    assert_close(ours(x, EDGES), theirs(x, EDGES))
    assert str(ours) == "GCNConv(3, 4)"
    ours.reset_parameters()
    assert not torch.equal(ours.lin.weight, theirs.lin.weight)


@pytest.mark.filterwarnings("ignore:(Sparse|Converting):UserWarning")
def test_takes_the_graphs_that_pyg_takes() -> None:
    conv, x = GCNConv(3, 4), torch.randn(SIZE, 3)
    sparse = torch.sparse_coo_tensor(
        EDGES.flip(0), torch.ones(8), (SIZE, SIZE), check_invariants=True
    ).to_sparse_csr()
    plain = pyg.GCNConv(3, 4)
    plain.load_state_dict(conv.state_dict())
    assert_close(conv(x, sparse), plain(x, sparse))


def test_features_with_leading_dimensions() -> None:
    conv, x = GCNConv(3, 4), torch.randn(2, SIZE, 3)
    assert_close(conv(x, gcn_adjacency(EDGES, num_nodes=SIZE)), conv(x, EDGES))


def test_mixed_precision_as_in_pyg() -> None:
    conv, x = GCNConv(3, 4).float(), torch.randn(SIZE, 3).float()
    adjacency = adjacency_for([conv], EDGES, num_nodes=SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = conv(x, adjacency), conv(x, EDGES)
    assert ours.dtype == theirs.dtype == torch.float32
    assert_close(ours, theirs)


def test_shared_holds_the_same_parameters() -> None:
    conv = pyg.GCNConv(3, 4).eval()
    seen: list[nn.Module] = []
    conv.register_forward_hook(lambda module, args, out: seen.append(module))
    state = torch.get_rng_state()
    twin = shared(conv)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(twin) is GCNConv
    assert not twin.training
    ours, theirs = dict(twin.named_parameters()), dict(conv.named_parameters())
    assert ours.keys() == theirs.keys() == twin.state_dict().keys()
    assert all(ours[name] is theirs[name] for name in ours)
    twin(torch.randn(SIZE, 3), gcn_adjacency(EDGES, num_nodes=SIZE))
    assert seen == [twin]
    twin.train().register_parameter("extra", nn.Parameter(torch.ones(1)))
    assert not conv.training
    assert "extra" not in conv.state_dict()


def test_shared_keeps_a_lazy_width() -> None:
    conv = pyg.GCNConv(-1, 4)
    twin = shared(conv)
    x, adjacency = torch.randn(SIZE, 3), gcn_adjacency(EDGES, num_nodes=SIZE)
    out = twin(x, adjacency)
    assert twin.lin.weight is conv.lin.weight
    assert conv.lin.weight.shape == (4, 3)
    assert_close(conv(x, EDGES), out)


def test_copies_of_a_shared_layer_are_independent() -> None:
    conv = pyg.GCNConv(3, 4)
    twin, x = shared(conv), torch.randn(SIZE, 3)
    clone = copy.deepcopy(twin)
    assert clone.bias is not conv.bias
    adjacency = gcn_adjacency(EDGES, num_nodes=SIZE)
    assert_close(clone(x, adjacency), twin(x, adjacency))
    assert_close(clone(x, EDGES), conv(x, EDGES))


class Subclass(pyg.GCNConv):
    pass


@pytest.mark.parametrize(
    "module",
    [
        pyg.SAGEConv(3, 4),
        Subclass(3, 4),
        pyg.GCNConv(3, 4, cached=True),
        pyg.GCNConv(3, 4, aggr="mean"),
        pyg.GCNConv(3, 4, node_dim=0),
        GCNConv(3, 4),
    ],
)
def test_other_modules_are_not_shared(module: nn.Module) -> None:
    assert shared(module) is module


def test_adjacency_for_returns_none_where_the_layers_differ() -> None:
    ours, plain = GCNConv(3, 4), pyg.GCNConv(3, 4)
    sparse = torch.eye(SIZE).to_sparse()
    assert adjacency_for([], EDGES) is None
    assert adjacency_for([ours, plain], EDGES) is None
    assert adjacency_for([ours, GCNConv(3, 4, improved=True)], EDGES) is None
    assert adjacency_for([ours, GCNConv(3, 4, cached=True)], EDGES) is None
    assert adjacency_for([ours, GCNConv(3, 4, aggr="max")], EDGES) is None
    assert adjacency_for([ours], sparse) is None
    assert adjacency_for([ours], {"a": EDGES}) is None
    adjacency = gcn_adjacency(EDGES)
    assert adjacency_for([ours, ours], adjacency) is adjacency


def test_adjacency_for_has_the_precision_of_the_parameters() -> None:
    ours = GCNConv(3, 4).float()
    assert adjacency_for([ours], EDGES).value.dtype == torch.float32
    assert adjacency_for([ours], EDGES, dtype=torch.half).value.dtype == torch.half


def test_the_layer_is_one_product() -> None:
    conv, x = GCNConv(3, 4), torch.randn(SIZE, 3)
    adjacency = gcn_adjacency(EDGES, num_nodes=SIZE)
    assert_close(conv(x, adjacency), propagate(adjacency, conv.lin(x)) + conv.bias)


def test_bad_input() -> None:
    adjacency, x = gcn_adjacency(EDGES, num_nodes=SIZE), torch.randn(SIZE, 3)
    with pytest.raises(ValueError, match="`edge_weight` must be None beside an Adj"):
        GCNConv(3, 4)(x, adjacency, torch.ones(8))
    with pytest.raises(ValueError, match=r"`aggr` must be 'add' .* Got 'mean' and -2"):
        GCNConv(3, 4, aggr="mean")(x, adjacency)
    with pytest.raises(ValueError, match="one row for each node"):
        GCNConv(3, 4)(x[:2], adjacency)
