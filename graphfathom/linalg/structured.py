"""Operators built of smaller ones."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from graphfathom.linalg.operator import AbstractLinearOperator

__all__ = ["KroneckerOperator"]


@final
class KroneckerOperator(AbstractLinearOperator):
    r"""The Kronecker product of two matrices, never formed.

    .. math:: (A \otimes B) \, \mathrm{vec}(X) = \mathrm{vec}(A X B^\top)

    with :math:`\mathrm{vec}` row by row, as ``X.reshape(-1)``: the Jacobian of the
    linear GCN layer :math:`\hat{A} H W` is :math:`\hat{A} \otimes W^\top`. A product
    costs one with A per column of X, and one with B per row.

    Args:
        left: :math:`A`, of shape :math:`(m, n)`, a matrix (dense or sparse) or an
            operator.
        right: :math:`B`, of shape :math:`(m', n')`, likewise; the result has shape
            :math:`(m m', n n')`.

    Raises:
        ValueError: If one of them is no real floating-point matrix, or if they differ
            in dtype or device.

    Example:
        >>> KroneckerOperator(torch.eye(2), torch.ones(3, 4))
        KroneckerOperator(shape=(6, 8), dtype=torch.float32)

    References:
        | The ubiquitous Kronecker product (Van Loan, 2000)
    """

    def __init__(
        self,
        left: Tensor | AbstractLinearOperator,
        right: Tensor | AbstractLinearOperator,
    ) -> None:
        _check_matrix("left", left)
        _check_matrix("right", right)
        if (left.dtype, left.device) != (right.dtype, right.device):
            raise ValueError(
                f"`left` and `right` must share dtype and device. Got {left.dtype} on "
                f"{left.device} and {right.dtype} on {right.device}."
            )
        self.left, self.right = left, right

    @property
    def shape(self) -> tuple[int, int]:
        """Products of the rows and of the columns."""
        (m, n), (p, q) = self.left.shape, self.right.shape
        return m * p, n * q

    @property
    def dtype(self) -> torch.dtype:
        """Type of both factors."""
        return self.left.dtype

    @property
    def device(self) -> torch.device:
        """Place of both factors."""
        return self.left.device

    def matvec(self, v: Tensor) -> Tensor:
        """The matrix A X B' as a vector, for X of the entries of ``v``."""
        return _apply(self.left, self.right, v.unsqueeze(1)).squeeze(1)

    def rmatvec(self, w: Tensor) -> Tensor:
        """The matrix A' Y B as a vector, for Y of the entries of ``w``."""
        return _apply(self.left.T, self.right.T, w.unsqueeze(1)).squeeze(1)

    def matmat(self, V: Tensor) -> Tensor:
        """The products with all columns of ``V`` at once."""
        _check_rows(V, self.shape[1], "V")
        return _apply(self.left, self.right, V)

    def rmatmat(self, W: Tensor) -> Tensor:
        """The products of the transpose with all columns of ``W`` at once."""
        _check_rows(W, self.shape[0], "W")
        return _apply(self.left.T, self.right.T, W)


def _apply(
    left: Tensor | AbstractLinearOperator,
    right: Tensor | AbstractLinearOperator,
    V: Tensor,
) -> Tensor:
    (m, n), (p, q), k = left.shape, right.shape, V.shape[1]
    inner = right @ V.reshape(n, q, k).transpose(0, 1).reshape(q, n * k)
    inner = inner.reshape(p, n, k).transpose(0, 1).reshape(n, p * k)
    return (left @ inner).reshape(m * p, k)


def _check_matrix(name: str, matrix: Tensor | AbstractLinearOperator) -> None:
    if isinstance(matrix, AbstractLinearOperator):
        return
    if matrix.ndim != 2 or not matrix.is_floating_point():
        raise ValueError(
            f"`{name}` must be a real floating-point matrix or an operator. Got "
            f"{matrix.dtype} with shape {tuple(matrix.shape)}."
        )


def _check_rows(tensor: Tensor, size: int, name: str) -> None:
    if tensor.ndim != 2 or tensor.shape[0] != size:
        raise ValueError(
            f"`{name}` must have shape ({size}, k). Got {tuple(tensor.shape)}."
        )
