import math

import pytest
import torch
from checks import check_operator

from graphfathom.linalg import AbstractLinearOperator, DenseOperator, FunctionOperator

SHAPES = [(5, 5), (7, 3), (3, 7), (1, 4), (4, 1)]


def gaussian(m: int, n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, dtype=torch.float64, generator=generator)


def wrong_transpose() -> FunctionOperator:
    A, B = gaussian(6, 6), gaussian(6, 6, seed=1)
    return FunctionOperator(
        lambda v: A @ v, lambda w: B.T @ w, (6, 6), A.dtype, A.device
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_dense(shape, seed):
    A = gaussian(*shape, seed=seed)
    check_operator(DenseOperator(A), A, seed=seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_algebra(shape):
    A, B, C = gaussian(*shape), gaussian(*shape, seed=1), gaussian(*shape[::-1], seed=2)
    a, b, c = DenseOperator(A), DenseOperator(B), DenseOperator(C)
    check_operator(a.T, A.T)
    check_operator(a + b, A + B)
    check_operator(a - b, A - B)
    check_operator(-a, -A)
    check_operator(0.5 * a, 0.5 * A)
    check_operator(a * torch.tensor(3.0), 3 * A)
    check_operator(torch.tensor(3.0) * a, 3 * A)
    check_operator(a @ c, A @ C)
    check_operator((a @ c + 2 * (c.T @ a.T)).T, (A @ C + 2 * (C.T @ A.T)).T)


def test_float32():
    A = gaussian(4, 3).float()
    check_operator(DenseOperator(A), A, rtol=1e-5)


def test_tiny_entries():
    A = 1e-170 * gaussian(5, 4)
    check_operator(DenseOperator(A), A)


def test_matrix_that_requires_grad():
    A = gaussian(4, 3).requires_grad_()
    check_operator(DenseOperator(A), A)
    assert A.grad is None


def test_abstract_operator_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        AbstractLinearOperator()


def test_repr_hides_entries():
    op = DenseOperator(gaussian(3, 4))
    assert repr(op) == "DenseOperator(shape=(3, 4), dtype=torch.float64)"
    assert repr(op.T) == "FunctionOperator(shape=(4, 3), dtype=torch.float64)"


def test_to_dense_refuses_before_it_computes():
    def never(v):
        raise AssertionError("a product was computed")

    op = FunctionOperator(
        never, never, (10**6, 10**6), torch.float64, torch.device("cpu")
    )
    with pytest.raises(
        ValueError, match="`byte_budget` must be at least 8000000000000"
    ):
        op.to_dense()
    with pytest.raises(ValueError, match=r"3 x 4 matrix in torch.float64. Got 95"):
        DenseOperator(gaussian(3, 4)).to_dense(byte_budget=95)
    DenseOperator(gaussian(3, 4)).to_dense(byte_budget=96)


def test_to_scipy_without_a_numpy_dtype():
    with pytest.raises(TypeError, match=r"dtype that NumPy has\. Got torch\.bfloat16"):
        DenseOperator(torch.eye(2, dtype=torch.bfloat16)).to_scipy()


@pytest.mark.parametrize("seed", range(3))
def test_adjoint_defect_finds_a_wrong_transpose(seed):
    generator = torch.Generator().manual_seed(seed)
    assert wrong_transpose().adjoint_defect(generator) > 1e-3
    twice = FunctionOperator(
        lambda v: v, lambda w: 2 * w, (50, 50), torch.float64, torch.device("cpu")
    )
    assert twice.adjoint_defect(generator) > 1e-3


@pytest.mark.parametrize("scale", [1e-170, 1.0, 1e150])
def test_adjoint_defect_does_not_depend_on_scale(scale):
    op = DenseOperator(gaussian(6, 5))
    assert (scale * op).adjoint_defect() < 1e-14
    wrong = wrong_transpose()
    defects = [
        scaled.adjoint_defect(torch.Generator().manual_seed(0))
        for scaled in (wrong, scale * wrong)
    ]
    assert defects[0] == pytest.approx(defects[1])


def test_adjoint_defect_of_zero_and_of_nan():
    assert DenseOperator(torch.zeros(3, 4)).adjoint_defect() == 0.0
    assert math.isnan(DenseOperator(torch.full((3, 4), math.nan)).adjoint_defect())
    assert math.isnan(DenseOperator(torch.full((3, 4), math.inf)).adjoint_defect())


def test_adjoint_defect_uses_the_generator_only():
    before = torch.get_rng_state()
    wrong = wrong_transpose()
    defects = {
        wrong.adjoint_defect(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    }
    assert len(defects) == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_matrix():
    with pytest.raises(ValueError, match="`matrix` must be a real floating-point"):
        DenseOperator(torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"Got torch\.int64 with shape"):
        DenseOperator(torch.ones(3, 3, dtype=torch.long))


def test_bad_operands():
    op = DenseOperator(gaussian(3, 4))
    with pytest.raises(ValueError, match=r"`v` must have shape \(4,\). Got \(3,\)"):
        op @ gaussian(3, 1)[:, 0]
    with pytest.raises(ValueError, match=r"`V` must have shape \(4, k\). Got \(3, 2\)"):
        op @ gaussian(3, 2)
    with pytest.raises(ValueError, match=r"`V` must have shape \(4, k\)"):
        op @ torch.ones(4, 2, 2)
    with pytest.raises(ValueError, match=r"fit `\+`. Got \(3, 4\) \+ \(4, 3\)"):
        op + op.T
    with pytest.raises(ValueError, match=r"fit `@`. Got \(3, 4\) @ \(3, 4\)"):
        op @ op
    with pytest.raises(ValueError, match=r"joined by `\+` must share dtype"):
        op + DenseOperator(gaussian(3, 4).float())


@pytest.mark.parametrize("other", ["text", None, [1.0]])
def test_foreign_operands_are_type_errors(other):
    op = DenseOperator(gaussian(3, 4))
    for operation in ("__add__", "__sub__", "__mul__", "__matmul__", "__rmatmul__"):
        assert getattr(op, operation)(other) is NotImplemented
