r"""Estimates from random probes: the Frobenius norm and singular value quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphfathom.linalg.krylov import (
    GolubKahan,
    LargestSingularValue,
    default_num_matvecs,
    golub_kahan,
    leading_value,
    smaller_side_last,
)
from graphfathom.linalg.operator import AbstractLinearOperator
from graphfathom.linalg.vector import (
    gaussian_vector,
    rademacher_vector,
    stable_norm,
)

__all__ = [
    "Estimate",
    "Quantile",
    "SingularValueSummary",
    "singular_value_quantiles",
    "singular_value_summary",
    "squared_frobenius",
]


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random samples."""

    value: float
    """The estimate."""
    stderr: float
    """Its standard error, in the unit of :attr:`value`."""


@dataclass(frozen=True)
class Quantile:
    """A quantile of a distribution known from quadratures."""

    value: float
    """The estimate."""
    stderr: float
    """Its standard error: the spread over probes and the resolution of the quadrature,
    as for a uniform error in [lower, upper], in quadrature."""
    lower: float
    """The smallest value that agrees with the quadratures of the probes."""
    upper: float
    """The largest such value, but for what lies above the largest value seen."""


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
    _check_num_samples(num_samples)
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
        float(squares.mean()) * scale * scale, float(_stderr(squares)) * scale * scale
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
        if not 0 <= share <= 1:
            raise ValueError(f"`quantiles` must lie in [0, 1]. Got {share}.")
    _check_num_samples(num_samples)
    operator = smaller_side_last(operator)
    n = operator.shape[1]
    steps = default_num_matvecs(operator) if num_matvecs is None else num_matvecs
    runs = [
        golub_kahan(
            operator,
            steps,
            gaussian_vector(n, operator.dtype, operator.device, generator=generator),
        )
        for _ in range(num_samples)
    ]
    leading = [leading_value(run, tol) for run in runs]
    # NaN first: a non-finite product must not hide behind a finite one.
    largest = max(leading, key=lambda one: (math.isnan(one.value), one.value))
    return SingularValueSummary(
        largest, tuple(_quantile(runs, n, share) for share in quantiles)
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


def _check_num_samples(num_samples: int) -> None:
    if num_samples < 2:
        raise ValueError(
            f"`num_samples` must be at least 2, or there is no standard error. Got "
            f"{num_samples}."
        )


def _stderr(samples: Tensor) -> Tensor:
    """Standard error of the mean along the last dimension."""
    return samples.std(dim=-1) / samples.shape[-1] ** 0.5


@dataclass(frozen=True, eq=False)
class _Distribution:
    """The mean of several measures on the half line, each a sum of uniform pieces.

    Piece p spreads its mass evenly over ``[lower[p], upper[p]]``, which may be a point;
    ``mass`` has shape (P, probes) and is zero outside the probe that owns the piece.
    """

    lower: Tensor
    upper: Tensor
    mass: Tensor

    def shares(self, points: Tensor, *, inclusive: bool) -> Tensor:
        """Mass of each probe up to each point, of shape (points, probes)."""
        points = points.unsqueeze(1)
        width = self.upper - self.lower
        inside = points >= self.lower if inclusive else points > self.lower
        part = ((points - self.lower) / width).clamp(0, 1)
        return torch.where(width > 0, part, inside.double()) @ self.mass

    def inverse(self, share: float) -> Tensor:
        """The smallest point with at least this share of the mean measure below it."""
        points = torch.cat([self.lower, self.upper]).unique()
        below = self.shares(points, inclusive=False).mean(dim=1)
        upto = self.shares(points, inclusive=True).mean(dim=1)
        reached = upto >= share - 1e-9  # weights are rounded
        i = int(reached.int().argmax())
        if i == 0 or below[i] <= share:
            return points[i]
        rise = below[i] - upto[i - 1]
        return torch.lerp(points[i - 1], points[i], (share - upto[i - 1]) / rise)

    def spread(self, share: float) -> float:
        """Standard error of the inverse over probes, by Woodruff's method."""
        point = self.inverse(share).unsqueeze(0)
        sides = [self.shares(point, inclusive=side) for side in (False, True)]
        error = float(_stderr(torch.cat(sides)).max())
        width = self.inverse(min(share + error, 1)) - self.inverse(share - error)
        return float(width) / 2


def _quantile(runs: Sequence[GolubKahan], size: int, share: float) -> Quantile:
    """A quantile of the singular values of an operator with ``size`` columns."""
    nodes = [_nodes(run, size) for run in runs]
    ends = torch.stack([torch.cat(part) for part in list(zip(*nodes, strict=True))[:3]])
    if not ends.isfinite().all():
        return Quantile(math.nan, math.nan, math.nan, math.nan)
    lower, middle, upper = _merged(ends, max(run.rounding for run in runs))
    mass = torch.block_diag(*(node[3].unsqueeze(1) for node in nodes))
    spread_out = _Distribution(
        torch.cat([lower, middle]),
        torch.cat([middle, upper]),
        torch.cat([mass, mass]) / 2,
    )
    smallest = float(_Distribution(lower, lower, mass).inverse(share))
    largest = float(_Distribution(upper, upper, mass).inverse(share))
    return Quantile(
        value=float(spread_out.inverse(share)),
        # The standard deviation of a uniform variable is its width over sqrt(12).
        stderr=math.hypot(spread_out.spread(share), (largest - smallest) / 12**0.5),
        lower=smallest,
        upper=largest,
    )


def _merged(points: Tensor, tol: float) -> Tensor:
    """Make points equal that differ by rounding, relative to the largest one.

    One singular value, found by two probes, is one point mass and not two.
    """
    ordered, position = points.unique(return_inverse=True)
    starts = torch.diff(ordered, prepend=ordered[:1]) > tol * ordered[-1]
    starts[0] = True
    return ordered[starts][starts.cumsum(0) - 1][position]


def _nodes(run: GolubKahan, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lower ends, nodes, upper ends and masses of one quadrature, in rising order."""
    values, weights, residuals = (part.flip(0) for part in run.ritz())
    if run.steps == size:  # all singular values, whatever the start
        weights = torch.full_like(weights, 1 / size)
        residuals = torch.zeros_like(residuals)
    # No mass below zero, nor above the largest value seen.
    gaps = torch.diff(values, prepend=values.new_zeros(1), append=values[-1:])
    lower = values - torch.minimum(residuals, gaps[:-1])
    upper = values + torch.minimum(residuals, gaps[1:])
    return lower, values, upper, weights
