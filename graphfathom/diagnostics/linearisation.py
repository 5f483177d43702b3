r"""How near the backward pass is to that of a linear network.

For layers :math:`H_k = P X_{k-1} W_k`, :math:`X_k = \rho(H_k)` with error signals
:math:`B_k = \partial \mathcal{L} / \partial H_k`,

.. math:: B_k = \rho'(H_k) \odot P^\top B_{k+1} W_{k+1}^\top

and where features are smooth, so are the slopes :math:`\rho'(H_k)`: the errors of
different nodes are then treated alike, and smooth as those of a linear network do.
Equation (6.2) of :mod:`graphfathom.theory.backward`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from graphfathom.diagnostics.backward import log10_norm
from graphfathom.diagnostics.closed_forms import ClosedForm
from graphfathom.diagnostics.gradients import loss_gradient, sweep
from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.layer_map import LayerMap
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.rates import deflated_modulus, kept_directions
from graphfathom.diagnostics.solved_forms import checked_form, tolerance
from graphfathom.diagnostics.structure import GraphStructure, Kind
from graphfathom.theory.backward import LIPSCHITZ_TANH

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["linearisation_observations", "linearisation_products"]

LIPSCHITZ_SIGMOID = 1 / (6 * math.sqrt(3))
r"""Largest slope of the slope of the sigmoid, 0.096."""
KEPT = 1e-9
"""How far a propagation may move directions that it keeps: rounding in float64."""


def linearisation_products(trace: Trace) -> int:
    """Products with one layer that :func:`linearisation_observations` takes, about."""
    return 10 * trace.num_layers


def linearisation_observations(
    trace: Trace, structure: GraphStructure | None
) -> list[Observation]:
    r"""Linearisation error of the backward pass, and what the layers smooth.

    ``error.linearisation`` is :math:`\log_{10}` of
    :math:`\|B_k - P^\top B_{k+1} S_k\|_F / \|B_{k+1}\|_F` with
    :math:`S_k = W_{k+1}^\top \operatorname{diag}(\bar s)` and the mean slopes
    :math:`\bar s` of each unit over each component, for pairs of neighbouring layers
    :math:`\rho(P X W)`. It is at most ``theory.error.linearisation``,
    :math:`r_k = L_1 \|W_{k+1}\| \|P\| \|Q H_k\|_F`, also as a logarithm, which is known
    where :math:`\rho` is tanh, the sigmoid or the identity. With mean slopes instead
    of slopes at the mean, the proof of equation (6.2) goes through as it stands:
    :math:`|s_i - \bar s| \le L_1 \operatorname{mean}_j |h_i - h_j| \le L_1 \|Q h\|`.

    ``rate.propagation.constant`` and ``rate.propagation.degree`` are the largest
    modulus of the eigenvalues of a layer's own P but for the 1 of each component, where
    it keeps constants or multiples of the root of the degrees.

    Args:
        trace: The network.
        structure: Its graph, None if there is none.

    Returns:
        Rows per layer. NaN stands for an error of 0 / 0, and for one below the 1e-10
        to which slopes are known if the activation is neither tanh nor the sigmoid. A
        layer whose slopes are all 1 to eleven digits counts as linear.

    Raises:
        ValueError: If there is no graph, no loss, or no such layer.
    """
    gradient = loss_gradient(trace)
    if structure is None or gradient is None:
        raise ValueError("they need labels and one edge_index between nodes.")
    rates = _Rates(structure)
    rows: list[Observation] = []
    after: tuple[_Layer, float] | None = None
    for arrival in sweep(trace, gradient):
        k = arrival.state
        layer = _layer(trace, k, structure) if k else None
        if layer is None:
            after = None
            continue
        for kind, rate in rates.of(layer.propagation).items():
            name = f"rate.propagation.{kind}"
            rows.append(Observation(name, f"layer:{k}", rate, dtype=trace.precision))
        (error,) = arrival.tensors
        if after is not None:
            made = layer.linearised(error) + arrival.log10_scale - after[1]
            bound = layer.bound(after[0])
            rows += _pair(trace, k, made, bound)
        size = log10_norm([layer.slopes * error]) + arrival.log10_scale
        after = layer, size
    if not rows:
        raise ValueError("no layer is act(P X W).")
    return rows


def _pair(trace: Trace, k: int, error: float, bound: float) -> list[Observation]:
    place, dtype, name = f"layer:{k}", trace.precision, "error.linearisation"
    rows = [Observation(name, place, error, None, "log10", dtype)]
    if math.isfinite(bound) or bound == -math.inf:
        rows.append(Observation(f"theory.{name}", place, bound, None, "log10", dtype))
    return rows


class _Layer:
    """What is known of a layer act(P X W)."""

    def __init__(
        self, layer: LayerMap, form: ClosedForm, structure: GraphStructure
    ) -> None:
        self.propagation, weight = form.terms[0]
        self.log10_weight = _log10(float(torch.linalg.matrix_norm(weight, 2)))
        self.slopes, self.lipschitz = _slopes(layer, form)
        self.rest = self.slopes - structure.kernel_part(self.slopes)
        if self.lipschitz == 0:
            self.rest.zero_()
        elif self.lipschitz is None and self.slopes.frac().any():
            least = tolerance(layer.dtype) * self.slopes.norm()
            if self.rest.norm() <= least:  # Solved for, they are not that exact.
                self.rest.fill_(math.nan)
        message = form.message(layer.before.main)
        self.log10_spread = log10_norm([message - structure.kernel_part(message)])

    def linearised(self, error: Tensor) -> float:
        """log10 of what mean slopes leave of the error signal of the next state."""
        return log10_norm([self.rest * error])

    def bound(self, after: _Layer) -> float:
        """log10 of the bound r_k; NaN if the activation has none that we know."""
        if self.lipschitz is None:
            return math.nan
        sizes = after.log10_weight + after.log10_propagation + self.log10_spread
        return _log10(self.lipschitz) + sizes

    @property
    def log10_propagation(self) -> float:
        """log10 of the bound of Schur, 1 for symmetric stochastic matrices."""
        size = abs(self.propagation)
        rows, columns = (float(np.max(size.sum(axis=axis))) for axis in (1, 0))
        return (_log10(rows) + _log10(columns)) / 2


def _layer(trace: Trace, k: int, structure: GraphStructure) -> _Layer | None:
    """Layer k if it is act(P X W), and nothing else takes or makes its states."""
    states = trace.states[k - 1], trace.states[k]
    if any(len(s.tensors) > 1 or s.main.dim() != 2 for s in states):
        return None
    if len(states[1].main) != structure.num_nodes:
        return None
    try:
        layer = LayerMap(trace, k)
        form = checked_form(layer)
    except JacobianError:
        return None
    finally:
        trace.segment(k).release()
    parts = () if form is None else (form.before, form.carry, form.input)
    if form is None or any(part is not None for part in parts) or len(form.terms) > 1:
        return None
    p, m = form.terms[0]
    # The slope of a message that is always zero cannot be solved for.
    if not bool((abs(p).sum(axis=1) > 0).all() and m.any(dim=1).all()):
        return None
    return _Layer(layer, form, structure)


def _slopes(layer: LayerMap, form: ClosedForm) -> tuple[Tensor, float | None]:
    """Slopes, exact where the activation is known, and how fast they change."""
    node = layer.trace.segment(layer.k).outputs[0].grad_fn
    x, made_by = layer.behind.main, "" if node is None else node.name()
    if made_by == "TanhBackward0":
        return 1 - x.square(), LIPSCHITZ_TANH
    if made_by == "SigmoidBackward0":
        return x * (1 - x), LIPSCHITZ_SIGMOID
    return form.behind, 0.0 if form.is_linear else None


class _Rates:
    """Rates of the propagations of layers, each computed once."""

    def __init__(self, structure: GraphStructure) -> None:
        self.kept = {k: kept_directions(structure, k) for k in get_args(Kind)}
        self.found: list[tuple[csr_array, dict[str, float]]] = []

    def of(self, propagation: csr_array) -> dict[str, float]:
        """The rate of each kind of directions that a propagation keeps."""
        for known, rates in self.found:
            if known is propagation:
                return rates
        rates = {}
        for kind, kept in self.kept.items():
            moved = abs(propagation @ kept - kept)
            if not moved.nnz or moved.max() <= KEPT:
                rates[kind] = deflated_modulus(propagation, kept)
        self.found.append((propagation, rates))
        return rates


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf
