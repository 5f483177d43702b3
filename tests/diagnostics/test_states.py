"""Frames separate a network: nothing passes by."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from graphs import random_graph
from networks import GCNII
from problems import CATALOGUE, Entry
from stubborn import Embedded, LookupConv, gcn
from torch import Tensor, nn
from torch_geometric.nn import GCN, MLP, GCNConv

from graphfathom.diagnostics.recorder import Recording, record
from graphfathom.diagnostics.sandbox import Sandbox
from graphfathom.diagnostics.states import Plan, find_states
from graphfathom.diagnostics.trace import CaptureError, capture
from graphfathom.problem import Problem

pytestmark = pytest.mark.filterwarnings("ignore:.*[Ss]parse")

EXACT = [entry for entry in CATALOGUE if not entry.match]
exact = pytest.mark.parametrize("entry", EXACT, ids=lambda entry: entry.name)


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    """The group of the DistributedDataParallel entry ends with this file."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@functools.cache
def planned(entry: Entry) -> tuple[Recording, Plan]:
    """The recording and the plan of an entry; no test changes either."""
    return plan_of(entry.case().problem())


def plan_of(problem: Problem) -> tuple[Recording, Any]:
    """The recording of a problem, and what is made of it."""
    with Sandbox(problem, "eval").running() as safe:
        recording = record(safe)
    return recording, find_states(recording)


def reached(recording: Recording, starts: set[int], closed: set[int]) -> set[int]:
    """Values on paths from some values that do not pass through others."""
    found = set(starts) - closed
    for index, value in enumerate(recording.values):
        if index not in closed and value.parents & found:
            found.add(index)
    return found


def inputs(recording: Recording) -> set[int]:
    """The features."""
    return {i for i, value in enumerate(recording.values) if value.call < 0}


@exact
def test_every_path_to_the_output_crosses_every_frame(entry: Entry) -> None:
    recording, plan = planned(entry)
    assert recording.output_value in reached(recording, inputs(recording), set())
    for frame in plan.frames:
        passed = reached(recording, inputs(recording), set(frame))
        assert recording.output_value not in passed


@exact
def test_every_value_of_a_frame_is_read_behind_it(entry: Entry) -> None:
    recording, plan = planned(entry)
    values = recording.values
    needed = {recording.output_value}
    for index in reversed(range(len(values))):
        needed |= values[index].parents if index in needed else set()
    for frame, time in zip(plan.frames[:-1], plan.times[:-1], strict=True):
        later = [values[i].parents for i in needed if values[i].call >= time]
        read = set().union(*later) | {recording.output_value}
        assert set(frame) <= read


@exact
def test_every_path_crosses_the_frames_in_their_order(entry: Entry) -> None:
    recording, plan = planned(entry)
    assert list(plan.times) == sorted(plan.times)
    for before, after in zip(plan.frames[:-1], plan.frames[1:], strict=True):
        later = reached(recording, set(after), set(before))
        # Nothing behind a frame leads back to what precedes it.
        assert not later & (set(before) - set(after))


@exact
def test_frames_begin_with_the_features_and_end_with_the_output(entry: Entry) -> None:
    recording, plan = planned(entry)
    assert set(plan.frames[0]) <= inputs(recording)
    assert plan.frames[-1] == (recording.output_value,)
    assert len(plan.frames) == len(plan.times) == len(plan.layers) + 3
    assert (plan.times[0], plan.times[-1]) == (0, len(recording.calls))
    assert all(plan.frames)


@exact
def test_each_layer_lies_between_its_frames(entry: Entry) -> None:
    recording, plan = planned(entry)
    for k, name in enumerate(plan.layers, start=1):
        begin, end = plan.times[k], plan.times[k + 1]
        starts = [event.start for event in recording.events]
        first = name.split(" + ")[0].removesuffix(".propagate")
        assert begin < end, name
        around = [e for e in recording.events if e.name.startswith(first.split(".")[0])]
        assert starts
        assert any(e.start < end and e.stop > begin for e in around), name


@exact
def test_only_values_that_can_be_replaced_are_cut(entry: Entry) -> None:
    recording, plan = planned(entry)
    for frame in plan.frames[:-1]:
        assert all(recording.values[i].position is not None for i in frame)


@exact
def test_taps_are_read_by_no_later_layer(entry: Entry) -> None:
    recording, plan = planned(entry)
    for j, taps in enumerate(plan.taps):
        assert taps <= set(plan.frames[j])
        for value in recording.values:
            inside = plan.times[j] <= value.call < plan.times[-2]
            assert not (inside and value.parents & taps)


def test_a_network_without_messages_has_no_plan() -> None:
    _, plan = plan_of(Problem(MLP([3, 4, 2], norm=None), random_graph()))
    assert plan is None


class Beside(nn.Module):
    """Its convolution has no influence on its output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lin = GCNConv(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        self.conv(x, edge_index)
        return self.lin(x)


class Detached(nn.Module):
    """Its output does not depend on its features as far as gradients can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lin = GCNConv(3, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.lin(self.conv(x, edge_index).detach())


@pytest.mark.parametrize("kind", [Beside, Detached])
def test_layers_off_the_path_are_no_layers(kind: type[nn.Module]) -> None:
    _, plan = plan_of(Problem(kind(), random_graph()))
    assert plan is None


@pytest.mark.parametrize("name", ["x[:, :2] += h[:, :2]"])
def test_a_state_changed_in_place_is_a_reason_not_to_cut(name: str) -> None:
    entry = next(entry for entry in CATALOGUE if entry.name == name)
    _, plan = plan_of(entry.case().problem())
    assert isinstance(plan, str)
    assert "is changed in place and cannot be cut" in plan
    with pytest.raises(CaptureError, match=r"PreActivation cannot be cut between its"):
        capture(entry.case().problem())


def test_embedded_features_are_a_state_or_a_reason_not_to_cut() -> None:
    data = random_graph()
    data.x = torch.arange(8) % 5
    recording, plan = plan_of(Problem(Embedded(2), data))
    (first,) = plan.frames[1]
    # Behind the sum of the embeddings, not behind one of them.
    assert len(recording.values[first].parents) == 2
    _, reason = plan_of(Problem(LookupConv(), data))
    assert reason == "the features are embedded inside its first layer"


class DeepConv(GCNII):
    """A whole model whose name ends like that of a layer."""


def test_a_model_called_like_a_layer_is_opened() -> None:
    model = DeepConv(4, 5, nn.Linear(4, 2))
    _, plan = plan_of(Problem(model, random_graph()))
    assert plan.layers == tuple(f"convs.{k}" for k in range(5))
    assert [len(frame) for frame in plan.frames] == [1, 1, 2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize("depth", [1, 2, 7])
def test_a_chain_has_one_value_per_frame(depth: int) -> None:
    _, plan = plan_of(Problem(gcn(depth), random_graph()))
    assert [len(frame) for frame in plan.frames] == [1] * (depth + 3)
    assert plan.taps == (frozenset(),) * (depth + 3)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_an_input_that_cannot_be_replaced_is_a_reason_not_to_cut(
    num_layers: int,
) -> None:
    recording, _ = plan_of(Problem(GCN(3, 4, num_layers, 2), random_graph()))
    for value in recording.values:
        value.position = None
    plan = find_states(recording)
    assert plan == "the tensor after the input is changed in place and cannot be cut"
