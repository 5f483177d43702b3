"""Ends, edges and products of the derivative between node pairs."""

from __future__ import annotations

from typing import Any

import graphs
import pytest
import torch
from problems import CATALOGUE
from references import float64
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import Data
from torch_geometric.nn import GCN, GCNConv

from graphfathom.diagnostics import node_jacobian
from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.problem import Problem


def traced(name: str = "GCN", **options: Any) -> Trace:
    case = next(entry for entry in CATALOGUE if entry.name == name).case()
    with float64():
        return capture(case.problem(), **options)


class Embedded(nn.Module):
    """Features that are the numbers of rows of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.conv, self.last = GCNConv(4, 4), GCNConv(4, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.last(self.conv(self.table(x), edge_index).tanh(), edge_index)


def test_a_segment_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, vectors = torch.tensor([0, 3, 3]), torch.randn(3, 2)
    expected = [p.rows for p in NodeJacobian(traced()).pull(nodes, vectors)]
    monkeypatch.setattr(node_jacobian, "CHUNK_BYTES", 1)
    found = [p.rows for p in NodeJacobian(traced(byte_budget=1)).pull(nodes, vectors)]
    assert_close(found, expected)


def test_both_products_are_of_one_matrix() -> None:
    jacobian = NodeJacobian(traced("GCNII"), 1, "output")
    w, x = torch.randn(jacobian.out_width), torch.randn(jacobian.in_width)
    (left,) = jacobian.pull(torch.tensor([2]), w[None])
    (right,) = jacobian.push(torch.tensor([5]), x[None])
    assert_close(
        left.rows[5] @ x * 10**left.log10_scale,
        right.rows[2] @ w * 10**right.log10_scale,
    )


def test_repr() -> None:
    expected = "NodeJacobian(state 1 -> output, 8 nodes, blocks of 2 x 4)"
    assert repr(NodeJacobian(traced(), 1)) == expected


def test_distances_against_powers_of_the_adjacency() -> None:
    data = graphs.directed_graph()
    jacobian = NodeJacobian(capture(Problem(GCN(3, 4, 2), data)))
    adjacency = torch.zeros(5, 5).index_put(tuple(data.edge_index), torch.ones(()))
    expected = torch.full((5, 5), -1)
    for hops in reversed(range(6)):
        expected[torch.linalg.matrix_power(adjacency, hops) > 0] = hops
    nodes = torch.arange(5)
    assert torch.equal(jacobian.distances(nodes, backward=False), expected)
    assert torch.equal(jacobian.distances(nodes, backward=True), expected.mT)


def test_integer_features_start_at_state_0() -> None:
    data = Data(x=torch.tensor([0, 2, 4]), edge_index=graphs.path_graph(3).edge_index)
    trace = capture(Problem(Embedded(), data))
    with pytest.raises(ValueError, match=r"features of the nodes are integers.*`sourc"):
        NodeJacobian(trace)
    assert NodeJacobian(trace, source=0).in_width == 4


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (9, "output", r"`source` must be 'input' or a state, 0 to 3. Got 9"),
        ("output", "output", r"`source` must be 'input' or a state.* Got 'output'"),
        ("input", -1, r"`target` must be 'output' or a state, 0 to 3. Got -1"),
        (True, "output", r"`source` must be .* Got True"),
        (2, 2, r"`source` must come before `target`. Got 2 and 2"),
        (3, 1, r"`source` must come before `target`. Got 3 and 1"),
    ],
)
def test_ends_that_are_none(source: Any, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NodeJacobian(traced(), source, target)


def test_rows_that_are_not_nodes() -> None:
    with pytest.raises(ValueError, match=r"The output must have one row .* 9 nodes"):
        NodeJacobian(traced("graph level"))
    NodeJacobian(traced("graph level"), "input", 1)
    with pytest.raises(
        ValueError, match=r"State 1 must have one row .* Got \(8, 4\), "
    ):
        NodeJacobian(traced("edge states"), 1)
    with pytest.raises(ValueError, match=r"nodes of one type. Got 2 types"):
        NodeJacobian(traced("HeteroConv"))


def test_as_many_edges_as_nodes_leave_it_open_whose_the_rows_are() -> None:
    trace = traced("GCNII")
    nodes = torch.arange(8)
    edges = torch.stack([nodes, nodes.roll(1)])
    with pytest.raises(ValueError, match="State 1 holds 2 tensors, and there are as"):
        NodeJacobian(trace, 1, edge_index=edges)
    NodeJacobian(trace, 0, edge_index=edges)


def test_edges_must_be_known() -> None:
    edges, x = graphs.random_graph().edge_index, torch.randn(8, 3)
    dense = torch.rand(8, 8)
    trace = capture(Problem(DenseConv(), ((x, dense), {})))
    match = r"`edge_index` must be given.* Got 0 edge indices in the data"
    with pytest.raises(ValueError, match=match):
        NodeJacobian(trace)
    assert torch.equal(NodeJacobian(trace, edge_index=edges).edge_index, edges)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (torch.tensor([[0], [8]]), r"lie in \[0, 7\], the nodes. .* \[0, 8\]"),
        (torch.tensor([[-1], [0]]), r"lie in \[0, 7\], the nodes. .* \[-1, 0\]"),
        (torch.tensor([0, 1]), r"integers of shape \(2, E\). Got torch.int64 of .*2,"),
        (torch.rand(2, 3), r"integers of shape \(2, E\). Got torch.float"),
    ],
)
def test_edges_that_are_none(edges: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NodeJacobian(traced(), edge_index=edges)


class DenseConv(nn.Module):
    """Two layers on a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        return adj @ self.b((adj @ self.a(x)).tanh())


def test_flows_of_both_kinds() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = GCNConv(3, 3)
            self.b = GCNConv(3, 3, flow="target_to_source")

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.b(self.a(x, edge_index), edge_index)

    trace = capture(Problem(Both(), graphs.random_graph()))
    with pytest.raises(ValueError, match="Got layers with both kinds of `flow`"):
        NodeJacobian(trace)
