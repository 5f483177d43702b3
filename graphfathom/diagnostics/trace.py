"""The states of a network, and a way to differentiate between any two."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from graphfathom.diagnostics.jacobian import JacobianOperator
from graphfathom.diagnostics.recorder import (
    ForwardError,
    Recording,
    attach,
    call_name,
    flat_tensors,
    record,
    sources_of,
)
from graphfathom.diagnostics.sandbox import Sandbox, judged_mode
from graphfathom.diagnostics.states import Plan, find_states
from graphfathom.problem import Problem

__all__ = [
    "CaptureError",
    "ForwardError",
    "NoLayersError",
    "Segment",
    "State",
    "Trace",
    "capture",
]

BYTE_BUDGET = 2 * 2**30
"""Default for the graphs held at a time: a quarter of a common laptop's memory."""


class CaptureError(ValueError):
    """A network whose layers cannot be told apart rightly; the message says why."""


class NoLayersError(CaptureError):
    """A network in which no message-passing layer was found."""


@dataclass(frozen=True)
class State:
    """The tensors that separate the network behind a layer."""

    names: tuple[str, ...]
    """``"x"`` for what the last layer made, ``"x@j"`` for what state j handed on."""
    tensors: tuple[Tensor, ...]
    """Detached values, in the order of the names."""
    taps: tuple[str, ...] = ()
    """Names of those that only the read-out uses; the Jacobians leave them out."""

    @property
    def main(self) -> Tensor:
        """What the last layer made."""
        return self.tensors[0]

    @property
    def carried(self) -> tuple[Tensor, ...]:
        """The tensors without taps."""
        pairs = zip(self.names, self.tensors, strict=True)
        return tuple(tensor for name, tensor in pairs if name not in self.taps)


@dataclass
class Segment:
    """The autograd graph between two neighbouring frames, alive."""

    inputs: tuple[Tensor, ...]
    """Leaves, the values of the first frame."""
    outputs: tuple[Tensor, ...]
    """Values of the second frame; a leaf where a value is handed on."""
    leaves: tuple[Tensor, ...]
    """Leaves of the second frame, from which the next segment starts."""
    order: tuple[int, ...]
    """Positions of the outputs, the last computed first."""
    parameters: tuple[Tensor, ...] = ()
    """Parameters that the outputs were computed with."""
    coupled: bool = False
    """Whether an output was computed from another one's leaf (symplectic steps)."""
    _forward: Any = field(default=None, repr=False)

    def vjp(
        self, cotangents: tuple[Tensor, ...], with_parameters: bool = False
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        """Multiply by the transposed Jacobian; also for the parameters if asked."""
        wanted = self.inputs + (self.parameters if with_parameters else ())
        grads = self._pull(cotangents, wanted, create_graph=False)
        count = len(self.inputs)
        states = tuple(
            torch.zeros_like(leaf) if grad is None else grad
            for leaf, grad in zip(self.inputs, grads[:count], strict=True)
        )
        return states, grads[count:]

    def jvp(self, tangents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Multiply by the Jacobian: the derivative of the vjp in its cotangent."""
        if self._forward is None:
            duals = tuple(torch.zeros_like(o).requires_grad_() for o in self.outputs)
            self._forward = duals, self._pull(duals, self.inputs, create_graph=True)
        duals, grads = self._forward
        pairs = [
            (grad, tangent)
            for grad, tangent in zip(grads, tangents, strict=True)
            if grad is not None and grad.requires_grad
        ]
        result: tuple[Tensor | None, ...] = (None,) * len(duals)
        if pairs:
            outputs, weights = zip(*pairs, strict=True)
            result = _grad(outputs, duals, weights)
        return tuple(
            torch.zeros_like(dual) if value is None else value
            for dual, value in zip(duals, result, strict=True)
        )

    def _pull(
        self,
        cotangents: tuple[Tensor, ...],
        wanted: tuple[Tensor, ...],
        create_graph: bool,
    ) -> tuple[Tensor | None, ...]:
        live = [i for i in self.order if self.outputs[i].requires_grad]
        if not live or not wanted:
            return (None,) * len(wanted)
        if not self.coupled:
            outputs = tuple(self.outputs[i] for i in live)
            weights = tuple(cotangents[i] for i in live)
            return _grad(outputs, wanted, weights, create_graph)
        # An output may hang on the leaf of one computed before it: what reaches that
        # leaf belongs to that output's cotangent.
        pending = list(cotangents)
        total: list[Tensor | None] = [None] * len(wanted)
        for i in live:
            own = self.leaves[i]
            siblings = tuple(leaf for leaf in self.leaves if leaf is not own)
            grads = _grad(
                (self.outputs[i],), (*wanted, *siblings), (pending[i],), create_graph
            )
            total = [_add(a, b) for a, b in zip(total, grads, strict=False)]
            found = iter(grads[len(wanted) :])
            for j, leaf in enumerate(self.leaves):
                grad = next(found) if leaf is not own else None
                is_input = any(leaf is one for one in self.inputs)
                if grad is not None and not is_input:
                    pending[j] = pending[j] + grad
        return tuple(total)

    def release(self) -> None:
        """Free the graph that :meth:`jvp` made."""
        self._forward = None


def _grad(
    outputs: tuple[Tensor, ...],
    inputs: tuple[Tensor, ...],
    weights: tuple[Tensor, ...],
    create_graph: bool = False,
) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(
        outputs,
        inputs,
        weights,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
    )


def _add(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else (a if b is None else a + b)


class _Replay(TorchFunctionMode):
    """Repeat a recorded pass, cutting the graph at frames ``first`` to ``last``."""

    def __init__(
        self, recording: Recording, plan: Plan, first: int, last: int, keep: bool
    ) -> None:
        super().__init__()
        self.recording, self.keep = recording, keep
        self.frames = range(first, last + 1)
        self.begin, self.end = plan.times[first], plan.times[last]
        wanted = {i for j in self.frames for i in plan.frames[j]}
        self.cuts: dict[int, list[int]] = {}
        for index in wanted:
            self.cuts.setdefault(recording.values[index].call, []).append(index)
        self.is_free = _calls_without_input(recording)
        self.leaves: dict[int, Tensor] = {}
        self.raw: dict[int, Tensor] = {}
        self.clock = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        call, name = self.clock, call_name(func)
        self.clock += 1
        if call >= len(self.recording.calls) or self.recording.calls[call] != name:
            raise CaptureError(
                f"The model does not repeat itself: call {call} was "
                f"{self.recording.calls[call : call + 1]} and is now '{name}'. Remove "
                "randomness and caches from its forward."
            )
        inside = not self.keep and self.begin <= call < self.end
        graph = torch.is_grad_enabled() and (inside or call in self.is_free)
        with torch.set_grad_enabled(graph):
            output = func(*args, **(kwargs or {}))
        for index in self.cuts.get(call, ()):
            position = self.recording.values[index].position
            output = _replace(output, position, lambda t, i=index: self.cut(i, t))
        return output

    def cut(self, index: int, tensor: Tensor) -> Tensor:
        """Start a new graph at a tensor."""
        if self.keep:
            self.leaves[index] = tensor.detach().clone()
            return tensor
        self.raw[index] = tensor
        leaf = tensor.detach().clone().requires_grad_()
        self.leaves[index] = leaf
        with torch.enable_grad():
            # Not the leaf itself: the model may change it in place.
            return leaf.clone()


def _calls_without_input(recording: Recording) -> set[int]:
    """Calls whose results depend on parameters alone: cheap, and shared by layers."""
    pairs = zip(recording.values, recording.sourced, strict=True)
    return {value.call for value, sourced in pairs if not sourced}


def _replace(output: Any, position: int | None, change: Any) -> Any:
    """The output with one of its tensors changed."""
    counter = iter(range(1 << 30))

    def walk(item: Any) -> Any:
        if isinstance(item, Tensor):
            return change(item) if next(counter) == position else item
        if type(item) in (list, tuple):
            return type(item)([walk(part) for part in item])
        return item

    return walk(output)


class Trace:
    """States that separate a network, with the maps between them.

    State 0 is the input of the first layer, state k the state behind layer k, state L
    that of the last one. Get one from :func:`capture`.
    """

    def __init__(
        self, box: Sandbox, recording: Recording, plan: Plan, byte_budget: int
    ) -> None:
        self.problem, self.dtype, self.notes = box.problem, box.dtype, box.notes
        self.layers = plan.layers
        self.output = recording.output
        self._box, self._recording, self._plan = box, recording, plan
        self._blocks = _blocks(recording, plan, byte_budget)
        self._alive: dict[int, Segment] = {}
        replay = self._replay(0, len(plan.frames) - 1, keep=True)
        self._check_output(replay.output)
        leaves = replay.leaves
        self.states = tuple(self._state(j, leaves) for j in range(self.num_layers + 1))
        for first, last in self._blocks:
            self._alive = self._run_block(first, last)

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self.layers)

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Trace({type(self.problem.model).__name__}, {self.num_layers} layers, {dtype})"

    def segment(self, k: int) -> Segment:
        """The graph from state k - 1 to state k; k = L + 1 ends at the output.

        The graphs of a block of neighbouring segments are alive at a time.
        """
        if not 0 <= k <= self.num_layers + 1:
            raise ValueError(
                f"`k` must be in [0, {self.num_layers + 1}], the segments. Got {k}."
            )
        if k not in self._alive:
            self._alive.clear()
            first, last = next(b for b in self._blocks if b[0] <= k <= b[1])
            self._alive = self._run_block(first, last)
        return self._alive[k]

    def jacobian(self, i: int, j: int) -> JacobianOperator:
        """The derivative of state j in state i, without taps."""
        return JacobianOperator(self, i, j)

    def _run_block(self, first: int, last: int) -> dict[int, Segment]:
        replay = self._replay(first, last + 1, keep=False)
        self._check_output(replay.output)
        segments = {}
        for j in range(first, last + 1):
            inputs, outputs = self._plan.frames[j], self._plan.frames[j + 1]
            calls = [self._recording.values[i].call for i in outputs]
            segments[j] = self._check_ends(
                Segment(
                    inputs=tuple(replay.leaves[i] for i in inputs),
                    outputs=tuple(
                        replay.leaves[i] if i in inputs else replay.raw[i]
                        for i in outputs
                    ),
                    leaves=tuple(replay.leaves.get(i, replay.raw[i]) for i in outputs),
                    order=tuple(sorted(range(len(calls)), key=lambda n: -calls[n])),
                ),
                j,
            )
        return segments

    def _replay(self, first: int, last: int, keep: bool) -> _Replay:
        replay = _Replay(self._recording, self._plan, first, last, keep)
        with self._box.running() as problem:
            sources = sources_of(problem)
            fed = {}
            for i, source in enumerate(sources):
                needed = i in replay.cuts.get(-1, ())
                fed[id(source)] = replay.cut(i, source) if needed else source.clone()
            with torch.enable_grad(), replay:
                output = attach(problem, sources, fed).run()
        last_value = self._recording.output_value
        if last_value is not None and last_value not in replay.raw:
            replay.raw[last_value] = output
        replay.output = output.detach()
        return replay

    def _check_output(self, output: Tensor) -> None:
        # Looser than rounding: scatter operations on a GPU add in any order.
        error = torch.finfo(output.dtype).eps ** 0.5
        scale = self.output.abs().nan_to_num(posinf=0.0).max().item()
        close = torch.isclose(
            output, self.output, rtol=error, atol=error * scale, equal_nan=True
        )
        if not bool(close.all()):
            raise CaptureError(
                "Cutting the network between its layers changes its output: a state is "
                "shared with a tensor that is changed in place. Replace in-place "
                "operations (`x += h`) by `x = x + h`."
            )

    def _check_ends(self, segment: Segment, j: int) -> Segment:
        """Note the parameters in the graph of a segment; it must end at its inputs."""
        parameters = {id(p): p for p in self.problem.model.parameters()}
        inputs = {id(leaf) for leaf in segment.inputs}
        siblings = {id(leaf) for leaf in segment.leaves} - inputs
        found: dict[int, Tensor] = {}
        seen: set[Any] = set()
        stack = [o.grad_fn for o in segment.outputs if o.grad_fn is not None]
        while stack:
            node = stack.pop()
            if node in seen:
                continue
            seen.add(node)
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) not in inputs:
                if id(variable) in siblings:
                    segment.coupled = True
                elif id(variable) in parameters:
                    found[id(variable)] = variable
                else:
                    raise CaptureError(self._bypass(j))
            stack += [parent for parent, _ in node.next_functions if parent is not None]
        segment.parameters = tuple(found.values())
        return segment

    def _bypass(self, segment: int) -> str:
        names = (*self.layers, "the read-out")
        name = names[min(max(segment, 1), len(names)) - 1]
        return (
            f"The state before `{name}` is changed in place, so gradients would pass "
            "by it. Replace in-place operations (`x.add_(h)`) by `x = x + h`, or name "
            "the layers with `layers=`."
        )

    def _state(self, k: int, leaves: dict[int, Tensor]) -> State:
        plan, frame = self._plan, k + 1
        before = plan.frames[frame - 1] if frame > 1 else ()
        new = [i for i in plan.frames[frame] if i not in before]
        old = [i for i in plan.frames[frame] if i in before]
        births = {
            i: next(j for j, values in enumerate(plan.frames[1:]) if i in values)
            for i in old
        }
        names = [f"x[{n}]" if n else "x" for n in range(len(new))]
        kind = ["tap" if i in plan.taps[frame] else "x" for i in old]
        handed: list[str] = []
        for i, prefix in zip(old, kind, strict=True):
            name = f"{prefix}@{births[i]}"
            handed.append(name if name not in handed else f"{name}.{len(handed)}")
        taps = tuple(n for n, p in zip(handed, kind, strict=True) if p == "tap")
        tensors = tuple(leaves[i] for i in plan.frames[frame])
        return State((*names, *handed), tensors, taps)


def _blocks(
    recording: Recording, plan: Plan, byte_budget: int
) -> list[tuple[int, int]]:
    """Runs of segments whose graphs fit in the budget together."""
    blocks: list[tuple[int, int]] = []
    size = 0
    for j in range(len(plan.frames) - 1):
        begin, end = plan.times[j], plan.times[j + 1]
        need = sum(recording.saved_bytes[begin:end])
        if not blocks or size + need > byte_budget:
            blocks.append((j, j))
            size = need
        else:
            blocks[-1] = (blocks[-1][0], j)
            size += need
    return blocks


def capture(
    problem: Problem,
    layers: str | None = None,
    *,
    dtype: torch.dtype | None = torch.float64,
    mode: str | None = None,
    byte_budget: int = BYTE_BUDGET,
) -> Trace:
    """Run a problem and find the states of its network.

    Args:
        problem: Model, data and loss; none of them is changed.
        layers: Pattern of the names of the modules that are layers, e.g.
            ``"convs.*"``. Default: message passing is found by role.
        dtype: Precision to measure in. None: the caller's, autocast included. Where
            the forward fails in it, the caller's precision is taken and said so in
            the notes.
        mode: ``"init"`` or ``"eval"``. Default: what the problem asks for.
        byte_budget: Bytes of saved tensors that may be alive at a time.

    Raises:
        CaptureError: If no layers are found or they cannot be told apart rightly.
        ForwardError: If the model's own forward raises.
    """
    mode = mode or judged_mode(problem)
    box = Sandbox(problem, mode, dtype)
    try:
        recording = _record(box, layers)
    except ForwardError as error:
        if dtype is None:
            raise
        box = Sandbox(problem, mode)
        recording = _record(box, layers)
        own = str(box.dtype).removeprefix("torch.")
        box.notes.append(f"Measured in {own}: {error}")
    plan = find_states(recording)
    name = type(problem.model).__name__
    if plan is None:
        asked = f" that matches {layers!r}" if layers else ""
        raise NoLayersError(
            f"No message-passing layer{asked} was found between the features and the "
            f"output of {name}. If its layers are modules of your own, name them, e.g. "
            '`layers="convs.*"`.'
        )
    if isinstance(plan, str):
        raise CaptureError(f"{name} cannot be cut between its layers: {plan}.")
    return Trace(box, recording, plan, byte_budget)


def _record(box: Sandbox, layers: str | None) -> Recording:
    with box.running() as problem:
        return record(problem, layers)
