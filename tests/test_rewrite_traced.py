"""A diagnosis sees the states of a rewritten network, and the maps between them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import random_graph
from problems import Case, Entry
from references import TOLERANCE, dense_jacobian, relative_error
from rewritten import FORMS
from snapshots import differences, snapshot
from test_rewrite_catalogue import TAKEN, rewritten
from torch import Tensor, nn
from torch_geometric.nn import GCN, GATConv, GCNConv

import graphfathom
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.nn.models import GNNSSM
from graphfathom.nn.transition import Centered, Dense, Rotation, Scalar, Transition
from graphfathom.problem import Problem
from graphfathom.rewrite import StateSpaceModel, to_state_space

pytestmark = pytest.mark.filterwarnings("ignore:.*Sparse")

WIDTH = 6

LATER: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "DeepGCN res+ first conv": lambda model, x: model.layers[0].act(
        model.layers[0].norm(x)
    ),
}
"""Name -> what lies between the last state of the network and that of the trace.

Both are right: a function in front of the read-out is part of it, and the trace has
its last state as late as it can.
"""


class Residual(nn.Module):
    """A block that adds to its input by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(WIDTH, WIDTH)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return x + self.conv(x, edge_index).relu()


class ByHand(nn.Module):
    """Norm, activation and dropout as functions between the layers, or blocks alone."""

    def __init__(
        self,
        layer: Callable[[], nn.Module],
        norm: Callable[[int], nn.Module] | None = None,
        *,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, WIDTH)
        self.convs = nn.ModuleList(layer() for _ in range(4))
        self.norms = nn.ModuleList(norm(WIDTH) for _ in range(4)) if norm else None
        self.relu = relu
        self.readout = nn.Linear(WIDTH, 2)

    def after(self, k: int, x: Tensor) -> Tensor:
        if self.norms is not None:
            x = self.norms[k](x)
        return F.dropout(x.relu(), 0.5, self.training) if self.relu else x

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        for k, conv in enumerate(self.convs):
            x = self.after(k, conv(x, edge_index))
        return self.readout(x)


def with_hooks() -> nn.Module:
    """Hooks of the caller's own, in front of a layer."""
    model = ByHand(lambda: GCNConv(WIDTH, WIDTH))
    for conv in model.convs:
        conv.register_forward_pre_hook(lambda _, args: (args[0].tanh(), *args[1:]))
    return model


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "GCN": (lambda: ByHand(lambda: GCNConv(WIDTH, WIDTH)), "boundary"),
    "GCN batch norm": (
        lambda: ByHand(lambda: GCNConv(WIDTH, WIDTH), nn.BatchNorm1d),
        "boundary",
    ),
    "GAT with residual": (
        lambda: ByHand(lambda: GATConv(WIDTH, 3, heads=2, residual=True)),
        "boundary",
    ),
    "residual within": (lambda: ByHand(Residual), "boundary"),
    "residual": (lambda: ByHand(Residual, relu=False), "block"),
}
PAIRS: tuple[Callable[[], tuple[Transition, Transition]], ...] = (
    lambda: (Scalar(0.75), Scalar(0.25)),
    lambda: (Scalar(1.0), Centered(0.5)),
    lambda: (Rotation(0.9, seed=1), Dense(seed=2)),
)


def judged(form: StateSpaceModel) -> StateSpaceModel:
    """A copy in the mode that a trace judges: fresh norms take the batch."""
    form = copy.deepcopy(form).eval()
    for module in form.modules():
        if int(getattr(module, "num_batches_tracked", None) or 0) == 0:
            module.training = isinstance(module, nn.BatchNorm1d)
    return form


def dense(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Jacobian by plain autograd: torch.func takes no layers that change a buffer."""
    found = torch.autograd.functional.jacobian(function, x.detach())
    assert isinstance(found, Tensor)  # of one tensor in one tensor
    return found.reshape(x.numel(), x.numel())


def check(trace: Trace, problem: Problem, later: Any = None) -> None:
    """The trace has the states of the network, and the Jacobians between them.

    It may have further layers before and behind: those that change the width.
    """
    form = judged(problem.model)  # pyright: ignore[reportArgumentType]
    run = problem.replace(form, problem.data).run
    with form.watch() as watched:
        run()
    states = [state.detach() for state in watched]
    tail = (lambda x: x) if later is None else functools.partial(later, form)
    with torch.no_grad():
        states[-1] = tail(states[-1])
    assert [len(state.carried) for state in trace.states] == [1] * len(trace.states)
    first = f"layer.{form.step_names[0]}"
    shift = next(k for k, n in enumerate(trace.layers) if n.startswith(first))
    assert trace.num_layers - form.num_steps - shift in (0, 1)
    for k, state in enumerate(states):
        found = trace.states[k + shift].main
        torch.testing.assert_close(found, state, rtol=1e-11, atol=1e-11)
    for k in range(form.num_steps):
        step = form.segment(k, k + 1, run)
        ends = tail if k + 1 == form.num_steps else (lambda x: x)
        truth = dense(lambda x, f=step, g=ends: g(f(x)), watched[k])
        found = trace.jacobian(k + shift, k + shift + 1).to_dense()
        assert relative_error(found, truth) < TOLERANCE, f"step {k + 1}"


# What carries its state by itself admits a scaled step only, the first pair.
@pytest.mark.parametrize(
    ("name", "pair"),
    [
        (name, pair)
        for name in NETWORKS
        for pair in PAIRS[: 1 if name.startswith("residual") else None]
    ],
)
def test_a_network_by_hand(name: str, pair: Any) -> None:
    build, kind = NETWORKS[name]
    model, data = build(), random_graph()
    problem = Problem(model, data)
    state, message = pair()
    form = to_state_space(model, problem, state=state, input=message)
    assert form.form == kind
    deep = problem.replace(form, data)
    check(capture(deep), deep)
    check(capture(deep, layers="layer.convs.*"), deep)


@pytest.mark.parametrize("pair", PAIRS)
def test_states_and_jacobians_written_by_hand(pair: Any) -> None:
    """The form itself has no part in this truth."""
    model, data = ByHand(lambda: GCNConv(WIDTH, WIDTH), nn.LayerNorm), random_graph()
    state, message = pair()
    problem = Problem(model, data)
    form = to_state_space(model, problem, state=state, input=message)
    trace = capture(problem.replace(form, data))
    keep, take = (part.matrix() for part in (state, message))
    model.eval()

    def step(x: Tensor, k: int) -> tuple[Tensor]:
        h = model.after(k, model.convs[k](x, data.edge_index))
        return (x @ keep.T + h @ take.T,)

    x = model.encoder(data.x).detach()
    for k in range(4):
        torch.testing.assert_close(trace.states[k].main, x)
        truth = dense_jacobian(functools.partial(step, k=k), (x,))
        found = trace.jacobian(k, k + 1).to_dense()
        assert relative_error(found, truth) < TOLERANCE
        x = step(x, k)[0].detach()
    torch.testing.assert_close(trace.states[4].main, x)


@pytest.mark.parametrize("entry", TAKEN, ids=lambda entry: entry.name)
def test_every_network_of_the_catalogue(entry: Entry) -> None:
    case: Case = entry.case()
    form = rewritten(case, 0.75, 0.25)
    problem = case.problem().replace(form, case.data)
    trace = capture(problem)
    if entry.match:  # its Jacobian is refused, in this form too
        with pytest.raises(ValueError, match=entry.match):
            trace.jacobian(0, 1)
        return
    check(trace, problem, LATER.get(entry.name))


@pytest.mark.parametrize("checkpoint", ["none", "sqrt"])
def test_a_network_in_this_form_from_the_start(checkpoint: str) -> None:
    model, data = (
        GNNSSM(3, WIDTH, 2, num_layers=4, checkpoint=checkpoint),
        random_graph(),
    )
    trace = capture(Problem(model, data))
    with model.eval().watch() as states:
        model(data.x, data.edge_index)
    for found, state in zip(trace.states, states, strict=True):
        torch.testing.assert_close(found.main, state.detach())


def test_layers_that_are_computed_again_are_traced_as_ever() -> None:
    model, data = GCN(3, WIDTH, 4, 2), random_graph()
    problem = Problem(model, data)
    form = to_state_space(model, problem, state=Scalar(0.75), input=Scalar(0.25))
    expected = capture(problem.replace(form, data))
    form.checkpoint = "sqrt"
    found = capture(problem.replace(form, data))
    for state, other in zip(found.states, expected.states, strict=True):
        assert torch.equal(state.main, other.main)


def test_hooks_of_the_caller_run_where_they_did() -> None:
    """What they do before the state is put in belongs to the layer before."""
    model, data = with_hooks().eval(), random_graph()
    problem = Problem(model, data)
    form = to_state_space(model, problem, state=Scalar(0.75), input=Scalar(0.25))
    deep = problem.replace(form, data)
    with form.watch() as states:
        expected = deep.run()
    trace = capture(deep)
    for found, state in zip(trace.states, states, strict=True):
        torch.testing.assert_close(found.main, state.detach())
    torch.testing.assert_close(trace.output, expected.detach())


def orders(model: nn.Module) -> list[list[int]]:
    """The hooks of every module in the order in which they run."""
    names = ("_forward_pre_hooks", "_forward_hooks")
    return [
        [id(hook) for hook in vars(module)[name].values()]
        for module in model.modules()
        for name in names
    ]


@pytest.mark.parametrize("name", [*NETWORKS, "hooks of the caller"])
def test_a_diagnosis_leaves_the_hooks_and_their_order(name: str) -> None:
    build = NETWORKS[name][0] if name in NETWORKS else with_hooks
    model, data = build(), random_graph()
    pair = PAIRS[0]()
    form = to_state_space(model, Problem(model, data), state=pair[0], input=pair[1])
    before, hooks = snapshot(form, data), orders(form)
    graphfathom.diagnose(form, data)
    assert differences(before, snapshot(form, data)) == []
    assert orders(form) == hooks


def test_a_diagnosis_of_a_network_without_copy_leaves_the_order_of_hooks() -> None:
    """It is run itself, and its own hooks are between those of the diagnosis."""
    model, data = with_hooks(), random_graph()
    form = to_state_space(
        model, Problem(model, data), state=Scalar(0.75), input=Scalar(0.25)
    )
    expected = [state.main for state in capture(Problem(form, data)).states]
    form.layer.locked = (one for one in ())  # no generator can be copied
    hooks = orders(form)
    trace = capture(Problem(form, data))
    assert "cannot be copied" in trace.notes[0]
    assert orders(form) == hooks
    for state, other in zip(trace.states, expected, strict=True):
        torch.testing.assert_close(state.main, other)


@pytest.mark.parametrize("name", FORMS)
def test_in_half_precision_the_states_are_the_network_s(
    name: str, float32_default: None
) -> None:
    data = random_graph()
    data.x = data.x.float()
    problem = Problem(FORMS[name](), data, mode="eval")
    form = to_state_space(
        problem.model, problem, state=Scalar(0.75), input=Scalar(0.25)
    ).eval()
    deep = problem.replace(form, data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with form.watch() as states:
            deep.run()
        trace = capture(deep, dtype=None)
    shift = trace.layers.index(f"layer.{form.step_names[0]}") if name != "block" else 0
    for k, state in enumerate(states):
        assert torch.equal(trace.states[k + shift].main, state)
