r"""The bound of backward oversmoothing at the refitted last layer, where it is proved.

Equation (6.6) of :mod:`graphfathom.theory.backward` asks for layers
:math:`\rho(P X W)` that all propagate by one symmetric stochastic matrix in which all
else but the constants decays, without biases or skip connections, and for an activation
whose slope changes slowly. Each of these is checked on the layers, none is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.sparse import csr_array
from torch import Tensor

from graphfathom.diagnostics.closed_forms import ClosedForm
from graphfathom.diagnostics.gradients import loss_gradient, sweep
from graphfathom.diagnostics.last_layer import Capture, refit_head
from graphfathom.diagnostics.layer_runs import ClosedLayers
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.solved_forms import tolerance
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.linalg.components import csr_parts
from graphfathom.linalg.vector import stable_norm
from graphfathom.theory.backward import LIPSCHITZ_TANH, BackwardBound, backward_bound
from graphfathom.theory.stochastic import smoothing_rate

__all__ = ["bound_observations", "bound_products", "is_plain"]

BITES = -1.0
"""log10 of what a bound must be below the product of all norms, which knows nothing of
smoothing, to say something: a factor of ten."""


def is_plain(form: ClosedForm) -> bool:
    r"""Whether a layer is :math:`\sigma(P X W)`, with nothing added."""
    parts = (form.before, form.carry, form.input)
    return len(form.terms) == 1 and all(part is None for part in parts)


def bound_products(trace: Trace) -> int:
    """Products with one layer that :func:`bound_observations` takes, about."""
    return 12 * trace.num_layers


def bound_observations(trace: Trace, recapture: Capture = capture) -> list[Observation]:
    r"""Bounds of all gradients behind the refitted last layer, equation (6.6).

    The recursion starts at the error of the last layer's convolution,
    :math:`B = \rho' \odot G_L`, as it is there; so the read-out may be any.

    Args:
        trace: The network, as it is.
        recapture: Records a copy of the problem as the trace was recorded.

    Returns:
        ``theory.gradient.weights`` per layer, a decimal logarithm, and
        ``bound.vacuous``: 1 where it is for no layer below the last a tenth of
        :math:`\|X_0\| \, \|B\| \prod_j s_j`, which holds without any smoothing. The
        run of all is ``"refit"``.

    Raises:
        ValueError: If a hypothesis does not hold, or the last layer cannot be refitted.
    """
    trace = recapture(refit_head(trace, recapture=recapture).problem)
    layers = list(_layers(trace))
    eigenvalue = _eigenvalue([layer.form.terms[0][0] for layer in layers])
    scales = torch.stack([layer.scale for layer in layers])
    start = trace.states[0].main.double()
    error = _last_error(trace, layers[-1])
    mean, rest = _split(error)
    bound = backward_bound(
        eigenvalue,
        scales,
        lipschitz=max(layer.lipschitz for layer in layers),
        num_nodes=len(start),
        feature_norm=float(stable_norm(start)),
        feature_deviation=_split(start)[1] / math.sqrt(len(start)),
        mean_error=mean,
        error_deviation=rest,
    )
    below = bound.gradient[:-1] - _without_smoothing(scales, start, error)[:-1]
    vacuous = not bool((below < BITES).any())
    return _rows(bound, vacuous, trace.precision)


def _rows(bound: BackwardBound, vacuous: bool, dtype: str) -> list[Observation]:
    name, run = "theory.gradient.weights", "refit"
    rows = [
        Observation(name, f"layer:{k}", value, None, "log10", dtype, run)
        for k, value in enumerate(bound.gradient.tolist(), 1)
    ]
    last = Observation("bound.vacuous", "model", float(vacuous), dtype=dtype, run=run)
    return [*rows, last]


@dataclass(frozen=True, eq=False)
class _Layer:
    """What the theorem asks of a layer."""

    form: ClosedForm
    scale: Tensor
    lipschitz: float


def _layers(trace: Trace) -> Iterator[_Layer]:
    """All layers, or the first hypothesis that one of them breaks."""
    closed = ClosedLayers(trace)
    for k, name in enumerate(trace.layers, 1):
        form = closed.form(k)
        if form is None or not is_plain(form):
            raise ValueError(f"layer {k} (`{name}`) is not act(P X W).")
        lipschitz = _lipschitz(trace, k, form)
        if lipschitz is None:
            raise ValueError(
                f"layer {k} (`{name}`) is not P X W or tanh(P X W): it has a bias or "
                "another activation."
            )
        weight = form.terms[0][1].detach().double()
        yield _Layer(form, torch.linalg.matrix_norm(weight, 2), lipschitz)


def _lipschitz(trace: Trace, k: int, form: ClosedForm) -> float | None:
    """How fast the slope of the activation changes; None if it is not a known one.

    The state itself decides: it must be the activation of the message, and a layer that
    calls tanh is one of tanh even where features are so small that it is the identity.
    """
    message = form.message(trace.states[k - 1].main)
    state = trace.states[k].main
    begin, end = trace._plan.times[k : k + 2]
    is_tanh = "tanh" in trace._recording.calls[begin:end]
    made = message.tanh() if is_tanh else message
    bound = tolerance(trace.dtype) * state.norm()
    if not bool((made - state).norm() <= bound):
        return None
    if is_tanh:
        return LIPSCHITZ_TANH
    return 0.0 if form.is_linear else None


def _eigenvalue(propagations: list[csr_array]) -> float:
    """The number lambda of the one propagation of all layers."""
    first, *others = propagations
    for other in others:
        if other is not first and abs(other - first).max() > 0:
            raise ValueError("the layers do not all propagate by the same matrix.")
    if (csr_parts(first)[2] < 0).any():
        raise ValueError("the propagation has negative entries.")
    try:
        found = smoothing_rate(first)
    except ValueError as error:
        raise ValueError(
            f"the propagation is not one of the theorem: {error}"
        ) from error
    if found.multiplicity != 1:
        raise ValueError(
            f"the graph has {found.multiplicity} components: constants may differ "
            "between them, and the theorem has but one."
        )
    if found.alternating:
        raise ValueError("the propagation has the eigenvalue -1: it only alternates.")
    return found.rate


def _last_error(trace: Trace, layer: _Layer) -> Tensor:
    """The error signal behind the last convolution, before its activation."""
    gradient = loss_gradient(trace)
    assert gradient is not None  # or the refit would have refused
    arrival = next(sweep(trace, gradient, rescale=False))
    return (layer.form.behind * arrival.tensors[0]).double()


def _split(rows: Tensor) -> tuple[float, float]:
    """Norms of the mean over the rows, repeated, and of the rest."""
    mean = rows.mean(0, keepdim=True)
    return float(mean.norm()) * math.sqrt(len(rows)), float(stable_norm(rows - mean))


def _without_smoothing(scales: Tensor, start: Tensor, error: Tensor) -> Tensor:
    """Logarithms of what norms alone say of the gradients of all layers."""
    logs = scales.log10()
    ends = stable_norm(start).log10() + stable_norm(error).log10()
    return logs.sum() - logs + ends
