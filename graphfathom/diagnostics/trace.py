"""The states of a network, and a way to differentiate between any two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from graphfathom.diagnostics.jacobian import JacobianOperator
from graphfathom.diagnostics.messages import Messages, linear_messages
from graphfathom.diagnostics.recorder import (
    ForwardError,
    Recording,
    attach,
    record,
    sources_of,
)
from graphfathom.diagnostics.sandbox import Sandbox, dtype_name, judged_mode
from graphfathom.diagnostics.segments import (
    CaptureError,
    NoLayersError,
    Replay,
    Segment,
)
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
        self._parameters = {id(p): p for p in self.problem.model.parameters()}
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

    @property
    def precision(self) -> str:
        """Name of the dtype."""
        return dtype_name(self.dtype)

    def __repr__(self) -> str:
        name = type(self.problem.model).__name__
        return f"Trace({name}, {self.num_layers} layers, {self.precision})"

    def segment(self, k: int) -> Segment:
        """The graph from state k - 1 to state k; k = L + 1 ends at the output.

        The graphs of a block of neighbouring segments are alive at a time.

        Raises:
            ValueError: If there is no such segment.
        """
        if not 0 <= k <= self.num_layers + 1:
            raise ValueError(
                f"`k` must be in [0, {self.num_layers + 1}], the segments. Got {k}."
            )
        if k not in self._alive:
            first, last = next(b for b in self._blocks if b[0] <= k <= b[1])
            self._alive = self._run_block(first, last)
        return self._alive[k]

    def jacobian(self, i: int, j: int) -> JacobianOperator:
        """The derivative of state j in state i, without taps."""
        return JacobianOperator(self, i, j)

    @cached_property
    def messages(self) -> tuple[Messages, ...]:
        """What the modules of each layer show of its messages."""
        with self.running() as problem:
            return linear_messages(problem, self.layers, len(self.states[-1].main))

    @contextmanager
    def running(self) -> Iterator[Problem]:
        """The problem on copies of model and data, ready to run, while it lasts."""
        with self._box.running() as problem:
            yield problem

    def _run_block(self, first: int, last: int) -> dict[int, Segment]:
        self._alive.clear()  # two blocks would break the byte budget
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

    def _replay(self, first: int, last: int, keep: bool) -> Replay:
        replay = Replay(self._recording, self._plan, first, last, keep)
        with self._box.running() as problem:
            sources = sources_of(problem)
            fed = {}
            for i, source in enumerate(sources):
                needed = i in replay.cuts.get(-1, ())
                fed[id(source)] = replay.cut(i, source) if needed else source.clone()
            with torch.enable_grad(), replay:
                result = attach(problem, sources, fed).call()
        output = self.problem.only_tensor(result)
        last_value = self._recording.output_value
        if last_value is not None and last_value not in replay.raw:
            replay.raw[last_value] = output
        replay.output = output.detach()
        return replay

    def _check_output(self, output: Tensor) -> None:
        if _is_close(output, self.output):
            return
        with self._box.running() as problem, torch.no_grad():
            again = problem.run()
        if not _is_close(again, self.output):
            raise CaptureError(
                "The model does not repeat itself: its forward returns another output "
                "when it is called again. Remove randomness and counters from it."
            )
        raise CaptureError(
            "Cutting the network between its layers changes its output: a state is "
            "shared with a tensor that is changed in place. Replace in-place "
            "operations (`x += h`) by `x = x + h`."
        )

    def _check_ends(self, segment: Segment, j: int) -> Segment:
        """Note the parameters in the graph of a segment; it must end at its inputs."""
        parameters = self._parameters
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


def _is_close(output: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding; scatter operations on a GPU add in any order."""
    error = torch.finfo(output.dtype).eps ** 0.5
    scale = expected.abs().nan_to_num(posinf=0.0).max().item()
    close = torch.isclose(
        output, expected, rtol=error, atol=error * scale, equal_nan=True
    )
    return bool(close.all())


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
        NoLayersError: If no message passing is found.
        CaptureError: If the layers cannot be told apart rightly.
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
        box.notes.append(f"Measured in {dtype_name(box.dtype)}: {error}")
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
