"""Eigenvalues against prescribed spectra, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphfathom.linalg import DenseOperator, FunctionOperator
from graphfathom.linalg.eigen import eigenvalues

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rotation(modulus: float, angle: float) -> Tensor:
    """The 2 x 2 matrix with eigenvalues modulus * exp(+-i angle)."""
    c, s = math.cos(angle), math.sin(angle)
    return modulus * torch.tensor([[c, -s], [s, c]], dtype=DOUBLE)


def non_normal(pairs: list[tuple[float, float]], seed: int = 0) -> Tensor:
    """A matrix with these conjugate pairs and a basis far from orthogonal."""
    size = 2 * len(pairs)
    inner = torch.block_diag(*(rotation(*pair) for pair in pairs))
    sample = torch.randn(size, size, dtype=DOUBLE, generator=generator(seed))
    basis = torch.linalg.qr(sample).Q + 0.3 * sample / math.sqrt(size)
    return basis @ inner @ torch.linalg.inv(basis)


def cloud(pairs: list[tuple[float, float]]) -> Tensor:
    """The eigenvalues of these pairs, each with its conjugate behind it."""
    modulus, angle = torch.tensor(pairs, dtype=DOUBLE).unbind(dim=1)
    upper = torch.polar(modulus, angle)
    return torch.stack([upper, upper.conj()], dim=1).flatten()


PAIRS = [(3.0 - 0.04 * i, 0.3 + 0.1 * (i % 20)) for i in range(60)]


@pytest.mark.parametrize("seed", range(3))
def test_all_eigenvalues_of_a_small_matrix(seed):
    found = eigenvalues(DenseOperator(non_normal(PAIRS, seed)))
    assert_close(found.values, cloud(PAIRS), rtol=0, atol=1e-10)
    assert found.values.dtype == torch.complex128
    assert (found.complete, found.missing) == (True, 0)
    assert float(found.residuals.max()) < 1e-11


@pytest.mark.parametrize("seed", range(3))
def test_extremes_by_arnoldi(seed):
    op = DenseOperator(non_normal(PAIRS, seed))
    found = eigenvalues(op, 6, byte_budget=0, generator=generator(seed))
    assert_close(found.values, cloud(PAIRS)[:6], rtol=0, atol=1e-5)
    assert (found.complete, found.missing) == (False, 0)
    assert float(found.residuals.max()) <= 2**-26


def test_arnoldi_agrees_with_the_dense_matrix():
    op = DenseOperator(non_normal(PAIRS))
    dense = eigenvalues(op, 8)
    found = eigenvalues(op, 8, byte_budget=0, tol=1e-12)
    assert_close(found.values, dense.values, rtol=0, atol=1e-9)
    assert (len(dense.values), dense.complete, dense.missing) == (8, False, 0)


@pytest.mark.parametrize("byte_budget", [0, 2**30])
def test_the_residual_is_a_backward_error(byte_budget):
    matrix = non_normal(PAIRS)
    found = eigenvalues(DenseOperator(matrix), 6, tol=1e-3, byte_budget=byte_budget)
    eye = torch.eye(len(matrix), dtype=torch.complex128)
    for value, residual in zip(found.values, found.residuals, strict=True):
        nearest = torch.linalg.svdvals(matrix.to(value.dtype) - value * eye)[-1]
        assert float(nearest) <= float(residual * value.abs()) + 1e-13


def test_a_jordan_block_hides_its_eigenvalue():
    # The classical example: residuals of rounding size, eigenvalues off by a tenth.
    size = 30
    matrix = torch.diag(torch.ones(size - 1, dtype=DOUBLE), 1)
    turn = torch.linalg.qr(torch.randn(size, size, dtype=DOUBLE)).Q
    found = eigenvalues(DenseOperator(turn @ matrix @ turn.mT))
    assert float(found.values.abs().max()) > 0.1
    assert float(found.residuals[0]) < 1e-13


def test_default_number_of_extremes():
    op = DenseOperator(torch.diag(1.2 ** torch.arange(60, dtype=DOUBLE)))
    assert len(eigenvalues(op).values) == 60
    found = eigenvalues(op, byte_budget=0)
    assert_close(found.values.real, 1.2 ** torch.arange(59, 39, -1, dtype=DOUBLE))


def test_a_side_beyond_the_dense_limit():
    diagonal = 1 / torch.arange(1, 5001, dtype=DOUBLE)
    op = FunctionOperator(
        lambda v: diagonal * v,
        lambda w: diagonal * w,
        (5000, 5000),
        DOUBLE,
        torch.device("cpu"),
    )
    found = eigenvalues(op, 4)
    assert_close(found.values.real, diagonal[:4], rtol=1e-8, atol=0)
    assert not found.complete


def test_what_does_not_converge_is_left_out():
    angles = torch.arange(1, 101, dtype=DOUBLE).tolist()
    op = DenseOperator(non_normal([(1.0, angle) for angle in angles]))
    found = eigenvalues(op, 6, byte_budget=0, max_restarts=1, generator=generator())
    assert found.missing > 0
    assert len(found.values) == len(found.residuals) == 6 - found.missing


def test_zeros_have_no_relative_accuracy_and_are_left_out():
    frame = torch.linalg.qr(torch.randn(40, 40, dtype=DOUBLE)).Q
    values = torch.tensor([3.0, 2.0, 1.0], dtype=DOUBLE)
    matrix = frame[:, :3] @ values.diag() @ frame[:, :3].mT
    found = eigenvalues(DenseOperator(matrix), 5, byte_budget=0)
    assert_close(found.values.real, values)
    assert found.missing == 2


def test_zero_operators():
    zero = DenseOperator(torch.zeros(8, 8, dtype=DOUBLE))
    found = eigenvalues(zero)
    assert found.values.tolist() == [0] * 8
    assert found.residuals.tolist() == [0] * 8
    unknown = eigenvalues(zero, 3, byte_budget=0)
    assert (len(unknown.values) + unknown.missing, unknown.complete) == (3, False)
    assert not unknown.values.abs().any()


@pytest.mark.parametrize("scale", [1e-200, 1e200])
@pytest.mark.parametrize("byte_budget", [0, 2**30])
def test_any_scale(scale, byte_budget):
    matrix = non_normal(PAIRS)
    found, scaled = (
        eigenvalues(
            DenseOperator(factor * matrix),
            4,
            byte_budget=byte_budget,
            generator=generator(),
        )
        for factor in (1, scale)
    )
    assert_close(scaled.values / scale, found.values, rtol=1e-6, atol=0)
    assert bool((scaled.residuals > 0).all())


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float32, 1e-3), (DOUBLE, 1e-6)])
@pytest.mark.parametrize("byte_budget", [0, 2**30])
def test_other_dtypes(dtype, tol, byte_budget):
    pairs = [(2.0**-i, 1.0) for i in range(10)]
    op = DenseOperator(non_normal(pairs).to(dtype))
    found = eigenvalues(op, 4, byte_budget=byte_budget)
    assert_close(found.values, cloud(pairs)[:4], rtol=0, atol=tol)
    assert found.missing == 0


def test_one_row_and_none():
    one = eigenvalues(DenseOperator(torch.tensor([[-2.0]])))
    assert (one.values.tolist(), one.complete) == ([-2], True)
    none = eigenvalues(DenseOperator(torch.zeros(0, 0)))
    assert (none.values.shape, none.complete) == ((0,), True)


def test_randomness_comes_from_the_generator():
    op = DenseOperator(non_normal(PAIRS))
    before = torch.get_rng_state()
    one, again = (
        eigenvalues(op, 6, byte_budget=0, generator=generator()) for _ in range(2)
    )
    assert torch.equal(one.values, again.values)
    assert torch.equal(one.residuals, again.residuals)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("byte_budget", [0, 2**30])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_operators_that_are_not_finite(bad, byte_budget):
    matrix = torch.eye(10, dtype=DOUBLE)
    matrix[3, 4] = bad
    with pytest.raises(ValueError, match=r"`operator` must be finite: a product"):
        eigenvalues(DenseOperator(matrix), 3, byte_budget=byte_budget)


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"must be square\. Got shape \(3, 4\)"):
        eigenvalues(DenseOperator(torch.zeros(3, 4)))
    square = DenseOperator(torch.eye(5))
    with pytest.raises(ValueError, match=r"`k` must be in \[1, 5\].*Got 6\.$"):
        eigenvalues(square, 6)
    with pytest.raises(ValueError, match=r"`k` must be in \[1, 5\].*Got 0\.$"):
        eigenvalues(square, 0)
    with pytest.raises(ValueError, match=r"in \[1, 3\].*Got 4\. Raise `byte_budget`"):
        eigenvalues(square, 4, byte_budget=0)
