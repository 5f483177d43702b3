r"""The last parameters of a network in which its output is affine.

Affinity is checked by running the model with other values of them, never assumed.
Log-probabilities are affine behind the centring of each row, as the logits are:
:math:`\log \mathrm{softmax}(z)` and z differ by a number per row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from graphfathom.diagnostics.segments import Segment
from graphfathom.diagnostics.trace import Trace
from graphfathom.problem import Problem

__all__ = ["Head", "RefitError", "agrees", "find_head"]

NORMALISED = 1e-4
"""How far the probabilities of a row may be from 1 in sum, as where a problem guesses
its loss."""
NUM_CHECKS = 2


class RefitError(ValueError):
    """A last layer that cannot be refitted; the message says why."""


@dataclass(frozen=True, eq=False)
class Head:
    """Parameters that the output is affine in, and the way from them to it."""

    layer: int
    names: tuple[str, ...]
    parameters: tuple[Tensor, ...]
    chain: tuple[Segment, ...]
    """From the parameters to the output."""
    base: Tensor
    """The output, its rows centred where it is log-probabilities."""
    is_normalised: bool
    """Whether the output is log-probabilities."""

    def push(self, steps: tuple[Tensor, ...]) -> Tensor:
        """What steps of the parameters do to the output."""
        for segment in self.chain:
            steps = segment.jvp(steps)
        return self.centred(steps[0])

    def pull(self, cotangent: Tensor) -> tuple[Tensor, ...]:
        """The transposed product."""
        cotangents = (self.centred(cotangent),)
        for segment in reversed(self.chain):
            cotangents = segment.vjp(cotangents)[0]
        return cotangents

    def centred(self, output: Tensor) -> Tensor:
        return _centred(output) if self.is_normalised else output

    def output(self, base: Tensor) -> Tensor:
        """The output of the model from what is affine."""
        return base.log_softmax(dim=1) if self.is_normalised else base

    def release(self) -> None:
        for segment in self.chain:
            segment.release()


def find_head(trace: Trace) -> Head:
    """The last parameters that the output is affine in."""
    indices = range(trace.num_layers + 1, -1, -1)
    layer = next((k for k in indices if trace.segment(k).parameters), None)
    if layer is None:
        raise RefitError("The network has no parameters.")
    for k in range(layer):
        held = {id(p) for p in trace.segment(layer).parameters}
        if any(id(p) in held for p in trace.segment(k).parameters):
            raise RefitError(f"{_place(trace, layer)} shares parameters with others.")
    segments = [trace.segment(k) for k in range(layer, trace.num_layers + 2)]
    output = trace.output
    is_normalised = _is_normalised(output)
    for parameters in _candidates(trace.problem.model, segments[0]):
        head = Head(
            layer=layer,
            names=_names(trace.problem.model, parameters),
            parameters=parameters,
            chain=(_from_parameters(segments[0], parameters), *segments[1:]),
            base=_centred(output) if is_normalised else output,
            is_normalised=is_normalised,
        )
        if _is_affine(head, trace):
            return head
        head.release()
    raise RefitError(
        f"The output is not affine in the parameters of {_place(trace, layer)}."
    )


def _candidates(model: nn.Module, segment: Segment) -> Iterator[tuple[Tensor, ...]]:
    """All parameters of a segment, then those of the last module that has a matrix.

    Modules inside each other are tried from the outermost one inwards.
    """
    yield segment.parameters
    uses = _last_uses(segment)
    matrices = [p for p in segment.parameters if p.dim() > 1]
    last = max(matrices, key=lambda p: uses[id(p)], default=None)
    inside = {id(p) for p in segment.parameters}
    tried = {frozenset(inside)}
    for module in model.modules():  # from the outside to the inside
        own = tuple(p for p in module.parameters() if id(p) in inside)
        key = frozenset(map(id, own))
        if last is not None and id(last) in key and key not in tried:
            tried.add(key)
            yield own


def _last_uses(segment: Segment) -> dict[int, int]:
    """Identity of each parameter to the number of the last operation that took it."""
    uses: dict[int, int] = {}
    seen: set[Any] = set()
    stack = [o.grad_fn for o in segment.outputs if o.grad_fn is not None]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        for parent, _ in node.next_functions:
            variable = getattr(parent, "variable", None)
            if variable is not None:
                number = node._sequence_nr()
                uses[id(variable)] = max(uses.get(id(variable), -1), number)
            elif parent is not None:
                stack.append(parent)
    return uses


def _from_parameters(segment: Segment, parameters: tuple[Tensor, ...]) -> Segment:
    """The same graph with parameters in the place of the states before it."""
    return Segment(
        inputs=parameters,
        outputs=segment.outputs,
        leaves=segment.leaves,
        order=segment.order,
        coupled=segment.coupled,
    )


def _is_affine(head: Head, trace: Trace) -> bool:
    """Whether the model answers as the derivative says, as far away as it is large."""
    generator = torch.Generator().manual_seed(0)
    try:
        return all(
            agrees(head, trace, tuple(_step(p, generator) for p in head.parameters))
            for _ in range(NUM_CHECKS)
        )
    except RuntimeError:  # a function without a second derivative
        return False


def agrees(head: Head, trace: Trace, steps: tuple[Tensor, ...]) -> bool:
    """Whether the model itself answers to steps of the parameters as predicted."""
    expected = head.base + head.push(steps)
    pairs = zip(head.names, head.parameters, steps, strict=True)
    moved = {name: p.detach() + step for name, p, step in pairs}
    error = (head.centred(_run(trace, moved)) - expected).norm()
    size = (expected - head.base).norm() + head.base.norm()
    return bool(error <= torch.finfo(trace.dtype).eps ** 0.5 * size)


def _step(parameter: Tensor, generator: torch.Generator) -> Tensor:
    """A random step as large as the parameter, or of size 1 where that is zero."""
    size = float(parameter.detach().square().mean().sqrt()) or 1.0
    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return size * noise.to(parameter)


class _Caller(nn.Module):
    """A problem as a module, so that ``functional_call`` can exchange parameters."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem, self.model = problem, problem.model

    def forward(self) -> Tensor:
        return self.problem.run()


@torch.no_grad()
def _run(trace: Trace, values: dict[str, Tensor]) -> Tensor:
    """The output of the whole model with other values of some parameters."""
    named = {f"model.{name}": value for name, value in values.items()}
    with trace.running() as problem:
        return functional_call(_Caller(problem), named, ())


def _names(model: nn.Module, parameters: tuple[Tensor, ...]) -> tuple[str, ...]:
    names = {id(p): name for name, p in model.named_parameters()}
    return tuple(names[id(p)] for p in parameters)


def _place(trace: Trace, layer: int) -> str:
    if layer > trace.num_layers:
        return "the read-out"
    return f"`{trace.layers[layer - 1]}`" if layer else "the encoder"


def _is_normalised(output: Tensor) -> bool:
    """Whether the rows are log-probabilities."""
    if output.dim() != 2 or output.size(1) < 2:
        return False
    return bool((output.logsumexp(dim=1).abs() < NORMALISED).all())


def _centred(output: Tensor) -> Tensor:
    return output - output.mean(dim=1, keepdim=True)
