"""Smoothing of the error signal, against dense projections."""

from __future__ import annotations

import pytest
import torch
from graphs import one_node, random_graph, two_components
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphfathom.diagnostics.gradients import gradient_observations
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.problem import Problem


def labelled(data: Data, classes: int | None = 2) -> Data:
    generator = torch.Generator().manual_seed(0)
    data.y = torch.randn(data.num_nodes, 2, generator=generator).double()
    if classes is not None:
        data.y = torch.randint(classes, (data.num_nodes,), generator=generator)
    return data


def traced(data: Data, depth: int = 4, **options: object) -> Trace:
    torch.manual_seed(0)
    model = GCN(data.x.shape[1], 5, depth, 2, act="tanh")
    return capture(Problem(model, data, **options))


def structure_of(data: Data) -> GraphStructure:
    return GraphStructure.from_edge_index(data.edge_index, data.num_nodes)


def projection(data: Data, kind: str) -> Tensor:
    """Onto what GCN's propagation, or a stochastic one, leaves alone; densely."""
    structure, size = structure_of(data), data.num_nodes
    base = torch.ones(size) if kind == "constant" else structure.root_degree
    columns = []
    for c in range(structure.num_components):
        column = torch.where(structure.component == c, base.double(), 0.0)
        columns.append(column / column.norm())
    basis = torch.stack(columns, 1)
    return basis @ basis.mT


@pytest.mark.parametrize("data", [random_graph(), two_components()])
def test_deviation_against_dense_projections(data: Data) -> None:
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
            expected = float((error - dense @ error).norm() / error.norm())
            found = table.value(f"error.deviation.{kind}", f"state:{k}")
            assert found == pytest.approx(expected, abs=1e-12)
    mean = projection(data, "constant") @ errors[-1]
    expected = float(mean.norm() / errors[-1].norm())
    found = table.value("error.output.constant")
    assert found == pytest.approx(expected, abs=1e-12)


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
