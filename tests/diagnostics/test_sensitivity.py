"""Blocks of node pairs against dense Jacobians, closed forms and bounds."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import graphs
import pytest
import torch
from chains import ring, scaled_chain
from problems import CATALOGUE, Case
from references import float64
from torch import Tensor, nn
from torch.func import jacrev
from torch.testing import assert_close
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCN, GCNConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.sensitivity import (
    NORMS,
    pair_sensitivity,
    price,
    sensitivity_of,
    sensitivity_to,
)
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.problem import Problem
from graphfathom.theory import sensitivity_bound

NAMES = (
    "GCN",
    "GAT two heads",
    "GIN jk=cat",
    "GraphSAGE",
    "GCNII",
    "GraphCON",
    "GATv2 edge features",
    "SAGE product",
    "long skip",
    "edge states",
    *(f"GCN on {name}" for name in graphs.GRAPHS),
)
each = pytest.mark.parametrize("name", NAMES)
by_norm = pytest.mark.parametrize("norm", NORMS)
ORDER = {"operator": 2, "frobenius": "fro"}


@functools.cache
def traced(name: str) -> tuple[Case, Trace]:
    """A network of the catalogue and its trace; no test changes either."""
    case = next(entry for entry in CATALOGUE if entry.name == name).case()
    return case, capture(case.problem())


def norms(blocks: Tensor, norm: str) -> Tensor:
    """Logarithms, shape (N, N), of blocks of shape (N, out, N, in)."""
    blocks = blocks.transpose(1, 2)
    if norm == "l1":
        return blocks.abs().sum((2, 3)).log10()
    return torch.linalg.matrix_norm(blocks, ORDER[norm]).log10()


@functools.cache
def dense(name: str) -> Tensor:
    """Blocks from the input to the output, without the tracer."""
    case, _ = traced(name)
    with float64():
        return jacrev(case.run)(case.features).detach()


def same(found: Tensor, expected: Tensor) -> None:
    """Equal, with exact zeros at the same places."""
    assert torch.equal(found.isneginf(), expected.isneginf())
    assert_close(found, expected, rtol=1e-9, atol=1e-9)


@by_norm
@each
def test_of_and_to_all_nodes_are_the_dense_blocks(name: str, norm: str) -> None:
    jacobian = NodeJacobian(traced(name)[1])
    expected = norms(dense(name), norm)
    same(sensitivity_of(jacobian, norm=norm).log10, expected)
    same(sensitivity_to(jacobian, norm=norm).log10, expected.mT)


@pytest.mark.parametrize("name", ["GCN", "GCNII", "GraphCON"])
@pytest.mark.parametrize(("i", "j"), [(0, 1), (1, 3), (0, 3)])
def test_between_states_all_tensors_of_a_node_form_its_block(
    name: str, i: int, j: int
) -> None:
    case, trace = traced(name)
    states = case.states(case.features)
    if j == trace.num_layers or len(trace.states[j].carried) != len(states[j]):
        j = trace.num_layers - 1
    if i >= j:
        return
    widths = [t.shape[1] for t in states[i]]

    def rows(x: Tensor) -> Tensor:
        state = x.split(widths, 1)
        for function in case.maps[i:j]:
            state = function(*state)
        return torch.cat([*state], 1)

    blocks = jacrev(rows)(torch.cat([*states[i]], 1).detach())
    jacobian = NodeJacobian(trace, i, j)
    assert (jacobian.in_width, jacobian.out_width) == (sum(widths), blocks.shape[1])
    same(sensitivity_of(jacobian).log10, norms(blocks.detach(), "frobenius"))
    same(sensitivity_to(jacobian).log10, norms(blocks.detach(), "frobenius").mT)


@pytest.mark.parametrize("name", ["GCN", "GCNII", "GCN jk=cat"])
def test_blocks_between_states_are_those_of_the_operator(name: str) -> None:
    trace = traced(name)[1]
    matrix = trace.jacobian(1, 2).to_dense()
    squares = torch.zeros(2 * [trace.problem.num_nodes[0]])
    row = 0
    for target in trace.states[2].carried:
        column = 0
        for source in trace.states[1].carried:
            part = matrix[row : row + target.numel(), column : column + source.numel()]
            part = part.view(*target.shape, *source.shape)
            squares += part.square().sum((1, 3))
            column += source.numel()
        row += target.numel()
    found = sensitivity_of(NodeJacobian(trace, 1, 2)).log10
    same(found, squares.log10() / 2)


def test_pairs_are_entries_of_all_pairs() -> None:
    jacobian = NodeJacobian(traced("GCN on two components")[1])
    table = sensitivity_of(jacobian, norm="l1")
    v, u = torch.tensor([[5, 0, 5, 2], [3, 1, 0, 2]])
    pairs = pair_sensitivity(jacobian, v, u, norm="l1")
    assert torch.equal(pairs.log10, table.log10[v, u])
    assert torch.equal(pairs.relative, table.relative[v, u])
    assert torch.equal(pairs.distance, table.distance[v, u])
    assert pairs.distance.tolist() == [2, 1, -1, 0]
    assert pairs.explain(2) == "node 5 to node 0: exact zero: no path."
    assert re.fullmatch(r"node 0 to node 1: 10\^-?\d\.\d\d; 1 hop\.", pairs.explain(1))


def test_shares_add_up_to_one() -> None:
    found = sensitivity_of(NodeJacobian(traced("GAT two heads")[1]), norm="l1")
    assert_close((10**found.relative).sum(1), torch.ones(len(found.roots)))


def test_hops_are_counted_along_the_messages() -> None:
    data = graphs.make_graph(4, [(0, 1), (1, 2)])
    jacobian = NodeJacobian(capture(Problem(GCN(3, 4, 3), data)))
    assert sensitivity_of(jacobian, 2).distance.tolist() == [[2, 1, 0, -1]]
    assert sensitivity_to(jacobian, 0).distance.tolist() == [[0, 1, 2, -1]]
    found = sensitivity_of(jacobian, [0, 2])
    assert found.explain(0, 2) == "node 0 to node 2: exact zero: no path."
    assert found.log10[1, :3].isfinite().all()


def test_layers_whose_messages_go_backward_turn_the_hops_round() -> None:
    data = graphs.make_graph(3, [(0, 1), (1, 2)])
    model = GCN(3, 4, 2, flow="target_to_source")
    found = sensitivity_of(NodeJacobian(capture(Problem(model, data))), 0)
    assert found.distance.tolist() == [[0, 1, 2]]
    assert found.log10.isfinite().all()


def test_more_hops_than_layers_are_zero_though_there_is_a_path() -> None:
    trace = capture(Problem(GCN(3, 4, 2), graphs.path_graph(5)))
    found = sensitivity_of(NodeJacobian(trace), 0)
    assert torch.equal(found.log10[0].isneginf(), torch.arange(5) > 2)
    assert "zero, though 4 hops apart: more hops" in found.explain(0, 4)


def test_the_graphs_of_a_batch_are_components() -> None:
    parts = [graphs.random_graph(4), graphs.path_graph(3)]
    batch = Batch.from_data_list(parts)
    model = GCN(3, 4, 3, 2)
    found = sensitivity_of(NodeJacobian(capture(Problem(model, batch))))
    alone = [
        sensitivity_of(NodeJacobian(capture(Problem(model, part)))) for part in parts
    ]
    same(found.log10[:4, :4], alone[0].log10)
    same(found.log10[4:, 4:], alone[1].log10)
    assert found.log10[:4, 4:].isneginf().all()
    assert (found.distance[:4, 4:] == -1).all()


def test_batch_statistics_reach_where_no_path_leads() -> None:
    model = GCN(3, 4, 2, 2, norm="batch_norm")
    found = sensitivity_of(
        NodeJacobian(capture(Problem(model, graphs.two_components())))
    )
    assert (found.distance[0, 3:] == -1).all()
    assert (found.log10[0, 3:] > -10).all()
    assert "no path" in found.explain(0, 3)
    assert "zero" not in found.explain(0, 3)


@by_norm
def test_nodes_may_be_numbered_in_any_way(norm: str) -> None:
    data, order = graphs.random_graph(), torch.randperm(8)
    place = order.argsort()
    other = Data(x=data.x[order], edge_index=place[data.edge_index])
    model = GCN(3, 4, 3, 2)
    found, moved = (
        sensitivity_of(NodeJacobian(capture(Problem(model, one))), norm=norm)
        for one in (data, other)
    )
    assert_close(moved.log10, found.log10[order][:, order])
    assert torch.equal(moved.distance, found.distance[order][:, order])


@pytest.mark.parametrize(
    ("depth", "measure"), [(400, sensitivity_to), (1000, sensitivity_of)]
)
def test_a_thousand_layers_stay_finite(depth: int, measure: Any) -> None:
    """The power of a circulant matrix, with the factor 0.1 for each layer."""
    jacobian = NodeJacobian(scaled_chain(depth, 0.1, ring(6)))
    shift = torch.eye(6).roll(1, 0)
    power = torch.linalg.matrix_power((torch.eye(6) + shift + shift.mT) / 3, depth)
    expected = power.log10()[2] - depth + math.log10(2) / 2
    assert_close(measure(jacobian, 2).log10[0], expected)


def test_entries_of_very_different_size_keep_their_digits() -> None:
    """(I + c P)^L on a path: squares of its entries are below the least number."""
    size, c = 200, 0.1
    nodes = torch.arange(size)
    edge_weight = torch.full((size,), c)
    data = Data(
        x=torch.ones(size + 1, 1),
        edge_index=torch.stack([nodes, nodes + 1]),
        edge_weight=edge_weight,
    )
    found = sensitivity_of(NodeJacobian(capture(Problem(Residual(size), data))), size)
    steps = [
        (math.lgamma(size + 1) - math.lgamma(k + 1) - math.lgamma(size - k + 1))
        / math.log(10)
        + k * math.log10(c)
        for k in range(size + 1)
    ]
    assert_close(found.log10[0].flip(0), torch.tensor(steps))


class Residual(nn.Module):
    """x <- x + A x, as often as asked."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv = GCNConv(1, 1, bias=False, normalize=False)
        nn.init.ones_(self.conv.lin.weight)
        self.depth = depth

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        for _ in range(self.depth):
            x = x + self.conv(x, edge_index, edge_weight)
        return x


@pytest.mark.parametrize(("dtype", "digits"), [("float32", 5), ("float16", 2)])
def test_the_caller_s_precision(dtype: str, digits: int) -> None:
    data, model = graphs.random_graph(), GCN(3, 4, 3, 2)
    exact = sensitivity_of(NodeJacobian(capture(Problem(model, data))))
    kind = getattr(torch, dtype)
    model, data = model.to(kind), data.apply(lambda t: t.to(kind), "x")
    trace = capture(Problem(model, data), dtype=None)
    assert trace.precision == dtype
    found = sensitivity_of(NodeJacobian(trace))
    assert found.log10.dtype == torch.float64
    assert_close(found.log10, exact.log10, rtol=0, atol=10**-digits)


def test_it_lies_below_the_bound_of_the_theorem() -> None:
    width, depth, data = 3, 4, graphs.random_graph()
    model = GCN(width, width, depth, act="tanh", bias=False)
    jacobian = NodeJacobian(capture(Problem(model, data)))
    found = sensitivity_to(jacobian, 2, norm="l1").log10[0]
    edge_index, edge_weight = gcn_norm(data.edge_index, num_nodes=8, dtype=data.x.dtype)
    top = max(float(conv.lin.weight.detach().abs().max()) for conv in model.convs)
    bound = sensitivity_bound(
        edge_index,
        8,
        2,
        depth,
        max_weight=top,
        channels=width,
        edge_weight=edge_weight,
    )
    # All absolute entries are at most `width` times the largest sum of a column.
    assert (found <= bound.log10 + math.log10(width)).all()


def test_no_gradient_path_is_zero_everywhere() -> None:
    model = GCN(3, 4, 2, 2)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    found = sensitivity_of(NodeJacobian(capture(Problem(model, graphs.path_graph()))))
    assert found.log10.isneginf().all()
    assert found.relative.isnan().all()
    assert "dead or rounded activations" in found.explain(0, 1)


def test_what_is_not_finite_is_nan() -> None:
    """The root has no slope at 0, where the features of one component are."""
    data = graphs.two_components()
    data.x[:3] = 0
    model = GCN(3, 4, 2, 2, act=lambda x: x.abs().sqrt(), bias=False)
    jacobian = NodeJacobian(capture(Problem(model, data)))
    for norm in NORMS:
        found = sensitivity_of(jacobian, norm=norm)
        assert found.log10[0, :3].isnan().all()
        assert found.log10[3:, 3:].isfinite().all()
    assert found.explain(0, 1).endswith("not finite; 1 hop.")


def test_the_price_is_known_before() -> None:
    jacobian = NodeJacobian(traced("GCN")[1])
    assert (jacobian.in_width, jacobian.out_width) == (3, 2)
    assert price(jacobian, 5).products == 10
    assert price(jacobian, 5, direction="to").products == 15
    assert price(jacobian, 5, num_samples=1).products == 5
    assert price(jacobian, 5).bytes < price(jacobian, 5, norm="operator").bytes
    assert str(price(jacobian, 5)).startswith("10 products and")


def test_what_is_too_dear_is_refused_before_it_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jacobian = NodeJacobian(traced("GCN")[1])
    monkeypatch.setattr(NodeJacobian, "pull", None)
    monkeypatch.setattr(NodeJacobian, "push", None)
    with pytest.raises(ValueError, match=r"`product_budget` .* 16 .*16 products and"):
        sensitivity_of(jacobian, product_budget=15)
    with pytest.raises(ValueError, match=r"`product_budget` must be at least 24 "):
        sensitivity_to(jacobian, product_budget=23)
    with pytest.raises(ValueError, match=r"`byte_budget` .* Got 100: raise it or name"):
        pair_sensitivity(jacobian, 0, 1, byte_budget=100)


@pytest.mark.parametrize(
    ("roots", "error", "message"),
    [
        (8, ValueError, r"`roots` must be nodes, 0 to 7. Got 8"),
        ([0, -1], ValueError, r"`roots` must be nodes, 0 to 7. Got -1"),
        ([], ValueError, r"`roots` must be nodes, 0 to 7. Got none"),
        (torch.ones(8) > 0, TypeError, r"`roots` .* Got torch.bool: take `mask.non"),
        (1.0, TypeError, r"`roots` must hold indices of nodes. Got torch.float"),
    ],
)
def test_roots_that_are_no_nodes(
    roots: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sensitivity_of(NodeJacobian(traced("GCN")[1]), roots)


def test_choices_that_are_not_there() -> None:
    jacobian = NodeJacobian(traced("GCN")[1])
    with pytest.raises(ValueError, match=r"`norm` must be one of operator, .* 'max'"):
        sensitivity_of(jacobian, 0, norm="max")
    with pytest.raises(ValueError, match="`direction` must be one of of, to"):
        price(jacobian, 1, direction="from")
    with pytest.raises(ValueError, match=r"`num_roots` must be at least 1. Got 0"):
        price(jacobian, 0)
    with pytest.raises(ValueError, match=r"must be pairs. Got 2 and 1 nodes"):
        pair_sensitivity(jacobian, [0, 1], 2)


@pytest.mark.parametrize("name", ["custom function once", "custom function detached"])
def test_a_wrong_second_derivative_is_refused(name: str) -> None:
    jacobian = NodeJacobian(traced(name)[1])
    assert sensitivity_of(jacobian).log10.isfinite().any()
    with pytest.raises(JacobianError, match="differentiated twice"):
        sensitivity_to(jacobian)
