"""What the caller's own precision does to features and gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfathom.diagnostics.gradients import loss_gradient, sweep
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.sandbox import dtype_name
from graphfathom.diagnostics.trace import Trace

__all__ = ["numeric_observations", "share", "subnormal_share"]


def subnormal_share(tensor: Tensor) -> float:
    """Share of entries that are not zero but below the smallest normal number.

    They keep fewer digits, and some CPUs are far slower on them.
    """
    tiny = torch.finfo(tensor.dtype).tiny
    return share((tensor != 0) & (tensor.abs() < tiny))


def numeric_observations(trace: Trace) -> list[Observation]:
    """Shares of zeros, subnormal and non-finite numbers, in the trace's own precision.

    Args:
        trace: Captured with ``dtype=None``, so that it runs as the caller runs it.

    Returns:
        ``exact_zeros``, ``subnormals`` and ``non_finite`` of the features of each
        state, ``gradient_zeros``, ``gradient_subnormals`` and ``gradient_non_finite``
        of the loss gradient in it.
    """
    rows: list[Observation] = []
    for k, state in enumerate(trace.states):
        rows += _shares(state.main, k, ("exact_zeros", "subnormals", "non_finite"))
    gradient = loss_gradient(trace)
    if gradient is not None:
        names = ("gradient_zeros", "gradient_subnormals", "gradient_non_finite")
        for arrival in sweep(trace, gradient, rescale=False):
            rows += _shares(arrival.tensors[0], arrival.state, names)
    return rows


def _shares(tensor: Tensor, k: int, names: tuple[str, str, str]) -> list[Observation]:
    dtype = dtype_name(tensor.dtype)
    shares = (
        share(tensor == 0),
        subnormal_share(tensor),
        share(~torch.isfinite(tensor)),
    )
    return [
        Observation(name, f"state:{k}", value, None, "share", dtype)
        for name, value in zip(names, shares, strict=True)
    ]


def share(mask: Tensor) -> float:
    """Share of the entries of a mask that are true, 0 if there are none."""
    return float(mask.double().mean()) if mask.numel() else 0.0
