"""Spurious stationary points: networks that have one, and networks that have none."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from graphs import random_graph
from smoothing_networks import Dense, Propagation, Vanilla, graph, identity
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GCN

import graphfathom as gf
from graphfathom.diagnostics import facts
from graphfathom.diagnostics.energy import energy_observations
from graphfathom.diagnostics.gradients import gradient_observations
from graphfathom.diagnostics.last_layer import refit_head
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.rates import rate_observations
from graphfathom.diagnostics.report import Finding
from graphfathom.diagnostics.rules import Facts, Rule
from graphfathom.diagnostics.stationarity import stationarity_observations
from graphfathom.diagnostics.stationary_rules import spurious_stationary_point
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.problem import Problem
from graphfathom.theory.stochastic import laplacian_walk, sinkhorn


def measured(
    model: nn.Module, data: Data, layers: str | None = None
) -> tuple[Observations, Trace]:
    """What a diagnosis knows when the rule is asked."""
    problem = Problem(model, data)
    structure = facts.graph_structure(problem)
    assert structure is not None
    recapture = partial(capture, layers=layers)
    trace = recapture(problem)
    rows = facts.data_observations(problem, structure)
    rows += facts.loss_observations(problem, trace.output, structure=structure)
    rows += energy_observations([state.main for state in trace.states], structure)
    rows += gradient_observations(trace, structure)
    rows += rate_observations(trace, Observations(rows), structure)
    new, notes = stationarity_observations(trace, structure, rows, recapture)
    assert notes == []
    return Observations([*rows, *new]), trace


RULE = Rule("spurious-stationary-point", "", (), "", "", spurious_stationary_point)


def found(
    model: nn.Module, data: Data, layers: str | None = None
) -> tuple[Finding | None, Observations]:
    table, trace = measured(model, data, layers)
    return spurious_stationary_point(Facts(table, trace.layers), RULE), table


@pytest.mark.parametrize(
    ("propagation", "avg_degree"), [(sinkhorn, 20), (laplacian_walk, 28)]
)
@pytest.mark.parametrize("seed", range(2))
def test_deep_smoothing_networks_are_flagged(
    propagation: Propagation, avg_degree: float, seed: int
) -> None:
    data, eigenvalue = graph(propagation, avg_degree, seed)
    assert eigenvalue <= 0.8
    torch.manual_seed(seed)
    finding, table = found(Vanilla(40), data)
    assert finding is not None
    assert finding.title.endswith("(smoothing)")
    assert finding.where == "layers 1-40 of 40"
    assert table.value("rate.propagation.constant") == pytest.approx(eigenvalue)
    largest = max(table.series("gradient.weights", "refit")[1])
    assert largest < -4
    assert finding.severity == ("critical" if largest < -10 else "note")
    # The untrained head hides it.
    assert min(table.series("gradient.weights")[1]) > largest + 1
    torch.manual_seed(seed)
    assert found(Vanilla(5), data)[0] is None


def test_the_same_weights_without_the_graph_are_not() -> None:
    data, _ = graph(identity, 20)
    torch.manual_seed(0)
    finding, table = found(Vanilla(40), data)
    assert finding is None
    assert min(table.series("stationarity", "refit")[1]) > 0
    # Each node is a component, so constants of components fit all labels.
    assert table.value("loss.constant.component") == pytest.approx(0.0, abs=1e-9)


def test_the_stabilized_network_is_not() -> None:
    data, _ = graph(sinkhorn, 20)
    torch.manual_seed(0)
    finding, table = found(gf.stabilize(Vanilla(40), data), data)
    assert finding is None
    assert table.value("loss.refit") < 0.1
    assert table.series("gradient.to_neighbours")[1][0] > 0


@pytest.mark.parametrize("seed", range(2))
def test_slow_smoothing_agrees_with_the_gradient(seed: int) -> None:
    data, eigenvalue = graph(sinkhorn, 20, seed, homophily=0.98)
    assert 0.93 <= eigenvalue < 1
    torch.manual_seed(seed)
    model = Vanilla(40)
    finding, table = found(model, data)
    assert finding is None
    refit = refit_head(capture(Problem(model, data))).problem
    loss = refit.loss_of(refit.run())
    assert loss is not None
    loss.backward()
    for k, conv in enumerate(refit.model.convs, 1):
        grad, weight = conv.lin.weight.grad, conv.lin.weight
        expected = (grad.norm() * weight.norm() / loss).log10().item()
        value = table.value("stationarity", f"layer:{k}", "refit")
        assert value == pytest.approx(expected, abs=1e-9)
        assert value > -2


def test_a_contraction_of_weights_is_called_so() -> None:
    data, _ = graph(sinkhorn, 20)
    torch.manual_seed(0)
    finding, table = found(Dense(40), data, "lins.*")
    assert finding is not None
    assert finding.title.endswith("(contraction of the weights)")
    assert table.series("gradient.to_neighbours") == ([20], [0.0])
    assert max(table.series("gradient.weights", "refit")[1]) < -12
    torch.manual_seed(0)
    assert found(Dense(5), data, "lins.*")[0] is None


def test_stationarity_of_the_model_as_it_is() -> None:
    data = random_graph(12)
    model = GCN(3, 5, 3, 2, act="tanh")
    table, _ = measured(model, data)
    loss = nn.functional.cross_entropy(model(data.x, data.edge_index), data.y)
    loss.backward()
    for k, conv in enumerate(model.convs, 1):
        gradient = torch.cat([p.grad.flatten() for p in conv.parameters()]).norm()
        weights = torch.cat([p.flatten() for p in conv.parameters()]).norm()
        expected = (gradient * weights / loss).log10().item()
        value = table.value("stationarity", f"layer:{k}")
        assert value == pytest.approx(expected, abs=1e-9)
    head = model.convs[-1].parameters()
    gradient = torch.cat([p.grad.flatten() for p in head]).norm().log10()
    assert table.value("head.gradient") == pytest.approx(gradient.item(), abs=1e-9)


def test_a_last_layer_that_is_not_affine_is_a_note() -> None:
    problem = Problem(GAT(3, 4, 2, 2), random_graph())
    trace, structure = capture(problem), facts.graph_structure(problem)
    measured = gradient_observations(trace, structure)
    rows, notes = stationarity_observations(trace, structure, measured)
    assert notes == [
        "The last layer was not refitted: The output is not affine in the parameters "
        "of `convs.1`."
    ]
    assert {row.run for row in rows} == {"model"}
    del problem.data.y
    problem = Problem(problem.model, problem.data)
    assert stationarity_observations(capture(problem), structure, []) == ([], [])


def test_what_is_zero_is_not_divided_by() -> None:
    data = random_graph()
    data.y = torch.zeros(8, 2)
    data.y[0] = 0.5  # else multi-hot
    model = GCN(3, 4, 2, 2)
    with torch.no_grad():
        for parameter in model.convs[0].parameters():
            parameter.zero_()
        model.convs[1].bias[0] = 0.5
    table, _ = measured(model, data)
    # The gradient of the first layer passes the slope 0 of its ReLU.
    assert table.value("stationarity", "layer:1") == -math.inf
    data.y = model(data.x, data.edge_index).detach()
    table, _ = measured(model, data)
    assert table.value("loss") == 0
    assert table.value("stationarity", "layer:2") == -math.inf
    data.y = data.y + 1.0
    for parameter in model.parameters():
        parameter.data.zero_()
    table, _ = measured(model, data)
    assert math.isnan(table.value("stationarity", "layer:2"))
