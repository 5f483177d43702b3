"""Find where the states of a network are, and in which form they can be kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import nn
from torch_geometric.nn import MLP
from torch_geometric.nn import Linear as PyGLinear

from graphfathom.diagnostics.recorder import record
from graphfathom.diagnostics.sandbox import Sandbox
from graphfathom.diagnostics.states import find_states
from graphfathom.rewrite import owned
from graphfathom.rewrite.form import RewriteError
from graphfathom.rewrite.survey import Call, Survey, Trail
from graphfathom.rewrite.verify import Point, verify

__all__ = ["Plan", "find_plan", "owned_plan"]

Shape = tuple[int, ...]

LINEAR = (nn.Linear, PyGLinear, MLP)
"""Modules that open a read-out even where they keep the width."""


@dataclass(frozen=True)
class Plan:
    """How a network is to be rewritten."""

    form: str
    scope: str
    steps: tuple[str, ...]
    points: tuple[Point, ...] = ()
    indices: range = range(0)
    carries: bool = False


@dataclass(frozen=True)
class States:
    """What separates a network, without regard to its modules."""

    layers: tuple[str, ...]
    """Names of what passes messages, in order."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Number of tensors behind each layer, and of those that are handed on."""
    ends_in_state: bool = False
    """Whether the output is the last state."""


def find(box: Sandbox, layers: str | None) -> States:
    """Record a network and find its states.

    Args:
        box: The network on its data, which may be run freely.
        layers: Pattern of the names of the modules that are layers.

    Raises:
        RewriteError: If no messages are passed, or states cannot be told apart.
    """
    with box.running() as problem:
        recording = record(problem, layers)
    plan = find_states(recording)
    title = type(box.problem.model).__name__
    if plan is None:
        asked = f" that matches {layers!r}" if layers else ""
        raise RewriteError(
            f"{title} has no message-passing layer{asked} between its features and its "
            "output, and so no step. If its layers are modules of your own, name them, "
            'e.g. `layers="convs.*"`.'
        )
    if isinstance(plan, str):
        raise RewriteError(f"{title} cannot be cut between its layers: {plan}.")
    frames = [set(f) - taps for f, taps in zip(plan.frames, plan.taps, strict=True)]
    pairs = list(pairwise(frames[1:-1]))
    sizes = tuple((len(after), len(after & before)) for before, after in pairs)
    ends = frames[-2] == {recording.output_value}
    return States(plan.layers, sizes, ends)


def owned_plan(found: Survey) -> Plan | None:
    """The plan of a model of PyG, None if the layers are in no such model."""
    scope = found.scope
    if not owned.is_owned(scope.module):
        return None
    if len(found.layers) != len(scope.module.convs):  # pyright: ignore
        return None
    for layer in found.layers:
        _check_single(layer)
    shapes = [_input(layer).shape for layer in found.layers]
    shapes.append(_output(found.layers[-1]).shape)
    steps = _only_run(found.layers, shapes, scope)
    names = tuple(found.layers[i].name for i in steps)
    return Plan("structural", scope.name, names, indices=steps)


def find_plan(box: Sandbox, found: Survey, states: States) -> Plan:
    """The plan of any network, by what its forward does.

    Args:
        box: The network on its data, which may be run freely.
        found: Its calls.
        states: Its states.

    Raises:
        RewriteError: If there is none; the message says why.
    """
    for layer in found.layers:
        if layer.returns == "dict":
            raise RewriteError(
                f"{layer.label} maps dictionaries of node types. Wrap each such layer "
                "in graphfathom.nn.HeteroSSM, which keeps one state for each type."
            )
    levels = list(_levels(found))
    single = [calls for calls in levels if all(map(_is_single, calls))]
    for call in levels[0] if not single else ():
        _check_single(call)
    reasons: list[RewriteError] = []
    for calls in single:
        try:
            plan = _block_plan(box, found, calls)
            return plan or _boundary_plan(box, found, calls, states)
        except RewriteError as reason:
            reasons.append(reason)
    _check_states(states, found)
    raise reasons[0]  # of the widest modules: these are what the caller calls layers


def _levels(found: Survey) -> Iterator[list[Call]]:
    """One call for each layer: first the widest modules around them, at last they."""
    ladders = []
    for layer in found.layers:
        around = [
            call
            for call in layer.above()
            if call.start > found.scope.start and call.layers == 1
        ]
        ladders.append([*reversed(around), layer])
    for level in range(max(map(len, ladders))):
        yield [ladder[min(level, len(ladder) - 1)] for ladder in ladders]


def _is_single(call: Call) -> bool:
    return call.input is not None and call.output is not None


def _check_single(call: Call) -> None:
    """A layer must map one tensor to one tensor."""
    if _is_single(call):
        return
    if call.returns.startswith(("tuple", "list")):
        raise RewriteError(
            f"{call.label} returns a {call.returns}, and a state is one tensor. Wrap "
            "it in a module that returns the node features alone, "
            "`return self.layer(...)[0]`."
        )
    raise RewriteError(
        f"{call.label} must take one tensor of node features first and return one. It "
        f"takes a {call.takes} and returns a {call.returns}: call it as "
        "`layer(x, ...)`."
    )


def _input(call: Call) -> Trail:
    assert call.input is not None  # of calls that are `_is_single`
    return call.input


def _output(call: Call) -> Trail:
    assert call.output is not None
    return call.output


def _runs(keeps: list[bool]) -> list[range]:
    """Where neighbours are all true."""
    edges = list(pairwise([False, *keeps, False]))
    starts = [i for i, (before, after) in enumerate(edges) if after and not before]
    stops = [i for i, (before, after) in enumerate(edges) if before and not after]
    return [range(*ends) for ends in zip(starts, stops, strict=True)]


def _only_run(calls: list[Call], shapes: list[Shape], scope: Call) -> range:
    """The steps: neighbouring layers that keep the shape.

    Raises:
        RewriteError: If there are none, or others behind a change of width.
    """
    runs = _runs([before == after for before, after in pairwise(shapes)])
    if len(runs) == 1:
        return runs[0]
    title = type(scope.module).__name__
    sizes = [_size(before, after) for before, after in pairwise(shapes)]
    widths = ", ".join(
        f"`{call.name}` {size}" for call, size in zip(calls[:6], sizes, strict=False)
    )
    if not runs:
        raise RewriteError(
            f"{title} has no step: a state needs a layer that keeps the width, and all "
            f"of its layers change it ({widths}). Add layers of one width, or take a "
            "GNNSSM."
        )
    raise RewriteError(
        f"{title} changes its width between steps ({widths}), and a state keeps it. "
        "Give all layers between encoder and read-out one width, or name those of one "
        "width with `layers=`."
    )


def _size(before: Shape, after: Shape) -> str:
    if before[:-1] == after[:-1]:
        return f"{before[-1]} -> {after[-1]}"
    return f"{tuple(before)} -> {tuple(after)}"


def _block_plan(box: Sandbox, found: Survey, calls: list[Call]) -> Plan | None:
    """The plan of modules that map a state to the next one, None if they do not."""
    runs = _runs([_input(call).shape == _output(call).shape for call in calls])
    if len(runs) != 1:
        return None
    blocks = [calls[i] for i in runs[0]]
    linked = calls[runs[0].start : runs[0].stop + 1]
    if len(linked) == 1:
        return None  # what follows it, its boundaries will show
    for before, after in pairwise(linked):
        made, taken = _output(before), _input(after)
        if (made.serial, made.version) != (taken.serial, taken.version):
            return None
    ends = [Point(blocks[0]), *(Point(block, at_output=True) for block in blocks)]
    verdict = verify(box, found, ends, taps=True)
    names = tuple(block.name for block in blocks)
    scope, carries = found.scope.name, verdict.carries
    plan = Plan("block", scope, names, tuple(ends), carries=carries)
    return None if verdict.reason else plan


def _boundary_plan(
    box: Sandbox, found: Survey, calls: list[Call], states: States
) -> Plan:
    """The plan that puts states in at the inputs of the layers.

    Raises:
        RewriteError: If something passes beside the inputs of the layers.
    """
    reason = ""
    for last in _last_points(found, calls, states):
        shapes = [_input(call).shape for call in calls]
        if last.call is not calls[-1] or last.at_output:
            shapes.append(last.trail.shape)
        steps = _only_run(calls, shapes, found.scope)
        ends = [Point(calls[i]) for i in steps]
        ends.append(Point(calls[steps.stop]) if steps.stop < len(calls) else last)
        verdict = verify(box, found, ends)
        if not verdict.reason:
            names = tuple(calls[i].name for i in steps)
            scope, carries = found.scope.name, verdict.carries
            return Plan("boundary", scope, names, tuple(ends), carries=carries)
        reason = verdict.reason  # of the nearest point behind the layer, at last
    raise RewriteError(_bypassed(found, reason))


def _last_points(found: Survey, calls: list[Call], states: States) -> Iterator[Point]:
    """Where the state behind the last layer may be, the best place first."""
    last, scope = calls[-1], found.scope
    if _output(last).shape != _input(last).shape:
        yield Point(last)  # the last layer is the read-out
        return
    outputs = [last]
    for call in found.calls:
        behind = call.start > last.stop and scope.encloses(call)
        if not behind or call.input is None:
            continue
        if call.input.shape != _output(last).shape:
            continue
        kept = call.output is not None and call.output.shape == call.input.shape
        if isinstance(call.module, LINEAR) or not kept:
            yield Point(call)
            break
        outputs.append(call)
    whole = scope.output is not None and scope.output.shape == _output(last).shape
    # What a module inside of the network returns is no read-out.
    if whole and (scope.name or states.ends_in_state):
        yield Point(scope, at_output=True)
    for call in reversed(outputs):
        yield Point(call, at_output=True)


def _bypassed(found: Survey, reason: str) -> str:
    title = type(found.scope.module).__name__
    if "beside" not in reason:
        return f"{title} has no state-space form: {reason}."
    return (
        f"{title} already carries a state, or hands its features on beside its layers: "
        f"{reason}. If it adds them up (`x = x + h`), scale its step there, `x = x + "
        "step * h`. If not, move what reads them into one module with the layer, "
        "`x = layer(x, ...)`."
    )


def _check_states(states: States, found: Survey) -> None:
    """Refuse a state of several tensors.

    Raises:
        RewriteError: If there is one.
    """
    for layer, (size, handed) in zip(states.layers, states.sizes, strict=True):
        if size > 1:
            kinds = f"{size - handed} new"
            kinds += f" and {handed} handed on from before" if handed else ""
            raise RewriteError(
                f"{type(found.scope.module).__name__} already carries a state: behind "
                f"`{layer}` it needs {size} tensors ({kinds}). Scale the step where "
                "its forward writes it, `x = x + step * h`, or build a GNNSSM, which "
                "can read its first state in every layer (`persistent`)."
            )
