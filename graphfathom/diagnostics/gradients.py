"""How far gradients travel: sweeps of vector-Jacobian products from the output.

Norms are accumulated as decimal logarithms and the vectors renormalised at every
layer, so that a product of a thousand layers reads -166.3 and not 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphfathom.diagnostics.backward import log10_norm, output_errors, state_errors
from graphfathom.diagnostics.jacobian import state_size
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.segments import Segment
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.diagnostics.trace import Trace
from graphfathom.diagnostics.weight_errors import (
    WeightProduct,
    explained,
    recorded_products,
    weight_observations,
)
from graphfathom.linalg.vector import gaussian_vector, stable_norm

__all__ = ["Arrival", "gain_observations", "gradient_observations", "sweep"]


@dataclass(frozen=True)
class Arrival:
    """A cotangent that has arrived at a state."""

    state: int
    """Index of the state."""
    log10_scale: float
    """Decimal logarithm of the factor that was taken out of the tensors."""
    tensors: tuple[Tensor, ...]
    """The cotangent, in the order of the state's names."""
    log10_weights: float
    """Decimal logarithm of the norm of the gradient of the parameters of the segment
    behind the state; ``-inf`` if it is zero, NaN if the segment has none."""
    products: tuple[WeightProduct, ...] = ()
    """The products with weight matrices in that segment; their errors have the scale of
    the arrival before."""

    def log10_norm(self, trace: Trace) -> float:
        """Decimal logarithm of the cotangent's norm, without taps."""
        state = trace.states[self.state]
        pairs = zip(state.names, self.tensors, strict=True)
        kept = [tensor for name, tensor in pairs if name not in state.taps]
        return self.log10_scale + log10_norm(kept)


def sweep(
    trace: Trace,
    cotangent: Tensor,
    *,
    weights: bool = False,
    products: bool = False,
    rescale: bool = True,
) -> Iterator[Arrival]:
    r"""Carry a cotangent of the output back to every state, from L down to 0.

    .. math:: g_k = \left(\frac{\partial\, \text{out}}{\partial H_k}\right)^{\top} g

    Args:
        trace: The network.
        cotangent: :math:`g`, of the shape of the output.
        weights: Whether to measure the gradient of the parameters on the way.
        products: Whether to keep what it is made of, too.
        rescale: False to let the cotangent underflow as it would in training.

    Yields:
        One arrival per state.
    """
    tensors: tuple[Tensor, ...] = (cotangent,)
    scale = 0.0
    for k in range(trace.num_layers + 1, 0, -1):
        # Unnamed, so that its graph is gone before the next block is built.
        tensors, gradients, passed = _pull(trace.segment(k), tensors, weights, products)
        found = [g for g in gradients if g is not None]
        log10_weights = scale + log10_norm(found) if found else math.nan
        if rescale:
            size = float(stable_norm(torch.cat([t.reshape(-1) for t in tensors])))
            if size > 0 and math.isfinite(size):
                tensors = tuple(tensor / size for tensor in tensors)
                scale += math.log10(size)
        yield Arrival(k - 1, scale, tensors, log10_weights, passed)


def _pull(
    segment: Segment, cotangents: tuple[Tensor, ...], weights: bool, products: bool
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...], tuple[WeightProduct, ...]]:
    """One step of a sweep: cotangents, gradients of parameters, products passed."""
    if not products:
        return *segment.vjp(cotangents, with_parameters=weights), ()
    with recorded_products(segment) as found:
        tensors, gradients = segment.vjp(cotangents, with_parameters=True)
    return tensors, gradients, explained(found, segment.parameters, gradients)


def gradient_observations(
    trace: Trace, structure: GraphStructure | None = None
) -> list[Observation]:
    r"""Gradient of the loss in every state and in every layer's weights.

    Names: ``gradient.state``, ``gradient.state.relative`` (to the last state),
    ``gradient.weights``; all are decimal logarithms of Frobenius norms. With the graph
    also how much errors differ between nodes, see
    :mod:`graphfathom.diagnostics.backward`, and what that makes of the gradients of
    weights, see :mod:`graphfathom.diagnostics.weight_errors`: all from one sweep. Empty
    if the problem has no labels.
    """
    gradient = loss_gradient(trace)
    if gradient is None:
        return []
    rows: list[Observation] = []
    if structure is not None:
        rows += output_errors(trace, gradient, structure)
    last, scale = math.nan, 0.0
    products = structure is not None
    for arrival in sweep(trace, gradient, weights=True, products=products):
        k, norm = arrival.state, arrival.log10_norm(trace)
        if k == trace.num_layers:
            last = norm
        relative = norm - last if math.isfinite(last) else math.nan
        rows += [
            _logarithm(trace, "gradient.state", f"state:{k}", norm),
            _logarithm(trace, "gradient.state.relative", f"state:{k}", relative),
        ]
        if structure is not None:
            errors = arrival.tensors, structure, arrival.log10_scale
            rows += state_errors(trace, k, *errors)
        if k < trace.num_layers:
            rows += _layer_weights(trace, arrival, structure, scale)
        scale = arrival.log10_scale
    return rows


def _layer_weights(
    trace: Trace, arrival: Arrival, structure: GraphStructure | None, scale: float
) -> list[Observation]:
    """Rows about the weights of the layer behind a state."""
    k, value, rows = arrival.state + 1, arrival.log10_weights, []
    if not math.isnan(value):
        rows.append(_logarithm(trace, "gradient.weights", f"layer:{k}", value))
    if structure is not None:
        dtype = trace.precision
        rows += weight_observations(arrival.products, k, scale, structure, dtype)
    return rows


def _logarithm(trace: Trace, name: str, place: str, value: float) -> Observation:
    return Observation(name, place, value, None, "log10", trace.precision)


def loss_gradient(trace: Trace) -> Tensor | None:
    """Gradient of the loss in the output, or None without labels."""
    output = trace.output.detach().requires_grad_()
    with torch.enable_grad():
        loss = trace.problem.loss_of(output)
    if loss is None:
        return None
    if not loss.requires_grad:
        return torch.zeros_like(output)
    return torch.autograd.grad(loss, output)[0]


def gain_observations(
    trace: Trace, generator: torch.Generator, num_samples: int = 4
) -> list[Observation]:
    r"""Gain from every state to the output, in random directions.

    .. math:: g_k = \sqrt{\mathbb E\,\|J_k^\top w\|^2 / \dim H_k}, \qquad
        J_k = \partial\,\text{out}/\partial H_k,\quad w \sim \mathcal N(0, I)

    the root mean square response of the output to a unit change of one entry.

    Args:
        trace: The network.
        generator: Source of randomness.
        num_samples: Number of probes, at least 2; each is one sweep. Default 4: the
            spread of log10 over depth is orders of magnitude, that of four probes
            hundredths.

    Returns:
        ``gain_to_output`` in log10 with its standard error.
    """
    shape, device = trace.output.shape, trace.output.device
    logs: dict[int, list[float]] = {}
    for _ in range(num_samples):
        probe = gaussian_vector(
            trace.output.numel(), trace.output.dtype, device, generator=generator
        )
        for arrival in sweep(trace, probe.view(shape)):
            logs.setdefault(arrival.state, []).append(arrival.log10_norm(trace))
    rows = []
    for k, values in logs.items():
        value, stderr = _mean_square(values)
        value -= 0.5 * math.log10(max(state_size(trace.states[k]), 1))
        dtype = trace.precision
        rows.append(
            Observation("gain_to_output", f"state:{k}", value, stderr, "log10", dtype)
        )
    return rows


def _mean_square(logs: list[float]) -> tuple[float, float]:
    """Log10 of the root of the mean square, and its standard error (delta method)."""
    highest = max(logs)
    if not math.isfinite(highest):
        return highest, 0.0
    squares = torch.tensor([10 ** (2 * (v - highest)) for v in logs])
    squares = squares.double()
    mean = float(squares.mean())
    stderr = float(squares.std() / math.sqrt(len(logs)))
    return highest + 0.5 * math.log10(mean), stderr / mean / 2 / math.log(10)
