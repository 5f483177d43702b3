"""Gauss quadratures of the singular values from random probes, and their errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphfathom.linalg.krylov import (
    GolubKahan,
    LargestSingularValue,
    golub_kahan,
    leading_value,
)
from graphfathom.linalg.operator import AbstractLinearOperator
from graphfathom.linalg.vector import gaussian_vector

__all__ = ["Estimate", "Quadrature", "Quantile", "Spread", "quadratures"]


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


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Nodes and weights of one probe, in rising order, each of shape (steps,).

    The mass of a node lies between ``lower`` and ``upper``.
    """

    lower: Tensor
    nodes: Tensor
    upper: Tensor
    weights: Tensor
    rounding: float
    """What counts as zero, relative to the largest node."""


def quadratures(
    operator: AbstractLinearOperator,
    num_matvecs: int,
    num_samples: int,
    tol: float = 5e-2,
    *,
    generator: torch.Generator | None = None,
) -> list[tuple[Quadrature, LargestSingularValue]]:
    """One quadrature per Gaussian probe, and the largest value that it saw.

    Args:
        operator: No more columns than rows.
        num_matvecs: Golub-Kahan steps per probe.
        num_samples: Number of probes, at least 2.
        tol: Relative residual up to which a largest value counts as converged.
        generator: Source of randomness. The global one if None.

    Returns:
        As many pairs as probes. The bases of one probe are alive at a time.
    """
    check_num_samples(num_samples)
    n = operator.shape[1]
    found = []
    for _ in range(num_samples):
        probe = gaussian_vector(n, operator.dtype, operator.device, generator=generator)
        run = golub_kahan(operator, num_matvecs, probe)
        found.append((_quadrature(run, n), leading_value(run, tol)))
        del run
    return found


def check_num_samples(num_samples: int) -> None:
    """Refuse a number of probes that gives no standard error."""
    if num_samples < 2:
        raise ValueError(
            f"`num_samples` must be at least 2, or there is no standard error. Got "
            f"{num_samples}."
        )


def standard_error(samples: Tensor) -> Tensor:
    """Standard error of the mean along the last dimension."""
    return samples.std(dim=-1) / samples.shape[-1] ** 0.5


@dataclass(frozen=True, eq=False)
class Spread:
    """The mean of several measures on the half line, each a sum of uniform pieces.

    Piece p spreads its mass evenly over ``[lower[p], upper[p]]``, which may be a point;
    ``mass`` has shape (P, probes) and is zero outside the probe that owns the piece.
    """

    lower: Tensor
    upper: Tensor
    mass: Tensor

    def shares(self, points: Tensor, *, inclusive: bool = True) -> Tensor:
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
        upto = self.shares(points).mean(dim=1)
        reached = upto >= share - 1e-9  # weights are rounded
        i = int(reached.int().argmax())
        if i == 0 or below[i] <= share:
            return points[i]
        rise = below[i] - upto[i - 1]
        return torch.lerp(points[i - 1], points[i], (share - upto[i - 1]) / rise)

    def inverse_error(self, share: float) -> float:
        """Standard error of the inverse over probes, by Woodruff's method."""
        point = self.inverse(share).unsqueeze(0)
        sides = [self.shares(point, inclusive=side) for side in (False, True)]
        error = float(standard_error(torch.cat(sides)).max())
        width = self.inverse(min(share + error, 1)) - self.inverse(share - error)
        return float(width) / 2


def spreads(found: Sequence[Quadrature]) -> tuple[Spread, Spread, Spread] | None:
    """The least, the even and the largest place of all mass; None if not finite.

    The even one spreads half of a node's mass on either side of it.
    """
    parts = [(one.lower, one.nodes, one.upper) for one in found]
    ends = torch.stack([torch.cat(part) for part in zip(*parts, strict=True)])
    if not ends.isfinite().all():
        return None
    lower, middle, upper = _merged(ends, max(one.rounding for one in found))
    mass = torch.block_diag(*(one.weights.unsqueeze(1) for one in found))
    even = Spread(
        torch.cat([lower, middle]),
        torch.cat([middle, upper]),
        torch.cat([mass, mass]) / 2,
    )
    return Spread(lower, lower, mass), even, Spread(upper, upper, mass)


def quantile_of(found: Sequence[Quadrature], share: float) -> Quantile:
    """A quantile of the singular values."""
    places = spreads(found)
    if places is None:
        return Quantile(math.nan, math.nan, math.nan, math.nan)
    least, even, most = places
    smallest, largest = float(least.inverse(share)), float(most.inverse(share))
    return Quantile(
        value=float(even.inverse(share)),
        # The standard deviation of a uniform variable is its width over sqrt(12).
        stderr=math.hypot(even.inverse_error(share), (largest - smallest) / 12**0.5),
        lower=smallest,
        upper=largest,
    )


def check_share(share: float, name: str) -> None:
    """Refuse what is no share of a distribution."""
    if not 0 <= share <= 1:
        raise ValueError(f"`{name}` must lie in [0, 1]. Got {share}.")


def _merged(points: Tensor, tol: float) -> Tensor:
    """Make points equal that differ by rounding, relative to the largest one.

    One singular value, found by two probes, is one point mass and not two.
    """
    ordered, position = points.unique(return_inverse=True)
    starts = torch.diff(ordered, prepend=ordered[:1]) > tol * ordered[-1]
    starts[0] = True
    return ordered[starts][starts.cumsum(0) - 1][position]


def _quadrature(run: GolubKahan, size: int) -> Quadrature:
    """The quadrature of one run on an operator with ``size`` columns."""
    values, weights, residuals = (part.flip(0) for part in run.ritz())
    if run.steps == size:  # all singular values, whatever the start
        weights = torch.full_like(weights, 1 / size)
        residuals = torch.zeros_like(residuals)
    # No mass below zero, nor above the largest value seen.
    gaps = torch.diff(values, prepend=values.new_zeros(1), append=values[-1:])
    return Quadrature(
        lower=values - torch.minimum(residuals, gaps[:-1]),
        nodes=values,
        upper=values + torch.minimum(residuals, gaps[1:]),
        weights=weights,
        rounding=run.rounding,
    )
