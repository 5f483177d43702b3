"""One forward pass as a graph of the tensors that Python sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import hetero_graph, random_graph
from problems import CATALOGUE
from snapshots import differences, snapshot
from stubborn import Embedded, Failing, gcn
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphfathom.diagnostics.recorder import (
    ForwardError,
    Recording,
    attach,
    call_name,
    flat_tensors,
    record,
    sources_of,
)
from graphfathom.problem import Problem

EXACT = [entry for entry in CATALOGUE if not entry.match]


def recorded(function: Callable[[Tensor], Any]) -> Recording:
    """The recording of a function of the features."""
    data = random_graph()
    return record(Problem(nn.Identity(), data, lambda _, data: function(data.x)))


def ancestors(recording: Recording, index: int | None) -> set[int]:
    """All values that a value was computed from, with itself."""
    found: set[int] = set()
    pending = [] if index is None else [index]
    while pending:
        current = pending.pop()
        if current not in found:
            found.add(current)
            pending += recording.values[current].parents
    return found


def test_a_chain_of_operations_is_a_chain_of_values() -> None:
    recording = recorded(lambda x: x.sin().cos().tanh())
    assert recording.calls == ["sin", "cos", "tanh"]
    assert [value.call for value in recording.values] == [-1, 0, 1, 2]
    parents = [set(value.parents) for value in recording.values]
    assert parents == [set(), {0}, {1}, {2}]
    assert recording.output_value == 3
    assert recording.sourced == [True] * 4
    assert recording.values[3].shape == (8, 3)


def test_a_sum_has_both_terms_as_parents() -> None:
    recording = recorded(lambda x: x.sin() + x.cos())
    last = recording.values[recording.output_value]
    assert {recording.values[i].call for i in last.parents} == {0, 1}


def test_a_change_in_place_makes_a_new_value() -> None:
    def function(x: Tensor) -> Tensor:
        h = x.sin()
        h += x.cos()
        return h

    recording = recorded(function)
    last = recording.values[recording.output_value]
    assert {recording.values[i].call for i in last.parents} == {0, 1}
    assert len(recording.values) == 4


def test_a_view_changed_in_place_cannot_be_replaced() -> None:
    def function(x: Tensor) -> Tensor:
        h = x.sin()
        h[:, 0] *= 2
        return h.cos()

    recording = recorded(function)
    changed = [value for value in recording.values if value.position is None]
    assert len(changed) >= 1


def test_detached_tensors_are_not_computed_from_the_features() -> None:
    recording = recorded(lambda x: x.detach() * 2)
    assert recording.output_value is None
    weight = nn.Parameter(torch.ones(3))
    recording = recorded(lambda x: (x.detach() + weight).exp())
    assert recording.output_value is not None
    assert not recording.sourced[recording.output_value]


def test_hidden_operations_are_looked_through() -> None:
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x.sin()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    recording = recorded(lambda x: Hidden.apply(x.tanh()).cos())
    assert recording.sourced[recording.output_value]
    assert 0 in ancestors(recording, recording.output_value)


def test_tuples_of_tensors_are_numbered() -> None:
    recording = recorded(lambda x: torch.cat(x.sin().split([1, 2], dim=1)[::-1], dim=1))
    parts = [value for value in recording.values if value.call == 1]
    assert [value.position for value in parts] == [0, 1]
    assert [value.shape for value in parts] == [(8, 1), (8, 2)]


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize("entry", EXACT, ids=lambda entry: entry.name)
def test_the_values_are_a_graph_in_call_order(entry: Any) -> None:
    case = entry.case()
    before = snapshot(case.model, case.data)
    problem = case.problem()
    with torch.compiler.set_stance("force_eager"):
        recording = record(problem)
    values = recording.values
    for index, value in enumerate(values):
        assert all(parent < index for parent in value.parents)
        assert all(values[parent].call <= value.call for parent in value.parents)
        assert -1 <= value.call < len(recording.calls)
    # The output depends on the features, and its shape is that of its value.
    origins = ancestors(recording, recording.output_value)
    assert any(values[i].call == -1 for i in origins)
    assert values[recording.output_value].shape == recording.output.shape
    assert not recording.output.requires_grad
    assert len(recording.saved_bytes) == len(recording.calls) + 1
    assert recording.events
    changed = differences(before, snapshot(case.model, case.data))
    allowed = ("running", "tracked", "cached", "_buffers", "attribute", "random")
    # Not a sandbox: norms and caches may move, but no hook stays and no weight changes.
    assert all(any(word in name for word in allowed) for name in changed)
    assert not [name for name in changed if "hooks" in name or "parameter" in name]


def test_recorded_graphs_keep_no_tensors() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    held: list[Tensor] = []
    recording = recorded(lambda x: held.append((x @ weight).exp()) or held[0])
    with pytest.raises(RuntimeError, match="The recorded graph keeps no tensors"):
        held[0].sum().backward()
    # exp saves its output, of 8 x 3 float64; the product saves the features.
    assert recording.saved_bytes == [8 * 3 * 8, 8 * 3 * 8, 0]


def test_rows_are_mixed_by_products_and_scatters() -> None:
    adj, (to, source) = torch.rand(8, 8), random_graph().edge_index
    for function in (
        lambda x: adj @ x,
        lambda x: torch.mm(adj, x),
        lambda x: torch.zeros(8, 3).index_add(0, to, x[source]),
        lambda x: x.scatter_reduce(0, to[:24].view(8, 3), x, "sum"),
    ):
        assert len(recorded(function).events) == 1


def test_rows_are_not_mixed_by_linear_maps_and_sums() -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    assert recorded(lambda x: (x @ weight).relu() + x.mean(dim=0)).events == []
    # A product of constants is no message passing.
    adj = torch.rand(8, 8)
    assert recorded(lambda x: x + (adj @ torch.ones(8, 3))).events == []


def test_the_features_are_x_and_nothing_beside_it() -> None:
    data = random_graph()
    data.pos = torch.rand(8, 2)
    data.edge_attr = torch.rand(data.num_edges, 2)
    assert sources_of(Problem(gcn(), data)) == [data.x]


def test_without_x_the_arguments_with_a_row_per_node_are_features() -> None:
    data = Data(pos=torch.rand(8, 2), edge_index=random_graph().edge_index)
    data.adj, data.weight = torch.rand(8, 8), torch.rand(5)
    problem = Problem(nn.Identity(), data, lambda model, data: model(data.pos))
    assert sources_of(problem) == [data.pos]


def test_features_of_each_kind_of_node() -> None:
    data = hetero_graph()
    problem = Problem(nn.Identity(), data, lambda model, data: data["paper"].x)
    assert sources_of(problem) == [data["paper"].x, data["author"].x]


def test_the_first_argument_of_a_call_is_the_features() -> None:
    data = random_graph()
    problem = Problem(gcn(), ((data.x, data.edge_index), {"edge_weight": None}))
    assert sources_of(problem) == [data.x]
    named = Problem(gcn(), ((), {"x": data.x, "edge_index": data.edge_index}))
    assert sources_of(named) == [data.x]


def test_integer_features_enter_where_they_are_embedded() -> None:
    data = random_graph()
    data.x = torch.arange(8) % 5
    problem = Problem(Embedded(), data)
    assert sources_of(problem) == []
    recording = record(problem)
    first = recording.sourced.index(True)
    assert recording.calls[recording.values[first].call] == "embedding"


def test_features_are_replaced_by_identity() -> None:
    data = random_graph()
    data.twin = data.x.clone()
    problem = Problem(gcn(), data)
    other = torch.zeros(8, 3)
    replaced = attach(problem, [data.x], {id(data.x): other})
    assert replaced.data.x is other
    assert replaced.data.twin is data.twin
    assert problem.data.x is data.x


@pytest.mark.parametrize(
    ("output", "count"),
    [
        (torch.ones(1), 1),
        ((torch.ones(1), [torch.ones(2)]), 2),
        ({"a": torch.ones(1)}, 0),
        ("text", 0),
        (None, 0),
    ],
)
def test_tensors_of_a_result_are_flattened(output: Any, count: int) -> None:
    assert len(flat_tensors(output)) == count


def test_calls_have_stable_names() -> None:
    assert call_name(torch.sin) == "sin"
    assert call_name(torch.mm) == "mm"
    assert call_name(Tensor.T.__get__) == call_name(Tensor.T.__get__)


class Raising(GCN):
    """Fails before its first layer."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        raise KeyError("absent")


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (Failing(), r"^The forward pass of Failing failed in `convs\.1\.lin`: Runtime"),
        (
            gcn(kind=Raising),
            r"^The forward pass of Raising failed in `Raising`: Key",
        ),
    ],
)
def test_failures_name_the_layer(model: nn.Module, match: str) -> None:
    with pytest.raises(ForwardError, match=match) as failure:
        record(Problem(model, random_graph()))
    assert type(failure.value.__cause__) in (RuntimeError, KeyError)
    hooks = [vars(m)["_forward_pre_hooks"] for m in model.modules()]
    assert not any(hooks)


def test_an_empty_output_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least one entry. Got shape \(0, 3\)"):
        recorded(lambda x: x[:0])


def test_an_output_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="Identity returned a tuple of 2 items"):
        recorded(lambda x: (x, x))
