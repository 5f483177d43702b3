"""Repeat a recorded forward pass with its graph cut at the states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from graphfathom.diagnostics.recorder import Recording, call_name
from graphfathom.diagnostics.states import Plan

__all__ = ["CaptureError", "NoLayersError", "Replay", "Segment"]


class CaptureError(ValueError):
    """A network whose layers cannot be told apart rightly; the message says why."""


class NoLayersError(CaptureError):
    """A network in which no message-passing layer was found."""


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


class Replay(TorchFunctionMode):
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
        self.output = recording.output

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
