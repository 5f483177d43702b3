"""Eigenvalues of square operators, all of them or those of largest modulus."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphfathom.linalg.operator import (
    DEFAULT_BYTE_BUDGET,
    AbstractLinearOperator,
    FunctionOperator,
)
from graphfathom.linalg.vector import gaussian_vector, stable_norm

__all__ = ["Eigenvalues", "eigenvalues"]

MAX_DENSE_SIDE = 4000
"""LAPACK takes about 25 n^3 operations (Golub and Van Loan, 2013, section 7.5.6)."""

DEFAULT_NUM_EXTREMES = 20
"""Enough to see the rim of a cloud; SciPy's basis then has 41 vectors."""


@dataclass(frozen=True, eq=False)
class Eigenvalues:
    r"""Result of :func:`eigenvalues`."""

    values: Tensor
    """In falling order of the modulus, of shape (r,), complex128 on the CPU."""
    residuals: Tensor
    r"""The norms :math:`\|A x - \lambda x\| / |\lambda|` for eigenvectors x of length
    1, of shape (r,); infinite where only :math:`\lambda` is exactly zero."""
    complete: bool
    """Whether these are all eigenvalues of the operator."""
    missing: int
    """How many of those asked for did not converge and were left out."""


def eigenvalues(
    operator: AbstractLinearOperator,
    k: int | None = None,
    *,
    tol: float | None = None,
    byte_budget: int = DEFAULT_BYTE_BUDGET,
    max_restarts: int = 300,
    generator: torch.Generator | None = None,
) -> Eigenvalues:
    r"""Eigenvalues of a square operator, which need not be symmetric.

    .. math:: A x = \lambda x

    Up to 4,000 rows, if the matrix fits the budget, all of them are computed from the
    dense matrix in float64, at one product per column; eigenvectors take four times the
    memory of the matrix. Beyond, SciPy's implicitly restarted Arnoldi method computes
    those of largest modulus. Then nothing is known of the rest of the cloud, and that
    no larger one was missed follows only from the random start.

    A residual r proves that :math:`\lambda` is an eigenvalue of some operator within
    :math:`r |\lambda|` of A in norm. For a normal A an eigenvalue of A is as close; for
    a non-normal one, as most Jacobians are, it may be far away. There is no density
    estimate: stochastic quadrature needs an orthogonal basis of eigenvectors, which a
    non-normal map does not have. Use singular values for densities of large operators.

    Args:
        operator: :math:`A`, of shape :math:`(n, n)`.
        k: How many of largest modulus. None for all from the dense matrix, else 20. Of
            a conjugate pair one may be cut off.
        tol: Largest residual of those from Arnoldi. None for half of the digits of the
            operator's dtype. Those from the dense matrix are all kept.
        byte_budget: Largest size of the dense matrix in float64. 0 for Arnoldi always.
        max_restarts: Largest number of restarts of Arnoldi.
        generator: Source of randomness for its start. The global one if None.

    Returns:
        Eigenvalues with their residuals.

    Raises:
        ValueError: If the operator is not square or not finite, or if ``k`` is out of
            range: at most n - 2 for Arnoldi.

    Example:
        >>> turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> eigenvalues(gf.linalg.DenseOperator(turn)).values.imag
        tensor([ 1., -1.], dtype=torch.float64)

    References:
        | ARPACK Users' Guide (Lehoucq, Sorensen and Yang, 1998)
        | Spectra and Pseudospectra (Trefethen and Embree, 2005)
    """
    n = operator.shape[1]
    if operator.shape[0] != n:
        raise ValueError(
            f"`operator` must be square. Got shape {operator.shape}: a map between "
            f"states of different sizes has singular values only."
        )
    dense = n <= MAX_DENSE_SIDE and 8 * n * n <= byte_budget
    if k is None:
        k = n if dense else min(DEFAULT_NUM_EXTREMES, n - 2)
    largest = n if dense else n - 2
    if not min(1, n) <= k <= largest:
        raise ValueError(
            f"`k` must be in [1, {largest}] for a side of {n}. Got {k}."
            + ("" if dense else " Raise `byte_budget` for the dense matrix.")
        )
    if dense:
        values, residuals = _dense(operator, byte_budget)
    else:
        # Half of the digits: what a residual keeps after one product.
        tol = math.sqrt(torch.finfo(operator.dtype).eps) if tol is None else tol
        values, residuals = _arnoldi(operator, k, tol, max_restarts, generator)
    keys = (-values.imag, -values.real, -values.abs())
    order = torch.from_numpy(np.lexsort([key.numpy() for key in keys]))[:k]
    return Eigenvalues(
        values[order],
        residuals[order],
        complete=len(order) == n,
        missing=k - len(order),
    )


def _dense(operator: AbstractLinearOperator, byte_budget: int) -> tuple[Tensor, Tensor]:
    matrix = operator.to_dense(byte_budget=byte_budget).double().cpu()
    _check_finite(matrix)
    values, vectors = torch.linalg.eig(matrix)
    images = torch.complex(matrix @ vectors.real, matrix @ vectors.imag)
    return values, _residuals(values, vectors, images)


def _arnoldi(
    operator: AbstractLinearOperator,
    k: int,
    tol: float,
    max_restarts: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    from scipy.sparse.linalg import ArpackNoConvergence, eigs

    kind = (torch.float64, torch.device("cpu"))
    start = gaussian_vector(operator.shape[1], *kind, generator=generator)
    plain = _in_double(operator)
    # ARPACK fails far from 1. A zero operator has no basis to start from.
    scale = float(stable_norm(plain @ start) / stable_norm(start))
    if scale == 0:
        return start.new_empty(0).to(torch.complex128), start.new_empty(0)
    double = (1 / scale) * plain
    try:
        # SciPy's stub infers the type of `tol` from its default, the integer 0.
        found = eigs(
            double.to_scipy(),
            k,
            v0=start.numpy(),
            maxiter=max_restarts,
            tol=tol,  # pyright: ignore[reportArgumentType]
        )
    except ArpackNoConvergence as error:
        found = (error.eigenvalues, error.eigenvectors)
    values, vectors = (torch.from_numpy(part.astype(complex)) for part in found)
    images = torch.complex(double @ vectors.real, double @ vectors.imag)
    residuals = _residuals(values, vectors, images)
    kept = residuals <= tol
    return scale * values[kept], residuals[kept]


def _residuals(values: Tensor, vectors: Tensor, images: Tensor) -> Tensor:
    sizes = values.abs()
    # Divided first: squares of tiny numbers would underflow.
    away = (images - vectors * values) / torch.where(sizes > 0, sizes, 1.0)
    norms = torch.linalg.vector_norm(away, dim=0)
    return norms.masked_fill((sizes == 0) & (norms > 0), math.inf)


def _in_double(operator: AbstractLinearOperator) -> FunctionOperator:
    """The operator on float64 vectors of the CPU; it refuses what is not finite."""

    def apply(v: Tensor) -> Tensor:
        image = operator.matvec(v.to(operator.device, operator.dtype))
        _check_finite(image)
        return image.detach().double().cpu()

    return FunctionOperator(
        apply, operator.rmatvec, operator.shape, torch.float64, torch.device("cpu")
    )


def _check_finite(tensor: Tensor) -> None:
    if not tensor.isfinite().all():
        raise ValueError(
            "`operator` must be finite: a product with it holds NaN or infinity. Look "
            "for the layer that they come from."
        )
