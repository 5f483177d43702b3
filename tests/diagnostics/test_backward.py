"""Smoothing of the error signal, against dense projections."""

from __future__ import annotations

import math

import pytest
import torch
from error_cases import labelled, projection, structure_of
from graphs import isolated_node, no_edges, one_node, random_graph, two_components
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import GCN, global_mean_pool

from graphfathom.diagnostics.gradients import gradient_observations
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.problem import Problem


def traced(data: Data, depth: int = 4, **options: object) -> Trace:
    torch.manual_seed(0)
    model = GCN(data.x.shape[1], 5, depth, 2, act="tanh")
    return capture(Problem(model, data, **options))


by_graph = pytest.mark.parametrize(
    "data", [random_graph(), two_components(), isolated_node(), no_edges()]
)


@by_graph
def test_parts_against_dense_projections(data: Data) -> None:
    data = labelled(data)
    trace = traced(data)
    table = Observations(gradient_observations(trace, structure_of(data)))
    x = trace.states[0].main.detach()
    states: list[Tensor] = []
    model = trace.problem.model
    h = x.requires_grad_()
    for i, conv in enumerate(model.convs):
        states.append(h)
        h = conv(h, data.edge_index)
        h = h.tanh() if i < 3 else h
    states.append(h)
    loss = torch.nn.functional.cross_entropy(h, data.y)
    errors = torch.autograd.grad(loss, states)
    for kind in ("constant", "degree"):
        dense = projection(data, kind)
        for k, error in enumerate(errors):
            kept, place = dense @ error, f"state:{k}"
            expected = {
                "deviation": float((error - kept).norm() / error.norm()),
                "kernel_norm": float(kept.norm().log10()),
                "deviation_norm": float((error - kept).norm().log10()),
            }
            for name, value in expected.items():
                found = table.value(f"error.{name}.{kind}", place)
                if name != "deviation_norm" or expected["deviation"] > 1e-9:
                    assert found == pytest.approx(value, abs=1e-12)
    mean = projection(data, "constant") @ errors[-1]
    expected = float(mean.norm() / errors[-1].norm())
    found = table.value("error.output.constant")
    assert found == pytest.approx(expected, abs=1e-12)
    check_means(table, errors[-1], structure_of(data))


def check_means(table: Observations, error: Tensor, structure: GraphStructure) -> None:
    found = table.value("error.output.mean")
    assert found == pytest.approx(float(error.mean(0).norm().log10()))
    sizes = structure.component.bincount().tolist()
    (largest, *_) = [c for c, size in enumerate(sizes) if size == max(sizes)]
    expected = error[structure.component == largest].mean(0).norm().log10()
    found = table.value("error.output.mean.largest")
    assert found == pytest.approx(float(expected))


def test_errors_smooth_on_their_way_back() -> None:
    data = labelled(random_graph())
    trace = traced(data, depth=30)
    table = Observations(gradient_observations(trace, structure_of(data)))
    last = table.value("error.deviation.degree", "state:30")
    middle = table.value("error.deviation.degree", "state:15")
    assert middle < 1e-2 * last


def test_without_labels_and_with_one_node() -> None:
    data = random_graph()
    del data.y
    assert gradient_observations(traced(data), structure_of(data)) == []
    data = labelled(one_node())
    rows = Observations(gradient_observations(traced(data), structure_of(data)))
    assert rows.value("error.deviation.constant", "state:4") == 0.0
    assert rows.value("error.output.constant") == 1.0
    assert rows.value("error.deviation_norm.constant", "state:4") == -math.inf
    norm = rows.value("gradient.state", "state:4")
    assert rows.value("error.kernel_norm.constant", "state:4") == pytest.approx(norm)


def test_norms_beyond_the_range_of_floats() -> None:
    """Each layer shrinks the errors by more than 1e-8: squares are 0 in float64."""
    trace = traced(labelled(random_graph()), depth=60)
    for conv in trace.problem.model.convs[1:]:
        conv.lin.weight.data *= 1e-9
    trace = capture(trace.problem)
    table = Observations(gradient_observations(trace, structure_of(trace.problem.data)))
    total = table.value("gradient.state", "state:0")
    assert total < -400
    parts = [
        table.value(f"error.{part}_norm.degree", "state:0")
        for part in ("kernel", "deviation")
    ]
    both = math.log10(sum(10 ** (2 * (part - total)) for part in parts)) / 2
    assert both == pytest.approx(0, abs=1e-9)


def test_a_trained_bias_leaves_no_mean_error() -> None:
    data = labelled(two_components())
    trace = traced(data)
    table = Observations(gradient_observations(trace, structure_of(data)))
    assert table.value("error.output.mean") > -3
    bias = trace.problem.model.convs[-1].bias
    for _ in range(200):
        loss = trace.problem.loss_of(trace.problem.run())
        (gradient,) = torch.autograd.grad(loss, bias)
        bias.data -= gradient
    trace = capture(trace.problem)
    table = Observations(gradient_observations(trace, structure_of(data)))
    assert table.value("error.output.mean") < -12
    assert table.value("error.output.mean.largest") > -4, "only the sum is zero"


def test_a_loss_that_ignores_the_output_has_no_errors() -> None:
    data = labelled(random_graph())
    trace = traced(data, loss=lambda output, target: torch.zeros(()))
    table = Observations(gradient_observations(trace, structure_of(data)))
    for name in ("error.output.mean", "error.output.mean.largest"):
        assert table.value(name) == -math.inf
    assert math.isnan(table.value("error.output.constant"))
    for kind in ("constant", "degree"):
        assert table.value(f"error.kernel_norm.{kind}", "state:2") == -math.inf
        assert table.value(f"error.deviation_norm.{kind}", "state:2") == -math.inf
        assert math.isnan(table.value(f"error.deviation.{kind}", "state:2"))


def test_outputs_that_are_no_nodes_have_no_mean_over_nodes() -> None:
    data = random_graph()
    data.y = torch.tensor([1])
    model = GCN(3, 4, 3, 2)

    def pooled(model: GCN, data: Data) -> Tensor:
        return global_mean_pool(model(data.x, data.edge_index), None)

    trace = capture(Problem(model, data, forward_fn=pooled))
    table = Observations(gradient_observations(trace, structure_of(data)))
    assert not [name for name in table.names() if name.startswith("error.output")]
    assert table.value("error.deviation.constant", "state:3") < 1e-12


def test_nan_is_no_share_and_no_norm() -> None:
    data = labelled(random_graph())
    trace = traced(data, loss=lambda output, target: (output.sum() * 0).sqrt())
    table = Observations(gradient_observations(trace, structure_of(data)))
    for name in ("deviation", "kernel_norm", "deviation_norm"):
        assert math.isnan(table.value(f"error.{name}.constant", "state:2"))
    assert math.isnan(table.value("error.output.mean"))
