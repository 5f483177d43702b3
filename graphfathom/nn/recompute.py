"""Run a deep stack of layers; keep every state for the backward pass, or some."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute

from graphfathom.nn.modes import is_observed

__all__ = ["CHECKPOINTS", "State", "run_layers"]

State = tuple[Tensor, ...]
"""The tensors that one layer hands to the next."""

CHECKPOINTS = ("none", "sqrt", "every")
r"""What is kept for the backward pass: everything, the state of every
:math:`\sqrt{L}`-th layer, or of every layer; the rest is computed again."""


def run_layers(
    run: Callable[[State, range], State],
    state: State,
    num_layers: int,
    checkpoint: str = "none",
    *,
    training: bool = True,
    note: Callable[[State], None] | None = None,
) -> State:
    """From the first state to the last.

    Nothing is recomputed under ``torch.compile``, where the compiler decides, nor while
    a diagnosis looks on.

    Args:
        run: Returns the state behind some layers, given that before them.
        state: The first state.
        num_layers: Number of layers.
        checkpoint: One of :data:`CHECKPOINTS`.
        training: Whether layers draw random numbers, to be drawn again alike.
        note: Called with the state before the first and behind each layer.
    """
    plain = checkpoint == "none" or torch.compiler.is_compiling() or is_observed()
    step = num_layers if plain else math.isqrt(num_layers)
    if checkpoint == "every" or note is not None:
        step = 1
    if note is not None:
        note(state)
    for start in range(0, num_layers, step):
        layers = range(start, min(start + step, num_layers))
        if plain:
            state = run(state, layers)
        else:
            state = recompute(  # pyright: ignore[reportAssignmentType]
                _part(run, layers),
                *state,
                use_reentrant=False,
                preserve_rng_state=training,
            )
        if note is not None:
            note(state)
    return state


def _part(run: Callable[[State, range], State], layers: range) -> Callable[..., State]:
    """Some layers as a function of tensors, which are what a checkpoint keeps."""
    return lambda *state: run(state, layers)
