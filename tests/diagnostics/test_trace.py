"""States and the maps between them, whatever the memory, the depth and the mode."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import pytest
import torch
from graphs import random_graph
from problems import CATALOGUE, Entry
from references import TOLERANCE, relative_error
from stubborn import Counting, Dropping, Failing, Noisy, SinglePrecision, gcn
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphfathom.diagnostics import trace as module
from graphfathom.diagnostics.gradients import gain_observations, gradient_observations
from graphfathom.diagnostics.segments import Segment
from graphfathom.diagnostics.trace import (
    CaptureError,
    ForwardError,
    NoLayersError,
    State,
    Trace,
    capture,
)
from graphfathom.problem import Problem

NAMES = ("GCN", "GCN jk=cat", "GCNII", "GraphCON", "edge states", "DeepGCN res+")
some = pytest.mark.parametrize("name", NAMES)


def find(name: str) -> Entry:
    """An entry of the catalogue."""
    return next(entry for entry in CATALOGUE if entry.name == name)


def gradients(trace: Trace) -> list[Tensor]:
    """Gradient of the loss in every state and in every layer's weights."""
    output = trace.output.detach().requires_grad_()
    cotangents = torch.autograd.grad(trace.problem.loss_of(output), output)
    found = []
    for k in reversed(range(trace.num_layers + 2)):
        cotangents, parts = trace.segment(k).vjp(cotangents, with_parameters=True)
        found += [*cotangents, *(part for part in parts if part is not None)]
    return found


@some
@pytest.mark.parametrize("byte_budget", [0, 1, 3000])
def test_blocks_of_any_size_give_exactly_the_same(name: str, byte_budget: int) -> None:
    problem = find(name).case().problem()
    whole, pieces = capture(problem), capture(problem, byte_budget=byte_budget)
    for a, b in zip(gradients(whole), gradients(pieces), strict=True):
        assert torch.equal(a, b)
    last = whole.num_layers
    for i, j in ((0, 1), (last - 1, last), (0, last)):
        a, b = whole.jacobian(i, j), pieces.jacobian(i, j)
        assert torch.equal(a.to_dense(), b.to_dense())
        v = torch.randn(a.shape[1])
        assert torch.equal(a.matvec(v), b.matvec(v))


class Count:
    """How many segments are alive, now and at most."""

    def __init__(self) -> None:
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()
        self.most = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Segment:
        segment = Segment(*args, **kwargs)
        self.alive.add(segment)
        self.most = max(self.most, len(self.alive))
        return segment


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Count:
    """A counter of the segments that a trace makes."""
    # Compared by identity: a dataclass that compares fields cannot be in a set.
    monkeypatch.setattr(Segment, "__hash__", object.__hash__)
    counter = Count()
    monkeypatch.setattr(module, "Segment", counter)
    return counter


@pytest.mark.parametrize(("byte_budget", "most"), [(0, 1), (10**9, 8)])
def test_no_more_segments_are_alive_than_the_budget_holds(
    count: Count, byte_budget: int, most: int
) -> None:
    trace = capture(Problem(gcn(6), random_graph()), byte_budget=byte_budget)
    gradient_observations(trace)
    gain_observations(trace, torch.Generator().manual_seed(0))
    trace.jacobian(0, 6).matvec(torch.randn(8 * 3))
    assert count.most == most


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_blocks_are_the_longest_that_fit(share: float) -> None:
    trace = capture(Problem(gcn(9), random_graph()))
    recording, plan = trace._recording, trace._plan
    sizes = [
        sum(recording.saved_bytes[begin:end])
        for begin, end in zip(plan.times[:-1], plan.times[1:], strict=True)
    ]
    budget = int(share * sum(sizes))
    blocks = module._blocks(recording, plan, budget)
    assert [j for a, b in blocks for j in range(a, b + 1)] == list(range(len(sizes)))
    for a, b in blocks:
        assert a == b or sum(sizes[a : b + 1]) <= budget
    for (a, b), (_, after) in itertools.pairwise(blocks):
        assert sum(sizes[a : b + 2]) > budget
        assert after > b


def test_saved_bytes_are_those_that_autograd_keeps() -> None:
    data = random_graph()
    trace = capture(Problem(gcn(5, cached=True), data))
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model = trace.problem.model
        model(data.x.clone().requires_grad_(), data.edge_index)
    counted = sum(trace._recording.saved_bytes)
    assert counted == pytest.approx(sum(kept), rel=0.05)


def plain_gradient(problem: Problem) -> Tensor:
    """Gradient of the loss in the features, by autograd."""
    x = problem.data.x.clone().requires_grad_()
    output = problem.model.eval()(x, problem.data.edge_index)
    (gradient,) = torch.autograd.grad(problem.loss_of(output), x)
    return gradient


@pytest.mark.parametrize("depth", [1, 2, 300])
def test_networks_of_any_depth(depth: int) -> None:
    problem = Problem(gcn(depth), random_graph())
    with torch.no_grad():
        for conv in problem.model.convs:
            conv.lin.weight.mul_(1.5)  # so that 300 layers leave something
    trace = capture(problem)
    assert trace.num_layers == depth
    assert trace.layers == tuple(f"convs.{k}" for k in range(depth))
    assert len(trace.states) == depth + 1
    assert torch.equal(trace.states[0].main, problem.data.x)
    assert torch.equal(trace.states[-1].main, trace.output)
    last = gradients(trace)[-1]
    assert relative_error(last, plain_gradient(problem)) < TOLERANCE


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        ("convs.*", ("convs.0", "convs.1", "convs.2")),
        ("convs.[12]", ("convs.1", "convs.2")),
        ("*.1", ("convs.1",)),
        ("convs.?.lin", ("convs.0.lin", "convs.1.lin", "convs.2.lin")),
    ],
)
def test_layers_may_be_named(pattern: str, layers: tuple[str, ...]) -> None:
    trace = capture(Problem(gcn(), random_graph()), pattern)
    assert trace.layers == layers


def test_a_pattern_that_nothing_matches_is_refused() -> None:
    with pytest.raises(NoLayersError, match=r"that matches 'blocks\.\*' was found"):
        capture(Problem(gcn(), random_graph()), "blocks.*")


def test_a_pattern_matches_whole_names_only() -> None:
    with pytest.raises(NoLayersError, match="that matches 'convs' was found"):
        capture(Problem(gcn(), random_graph()), "convs")


def same(a: Trace, b: Trace) -> bool:
    """Whether two traces have the same states and derivatives, to the bit."""
    pairs = zip(a.states, b.states, strict=True)
    states = all(torch.equal(x.main, y.main) for x, y in pairs)
    operators = (trace.jacobian(0, trace.num_layers) for trace in (a, b))
    return states and torch.equal(*(operator.to_dense() for operator in operators))


def test_filled_caches_change_nothing() -> None:
    model, data = gcn(cached=True), random_graph()
    fresh = capture(Problem(model, data))
    model(data.x, data.edge_index)
    held = model.convs[0]._cached_edge_index
    filled = capture(Problem(model, data))
    assert same(fresh, filled)
    assert model.convs[0]._cached_edge_index is held


@pytest.mark.parametrize("kind", [Counting, Dropping])
def test_a_forward_with_a_memory_is_always_at_its_first_call(kind: type[GCN]) -> None:
    problem = Problem(gcn(kind=kind), random_graph())
    whole, pieces = capture(problem), capture(problem, byte_budget=0)
    assert same(whole, pieces)


def test_a_forward_that_returns_other_numbers_is_refused() -> None:
    with pytest.raises(CaptureError, match="does not repeat itself: its forward retur"):
        capture(Problem(gcn(kind=Noisy), random_graph()))


class Elsewhere(GCN):
    """Takes another way at every other call, and remembers it out of reach."""

    calls: list[int] = []  # noqa: RUF012  (shared by all copies: that is the point)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        self.calls.append(1)
        x = x + 1 if len(self.calls) % 2 else x
        return super().forward(x, edge_index)


def test_a_forward_that_takes_another_way_is_refused() -> None:
    match = r"does not repeat itself: call 0 was \['add'\] and is now"
    with pytest.raises(CaptureError, match=match):
        capture(Problem(gcn(kind=Elsewhere), random_graph()))


def trained_norms(model: GCN) -> GCN:
    """The same with running statistics of a long training."""
    for norm in model.norms[:-1]:
        norm.module.running_mean.normal_()
        norm.module.running_var.uniform_(0.5, 2)
        norm.module.num_batches_tracked.fill_(9)
    return model


@pytest.mark.parametrize("mode", ["init", "eval"])
def test_norms_are_judged_in_the_mode_asked_for(mode: str) -> None:
    model, data = trained_norms(gcn(norm="batch_norm")), random_graph()
    trace = capture(Problem(model, data), mode=mode)
    model.train(mode == "init")

    def forward(x: Tensor) -> tuple[Tensor]:
        return (model(x, data.edge_index),)

    # Not jacrev: in training mode a norm changes its buffers.
    truth = torch.autograd.functional.jacobian(
        lambda x: forward(x)[0].reshape(-1), data.x
    ).reshape(trace.jacobian(0, 3).shape)
    assert relative_error(trace.jacobian(0, 3).to_dense(), truth) < TOLERANCE
    other = capture(Problem(model, data), mode={"init": "eval", "eval": "init"}[mode])
    assert relative_error(other.jacobian(0, 3).to_dense(), truth) > 0.01


def test_rows_of_a_batch_norm_depend_on_each_other_only_at_initialisation() -> None:
    data = random_graph()
    data.edge_index = data.edge_index[:, :0]
    problem = Problem(gcn(norm="batch_norm"), data)

    def mixes(mode: str) -> bool:
        blocks = capture(problem, mode=mode).jacobian(0, 1).to_dense()
        blocks = blocks.view(8, 4, 8, 3).abs().sum(dim=(1, 3))
        return bool((blocks - blocks.diag().diag()).any())

    assert mixes("init")
    assert not mixes("eval")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, None])
def test_the_precision_is_the_one_asked_for(dtype: torch.dtype | None) -> None:
    model, data = gcn().float(), random_graph()
    data.x = data.x.float()
    trace = capture(Problem(model, data), dtype=dtype)
    expected = dtype or torch.float32
    assert trace.dtype == trace.output.dtype == expected
    assert {state.main.dtype for state in trace.states} == {expected}
    assert trace.jacobian(0, 1).dtype == expected
    assert trace.notes == []


def test_a_precision_that_fails_is_replaced_and_said() -> None:
    data = random_graph()
    data.x = data.x.float()
    trace = capture(Problem(SinglePrecision(), data))
    assert trace.dtype == torch.float32
    (note,) = trace.notes
    assert note.startswith("Measured in float32: The forward pass of SinglePrecision")


def test_a_failing_forward_is_not_tried_for_ever() -> None:
    for dtype in (torch.float64, None):
        with pytest.raises(ForwardError, match=r"failed in `convs\.1\.lin`"):
            capture(Problem(Failing(), random_graph()), dtype=dtype)


def test_frozen_weights_do_not_hide_the_gradient() -> None:
    model, data = gcn(), random_graph()
    free = capture(Problem(model, data))
    frozen = capture(Problem(model.requires_grad_(False), data))
    assert same(free, frozen)
    assert all(frozen.segment(k).parameters == () for k in range(5))


def test_a_caller_without_gradients_gets_the_same_trace() -> None:
    problem = Problem(gcn(), random_graph())
    with torch.no_grad():
        inside = capture(problem)
    assert same(inside, capture(problem))


def test_parameters_of_a_layer_are_in_its_segment() -> None:
    trace = capture(Problem(gcn(), random_graph()))
    names = {id(p): name for name, p in trace.problem.model.named_parameters()}
    for k in range(1, 4):
        found = {names[id(p)] for p in trace.segment(k).parameters}
        assert found == {f"convs.{k - 1}.bias", f"convs.{k - 1}.lin.weight"}
    assert trace.segment(0).parameters == trace.segment(4).parameters == ()


@pytest.mark.parametrize("k", [-1, 5])
def test_segments_out_of_range_are_refused(k: int) -> None:
    trace = capture(Problem(gcn(), random_graph()))
    with pytest.raises(ValueError, match=rf"`k` must be in \[0, 4\], .* Got {k}"):
        trace.segment(k)


def test_states_are_detached_and_named() -> None:
    trace = capture(find("GCNII").case().problem())
    assert [state.names for state in trace.states] == [
        ("x",),
        ("x", "x@0"),
        ("x", "x@0"),
        ("x",),
    ]
    assert torch.equal(trace.states[2].tensors[1], trace.states[0].main)
    assert not any(t.requires_grad for state in trace.states for t in state.tensors)
    assert repr(trace) == "Trace(GCNII, 3 layers, float64)"


def test_taps_are_not_carried() -> None:
    state = State(("x", "tap@1"), (torch.ones(1), torch.zeros(1)), ("tap@1",))
    assert state.main is state.tensors[0]
    assert state.carried == (state.tensors[0],)


def test_changing_the_data_later_changes_no_trace() -> None:
    data: Data = random_graph()
    trace = capture(Problem(gcn(), data), byte_budget=0)
    before = trace.jacobian(0, 3).to_dense()
    data.x.zero_()
    data.edge_index.zero_()
    assert torch.equal(trace.jacobian(0, 3).to_dense(), before)
