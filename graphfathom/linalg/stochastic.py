r"""Estimates from random probes: the Frobenius norm and singular value quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graphfathom.linalg.krylov import (
    LargestSingularValue,
    default_num_matvecs,
    smaller_side_last,
)
from graphfathom.linalg.operator import AbstractLinearOperator
from graphfathom.linalg.quadrature import (
    Estimate,
    Quantile,
    check_num_samples,
    check_share,
    quadratures,
    quantile_of,
    standard_error,
)
from graphfathom.linalg.vector import rademacher_vector, stable_norm

__all__ = [
    "Estimate",
    "Quantile",
    "SingularValueSummary",
    "singular_value_quantiles",
    "singular_value_summary",
    "squared_frobenius",
]


@dataclass(frozen=True)
class SingularValueSummary:
    """Result of :func:`singular_value_summary`."""

    largest: LargestSingularValue
    """The largest singular value seen by any probe, with its residual."""
    quantiles: tuple[Quantile, ...]
    """One per quantile asked for, in that order."""


def squared_frobenius(
    operator: AbstractLinearOperator,
    num_samples: int,
    *,
    generator: torch.Generator | None = None,
) -> Estimate:
    r"""Estimate the squared Frobenius norm with products of the transpose only.

    .. math:: \|A\|_F^2 = \operatorname{tr} AA'
        \approx \frac{1}{s} \sum_{i=1}^{s} \|A' w_i\|^2

    with Rademacher probes :math:`w_i`: unbiased, and exact for one sample if the rows
    of A are orthogonal. Divided by :math:`n` it is the mean squared gain
    :math:`\|Av\|^2 / \|v\|^2` over random directions.

    Args:
        operator: :math:`A`, of shape :math:`(m, n)`. For a Jacobian each sample is one
            VJP.
        num_samples: Number of probes :math:`s`, at least 2.
        generator: Source of randomness. The global one if None.

    Returns:
        Value and standard error. The value underflows like any square: to 0 for norms
        below 1e-162 in float64; scale such an operator first.

    Raises:
        ValueError: If ``num_samples`` is less than 2.

    References:
        | A stochastic estimator of the trace of the influence matrix for Laplacian
          smoothing splines (Hutchinson, 1990)
    """
    check_num_samples(num_samples)
    norms = []
    for _ in range(num_samples):
        w = rademacher_vector(
            operator.shape[0], operator.dtype, operator.device, generator=generator
        )
        norms.append(stable_norm(operator.rmatvec(w).detach()).double().cpu())
    # The squares of squares in the standard error leave the range much earlier.
    scale = float(max(norms)) or 1.0
    squares = (torch.stack(norms) / scale) ** 2
    return Estimate(
        float(squares.mean()) * scale * scale,
        float(standard_error(squares)) * scale * scale,
    )


def singular_value_summary(
    operator: AbstractLinearOperator,
    quantiles: Sequence[float],
    num_matvecs: int | None = None,
    num_samples: int = 4,
    *,
    tol: float = 5e-2,
    generator: torch.Generator | None = None,
) -> SingularValueSummary:
    r"""Largest singular value and quantiles of all of them, from the same products.

    The distribution is that of the :math:`\min(m, n)` singular values, each counted
    once: the spectral measure of :math:`A'A` if :math:`n \le m`, else of :math:`AA'`.
    The q-quantile is the smallest number that a share q of them does not exceed.

    Each Gaussian probe, scaled to length 1, gives by Golub-Kahan one Gauss quadrature
    of this measure. The mass of a node lies no farther away than the next nodes
    (Chebyshev, Markov, Stieltjes); here it is spread evenly up to them, or over the
    residual of the node if that is less. So a converged node, such as a zero of high
    multiplicity, is a point mass, and quantiles within it are exact. Zeros next to a
    spectrum without a gap are not resolved: the bounds of the quantile then reach 0. If
    a probe takes :math:`\min(m, n)` steps, it knows all singular values.

    Args:
        operator: :math:`A`, of shape :math:`(m, n)`.
        quantiles: Shares q, each in [0, 1].
        num_matvecs: Golub-Kahan steps per probe, in :math:`[1, \min(m, n)]`. None for
            20, or for the smaller side where that is less.
        num_samples: Number of probes, at least 2. Default 4: with 20 steps on Gaussian
            matrices of at least 100 columns the spread is then below a third of the
            resolution (measured).
        tol: Relative residual up to which the largest value counts as converged.
        generator: Source of randomness. The global one if None.

    Returns:
        The largest value with its residual, and the quantiles. The spread over probes
        is that of the distribution function, carried through its inverse. NaN if the
        operator is not finite.

    Raises:
        ValueError: If an argument is out of range.

    References:
        | Matrices, Moments and Quadrature with Applications (Golub and Meurant, 2010)
        | Fast estimation of tr(f(A)) via stochastic Lanczos quadrature (Ubaru, Chen and
          Saad, 2017)
        | Confidence intervals for medians and other position measures (Woodruff, 1952)
    """
    for share in quantiles:
        check_share(share, "quantiles")
    operator = smaller_side_last(operator)
    steps = default_num_matvecs(operator) if num_matvecs is None else num_matvecs
    found = quadratures(operator, steps, num_samples, tol, generator=generator)
    # NaN first: a non-finite product must not hide behind a finite one.
    largest = max(
        (one for _, one in found), key=lambda one: (math.isnan(one.value), one.value)
    )
    probes = [quadrature for quadrature, _ in found]
    return SingularValueSummary(
        largest, tuple(quantile_of(probes, share) for share in quantiles)
    )


def singular_value_quantiles(
    operator: AbstractLinearOperator,
    quantiles: Sequence[float],
    num_matvecs: int | None = None,
    num_samples: int = 4,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Quantile, ...]:
    """The quantiles of :func:`singular_value_summary`, whose arguments these are."""
    return singular_value_summary(
        operator, quantiles, num_matvecs, num_samples, generator=generator
    ).quantiles
