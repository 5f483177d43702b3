r"""The distribution of all singular values, by stochastic Lanczos quadrature.

=================== ============================= ========================
code                formula                       shape
=================== ============================= ========================
``operator``        :math:`A`                     :math:`(m, n)`
``probes[i].nodes`` :math:`\theta_{ij}`           (steps,)
``weights``         :math:`\omega_{ij}`           (steps,), sum 1
``width``           :math:`h`                     a number
=================== ============================= ========================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphfathom.linalg.krylov import default_num_matvecs, smaller_side_last
from graphfathom.linalg.operator import AbstractLinearOperator
from graphfathom.linalg.quadrature import (
    Estimate,
    Quadrature,
    Quantile,
    check_share,
    quadratures,
    quantile_of,
    spreads,
    standard_error,
)

__all__ = ["SpectralDensity", "spectral_density"]

DEFAULT_NUM_MATVECS = 30
"""Nodes lie about 5 % of the largest value apart."""


@dataclass(frozen=True, eq=False, repr=False)
class SpectralDensity:
    r"""Result of :func:`spectral_density`: one quadrature per probe.

    .. math:: \mu = \frac{1}{s} \sum_{i=1}^{s} \sum_j \omega_{ij} \delta_{\theta_{ij}}

    stands for the :math:`\min(m, n)` singular values, each counted once. Every standard
    error is the spread over probes, and where it says so the resolution: between two
    nodes the place of the mass is not known. All estimates are NaN if A is not finite.
    """

    shape: tuple[int, int]
    """Sizes m and n of A."""
    probes: tuple[Quadrature, ...]
    """Nodes and weights of each probe, in float64 on the CPU; fewer than
    ``num_matvecs`` where an invariant subspace was found."""

    def __repr__(self) -> str:
        steps = max(len(probe.nodes) for probe in self.probes)
        gain = self.mean_squared_gain
        return (
            f"SpectralDensity(shape={self.shape}, {len(self.probes)} probes of {steps} "
            f"nodes, mean squared gain {gain.value:.3g} ± {gain.stderr:.1g})"
        )

    def moment(self, degree: int) -> Estimate:
        r"""Mean of :math:`\sigma^{\text{degree}}` over the singular values.

        Even degrees up to 4 steps - 2 are unbiased, whatever the spectrum.

        Args:
            degree: The power, at least 0.

        Returns:
            Value and standard error over probes.

        Raises:
            ValueError: If ``degree`` is negative.
        """
        if degree < 0:
            raise ValueError(f"`degree` must be at least 0. Got {degree}.")
        scaled, scale = self._scaled_moment(degree)
        factor = scale**degree
        return Estimate(factor * scaled.value, factor * scaled.stderr)

    def _scaled_moment(self, degree: int) -> tuple[Estimate, float]:
        """The moment of the values over the largest node, and that node.

        The squares in the standard error would leave the range first.
        """
        scale = max(float(probe.nodes[-1]) for probe in self.probes) or 1.0
        samples = torch.stack(
            [probe.weights @ (probe.nodes / scale) ** degree for probe in self.probes]
        )
        return Estimate(float(samples.mean()), float(standard_error(samples))), scale

    @property
    def mean_squared_gain(self) -> Estimate:
        r"""The factor :math:`\chi = \operatorname{tr} A'A / n`, with standard error.

        It is the mean of :math:`\|Av\|^2 / \|v\|^2` over all directions v, and the
        second moment, with :math:`n - m` zeros more for a wide operator.
        """
        share = min(self.shape) / self.shape[1]
        second = self.moment(2)
        return Estimate(share * second.value, share * second.stderr)

    @property
    def edge_of_chaos(self) -> Estimate:
        r"""Distance to the edge of chaos: :math:`\tfrac12 \log_{10} \chi`.

        0 where gradients keep their mean squared length, :math:`\chi = 1` (Schoenholz
        et al., 2017); in decades of length per application of A; -inf for a zero
        operator.
        """
        second, scale = self._scaled_moment(2)
        if second.value == 0:
            return Estimate(-math.inf, 0.0)
        share = min(self.shape) / self.shape[1]
        stderr = second.stderr / second.value / (2 * math.log(10))
        return Estimate(
            math.log10(share * second.value) / 2 + math.log10(scale), stderr
        )

    @property
    def mass_at_zero(self) -> Estimate:
        """The share of exact zeros: :meth:`fraction_below` of 0.

        Zeros are told from small values only where a gap separates them, or where a
        probe took all steps; elsewhere the standard error covers the first node.
        """
        return self.fraction_below(0.0)

    def fraction_below(self, threshold: float) -> Estimate:
        r"""The share of singular values of at most a threshold.

        The mass of a node lies no farther away than the next nodes (Chebyshev, Markov,
        Stieltjes), which bounds the share of each probe; the estimate spreads the mass
        evenly within these bounds. More probes do not narrow them, more steps do. What
        lies above the largest value seen is not counted.

        Args:
            threshold: In the unit of the singular values, at least 0.

        Returns:
            Value and standard error: the spread over probes, and the larger distance to
            a bound over the square root of 3, in quadrature. Two standard errors reach
            both bounds.

        Raises:
            ValueError: If ``threshold`` is negative or NaN.
        """
        if not threshold >= 0:
            raise ValueError(f"`threshold` must be at least 0. Got {threshold}.")
        places = spreads(self.probes)
        if places is None:
            return Estimate(math.nan, math.nan)
        point = torch.tensor([threshold], dtype=torch.float64)
        upper, even, lower = (place.shares(point)[0] for place in places)
        value, spread = float(even.mean()), float(standard_error(even))
        bound = max(float(upper.mean()) - value, value - float(lower.mean()))
        return Estimate(value, math.hypot(spread, bound / 3**0.5))

    def quantile(self, share: float) -> Quantile:
        """The smallest number that this share of the singular values does not exceed.

        Args:
            share: In [0, 1].

        Returns:
            Value, bounds and standard error, which includes the resolution.

        Raises:
            ValueError: If ``share`` is out of range.
        """
        check_share(share, "share")
        return quantile_of(self.probes, share)

    def density(
        self,
        points: Tensor | Sequence[float],
        width: float | None = None,
        *,
        log10: bool = False,
    ) -> tuple[Tensor, Tensor]:
        r"""The density of the singular values that are not exactly 0, smoothed.

        .. math:: f(t) = \frac{\sum_{ij} \omega_{ij} \, \phi_h(t - \theta_{ij})}
            {\sum_{ij} \omega_{ij}} \quad \text{over } \theta_{ij} > 0

        with a Gaussian :math:`\phi_h` of standard deviation h, mirrored at 0, so that f
        integrates to one. A width below the distance of the nodes shows the nodes and
        not the spectrum.

        Args:
            points: Places t, of shape (points,).
            width: h, in the unit of the singular values, or in decades with ``log10``.
                None for the range of the nodes over their number.
            log10: Whether the density is one of :math:`\log_{10} \sigma`, per decade,
                with the kernel in it; ``points`` are singular values all the same.

        Returns:
            Density and its standard error over probes, both of shape (points,). NaN if
            all singular values are 0. The bias by smoothing is not in the error.

        Raises:
            ValueError: If ``points`` are negative, or 0 with ``log10``, or ``width`` is
                not positive.

        References:
            | Approximating spectral densities of large matrices (Lin, Saad and Yang,
              2016)
        """
        t = _checked_points(points, log10)
        if width is not None and not width > 0:
            raise ValueError(f"`width` must be positive. Got {width}.")
        width = width or _default_width(self.probes, log10)
        sums, masses = [], []
        for probe in self.probes:
            kept = probe.nodes != 0  # NaN stays
            weights, nodes = probe.weights[kept], probe.nodes[kept]
            sums.append(_kernel(t, nodes, width, log10) @ weights)
            masses.append(weights.sum())
        samples, mass = torch.stack(sums, dim=1), torch.stack(masses)
        value = samples.mean(dim=1) / mass.mean()
        # The error of a ratio of means is that of what one explains not of the other.
        rest = samples - value.unsqueeze(1) * mass
        return value, standard_error(rest) / mass.mean()


def spectral_density(
    operator: AbstractLinearOperator,
    num_matvecs: int | None = None,
    num_samples: int = 10,
    *,
    generator: torch.Generator | None = None,
) -> SpectralDensity:
    r"""The distribution of the :math:`\min(m, n)` singular values from products alone.

    Each Gaussian probe, scaled to length 1, gives by Golub-Kahan the Gauss quadrature
    of its spectral measure, whose mean over probes is the distribution. If a probe
    takes :math:`\min(m, n)` steps, it is exact. The smallest singular value is not
    offered: no number of products far below the size of a large operator finds it.
    Memory is that of ``num_matvecs`` vectors of size m and as many of size n.

    Args:
        operator: :math:`A`, of shape :math:`(m, n)`.
        num_matvecs: Steps per probe, in :math:`[1, \min(m, n)]`, each of one product
            with A and one with its transpose. None for 30, or for the smaller side
            where that is less.
        num_samples: Number of probes, at least 2.
        generator: Source of randomness. The global one if None.

    Returns:
        The quadratures, with methods for shares, moments, quantiles and the density.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from graphfathom.linalg import DenseOperator
        >>> A = DenseOperator(torch.diag(torch.tensor([0.0, 0.5, 1.0, 2.0])).double())
        >>> found = spectral_density(A)
        >>> found.fraction_below(1.5)
        Estimate(value=0.75, stderr=0.0)
        >>> round(found.edge_of_chaos.value, 3)  # log10(5.25 / 4) / 2
        0.059

    References:
        | Fast estimation of tr(f(A)) via stochastic Lanczos quadrature (Ubaru, Chen and
          Saad, 2017)
        | Deep Information Propagation (Schoenholz, Gilmer, Ganguli and Sohl-Dickstein,
          2017)
    """
    tall = smaller_side_last(operator)
    if num_matvecs is None:
        num_matvecs = default_num_matvecs(tall, DEFAULT_NUM_MATVECS)
    found = quadratures(tall, num_matvecs, num_samples, generator=generator)
    return SpectralDensity(operator.shape, tuple(probe for probe, _ in found))


def _checked_points(points: Tensor | Sequence[float], log10: bool) -> Tensor:
    t = torch.as_tensor(points, dtype=torch.float64, device="cpu")
    if t.ndim != 1 or not (t > 0 if log10 else t >= 0).all():
        least = "positive" if log10 else "at least 0"
        raise ValueError(
            f"`points` must be one row of numbers, all of them {least}. Got shape "
            f"{tuple(t.shape)} and minimum {float(t.min()) if t.numel() else None}."
        )
    return t


def _default_width(probes: Sequence[Quadrature], log10: bool) -> float:
    """Range of the nodes over their number, or 1 % where they agree.

    In the middle the nodes are 1.6 times as far apart: a comb of that spacing, smoothed
    so, ripples by less than 1 %.
    """
    nodes = torch.cat([probe.nodes for probe in probes])
    nodes = nodes[nodes != 0]
    if not nodes.numel():
        return 1.0
    least = 0.01 if log10 else 0.01 * float(nodes.max())
    spread = nodes.log10() if log10 else nodes
    steps = max(len(probe.nodes) for probe in probes)
    return max(float(spread.max() - spread.min()) / steps, least)


def _kernel(t: Tensor, nodes: Tensor, width: float, log10: bool) -> Tensor:
    """Gaussian around each node, of shape (points, nodes)."""
    if log10:
        t, nodes = t.log10(), nodes.log10()
    t = t.unsqueeze(1)
    bumps = torch.exp(-(((t - nodes) / width) ** 2) / 2)
    if not log10:
        bumps = bumps + torch.exp(-(((t + nodes) / width) ** 2) / 2)
    return bumps / (width * math.sqrt(2 * math.pi))
