"""Linearisation error of the backward pass, against dense products and its bound."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from error_cases import dense_propagation, labelled, projection, structure_of
from graphs import isolated_node, no_edges, random_graph, two_components
from layer_cases import network
from snapshots import differences, snapshot
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN, GCNConv, SAGEConv

from graphfathom.diagnostics.linearisation import (
    linearisation_observations,
    linearisation_products,
)
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem
from graphfathom.theory.backward import LIPSCHITZ_TANH
from graphfathom.theory.stochastic import sinkhorn, smoothing_rate

DEPTH = 5
ERROR, BOUND = "error.linearisation", "theory.error.linearisation"
GRAPHS: dict[str, Callable[[], Data]] = {
    "connected": random_graph,
    "two components": two_components,
    "isolated node": isolated_node,
    "no edges": no_edges,
}
by_graph = pytest.mark.parametrize("graph", GRAPHS)


def gcn(act: str | None = "tanh", scale: float = 1.0, bias: bool = True) -> GCN:
    torch.manual_seed(0)
    model = GCN(3, 4, DEPTH, 2, act=act, bias=bias)
    for conv in model.convs:
        conv.lin.weight.data *= scale
        if bias:
            nn.init.normal_(conv.bias)
    return model


def measured(model: nn.Module, data: Data) -> Observations:
    trace = capture(Problem(model, data))
    return Observations(linearisation_observations(trace, structure_of(data)))


def signals(model: GCN, data: Data, act: Callable) -> tuple[list[Tensor], list[Tensor]]:
    """Messages before the activation and their errors, densely."""
    x, propagation, found = data.x, dense_propagation(data), []
    for i, conv in enumerate(model.convs):
        found.append(propagation @ x @ conv.lin.weight.mT + conv.bias)
        x = act(found[-1]) if i < DEPTH - 1 else found[-1]
    loss = nn.functional.cross_entropy(x, data.y)
    errors = torch.autograd.grad(loss, found)
    return [h.detach() for h in found], list(errors)


def slopes(h: Tensor, act: Callable) -> Tensor:
    h = h.clone().requires_grad_()
    return torch.autograd.grad(act(h).sum(), h)[0]


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "elu", "relu", "silu"])
@by_graph
def test_error_against_dense_products(name: str, graph: str) -> None:
    data, act = labelled(GRAPHS[graph]()), getattr(nn.functional, name)
    model = gcn(name)
    table = measured(model, data)
    messages, errors = signals(model, data, act)
    assert table.series(ERROR)[0] == list(range(1, DEPTH))
    for k in range(1, DEPTH):
        weight, propagation = model.convs[k].lin.weight, dense_propagation(data)
        mean = projection(data, "constant") @ slopes(messages[k - 1], act)
        made = propagation.mT @ errors[k] @ weight.detach()
        left = (errors[k - 1] - made * mean).norm() / errors[k].norm()
        found = 10 ** table.value(ERROR, f"layer:{k}")
        if math.isnan(found):  # slopes that are solved for are known to 1e-10
            assert left < 1e-10
            assert name in ("elu", "silu")
        else:
            assert found == pytest.approx(float(left), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
@by_graph
def test_the_bound_holds(name: str, scale: float, graph: str) -> None:
    data = labelled(GRAPHS[graph]())
    table = measured(gcn(name, scale), data)
    errors, bounds = table.series(ERROR)[1], table.series(BOUND)[1]
    assert len(bounds) == DEPTH - 1
    for error, bound in zip(errors, bounds, strict=True):
        assert error <= bound + 1e-9


def stochastic(depth: int = DEPTH) -> tuple[nn.Module, Data]:
    """A tanh network on the symmetric stochastic matrix of a graph."""
    data = labelled(random_graph())
    matrix = sinkhorn(data.edge_index, data.num_nodes).tocoo()
    ends = torch.from_numpy(matrix.col).long(), torch.from_numpy(matrix.row).long()
    data.edge_index = torch.stack(ends)
    data.edge_weight = torch.from_numpy(matrix.data)
    torch.manual_seed(0)
    model = GCN(3, 4, depth, 2, act="tanh", normalize=False, bias=False)
    return model, data


def test_the_bound_is_that_of_equation_6_2() -> None:
    r""":math:`r_k = L_1 s \sqrt{n} e(H)` for a symmetric stochastic P."""
    model, data = stochastic()
    table = measured(model, data)
    x = data.x
    for k in range(1, DEPTH):
        matrix = torch.zeros(8, 8)
        matrix[data.edge_index[1], data.edge_index[0]] = data.edge_weight
        h = (matrix @ x @ model.convs[k - 1].lin.weight.mT).detach()
        x = h.tanh()
        norm = torch.linalg.matrix_norm(model.convs[k].lin.weight.detach(), 2)
        bound = LIPSCHITZ_TANH * float(norm) * float((h - h.mean(0)).norm())
        found = table.value(BOUND, f"layer:{k}")
        assert found == pytest.approx(math.log10(bound))


def test_where_features_are_smooth_errors_pass_as_in_a_linear_network() -> None:
    model, data = stochastic(depth=80)
    errors = measured(model, data).series(ERROR)[1]
    assert errors[0] > -2
    assert max(errors[60:]) < -12, "slopes near 1 are known beyond their last digit"
    assert min(errors) > -math.inf


def test_the_rate_of_the_layers_own_propagation() -> None:
    model, data = stochastic()
    structure = structure_of(data)
    trace = capture(Problem(model, data))
    table = Observations(linearisation_observations(trace, structure))
    layers, found = table.series("rate.propagation.constant")
    assert layers == list(range(1, DEPTH + 1))
    matrix = sinkhorn(random_graph().edge_index, 8)
    assert found == pytest.approx([smoothing_rate(matrix).rate] * DEPTH)
    assert "rate.propagation.degree" not in table.names()
    names = measured(gcn(), labelled(random_graph())).names()
    assert "rate.propagation.degree" in names
    assert "rate.propagation.constant" not in names


def test_a_linear_network_has_no_error() -> None:
    table = measured(gcn(None), labelled(random_graph()))
    assert table.series(ERROR)[1] == [-math.inf] * (DEPTH - 1)
    assert table.series(BOUND)[1] == [-math.inf] * (DEPTH - 1)


def test_slopes_that_are_solved_for_are_not_exact() -> None:
    """Of an ELU of nearly equal messages: what is left of them is rounding."""
    data = labelled(random_graph())
    model = gcn("elu", 1e-12)
    for conv in model.convs:
        conv.bias.data.fill_(-1.0)
    table = measured(model, data)
    assert all(map(math.isnan, table.series(ERROR)[1]))
    assert BOUND not in table.names()


class Mixed(nn.Module):
    """Layers of two kinds; only the first two follow each other as the theory asks."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [GCNConv(3, 4), GCNConv(4, 4), SAGEConv(4, 4), GCNConv(4, 2)]
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, edge_index).tanh()
        return x


def test_only_neighbouring_layers_of_the_form_have_an_error() -> None:
    table = measured(Mixed(), labelled(random_graph()))
    assert table.series(ERROR)[0] == [1]
    assert table.series("rate.propagation.degree")[0] == [1, 2, 4]


class Cut(nn.Module):
    """Means over neighbours alone: a node without any takes no message."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(SAGEConv(3, 3, root_weight=False) for _ in range(3))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, edge_index).tanh()
        return x


def test_layers_whose_slopes_cannot_be_known_are_left_out() -> None:
    assert measured(Cut(), labelled(random_graph())).series(ERROR)[0] == [1, 2]
    with pytest.raises(ValueError, match=r"no layer is act\(P X W\)"):
        measured(Cut(), labelled(isolated_node()))


@pytest.mark.parametrize("name", ["sage", "ssm", "gcn2", "pre-activation"])
def test_networks_of_another_form(name: str) -> None:
    with pytest.raises(ValueError, match=r"no layer is act\(P X W\)"):
        measured(network(name), labelled(random_graph()))


def test_errors_that_take_other_ways_too_have_no_linearisation() -> None:
    table = measured(network("taps"), labelled(random_graph()))
    assert table.names() == ["rate.propagation.degree"]


def test_what_it_needs() -> None:
    data = labelled(random_graph())
    trace = capture(Problem(gcn(), data))
    assert linearisation_products(trace) == 10 * DEPTH
    with pytest.raises(ValueError, match="they need labels and one edge_index"):
        linearisation_observations(trace, None)
    del data.y
    trace = capture(Problem(gcn(), data))
    with pytest.raises(ValueError, match="they need labels"):
        linearisation_observations(trace, structure_of(data))


def test_without_errors_there_is_no_share() -> None:
    data = labelled(random_graph())
    problem = Problem(gcn(), data, loss=lambda output, target: torch.zeros(()))
    rows = linearisation_observations(capture(problem), structure_of(data))
    assert all(map(math.isnan, Observations(rows).series(ERROR)[1]))


def test_nothing_is_changed() -> None:
    model, data = gcn(), labelled(random_graph())
    before = snapshot(model, data)
    measured(model, data)
    assert differences(before, snapshot(model, data)) == []
