"""Frozen layers and joined pairs, counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from graphs import isolated_node, no_edges, twelve_nodes, two_components
from snapshots import differences, snapshot
from stubborn import Locked
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN
from torch_geometric.utils import to_undirected

from graphfathom.diagnostics import frozen
from graphfathom.diagnostics.energy import effective_rank
from graphfathom.diagnostics.frozen import frozen_observations
from graphfathom.diagnostics.graph_facts import density_observations
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem


def measured(model: nn.Module) -> Observations:
    problem = Problem(model, twelve_nodes())
    return Observations(frozen_observations(problem, capture(problem)))


def density(data: Data) -> list[float]:
    structure = GraphStructure.from_edge_index(data.edge_index, data.num_nodes)
    return [row.value for row in density_observations(structure)]


def test_the_share_of_frozen_parameters() -> None:
    model = GCN(3, 4, 3, 2)
    model.convs[1].lin.weight.requires_grad_(False)  # 16 of 16 + 4
    model.convs[2].requires_grad_(False)
    table = measured(model)
    assert table.series("weights.frozen") == ([1, 2, 3], [0, 16 / 20, 1])
    weights = [conv.lin.weight.detach() for conv in list(model.convs)[1:]]
    ranks = [float(effective_rank(weight)) for weight in weights]
    assert table.series("weights.frozen.rank") == ([2, 3], pytest.approx(ranks))


def test_the_rank_of_a_frozen_layer() -> None:
    model = GCN(3, 4, 2, 2)
    with torch.no_grad():
        model.convs[0].lin.weight[:] = torch.outer(torch.randn(4), torch.randn(3))
    model.convs[0].requires_grad_(False)
    assert measured(model).value("weights.frozen.rank", "layer:1") == pytest.approx(1)
    nn.init.zeros_(model.convs[0].lin.weight)
    assert measured(model).value("weights.frozen.rank", "layer:1") == 0


def test_large_matrices_are_not_decomposed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "MAX_ENTRIES", 5)
    model = GCN(3, 4, 2, 2)
    model.convs[0].requires_grad_(False)
    assert math.isnan(measured(model).value("weights.frozen.rank", "layer:1"))


@pytest.mark.parametrize("trained", [True, False])
def test_all_or_nothing_is_no_matter(trained: bool) -> None:
    assert not len(measured(GCN(3, 4, 2, 2).requires_grad_(trained)))


def test_a_model_that_cannot_be_copied() -> None:
    model = Locked(3, 4, 2, 2)
    next(model.parameters()).requires_grad_(False)
    assert not len(measured(model))


def test_the_model_is_left_alone() -> None:
    model = GCN(3, 4, 2, 2)
    model.convs[0].requires_grad_(False)
    problem = Problem(model, twelve_nodes())
    trace = capture(problem)
    before = snapshot(model, problem.data)
    frozen_observations(problem, trace)
    assert not differences(before, snapshot(model, problem.data))


def test_joined_pairs() -> None:
    assert density(two_components()) == [(3 + 2) / (3 + 3)]
    assert density(isolated_node()) == [3 / 6]
    assert density(no_edges()) == []
    pair = Data(x=torch.eye(2), edge_index=torch.tensor([[0, 1], [1, 0]]))
    assert density(pair) == []


def test_a_complete_graph_with_loops_and_doubled_edges() -> None:
    pairs = torch.combinations(torch.arange(5), with_replacement=True).T
    edges = torch.cat([to_undirected(pairs), pairs], dim=1)
    assert density(Data(x=torch.eye(5), edge_index=edges)) == [1.0]
