"""Kronecker products against the matrices they stand for."""

from __future__ import annotations

import pytest
import torch
from checks import check_operator
from torch.testing import assert_close

from graphfathom.linalg import AbstractLinearOperator, DenseOperator
from graphfathom.linalg.structured import KroneckerOperator

SHAPES = [
    ((3, 3), (2, 2)),
    ((4, 2), (3, 5)),
    ((2, 4), (5, 3)),
    ((1, 1), (3, 4)),
    ((3, 1), (1, 4)),
]


def gaussian(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("wrap_left", [False, True])
@pytest.mark.parametrize("wrap_right", [False, True])
@pytest.mark.parametrize("shapes", SHAPES)
def test_against_the_dense_product(shapes, wrap_left, wrap_right):
    A, B = gaussian(shapes[0]), gaussian(shapes[1], seed=1)
    op = KroneckerOperator(
        DenseOperator(A) if wrap_left else A, DenseOperator(B) if wrap_right else B
    )
    check_operator(op, torch.kron(A, B))


def test_it_acts_on_rows_laid_end_to_end():
    A, B, X = gaussian((4, 3)), gaussian((2, 5), seed=1), gaussian((3, 5), seed=2)
    image = KroneckerOperator(A, B) @ X.reshape(-1)
    assert_close(image.reshape(4, 2), A @ X @ B.mT)


def test_it_is_the_jacobian_of_a_linear_layer():
    A, W, H = gaussian((4, 4)), gaussian((3, 2), seed=1), gaussian((4, 3), seed=2)
    dense = torch.func.jacrev(lambda h: A @ h @ W)(H).reshape(8, 12)
    check_operator(KroneckerOperator(A, W.mT), dense)


def test_products_of_products():
    A, B, C = gaussian((2, 3)), gaussian((4, 2), seed=1), gaussian((3, 3), seed=2)
    nested = KroneckerOperator(KroneckerOperator(A, B), C)
    check_operator(nested, torch.kron(torch.kron(A, B), C))
    check_operator(
        KroneckerOperator(A, B) @ KroneckerOperator(A.mT, B.mT),
        torch.kron(A @ A.mT, B @ B.mT),
    )


def test_a_sparse_matrix():
    A, B = gaussian((3, 4)), gaussian((2, 2), seed=1)
    A[A.abs() < 0.7] = 0
    check_operator(KroneckerOperator(A.to_sparse(), B), torch.kron(A, B))


def test_the_columns_of_a_matrix_go_together():
    class Refusing(AbstractLinearOperator):
        shape, dtype, device = (2, 2), torch.float64, torch.device("cpu")

        def matvec(self, v: torch.Tensor) -> torch.Tensor:
            raise AssertionError("one column was applied alone")

        rmatvec = matvec

        def matmat(self, V: torch.Tensor) -> torch.Tensor:
            return 2 * V

    V = gaussian((6, 5))
    op = KroneckerOperator(torch.eye(3, dtype=torch.float64), Refusing())
    assert_close(op.matmat(V), 2 * V)


def test_float32():
    A, B = gaussian((4, 3)).float(), gaussian((2, 5)).float()
    check_operator(KroneckerOperator(A, B), torch.kron(A, B), rtol=1e-5)


def test_an_empty_side():
    empty = KroneckerOperator(gaussian((0, 3)), gaussian((2, 2)))
    assert empty.shape == (0, 6)
    assert empty.matvec(torch.ones(6, dtype=torch.float64)).shape == (0,)
    assert empty.rmatvec(torch.ones(0, dtype=torch.float64)).tolist() == [0.0] * 6


def test_bad_matrices():
    square = gaussian((3, 3))
    with pytest.raises(
        ValueError, match=r"`left` must be a real floating-point matrix"
    ):
        KroneckerOperator(square[0], square)
    with pytest.raises(ValueError, match=r"`right` must be.*Got torch\.int64"):
        KroneckerOperator(square, torch.ones(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"`left` and `right` must share dtype"):
        KroneckerOperator(square, square.float())


def test_bad_operands():
    op = KroneckerOperator(gaussian((3, 2)), gaussian((2, 2)))
    with pytest.raises(ValueError, match=r"`V` must have shape \(4, k\). Got \(3, 2\)"):
        op.matmat(gaussian((3, 2)))
    with pytest.raises(ValueError, match=r"`W` must have shape \(6, k\). Got \(4, 2\)"):
        op.rmatmat(gaussian((4, 2)))
