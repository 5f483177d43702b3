"""What the tracer makes of a convolution, compared with the dense truth."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from conv_catalogue import ConvEntry, Frame
from references import TOLERANCE, Map, State, align, float64, relative_error
from torch import Tensor

from graphfathom.diagnostics.trace import CaptureError, Trace, capture
from graphfathom.problem import Problem

CUTS = ((0, 1), (1, 2), (0, 2))
"""Pairs of states of the frame between which the Jacobians are compared."""


@dataclass(frozen=True)
class Outcome:
    """One row of the table of convolutions."""

    name: str
    is_message_passing: bool
    outcome: str
    """``exact``, ``refused: ...``, ``not installed here: ...`` or ``WRONG: ...``."""
    num_layers: int | None = None
    """Layers found in a network of two convolutions."""
    state: str = ""
    """Names of the tensors that make up the state behind the first convolution."""


def examine(entry: ConvEntry) -> Outcome:
    """Trace a network of two such convolutions and check every Jacobian."""
    head = (entry.name, entry.is_message_passing)
    try:
        with float64():
            frame, data = entry.build(), entry.data()
            copy.deepcopy(frame)(data)
    except ImportError as error:
        return Outcome(*head, f"not installed here: {first_line(error)}")
    try:
        with float64():
            target = data["paper"].y if entry.hetero else data.y
            trace = capture(Problem(frame, data, target=target))
            cuts, verdict = compare(trace, frame, data)
    except CaptureError as error:
        return Outcome(*head, f"refused: {first_line(error)}")
    except Exception as error:
        return Outcome(*head, f"WRONG: {type(error).__name__}: {first_line(error)}")
    names = trace.states[cuts[1]].names if cuts else ()
    return Outcome(*head, verdict, trace.num_layers, ", ".join(names))


def first_line(error: Exception) -> str:
    """The first line of a message."""
    return str(error).strip().split("\n")[0]


def compare(trace: Trace, frame: Frame, data: Any) -> tuple[list[int], str]:
    """Where the states of the frame are in the trace, and whether all is right."""
    model = judged(frame)
    states, maps = reference(model, data)
    last = model.close(states[-1])
    if align(trace.states[-1].carried, states[-1]) is None:
        states[-1], first = last, maps[-1]
        maps[-1] = lambda *state: model.close(first(*state))
    cuts, orders = [], []
    for state in states:
        pairs = ((i, align(s.carried, state)) for i, s in enumerate(trace.states))
        found = next(((i, order) for i, order in pairs if order is not None), None)
        if found is None:
            names = [s.names for s in trace.states]
            return [], f"WRONG: state {len(cuts)} is not among {names}"
        cuts.append(found[0])
        orders.append(found[1])
    for i, j in CUTS:
        truth = dense(maps[i:j], states[i])[orders[j]][:, orders[i]]
        error = relative_error(trace.jacobian(cuts[i], cuts[j]).to_dense(), truth)
        if not error < TOLERANCE:
            return cuts, f"WRONG: jacobian({i}, {j}) is off by {error:.1e}"
    return cuts, "exact"


def judged(frame: Frame) -> Frame:
    """A copy in the mode of a network that was never trained."""
    frame = copy.deepcopy(frame).eval()
    for module in frame.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.train()
    return frame


def reference(frame: Frame, data: Any) -> tuple[list[State], list[Map]]:
    """The three states of the frame and the two maps between them."""
    maps = [lambda *state, k=k: frame.step(k, state, data) for k in range(2)]
    with torch.no_grad():
        states = [frame.encode(data)]
        for function in maps:
            states.append(function(*states[-1]))
    return states, maps


def dense(maps: list[Map], state: State) -> Tensor:
    """Jacobian of a chain of maps, one reverse pass for each output.

    Not ``torch.func.jacrev``: batch norm changes its buffers, and negative sampling
    looks at values.
    """
    sizes = [t.numel() for t in state]

    def flat(vector: Tensor) -> Tensor:
        parts = zip(vector.split(sizes), state, strict=True)
        out: State = tuple(part.reshape(t.shape) for part, t in parts)
        for function in maps:
            out = function(*out)
        return torch.cat([t.reshape(-1) for t in out])

    point = torch.cat([t.reshape(-1) for t in state])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        return torch.autograd.functional.jacobian(flat, point)
