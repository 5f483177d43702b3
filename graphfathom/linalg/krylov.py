r"""Golub-Kahan bidiagonalisation and the largest singular value.

=============== ========================= ======================
code            formula                   shape
=============== ========================= ======================
``operator``    :math:`A`                 :math:`(m, n)`
``num_matvecs`` :math:`k`                 in [1, min(m, n)]
``U``, ``V``    :math:`U`, :math:`V`      (m, k) and (n, k)
``alphas``      :math:`B_{jj}`            (k,)
``betas``       :math:`B_{j,j+1}`         (k - 1,)
``residual``    :math:`r`                 (n,)
=============== ========================= ======================
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from graphfathom.linalg.operator import AbstractLinearOperator
from graphfathom.linalg.vector import gaussian_vector, stable_norm

__all__ = [
    "GolubKahan",
    "LargestSingularValue",
    "golub_kahan",
    "largest_singular_value",
]

DEFAULT_NUM_MATVECS = 20
"""Leaves a residual of at most 2.1 % and an error of at most 0.3 %, measured on four
Jacobians of random GCN layers (64 to 64 channels on Cora, with and without ReLU)."""

SMALL_OVERLAP = 0.1
"""Share of a vector below which what it has in a basis is taken out in one pass."""

CHUNK = 2**16
"""Columns that are rotated at a time, so that a rotation needs no second basis."""


@dataclass(frozen=True, eq=False)
class GolubKahan:
    r"""Result of :func:`golub_kahan`: :math:`A V = U B`, :math:`A' U = V B' + r e_k'`.

    Columns of ``V`` are orthonormal, and so are those of ``U``; only if the last entry
    of ``alphas`` is an exact 0 is the last column of ``U`` zero as well.
    """

    U: Tensor
    """Left basis, of shape (m, steps)."""
    V: Tensor
    """Right basis, of shape (n, steps); its first column is the normalised start."""
    alphas: Tensor
    """Diagonal of B, of shape (steps,)."""
    betas: Tensor
    """Upper diagonal of B, of shape (steps - 1,)."""
    residual: Tensor
    """The vector r, of shape (n,), orthogonal to ``V``."""
    residual_norm: float
    """Norm of r; exactly 0 after a breakdown."""
    steps: int
    """Number k of columns: ``num_matvecs``, or fewer after a breakdown."""
    breakdown: bool
    """Whether an invariant subspace was found, always so after n steps: the singular
    values of B are then singular values of A."""

    @property
    def bidiagonal(self) -> Tensor:
        """The matrix B, of shape (steps, steps)."""
        return torch.diag(self.alphas) + torch.diag(self.betas, 1)

    @property
    def rounding(self) -> float:
        """What counts as zero, relative to the norm of A."""
        return rounding_of(self.V.dtype, max(len(self.U), len(self.V)))

    def ritz(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""Approximate singular values, in float64 on the CPU and in falling order.

        Returns:
            Values :math:`\theta_j`; their weights, the squared first entries of the
            right singular vectors of B, which sum to 1; and residuals: some operator
            within this distance of A has the singular value :math:`\theta_j`. Values
            and residuals below :attr:`rounding` are exact zeros. All of shape (steps,),
            and NaN if B is not finite.
        """
        B = self.bidiagonal.double().cpu()
        if not B.isfinite().all():
            nan = torch.full((self.steps,), math.nan, dtype=torch.float64)
            return nan, nan, nan
        P, values, Qt = torch.linalg.svd(B)
        residuals = self.residual_norm * P[-1].abs()
        floor = float(self.rounding * values[0])
        return _floored(values, floor), Qt[:, 0] ** 2, _floored(residuals, floor)


@dataclass(frozen=True)
class LargestSingularValue:
    """Result of :func:`largest_singular_value`."""

    value: float
    """The estimate; never above the true value but for rounding."""
    residual: float
    r"""Relative backward error: an operator within
    :math:`\text{residual} \cdot \text{value}` of A in norm has exactly this singular
    value. 0 for a zero operator."""
    steps: int
    """Steps taken, each of one product with A and one with its transpose."""
    converged: bool
    """Whether ``residual`` is at most the tolerance asked for."""


def golub_kahan(
    operator: AbstractLinearOperator,
    num_matvecs: int,
    start: Tensor,
    *,
    reorthogonalise: bool = True,
) -> GolubKahan:
    r"""Bidiagonalise an operator from a start vector.

    .. math:: A V = U B, \qquad A' U = V B' + r e_k'

    with orthonormal :math:`U` and :math:`V` and upper bidiagonal :math:`B`. Each step
    costs one product with A and one with its transpose. It ends early where the next
    vector would be rounding noise: an invariant subspace was found.

    Args:
        operator: :math:`A`, of shape :math:`(m, n)`.
        num_matvecs: Number of steps :math:`k`, in :math:`[1, \min(m, n)]`.
        start: First column of :math:`V` up to length, of shape :math:`(n,)`.
        reorthogonalise: Whether each vector is made orthogonal to all earlier ones,
            in a second pass where the first changed it. Without it large singular
            values appear several times.

    Returns:
        The factors, in the operator's dtype.

    Raises:
        ValueError: If ``num_matvecs`` is out of range, or ``start`` is zero, not finite
            or of another shape.

    References:
        | Calculating the Singular Values and Pseudo-Inverse of a Matrix (Golub and
          Kahan, 1965)
        | Twice is enough: Rounding error analysis of the Gram-Schmidt algorithm
          (Giraud, Langou and Rozloznik, 2005)
    """
    check_num_matvecs(num_matvecs, operator)
    run = Bidiagonalisation.begin(operator, num_matvecs, start)
    for _ in range(num_matvecs):
        run.step(operator, reorthogonalise)
        if run.residual_norm == 0.0:
            break
    k, B = run.steps, run.B.to(run.vs)
    return GolubKahan(
        U=run.us[:k].mT,
        V=run.vs[:k].mT,
        alphas=B.diagonal()[:k],
        betas=B.diagonal(1)[: k - 1],
        residual=run.residual,
        residual_norm=run.residual_norm,
        steps=k,
        breakdown=run.residual_norm == 0.0,
    )


@dataclass(eq=False)
class Bidiagonalisation:
    r"""A Golub-Kahan process: :math:`A V = U B`, :math:`A' U = V B' + r c'`.

    The vector :math:`c` is zero but for its last entries, the ``links``: one where the
    process began with a vector, as many as there are columns after a restart.
    """

    us: Tensor
    """Room for U, column by column, of shape (capacity, m)."""
    vs: Tensor
    """Room for V, column by column, of shape (capacity, n)."""
    B: Tensor
    """Upper triangular, of shape (capacity, capacity), in float64 on the CPU."""
    residual: Tensor
    """The vector r before it is scaled to length 1, of shape (n,)."""
    residual_norm: float
    """Its norm; exactly 0 where V and U span invariant subspaces."""
    links: Tensor
    """Last entries of c, in float64 on the CPU."""
    norm: float = 0.0
    """The largest product of a unit vector so far: a lower bound on the norm of A."""
    steps: int = 0
    """Number of columns."""

    @classmethod
    def begin(
        cls, operator: AbstractLinearOperator, capacity: int, start: Tensor
    ) -> Bidiagonalisation:
        """The process before its first step."""
        m, n = operator.shape
        start = start.detach().to(operator.device, operator.dtype)
        return cls(
            us=start.new_empty(capacity, m),
            vs=start.new_empty(capacity, n),
            B=torch.zeros(capacity, capacity, dtype=torch.float64),
            residual=start,
            residual_norm=_checked_norm(start, n),
            links=torch.zeros(0, dtype=torch.float64),
        )

    def step(
        self, operator: AbstractLinearOperator, reorthogonalise: bool = True
    ) -> None:
        """Add one column to U and to V; the residual must not be zero."""
        j, us, vs = self.steps, self.us, self.vs
        tol = rounding_of(vs.dtype, max(us.shape[1], vs.shape[1]))
        vs[j] = self.residual / self.residual_norm
        self.B[j - len(self.links) : j, j] = self.links
        image = operator.matvec(vs[j]).detach()
        self.norm = max(self.norm, float(stable_norm(image)))
        u, alpha = _remainder(
            image, self.links, us[:j], tol * self.norm, reorthogonalise
        )
        self.B[j, j], self.steps = alpha, j + 1
        us[j] = u / (alpha or 1.0)
        if alpha == 0.0:
            self.residual, self.residual_norm = torch.zeros_like(vs[j]), 0.0
            return
        image = operator.rmatvec(us[j]).detach()
        self.norm = max(self.norm, float(stable_norm(image)))
        self.residual, self.residual_norm = _remainder(
            image, self.B[j, j:][:1], vs[: j + 1], tol * self.norm, reorthogonalise
        )
        self.links = torch.tensor([self.residual_norm], dtype=torch.float64)

    def restart(self, P: Tensor, values: Tensor, Qt: Tensor, keep: int) -> None:
        """Keep the leading columns of U P and V Q, with B = P diag(values) Q'."""
        for rows, rotation in ((self.us, P.mT[:keep]), (self.vs, Qt[:keep])):
            rotation = rotation.to(rows)
            for part in rows[: self.steps].split(CHUNK, dim=1):
                part[:keep] = rotation @ part
        self.B.zero_().diagonal()[:keep] = values[:keep]
        self.links = self.residual_norm * P[-1, :keep]
        self.steps = keep


def largest_singular_value(
    operator: AbstractLinearOperator,
    *,
    num_matvecs: int | None = None,
    tol: float = 5e-2,
    generator: torch.Generator | None = None,
) -> LargestSingularValue:
    r"""The largest singular value by Golub-Kahan from a Gaussian start.

    Of the leading singular triple :math:`(\theta, p, q)` of the bidiagonal matrix,
    :math:`u = Up` and :math:`v = Vq` satisfy :math:`Av = \theta u` and
    :math:`A'u = \theta v + p_k r`, so that they are an exact triple of an operator
    within :math:`|p_k| \|r\|` of A. A small residual proves that :math:`\theta` is near
    a singular value; that it is the largest follows, as for every Krylov method, only
    from the random start.

    Args:
        operator: :math:`A`, of shape :math:`(m, n)`.
        num_matvecs: Number of steps, in :math:`[1, \min(m, n)]`. None for 20, or for
            the smaller side where that is less.
        tol: Relative residual up to which the result counts as converged. Default 5 %:
            the verdicts of this library compare gains by factors.
        generator: Source of randomness. The global one if None.

    Returns:
        Value, relative residual, steps taken and whether it converged.

    Raises:
        ValueError: If ``num_matvecs`` is out of range.
    """
    operator = smaller_side_last(operator)
    run = golub_kahan(
        operator,
        default_num_matvecs(operator) if num_matvecs is None else num_matvecs,
        gaussian_vector(
            operator.shape[1], operator.dtype, operator.device, generator=generator
        ),
    )
    return leading_value(run, tol)


def leading_value(run: GolubKahan, tol: float) -> LargestSingularValue:
    """The largest singular value seen by one bidiagonalisation."""
    values, _, residuals = run.ritz()
    value = float(values[0])
    # No product is better than its rounding, whatever B says.
    residual = max(float(residuals[0]) / value, run.rounding) if value != 0 else 0.0
    return LargestSingularValue(value, residual, run.steps, residual <= tol)


def smaller_side_last(operator: AbstractLinearOperator) -> AbstractLinearOperator:
    """The operator or its transpose, so that it has no more columns than rows.

    Only then does B hold all singular values after as many steps as the smaller side.
    """
    m, n = operator.shape
    return operator if n <= m else operator.T


def default_num_matvecs(
    operator: AbstractLinearOperator, default: int = DEFAULT_NUM_MATVECS
) -> int:
    """The default number of steps, cut at the operator's smaller side."""
    return min(default, *operator.shape)


def rounding_of(dtype: torch.dtype, size: int) -> float:
    """Rounding error of a product relative to the norm of the operator.

    Errors of a sum of ``size`` terms add like a random walk; 10 is a safety factor.
    """
    return 10 * torch.finfo(dtype).eps * math.sqrt(size)


def check_num_matvecs(num_matvecs: int, operator: AbstractLinearOperator) -> None:
    """Refuse a number of steps that the operator cannot take."""
    smaller = min(operator.shape)
    if not 1 <= num_matvecs <= smaller:
        raise ValueError(
            f"`num_matvecs` must be in [1, {smaller}], the smaller side of the "
            f"operator. Got {num_matvecs}."
        )


def _checked_norm(start: Tensor, size: int) -> float:
    norm = stable_norm(start) if start.shape == (size,) else start.new_zeros(())
    if not (norm > 0 and norm.isfinite()):
        raise ValueError(
            f"`start` must be a finite non-zero vector of shape ({size},). Got shape "
            f"{tuple(start.shape)} and norm {float(norm)}."
        )
    return float(norm)


def _remainder(
    image: Tensor, links: Tensor, basis: Tensor, floor: float, orthogonal: bool
) -> tuple[Tensor, float]:
    """What ``image`` adds to ``basis``, and its norm; exact zeros up to ``floor``.

    ``links`` are the coefficients known for the last rows of the basis.
    """
    vector = image
    if len(links):
        vector = torch.addmv(image, basis[-len(links) :].mT, links.to(image), alpha=-1)
    norm = float(stable_norm(vector))
    for _ in range(2 if orthogonal and len(basis) else 0):
        overlap = basis @ vector
        vector = torch.addmv(vector, basis.mT, overlap, alpha=-1)
        norm = float(stable_norm(vector))
        # What a pass leaves is what it took times the defect of the basis: after a
        # small overlap the defect cannot grow. Products that are each other's transpose
        # only to 1e-9, as those of a Jacobian may be, need the second pass (measured).
        if float(stable_norm(overlap)) <= SMALL_OVERLAP * norm:
            break
    return (torch.zeros_like(vector), 0.0) if norm <= floor else (vector, norm)


def _floored(tensor: Tensor, floor: float) -> Tensor:
    return torch.where(tensor <= floor, 0.0, tensor)
