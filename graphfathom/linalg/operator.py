"""Real linear operators known by their products.

A concrete operator implements five members of :class:`AbstractLinearOperator`; the
algebra, the dense twin and the export to SciPy are written once on top of them. Classes
are abstract or final: to change an operator, wrap it.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, final, overload

import torch
from torch import Tensor

from graphfathom.linalg.vector import gaussian_vector, stable_norm

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse.linalg import LinearOperator

__all__ = [
    "AbstractLinearOperator",
    "DenseOperator",
    "FunctionOperator",
]

DEFAULT_BYTE_BUDGET = 2**30
"""1 GiB: room for a dense square float64 matrix of side 11,585."""


class AbstractLinearOperator(ABC):
    r"""A real matrix :math:`A` of shape :math:`(m, n)`, known by its two products.

    ``A @ v``, ``w @ A``, ``A + B``, ``A - B``, ``-A``, ``2 * A`` and ``A @ B`` are
    operators or tensors that compute nothing before they are applied.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Number of rows m and of columns n."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Type of the entries, of what goes in and of what comes out."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the vectors live."""

    @abstractmethod
    def matvec(self, v: Tensor) -> Tensor:
        """Return A v, of shape (m,), for ``v`` of shape (n,)."""

    @abstractmethod
    def rmatvec(self, w: Tensor) -> Tensor:
        """Return A' w, of shape (n,), for ``w`` of shape (m,)."""

    def matmat(self, V: Tensor) -> Tensor:
        """Return A V, of shape (m, k), for ``V`` of shape (n, k), column by column."""
        _check_rows(V, self.shape[1], 2, "V")
        columns = [self.matvec(v) for v in V.unbind(dim=1)]
        empty = V.new_zeros(self.shape[0], 0)
        return torch.stack(columns, dim=1) if columns else empty

    def rmatmat(self, W: Tensor) -> Tensor:
        """Return A' W, of shape (n, k), for ``W`` of shape (m, k), column by column."""
        return self.T.matmat(W)

    @property
    def T(self) -> FunctionOperator:
        """The transpose."""
        m, n = self.shape
        return FunctionOperator(
            self.rmatvec, self.matvec, (n, m), self.dtype, self.device
        )

    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, other: AbstractLinearOperator) -> FunctionOperator: ...
    def __matmul__(self, other: Tensor | AbstractLinearOperator) -> object:
        """A v, A V, or the operator that applies ``other`` first and A next."""
        if isinstance(other, AbstractLinearOperator):
            return _product(self, other)
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim == 1:
            _check_rows(other, self.shape[1], 1, "v")
            return self.matvec(other)
        return self.matmat(other)

    def __rmatmul__(self, other: Tensor) -> Tensor:
        """The row vector or matrix ``other`` times A."""
        if not isinstance(other, Tensor):
            return NotImplemented
        return (self.T @ other.mT).mT if other.ndim == 2 else self.T @ other

    def __add__(self, other: AbstractLinearOperator) -> FunctionOperator:
        """The sum."""
        if not isinstance(other, AbstractLinearOperator):
            return NotImplemented
        return _sum(self, other)

    def __sub__(self, other: AbstractLinearOperator) -> FunctionOperator:
        """The difference."""
        if not isinstance(other, AbstractLinearOperator):
            return NotImplemented
        return _sum(self, -other)

    def __mul__(self, factor: float | Tensor) -> FunctionOperator:
        """A number times A."""
        if not isinstance(factor, numbers.Real | Tensor):
            return NotImplemented
        c = float(factor)
        return FunctionOperator(
            lambda v: c * self.matvec(v),
            lambda w: c * self.rmatvec(w),
            self.shape,
            self.dtype,
            self.device,
        )

    def __rmul__(self, factor: float | Tensor) -> FunctionOperator:
        """A number times A."""
        return self * factor

    def __neg__(self) -> FunctionOperator:
        """The operator times -1."""
        return self * -1.0

    def __repr__(self) -> str:
        """Class, shape and dtype; never the entries."""
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"

    def to_dense(self, *, byte_budget: int = DEFAULT_BYTE_BUDGET) -> Tensor:
        """The matrix itself, by one product per column, or per row if those are fewer.

        Args:
            byte_budget: Largest size of the matrix. Default 1 GiB: it fits beside a
                model on a laptop.

        Returns:
            The matrix, of shape (m, n).

        Raises:
            ValueError: If the matrix would be larger; nothing was allocated then.
        """
        m, n = self.shape
        size = m * n * torch.empty(0, dtype=self.dtype).element_size()
        if size > byte_budget:
            raise ValueError(
                f"`byte_budget` must be at least {size}, the bytes of the dense "
                f"{m} x {n} matrix in {self.dtype}. Got {byte_budget}. Raise it, or "
                f"use an estimator that needs products only, such as "
                f"`squared_frobenius`."
            )
        dense = torch.empty(m, n, dtype=self.dtype, device=self.device)
        by_columns = n <= m
        apply = self.matvec if by_columns else self.rmatvec
        lines = dense.mT if by_columns else dense
        unit = torch.zeros(min(m, n), dtype=self.dtype, device=self.device)
        for i in range(min(m, n)):
            unit[i] = 1
            lines[i] = apply(unit.clone()).detach()
            unit[i] = 0
        return dense

    def to_scipy(self) -> LinearOperator:
        """This operator for SciPy, through NumPy arrays on the CPU.

        Raises:
            TypeError: If NumPy lacks the dtype.
        """
        from scipy.sparse.linalg import LinearOperator

        if self.dtype == torch.bfloat16:
            raise TypeError(
                "`to_scipy` needs a dtype that NumPy has. Got torch.bfloat16. Use a "
                "float32 or float64 operator."
            )

        def through_numpy(function: Callable[[Tensor], Tensor]) -> Callable:
            def apply(array: np.ndarray) -> np.ndarray:
                vector = torch.tensor(array.reshape(-1), dtype=self.dtype)
                return function(vector.to(self.device)).detach().cpu().numpy()

            return apply

        # SciPy's stub describes the abstract class, not its functional constructor.
        return LinearOperator(
            shape=self.shape,
            matvec=through_numpy(self.matvec),  # pyright: ignore[reportCallIssue]
            rmatvec=through_numpy(self.rmatvec),  # pyright: ignore[reportCallIssue]
            dtype=torch.empty(0, dtype=self.dtype).numpy().dtype,
        )

    def adjoint_defect(self, generator: torch.Generator | None = None) -> float:
        r"""How far ``rmatvec`` is from being the transpose of ``matvec``.

        .. math:: \frac{|\langle Av, w\rangle - \langle v, A'w\rangle|}
            {\max(\|Av\| \|w\|,\ \|v\| \|A'w\|)}

        for one pair of Gaussian vectors. A true pair gives a few rounding errors; two
        unrelated products give about one over the square root of the size.

        Args:
            generator: Source of randomness. The global one if None.

        Returns:
            The relative defect, at most 2; 0 if both products vanish; NaN if one of
            them is not finite.
        """
        m, n = self.shape
        v = gaussian_vector(n, self.dtype, self.device, generator=generator)
        w = gaussian_vector(m, self.dtype, self.device, generator=generator)
        # In float64: the comparison must not add errors of its own.
        image = self.matvec(v).detach().double()
        pullback = self.rmatvec(w).detach().double()
        v, w = v.double(), w.double()
        scale = torch.maximum(
            stable_norm(image) * stable_norm(w), stable_norm(v) * stable_norm(pullback)
        )
        if scale == 0:
            return 0.0
        if not scale.isfinite():
            return math.nan
        # Divided first: the inner products of tiny vectors would underflow.
        return float(((image / scale) @ w - v @ (pullback / scale)).abs())


@final
class DenseOperator(AbstractLinearOperator):
    """A matrix as an operator.

    Args:
        matrix: Real floating-point matrix, of shape (m, n).

    Raises:
        ValueError: If ``matrix`` is not a real floating-point matrix.

    Example:
        >>> DenseOperator(torch.zeros(3, 4))
        DenseOperator(shape=(3, 4), dtype=torch.float32)
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2 or not matrix.is_floating_point():
            raise ValueError(
                f"`matrix` must be a real floating-point tensor with 2 dimensions. Got "
                f"{matrix.dtype} with shape {tuple(matrix.shape)}."
            )
        self.matrix = matrix

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the matrix."""
        return self.matrix.shape[0], self.matrix.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the matrix."""
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        """Place of the matrix."""
        return self.matrix.device

    def matvec(self, v: Tensor) -> Tensor:
        """The matrix times ``v``."""
        return self.matrix @ v

    def rmatvec(self, w: Tensor) -> Tensor:
        """The transposed matrix times ``w``."""
        return self.matrix.mT @ w


@final
class FunctionOperator(AbstractLinearOperator):
    """An operator made of two functions; all results of the algebra are of this class.

    Args:
        matvec: Maps v, of shape (n,), to A v.
        rmatvec: Maps w, of shape (m,), to A' w.
        shape: The sizes m and n.
        dtype: Type of v, w and the products.
        device: Place of v, w and the products.
    """

    def __init__(
        self,
        matvec: Callable[[Tensor], Tensor],
        rmatvec: Callable[[Tensor], Tensor],
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._matvec, self._rmatvec = matvec, rmatvec
        self._shape, self._dtype, self._device = shape, dtype, device

    @property
    def shape(self) -> tuple[int, int]:
        """The sizes given."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype given."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """The device given."""
        return self._device

    def matvec(self, v: Tensor) -> Tensor:
        """What the first function makes of ``v``."""
        return self._matvec(v)

    def rmatvec(self, w: Tensor) -> Tensor:
        """What the second function makes of ``w``."""
        return self._rmatvec(w)


def _sum(
    left: AbstractLinearOperator, right: AbstractLinearOperator
) -> FunctionOperator:
    _check_compatible(left, right, "+", left.shape == right.shape)
    return FunctionOperator(
        lambda v: left.matvec(v) + right.matvec(v),
        lambda w: left.rmatvec(w) + right.rmatvec(w),
        left.shape,
        left.dtype,
        left.device,
    )


def _product(
    left: AbstractLinearOperator, right: AbstractLinearOperator
) -> FunctionOperator:
    _check_compatible(left, right, "@", left.shape[1] == right.shape[0])
    return FunctionOperator(
        lambda v: left.matvec(right.matvec(v)),
        lambda w: right.rmatvec(left.rmatvec(w)),
        (left.shape[0], right.shape[1]),
        left.dtype,
        left.device,
    )


def _check_rows(tensor: Tensor, size: int, ndim: int, name: str) -> None:
    if tensor.ndim != ndim or tensor.shape[0] != size:
        wanted = f"({size},)" if ndim == 1 else f"({size}, k)"
        raise ValueError(
            f"`{name}` must have shape {wanted}. Got {tuple(tensor.shape)}."
        )


def _check_compatible(
    left: AbstractLinearOperator,
    right: AbstractLinearOperator,
    sign: str,
    shapes_agree: bool,
) -> None:
    if not shapes_agree:
        raise ValueError(
            f"Shapes do not fit `{sign}`. Got {left.shape} {sign} {right.shape}."
        )
    if (left.dtype, left.device) != (right.dtype, right.device):
        raise ValueError(
            f"Operators joined by `{sign}` must share dtype and device. Got "
            f"{left.dtype} on {left.device} and {right.dtype} on {right.device}."
        )
