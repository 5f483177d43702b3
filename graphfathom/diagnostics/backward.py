r"""Backward smoothing: how far the errors of different nodes still differ.

The error signal of state k is :math:`G_k = \partial \mathcal{L} / \partial H_k`. On its
way to the input each layer propagates it as it propagated the features, so it smooths
too: what is left of it is constant on every component, and driven by the mean error of
the output alone. Once the last layer is trained that mean is zero, and all gradients
vanish with it, whatever the loss; see :mod:`graphfathom.theory.backward`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

from torch import Tensor

from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.structure import GraphStructure, Kind

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import State, Trace

__all__ = ["output_errors", "state_errors"]


def output_errors(
    trace: Trace, gradient: Tensor, structure: GraphStructure
) -> list[Observation]:
    r"""What of the error of the output reaches deep layers where errors smooth.

    ``error.output.constant`` is the share :math:`\|\Pi G\|_F / \|G\|_F` of the means
    over components.

    Args:
        trace: The network.
        gradient: Gradient of the loss in the output.
        structure: The graph of its N nodes.

    Returns:
        Empty if the rows of the output are not the nodes; NaN stands where the error is
        exactly zero.
    """
    if not _is_by_node(gradient, structure):
        return []
    kept = 1 - _deviation(gradient, structure, "constant") ** 2
    value = math.sqrt(max(kept, 0.0))
    name = "error.output.constant"
    return [Observation(name, "model", value, None, "1", trace.precision)]


def state_errors(
    trace: Trace, k: int, cotangent: tuple[Tensor, ...], structure: GraphStructure
) -> list[Observation]:
    r"""How much the error signal of state k differs between nodes.

    .. math:: \|Q G_k\|_F / \|G_k\|_F

    with :math:`Q = I - \Pi` and :math:`\Pi` the projection onto what the propagation
    leaves alone: component constants (``error.deviation.constant``) or multiples of the
    root of the degrees (``error.deviation.degree``).

    Args:
        trace: The network.
        k: Index of the state.
        cotangent: Gradient of the loss in the state, times any number.
        structure: The graph of its N nodes.

    Returns:
        Empty if the rows of the state are not the nodes; NaN stands where the signal is
        exactly zero.
    """
    error = _main(trace.states[k], cotangent)
    if not _is_by_node(error, structure):
        return []
    return [
        Observation(
            f"error.deviation.{kind}",
            f"state:{k}",
            _deviation(error, structure, kind),
            None,
            "1",
            trace.precision,
        )
        for kind in get_args(Kind)
    ]


def _main(state: State, tensors: tuple[Tensor, ...]) -> Tensor:
    """The part of a cotangent that belongs to what the last layer made."""
    return tensors[next(i for i, t in enumerate(state.tensors) if t is state.main)]


def _is_by_node(error: Tensor, structure: GraphStructure) -> bool:
    return error.dim() == 2 and error.shape[0] == structure.num_nodes


def _deviation(error: Tensor, structure: GraphStructure, kind: Kind) -> float:
    """Share of an error signal beside what the propagation leaves alone."""
    rows = error.detach().double()
    size = float(rows.abs().max()) if rows.numel() else 0.0
    if size == 0 or not math.isfinite(size):
        return math.nan
    rows = rows / size
    rest = rows - structure.kernel_part(rows, kind)
    return min(float(rest.norm() / rows.norm()), 1.0)
