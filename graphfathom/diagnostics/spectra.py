"""Gains of the single layers: how much each map stretches what it is given."""

from __future__ import annotations

import torch
from torch import Tensor

from graphfathom.diagnostics.jacobian import JacobianOperator
from graphfathom.diagnostics.numerics import share
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.trace import Trace
from graphfathom.linalg.stochastic import singular_value_summary
from graphfathom.linalg.vector import gaussian_vector, rademacher_vector, stable_norm

__all__ = ["layer_observations", "sampled_layers", "spectrum_observations"]

MAX_SPECTRA = 16
"""Layers whose singular values are estimated: on Cora one costs a second."""


def sampled_layers(num_layers: int, count: int = MAX_SPECTRA) -> list[int]:
    """At most ``count`` layers, evenly spread, with the first and the last."""
    if num_layers <= count:
        return list(range(1, num_layers + 1))
    steps = torch.linspace(1, num_layers, count, dtype=torch.float64)
    return [int(step) for step in steps.round()]


def layer_observations(
    trace: Trace, generator: torch.Generator, num_samples: int = 3
) -> list[Observation]:
    r"""Mean squared gain and exactly dead inputs of every layer.

    .. math:: \frac{\|J_k\|_F^2}{\dim H_{k-1}} = \mathbb E \frac{\|J_k v\|^2}{\|v\|^2}

    is the mean square of the singular values (with zeros for a wide input), estimated
    from :math:`\|J_k^\top w\|^2`. An input to which no output responds is an entry of
    :math:`J_k^\top w` that is exactly zero for Gaussian w.

    Args:
        trace: The network.
        generator: Source of randomness.
        num_samples: Probes per layer, at least 2. Default 3: at 2,708 x 64 entries
            one probe is right to about 1 %.

    Returns:
        ``mean_squared_gain`` with its standard error and ``zero_columns``.
    """
    rows: list[Observation] = []
    dtype = trace.precision
    for k in range(1, trace.num_layers + 1):
        jacobian = trace.jacobian(k - 1, k)
        m, n = jacobian.shape
        squares = []
        for _ in range(num_samples):
            w = rademacher_vector(
                m, jacobian.dtype, jacobian.device, generator=generator
            )
            squares.append(stable_norm(jacobian.rmatvec(w)).double() ** 2 / n)
        # Random signs can cancel exactly: on a ring two equal entries do, every other
        # time.
        w = gaussian_vector(m, jacobian.dtype, jacobian.device, generator=generator)
        gain = torch.stack(squares)
        stderr = float(gain.std()) / num_samples**0.5
        mean, place = float(gain.mean()), f"layer:{k}"
        silent = share(jacobian.rmatvec(w) == 0)
        rows += [
            Observation("mean_squared_gain", place, mean, stderr, "1", dtype),
            Observation("zero_columns", place, silent, None, "share", dtype),
        ]
        trace.segment(k).release()
    return rows


def spectrum_observations(
    trace: Trace,
    generator: torch.Generator,
    num_matvecs: int = 10,
    num_samples: int = 2,
) -> list[Observation]:
    """Largest singular value, quantiles and dead outputs of at most 16 layers.

    Args:
        trace: The network.
        generator: Source of randomness.
        num_matvecs: Golub-Kahan steps per probe. Default 10: the residual says how far
            the largest value has converged, the standard errors how well the
            quantiles are resolved.
        num_samples: Number of probes, at least 2.

    Returns:
        ``largest_singular_value`` with its relative residual, ``gain_quantile.50``,
        ``gain_quantile.10`` and ``zero_rows``.
    """
    rows: list[Observation] = []
    dtype = trace.precision
    for k in sampled_layers(trace.num_layers):
        jacobian = trace.jacobian(k - 1, k)
        steps = min(num_matvecs, *jacobian.shape)
        if steps < 1:
            continue
        summary = singular_value_summary(
            jacobian, (0.5, 0.1), steps, num_samples, generator=generator
        )
        median, low = summary.quantiles
        largest, place = summary.largest, f"layer:{k}"
        for name, value, stderr in (
            ("largest_singular_value", largest.value, None),
            ("largest_singular_value.residual", largest.residual, None),
            ("gain_quantile.50", median.value, median.stderr),
            ("gain_quantile.10", low.value, low.stderr),
            ("zero_rows", share(_dead_outputs(jacobian, generator)), None),
        ):
            unit = "share" if name == "zero_rows" else "1"
            rows.append(Observation(name, place, value, stderr, unit, dtype))
        trace.segment(k).release()
    return rows


def _dead_outputs(jacobian: JacobianOperator, generator: torch.Generator) -> Tensor:
    """Outputs that respond to nothing: exactly zero for a random direction."""
    v = gaussian_vector(
        jacobian.shape[1], jacobian.dtype, jacobian.device, generator=generator
    )
    return jacobian.matvec(v) == 0
