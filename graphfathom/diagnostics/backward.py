r"""Backward smoothing: how far the errors of different nodes still differ.

The error signal of state k is :math:`G_k = \partial \mathcal{L} / \partial H_k`. On its
way to the input each layer propagates it as it propagated the features, so it smooths
too: what is left of it is constant on every component, and driven by the mean error of
the output alone. Once the last layer is trained that mean is zero, and all gradients
vanish with it, whatever the loss; see :mod:`graphfathom.theory.backward`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.structure import GraphStructure, Kind
from graphfathom.linalg.vector import stable_norm

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import State, Trace

__all__ = ["log10_norm", "output_errors", "state_errors"]


def output_errors(
    trace: Trace, gradient: Tensor, structure: GraphStructure
) -> list[Observation]:
    r"""What of the error of the output reaches deep layers where errors smooth.

    ``error.output.constant`` is the share :math:`\|\Pi G\|_F / \|G\|_F` of the means
    over components, ``error.output.mean`` the decimal logarithm of
    :math:`\|\frac1N 1^\top G\|`, ``error.output.mean.largest`` that of the mean over
    the largest component. A head whose bias is trained has a mean of 0, up to rounding,
    over all nodes, but not over each component.

    Args:
        trace: The network.
        gradient: Gradient of the loss in the output.
        structure: The graph of its N nodes.

    Returns:
        Empty if the rows of the output are not the nodes; NaN stands for a share of an
        error that is exactly zero.
    """
    if not _is_by_node(gradient, structure):
        return []
    dtype, name = trace.precision, "error.output"
    share = _Split.of(gradient, structure, "constant").kernel_share
    largest = structure.component == structure.component.mode().values
    rows = [Observation(f"{name}.constant", "model", share, None, "1", dtype)]
    for ending, errors in (("", gradient), (".largest", gradient[largest])):
        errors = errors.detach().double()
        # Divided before they are added: a sum of large errors may overflow.
        value = log10_norm([(errors / len(errors)).sum(0)])
        full = f"{name}.mean{ending}"
        rows.append(Observation(full, "model", value, None, "log10", dtype))
    return rows


def state_errors(
    trace: Trace,
    k: int,
    cotangent: tuple[Tensor, ...],
    structure: GraphStructure,
    log10_scale: float = 0.0,
) -> list[Observation]:
    r"""How much the error signal of state k differs between nodes.

    .. math:: \|\Pi G_k\|_F, \qquad \|Q G_k\|_F, \qquad \|Q G_k\|_F / \|G_k\|_F

    with :math:`Q = I - \Pi` and :math:`\Pi` the projection onto what the propagation
    leaves alone: component constants (names ending in ``constant``) or multiples of the
    root of the degrees (``degree``). The norms, ``error.kernel_norm`` and
    ``error.deviation_norm``, are decimal logarithms, ``error.deviation`` is the share.
    The signal is that of what the layer made, not of what earlier ones handed on.

    Args:
        trace: The network.
        k: Index of the state.
        cotangent: Gradient of the loss in the state, divided by some number.
        structure: The graph of its N nodes.
        log10_scale: Decimal logarithm of that number.

    Returns:
        Empty if the rows of the state are not the nodes; NaN stands for a share of a
        signal that is exactly zero.
    """
    error = _main(trace.states[k], cotangent)
    if not _is_by_node(error, structure):
        return []
    rows, place, dtype = [], f"state:{k}", trace.precision
    for kind in get_args(Kind):
        split = _Split.of(error, structure, kind)
        for name, value, unit in (
            ("deviation", split.deviation_share, "1"),
            ("kernel_norm", split.kernel + log10_scale, "log10"),
            ("deviation_norm", split.deviation + log10_scale, "log10"),
        ):
            full = f"error.{name}.{kind}"
            rows.append(Observation(full, place, value, None, unit, dtype))
    return rows


def log10_norm(tensors: Iterable[Tensor]) -> float:
    """Decimal logarithm of the norm of all entries; -inf if it is exactly zero."""
    parts = [tensor.detach().reshape(-1) for tensor in tensors]
    value = float(stable_norm(torch.cat(parts)))
    return math.log10(value) if value > 0 else (-math.inf if value == 0 else value)


def _main(state: State, tensors: tuple[Tensor, ...]) -> Tensor:
    """The part of a cotangent that belongs to what the last layer made."""
    return tensors[next(i for i, t in enumerate(state.tensors) if t is state.main)]


def _is_by_node(error: Tensor, structure: GraphStructure) -> bool:
    return error.dim() == 2 and error.shape[0] == structure.num_nodes


@dataclass(frozen=True)
class _Split:
    """Logarithms of the norms of an error signal and of its two parts."""

    whole: float
    kernel: float
    deviation: float

    @classmethod
    def of(cls, error: Tensor, structure: GraphStructure, kind: Kind) -> _Split:
        rows = error.detach().double()
        size = float(rows.abs().max()) if rows.numel() else 0.0
        if size == 0 or not math.isfinite(size):
            nothing = -math.inf if size == 0 else math.nan
            return cls(nothing, nothing, nothing)
        rows = rows / size
        kept = structure.kernel_part(rows, kind)
        norms = torch.stack([rows.norm(), kept.norm(), (rows - kept).norm()])
        return cls(*(norms.log10() + math.log10(size)).tolist())

    @property
    def kernel_share(self) -> float:
        return _share(self.kernel, self.whole)

    @property
    def deviation_share(self) -> float:
        return _share(self.deviation, self.whole)


def _share(part: float, whole: float) -> float:
    """Quotient of two norms; rounding can pass 1."""
    return min(10 ** (part - whole), 1.0) if math.isfinite(whole) else math.nan
