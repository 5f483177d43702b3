r"""Small matrices whose singular values leave the range of floats.

A matrix is kept as :math:`\mathrm{diag}(10^{\ell}) \, T` with logarithms :math:`\ell`
and rows of T of unit length. Where T is well conditioned, so is every singular value,
however far apart the :math:`\ell` are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ScaledRows"]

MAX_JACOBI_SWEEPS = 40
"""Five to ten are usual."""


@dataclass(frozen=True, eq=False)
class ScaledRows:
    r"""The matrix :math:`\mathrm{diag}(10^{\ell}) \, T`, in float64 on the CPU."""

    rows: Tensor
    """The matrix T, of shape (r, n); its rows have length 1, or 0 where the row of the
    whole matrix is zero."""
    log10: Tensor
    r"""The logarithms :math:`\ell`, of shape (r,), -inf for a zero row."""

    @classmethod
    def identity(cls, size: int) -> ScaledRows:
        """The identity matrix."""
        return cls(
            torch.eye(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        )

    @property
    def alive(self) -> Tensor:
        """Which rows are not zero, of shape (r,)."""
        return self.log10 > -math.inf

    def premultiplied(
        self, triangle: Tensor, log10_scale: float, floor: float
    ) -> ScaledRows:
        """The product ``10**log10_scale * triangle @ self``.

        Args:
            triangle: Finite upper triangular float64 matrix, of shape (m, r), m <= r.
            log10_scale: Decimal logarithm of its factor.
            floor: Error of the entries of the triangle. A row of the product that is
                not larger than what comes of such errors is set to zero.
        """
        terms = triangle.abs().log10() + self.log10
        largest = terms.amax(dim=1)
        below = self.log10.flip(0).cummax(0).values.flip(0)[: len(triangle)]
        noise = largest <= below + below.new_tensor(floor).log10()
        terms = terms.masked_fill(noise.unsqueeze(1), -math.inf)
        largest = largest.masked_fill(noise, 0.0)
        weights = triangle.sign() * 10 ** (terms - largest.unsqueeze(1))
        return _normalised(weights @ self.rows, largest + log10_scale)

    def svd(self) -> tuple[Tensor, Tensor]:
        r"""Logarithms of the singular values and the right singular vectors.

        By one-sided Jacobi on the rows. The error of each value is about
        :math:`\varepsilon \, \mathrm{cond}(T)` relative to that value, not to the
        largest one. The pairs of a round are disjoint and rotated at once.

        Returns:
            Decimal logarithms in falling order, of shape (a,) for a non-zero rows, and
            the vectors, of shape (n, a). Logarithms are NaN if Jacobi does not
            converge.

        References:
            | Jacobi's method is more accurate than QR (Demmel and Veselic, 1992)
        """
        found = ScaledRows(self.rows[self.alive], self.log10[self.alive])
        # The usual rounding of an inner product of unit vectors, times a safety of 10.
        tol = 10 * torch.finfo(torch.float64).eps * math.sqrt(self.rows.shape[1])
        rounds = list(_rounds(len(found.log10)))
        for _ in range(MAX_JACOBI_SWEEPS):
            worst = 0.0
            for i, j in rounds:
                found, cosine = found._rotated(i, j)
                worst = max(worst, cosine)
            if worst <= tol:
                break
        else:
            return torch.full_like(found.log10, math.nan), found.rows.mT
        values, order = found.log10.sort(descending=True)
        return values, found.rows[order].mT

    def _rotated(self, i: Tensor, j: Tensor) -> tuple[ScaledRows, float]:
        """Rows i and j made orthogonal, and the largest cosine before."""
        swap = self.log10[i] < self.log10[j]
        big, small = torch.where(swap, j, i), torch.where(swap, i, j)
        g, h = self.rows[big], self.rows[small]
        # Two zero rows have the difference NaN.
        gap = (self.log10[small] - self.log10[big]).nan_to_num(0.0)
        ratio = 10**gap
        cosine = (g * h).sum(dim=1)
        # tan(angle) = ratio * slope; no term overflows, and `ratio` may underflow.
        rest = -torch.expm1(2 * math.log(10) * gap)
        below = rest + torch.hypot(rest, 2 * ratio * cosine)
        slope = torch.where(below > 0, 2 * cosine / below, 0.0)
        norm = torch.hypot(torch.ones_like(ratio), ratio * slope)
        upper = (g + (slope * ratio**2).unsqueeze(1) * h) / norm.unsqueeze(1)
        lower = (h - slope.unsqueeze(1) * g) / norm.unsqueeze(1)
        pair = torch.cat([big, small])
        turned = _normalised(torch.cat([upper, lower]), self.log10[pair])
        rows, log10 = self.rows.clone(), self.log10.clone()
        rows[pair], log10[pair] = turned.rows, turned.log10
        return ScaledRows(rows, log10), float(cosine.abs().max())


def _normalised(rows: Tensor, log10: Tensor) -> ScaledRows:
    norms = torch.linalg.vector_norm(rows, dim=1)
    lengths = torch.where(norms > 0, norms, 1.0)
    return ScaledRows(rows / lengths.unsqueeze(1), log10 + norms.log10())


def _rounds(size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All pairs of ``size`` things, in rounds of disjoint pairs (the circle method)."""
    players = list(range(size + size % 2)) if size > 1 else []
    half = len(players) // 2
    for _ in range(len(players) - 1):
        pairs = zip(players[:half], reversed(players[half:]), strict=True)
        met = torch.tensor([pair for pair in pairs if max(pair) < size]).view(-1, 2)
        yield met[:, 0], met[:, 1]
        players = [players[0], players[-1], *players[1:-1]]
