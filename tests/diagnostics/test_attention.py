"""Entropy of attention coefficients, beside those that PyG's layers return."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import isolated_node, path_graph, twelve_nodes
from snapshots import differences, snapshot
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import (
    GAT,
    GCN,
    FAConv,
    GATConv,
    GATv2Conv,
    MessagePassing,
    TransformerConv,
)

from graphfathom.diagnostics.attention import attention_entropy, attention_observations
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem


class Two(nn.Module):
    """Two layers, the second of which may be the first."""

    def __init__(self, first: MessagePassing, second: MessagePassing) -> None:
        super().__init__()
        self.convs = nn.ModuleList([first, second])

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, edge_index).tanh()
        return x


def measured(model: nn.Module, data: Data) -> Observations:
    return Observations(attention_observations(capture(Problem(model, data))))


def dense_entropy(weights: Tensor, target: Tensor, num_nodes: int) -> list[float]:
    """Node by node and head by head, by the definition."""
    found = []
    for node in range(num_nodes):
        for row in weights.detach()[target == node].T:
            if len(row) > 1:
                terms = [-float(a) * math.log(a) for a in row if a > 0]
                found.append(sum(terms) / math.log(len(row)))
    return found


LAYERS = [
    lambda: GATConv(3, 2, heads=3, concat=False),
    lambda: GATConv(3, 2, add_self_loops=False),
    lambda: GATv2Conv(3, 2, heads=2, concat=False),
    lambda: TransformerConv(3, 2, heads=2, concat=False),
]


@pytest.mark.parametrize("data", [twelve_nodes(), isolated_node(), path_graph()])
@pytest.mark.parametrize("make", LAYERS)
def test_entropy_of_pygs_layers(make: Callable[[], Any], data: Data) -> None:
    torch.manual_seed(0)
    first = make()
    second = GATConv(2, 2)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.mul_(3)  # far from uniform
    table = measured(Two(first, second), data)
    _, (edges, weights) = first(data.x, data.edge_index, return_attention_weights=True)
    expected = torch.tensor(dense_entropy(weights, edges[1], data.num_nodes))
    assert table.value("attention.entropy", "layer:1") == pytest.approx(
        float(expected.mean())
    )
    assert table.value("attention.spread", "layer:1") == pytest.approx(
        float(expected.std(correction=0)), abs=1e-12
    )
    assert math.isfinite(table.value("attention.entropy", "layer:2"))


def test_equal_coefficients_have_entropy_one() -> None:
    target = torch.tensor([0, 0, 1, 1, 1, 2])
    weights = torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1.0])
    entropy = attention_entropy(weights[:, None], target)
    torch.testing.assert_close(entropy, torch.ones(2, 1))


def test_one_that_alone_counts_has_entropy_zero() -> None:
    entropy = attention_entropy(torch.tensor([[1.0], [0.0]]), torch.tensor([3, 3]))
    assert entropy.tolist() == [[0.0]]


@pytest.mark.parametrize("frozen", [False, True])
def test_whether_training_can_change_it(frozen: bool) -> None:
    model = GAT(3, 4, 2, 2)
    for name, parameter in model.named_parameters():
        if "att" in name:
            nn.init.zeros_(parameter)
            parameter.requires_grad_(not frozen)
    table = measured(model, twelve_nodes())
    for place in ("layer:1", "layer:2"):
        assert table.value("attention.entropy", place) == pytest.approx(1)
        learnable = table.value("attention.learnable", place)
        assert (learnable == -math.inf) is frozen


def test_queries_and_keys_of_zero_stay_zero() -> None:
    """Each has no gradient because the other is zero, though both may train."""
    convs = TransformerConv(3, 3), TransformerConv(3, 2)
    for conv in convs:
        for part in (conv.lin_query, conv.lin_key):
            for parameter in part.parameters():
                nn.init.zeros_(parameter)
    table = measured(Two(*convs), twelve_nodes())
    assert table.series("attention.learnable") == ([1, 2], [-math.inf, -math.inf])


def test_repeated_calls_are_layers_of_their_own() -> None:
    conv = GATConv(3, 3)
    with torch.no_grad():
        conv.lin.weight.mul_(3)
    data = twelve_nodes()
    data.y = data.x.clone()
    table = measured(Two(conv, conv), data)
    indices, values = table.series("attention.entropy")
    assert indices == [1, 2]
    state = conv(data.x, data.edge_index).tanh()
    _, (edges, weights) = conv(state, data.edge_index, return_attention_weights=True)
    expected = dense_entropy(weights, edges[1], data.num_nodes)
    assert values[1] == pytest.approx(sum(expected) / len(expected))


def test_layers_without_attention_have_none() -> None:
    assert not len(measured(GCN(3, 4, 2, 2), twelve_nodes()))


def test_what_does_not_add_up_to_one_is_no_attention() -> None:
    """FAConv keeps its tanh gates under the same name."""

    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = FAConv(3)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return self.conv(x, x, edge_index)

    data = twelve_nodes()
    data.y = data.x.clone()
    assert not len(measured(Gates(), data))


def test_nodes_with_one_message_say_nothing() -> None:
    data = Data(
        x=torch.eye(3), edge_index=torch.tensor([[0, 1], [1, 2]]), y=torch.arange(3) % 2
    )
    model = Two(
        GATConv(3, 2, add_self_loops=False), GATConv(2, 2, add_self_loops=False)
    )
    assert not len(measured(model, data))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_in_the_callers_precision(dtype: torch.dtype) -> None:
    data = twelve_nodes()
    data.x = data.x.to(dtype)
    model = GAT(3, 4, 2, 2).to(dtype)
    trace = capture(Problem(model, data), dtype=None)
    table = Observations(attention_observations(trace))
    assert table.value("attention.entropy", "layer:1") == pytest.approx(
        measured(model.double(), twelve_nodes()).value("attention.entropy", "layer:1"),
        abs=1e-2,
    )


def test_the_model_is_left_alone() -> None:
    data = twelve_nodes()
    model = GAT(3, 4, 2, 2, dropout=0.5).train()
    trace = capture(Problem(model, data))
    before = snapshot(model, data)
    attention_observations(trace)
    assert not differences(before, snapshot(model, data))
    modules = trace.problem.model.modules()
    hooked = [m for m in modules if isinstance(m, MessagePassing)]
    assert not any(m._edge_update_forward_hooks for m in hooked)
    assert not any(m._message_forward_hooks for m in hooked)
