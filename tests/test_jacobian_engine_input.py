"""Bad input to the Jacobian engine: one clear sentence, or the right zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graphs import random_graph, two_components
from torch import Tensor, nn
from torch_geometric.nn import GCN, GCNConv

from graphfathom.diagnostics import JacobianError, sparse_jacobian
from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.sensitivity import price, sensitivity_of, sensitivity_to
from graphfathom.diagnostics.trace import NoLayersError, Trace, capture
from graphfathom.linalg import (
    DenseOperator,
    golub_kahan,
    largest_singular_value,
    spectral_density,
)
from graphfathom.problem import Problem

Step = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Net(nn.Module):
    """Three convolutions, each called as a function says."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 4), nn.Linear(4, 2)
        self.convs = nn.ModuleList(GCNConv(4, 4) for _ in range(3))
        self.step = step

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        for conv in self.convs:
            x = self.step(conv, x, edge_index)
        return self.decoder(x)


def add_in_place(conv: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    x += conv(x, edge_index)
    return x


def trace_of(step: Step) -> Trace:
    torch.manual_seed(0)
    return capture(Problem(Net(step), random_graph()))


def test_no_gradient_path() -> None:
    with pytest.raises(NoLayersError, match="between the features and the output"):
        trace_of(lambda conv, x, e: conv(x, e).detach())


def test_in_place_operation_that_autograd_refuses() -> None:
    trace = trace_of(add_in_place)
    with pytest.raises(JacobianError, match=r"`convs\.1` cannot be differentiated"):
        sparse_jacobian(trace, 2)
    with pytest.raises(JacobianError, match=r"cannot be differentiated: .*inplace"):
        sensitivity_of(NodeJacobian(trace), 0)
    with pytest.raises(JacobianError, match="Use `sensitivity_of`"):
        sensitivity_to(NodeJacobian(trace), 0)


def test_in_place_operation_that_is_harmless() -> None:
    trace = trace_of(lambda conv, x, e: torch.relu_(conv(x, e)))
    dense = trace.jacobian(1, 2).to_dense()
    torch.testing.assert_close(sparse_jacobian(trace, 2).matrix.to_dense(), dense)


def test_rounding_has_no_slope() -> None:
    trace = trace_of(lambda conv, x, e: conv(x, e).round())
    assert not sparse_jacobian(trace, 2).matrix.blocks.any()
    found = sensitivity_of(NodeJacobian(trace), 0)
    assert bool(found.log10.isneginf().all())
    assert "rounded activations" in found.explain(0, 1)
    kept = trace_of(lambda conv, x, e: x + conv(x, e).sign())
    blocks = sparse_jacobian(kept, 2).matrix
    torch.testing.assert_close(blocks.to_dense(), torch.eye(32, dtype=torch.float64))


def test_integer_features() -> None:
    class Embedded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.gcn = nn.Embedding(5, 4), GCN(4, 4, 2, 2)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.gcn(self.embedding(x).sum(1), edge_index)

    data = random_graph()
    data.x = torch.arange(24).view(8, 3) % 5
    trace = capture(Problem(Embedded(), data))
    with pytest.raises(ValueError, match="use `source=0`, the embedded features"):
        NodeJacobian(trace)
    assert NodeJacobian(trace, source=0).in_width == 4
    assert sparse_jacobian(trace, 1).method == "closed form"


def test_complex_numbers() -> None:
    data = random_graph()
    data.x = data.x + 1j
    with pytest.raises(TypeError, match="Complex features are not supported"):
        capture(Problem(GCN(3, 4, 2, 2), data))
    with pytest.raises(ValueError, match="must be a real floating-point tensor"):
        DenseOperator(torch.eye(2) + 1j)


def test_budgets() -> None:
    trace = capture(Problem(GCN(3, 4, 2, 2), random_graph()))
    with pytest.raises(ValueError, match="`byte_budget` must be at least"):
        trace.jacobian(0, 1).to_dense(byte_budget=10)
    jacobian = NodeJacobian(trace)
    assert price(jacobian, 8).products == 16
    with pytest.raises(ValueError, match="`product_budget` must be at least 16"):
        sensitivity_of(jacobian, product_budget=15)


def test_more_steps_than_dimensions() -> None:
    operator = DenseOperator(torch.eye(3))
    for run in (
        lambda: golub_kahan(operator, 4, torch.ones(3)),
        lambda: largest_singular_value(operator, num_matvecs=4),
        lambda: spectral_density(operator, 4),
    ):
        with pytest.raises(ValueError, match=r"`num_matvecs` must be in \[1, 3\]"):
            run()


def test_disconnected_pair_is_an_exact_zero_and_said_so() -> None:
    trace = capture(Problem(GCN(3, 4, 3, 2), two_components()))
    found = sensitivity_of(NodeJacobian(trace), 0)
    assert float(found.log10[0, 4]) == float("-inf")
    assert found.explain(0, 4) == "node 0 to node 4: exact zero: no path."
