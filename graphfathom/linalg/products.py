r"""Singular values and Lyapunov exponents of long products.

============= ========================================== =========================
code          formula                                    shape
============= ========================================== =========================
``factors``   :math:`J_1, \dots, J_L`                    :math:`(n_l, n_{l-1})`
``start``     :math:`V`, orthonormal                     :math:`(n_0, p)`
``frame``     :math:`Q_l`, orthonormal                   :math:`(n_l, p)`
``triangle``  :math:`R_l`, upper triangular              :math:`(p, p)`
``product``   :math:`R = R_L \cdots R_1`                 :math:`(p, p)`
============= ========================================== =========================

On the way back the transposes take the place of the factors, in reversed order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from graphfathom.linalg.operator import AbstractLinearOperator
from graphfathom.linalg.scaled import ScaledRows
from graphfathom.linalg.vector import gaussian_vector, stable_norm

__all__ = ["LogSingularValues", "log10_singular_values", "lyapunov_exponents"]


@dataclass(frozen=True, eq=False)
class LogSingularValues:
    """Result of :func:`log10_singular_values`."""

    log10: Tensor
    """Decimal logarithms in falling order, of shape (k,), in float64; -inf for zeros,
    NaN if a product was not finite."""
    residual: Tensor
    """How many decades from each value the product surely has a singular value, of
    shape (k,). Infinite while there is no bound, NaN where the value is."""
    sweeps: int
    """Passes through all factors, each way counted as one."""
    converged: bool
    """Whether every residual is at most the tolerance asked for."""


def log10_singular_values(
    factors: Sequence[AbstractLinearOperator],
    k: int = 1,
    *,
    oversampling: int = 8,
    tol: float = 1e-6,
    max_sweeps: int = 100,
    generator: torch.Generator | None = None,
) -> LogSingularValues:
    r"""The k largest singular values of a product, as decimal logarithms.

    .. math:: J = J_L \cdots J_1, \qquad J_l Q_{l-1} = Q_l R_l, \quad Q_0 = V, \qquad
        J V = Q_L \, (R_L \cdots R_1)

    Subspace iteration on :math:`J^\top J` with a QR factorisation behind every factor,
    forward and backward in turn, each pass from the frame in which the last one ended.
    The small triangular product is kept with logarithms apart from its rows, so that
    the values may leave the range of float64, together or from each other. In exact
    arithmetic the estimates only grow, and never exceed the true values. A pass costs
    :math:`p = k + \text{oversampling}` products with every factor, and the error of the
    i-th value falls in each by :math:`(\sigma_{p+1} / \sigma_i)^2`.

    Of a triple :math:`J v = \sigma u` seen in one pass, the next one gives
    :math:`r = \|J^\top u - \sigma v\| / \sigma`, so that some singular value lies
    within :math:`r \sigma` of :math:`\sigma`; where values are isolated the error is of
    the order :math:`r^2`. The residual is :math:`-\log_{10}(1 - r)`, plus the decades
    by which the two passes disagree. Each has rounding errors of its own, so it is a
    sample of their effect, no bound: they are large where later factors undo earlier
    ones. It does not prove that no larger value was missed: this follows, as for every
    such iteration, only from the random start. Where :math:`p` is the smallest side of
    all, the result is exact up to rounding. Of few factors with a dense spectrum
    :func:`largest_singular_value` needs fewer products.

    A value is -inf if some factor maps its direction to less than
    :math:`10 \varepsilon \|J_l\|_F`: zero as far as products in this precision can
    tell.

    Args:
        factors: :math:`J_1, \dots, J_L` in the order in which they are applied, in
            float32 or float64. Each is asked for once per pass (the first once more)
            and not kept, so that a sequence may build them on demand.
        k: Number of values, in :math:`[1, \min_l n_l]`.
        oversampling: Further columns of the frame, cut at the smallest side. Default 8:
            five to ten are advised (Halko, Martinsson and Tropp, 2011, section 4.2).
        tol: Largest residual, in decades, that counts as converged.
        max_sweeps: Largest number of passes, at least 2.
        generator: Source of randomness. The global one if None.

    Returns:
        Values, residuals, passes and whether they converged.

    Raises:
        ValueError: If an argument is out of range or the factors do not chain.
        TypeError: If a factor is no operator in float32 or float64.

    Example:
        >>> matrix = torch.tensor([[4.0, 1.0], [0.0, 0.01]], dtype=torch.float64)
        >>> layer = gf.linalg.DenseOperator(matrix)
        >>> log10_singular_values([layer] * 500, k=2).log10
        tensor([  301.0432, -1000.0132], dtype=torch.float64)

    References:
        | Numerical Methods for Large Eigenvalue Problems (Saad, 2011), chapter 5
        | Finding Structure with Randomness (Halko, Martinsson and Tropp, 2011)
    """
    if oversampling < 0:
        raise ValueError(f"`oversampling` must be at least 0. Got {oversampling}.")
    if max_sweeps < 2:
        raise ValueError(
            f"`max_sweeps` must be at least 2, one pass each way. Got {max_sweeps}."
        )
    chain = _Chain(factors, k, generator)
    sweeps, log10 = 1, torch.full((k,), math.nan, dtype=torch.float64)
    residual = log10
    try:
        last = chain.carry(chain.start(k + oversampling), False)
        # No residual is better than its rounding, whatever was asked for.
        stop = max(tol, chain.rounding)
        while sweeps < max_sweeps:
            before, last = last, chain.carry(last.frame, sweeps % 2 == 1)
            sweeps += 1
            log10, residual = _padded(last.log10, k), _residual(before, last, k)
            if float(residual.max()) <= stop:
                break
    except FloatingPointError:
        log10 = residual = torch.full((k,), math.nan, dtype=torch.float64)
    return LogSingularValues(log10, residual, sweeps, bool((residual <= tol).all()))


def lyapunov_exponents(
    factors: Sequence[AbstractLinearOperator],
    k: int = 1,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Growth of random volumes per factor, by one forward pass.

    .. math:: \lambda_i = \frac{1}{L} \sum_{l=1}^{L} \ln |(R_l)_{ii}|,
        \qquad J_l Q_{l-1} = Q_l R_l

    from an orthonormalised Gaussian :math:`Q_0`: natural logarithms per factor. The sum
    of the first i is the growth rate of the volume of a random i-dimensional cube,
    while the first i singular values have the largest such growth:

    .. math:: \lambda_1 + \dots + \lambda_i \le
        \frac{1}{L} \ln (\sigma_1 \cdots \sigma_i)

    The difference is the alignment of the cube with the singular vectors, a random
    number over L. So both have the same limit, and for a finite product these are
    neither its singular values nor in falling order: see
    :func:`log10_singular_values`. -inf as there.

    Args:
        factors: As for :func:`log10_singular_values`.
        k: Number of exponents, in :math:`[1, \min_l n_l]`.
        generator: Source of randomness. The global one if None.

    Returns:
        The exponents, of shape (k,), in float64; NaN if a product was not finite.

    Raises:
        ValueError: If ``k`` is out of range or the factors do not chain.
        TypeError: If a factor is no operator in float32 or float64.

    Example:
        >>> layer = gf.linalg.DenseOperator(torch.diag(torch.tensor([1.0, 0.5])))
        >>> lyapunov_exponents([layer] * 100, k=2).sum()
        tensor(-0.6931, dtype=torch.float64)

    References:
        | Lyapunov Characteristic Exponents for smooth dynamical systems and for
          hamiltonian systems (Benettin, Galgani, Giorgilli and Strelcyn, 1980)
    """
    chain = _Chain(factors, k, generator)
    total = torch.zeros(k, dtype=torch.float64)
    try:
        for _, triangle, log10_scale, floor in chain.steps(chain.start(k), False):
            growth = triangle.diagonal().abs()
            total += growth.where(growth > floor, 0.0).log10() + log10_scale
    except FloatingPointError:
        return torch.full_like(total, math.nan)
    return total * math.log(10) / len(factors)


@dataclass(frozen=True, eq=False)
class _Carried:
    """One pass: ``J @ start = frame @ product``, or the same with the transpose."""

    start: Tensor
    frame: Tensor
    product: ScaledRows
    log10: Tensor
    """Logarithms of the non-zero singular values of ``product``."""
    vectors: Tensor
    """Its right singular vectors, as columns."""


@final
class _Chain:
    """Factors that are asked for one at a time."""

    def __init__(
        self,
        factors: Sequence[AbstractLinearOperator],
        k: int,
        generator: torch.Generator | None,
    ) -> None:
        if len(factors) == 0:
            raise ValueError("`factors` must hold at least one operator. Got none.")
        if k < 1:
            raise ValueError(f"`k` must be at least 1. Got {k}.")
        self.factors, self.k, self.generator = factors, k, generator
        self.floors: list[float] = []
        """What counts as zero behind each factor; known after the first pass."""
        self.rounding = 0.0
        """Rounding error of a unit vector, the largest of all factors."""

    def start(self, columns: int) -> Tensor:
        """A random orthonormal frame in front of the first factor."""
        first = self.factors[0]
        _check_factor(first, 0, None, self.k)
        n = first.shape[1]
        p = min(columns, n)
        kind = (torch.float64, first.device)
        sample = gaussian_vector(n * p, *kind, generator=self.generator)
        return torch.linalg.qr(sample.view(n, p)).Q

    def carry(self, start: Tensor, transposed: bool) -> _Carried:
        """Take a frame through all factors."""
        frame, product = start, ScaledRows.identity(start.shape[1])
        for step, triangle, log10_scale, floor in self.steps(start, transposed):
            frame, product = step, product.premultiplied(triangle, log10_scale, floor)
        return _Carried(start, frame, product, *product.svd())

    def steps(
        self, frame: Tensor, transposed: bool
    ) -> Iterator[tuple[Tensor, Tensor, float, float]]:
        """After each factor the frame, the triangle, its scale and its error.

        The scale is a decimal logarithm; triangle and error are divided by it.

        Raises:
            FloatingPointError: If a product is not finite.
        """
        places = range(len(self.factors))
        for place in reversed(places) if transposed else places:
            operator, first = self.factors[place], len(self.floors) == place
            if first:
                _check_factor(operator, place, len(frame) if place else None, self.k)
            apply = operator.rmatmat if transposed else operator.matmat
            image = apply(frame.to(operator.device, operator.dtype)).detach().double()
            scale = float(image.abs().max()) or 1.0
            if not math.isfinite(scale):
                raise FloatingPointError
            frame, triangle = torch.linalg.qr(image / scale)
            triangle = triangle.cpu()
            if first:
                self._learn_floor(operator, triangle, scale)
            yield frame, triangle, math.log10(scale), self.floors[place] / scale

    def _learn_floor(
        self, operator: AbstractLinearOperator, triangle: Tensor, scale: float
    ) -> None:
        n = operator.shape[1]
        kind = (operator.dtype, operator.device)
        probe = gaussian_vector(n, *kind, generator=self.generator)
        # Its mean square is the squared Frobenius norm.
        reach = float(stable_norm(operator.matvec(probe).detach().double()))
        longest = float(torch.linalg.vector_norm(triangle, dim=0).max()) * scale
        eps = torch.finfo(operator.dtype).eps
        self.floors.append(10 * eps * max(reach, longest))
        self.rounding = max(self.rounding, 10 * eps * math.sqrt(max(operator.shape)))


def _residual(before: _Carried, last: _Carried, k: int) -> Tensor:
    """How far the values of one pass are from singular values, seen by the next."""
    V, alive = before.start, last.product.alive.to(before.start.device)
    Z = last.frame[:, alive]
    values, later = _padded(before.log10, k), _padded(last.log10, k)
    moved = torch.where(values == later, 0.0, (later - values).abs())
    found = min(k, before.vectors.shape[1])
    if found == 0 or Z.shape[1] == 0:
        return moved
    # J'u = sigma Z y, where V'Z y are the coordinates of v: this needs no scales.
    overlap = V.mT @ Z
    y = torch.linalg.lstsq(overlap.cpu(), before.vectors[:, :found]).solution
    away = (Z - V @ overlap) @ y.to(V.device)
    angle = torch.linalg.vector_norm(away, dim=0).cpu().clamp(max=1)
    moved[:found] -= torch.log1p(-angle) / math.log(10)
    return moved


def _padded(log10: Tensor, k: int) -> Tensor:
    """The first k logarithms, with those of zeros if they are too few."""
    padding = log10.new_full((max(k - len(log10), 0),), -math.inf)
    return torch.cat([log10[:k], padding])


def _check_factor(
    operator: AbstractLinearOperator, place: int, rows: int | None, k: int
) -> None:
    if not isinstance(operator, AbstractLinearOperator):
        raise TypeError(
            f"`factors` must be operators. Got {type(operator).__name__} at place "
            f"{place}: wrap a matrix in `DenseOperator`."
        )
    if operator.dtype not in {torch.float32, torch.float64}:
        raise TypeError(
            f"`factors` must be in float32 or float64: rounding of a long product in a "
            f"shorter type is too large. Got {operator.dtype} at place {place}."
        )
    if rows is not None and operator.shape[1] != rows:
        raise ValueError(
            f"`factors` must chain, the first applied first. Got shape "
            f"{operator.shape} at place {place} behind one with {rows} rows."
        )
    if k > min(operator.shape):
        raise ValueError(
            f"`k` must be in [1, {min(operator.shape)}], the smallest side of the "
            f"factors. Got {k} and shape {operator.shape} at place {place}."
        )
