import math
from dataclasses import replace

import pytest
import torch
from matrices import gaussian, generator, with_spectrum
from torch.testing import assert_close

from graphfathom.linalg import DenseOperator, FunctionOperator
from graphfathom.linalg.restarted import largest_singular_values

SEEDS = range(3)
SHAPES = [(12, 12), (20, 8), (8, 20), (1, 6), (6, 1)]
FEW = [3.0] * 4 + [2.0] * 3 + torch.linspace(1, 0, 33).tolist()
EVEN = torch.linspace(2, 0, 60).tolist()


def check_triplets(A: torch.Tensor, found) -> None:
    """Residuals, once more from the matrix, and orthonormal vectors."""
    U, V, values = found.U, found.V, found.values
    gaps = torch.maximum(
        (A @ V - U * values).norm(dim=0), (A.mT @ U - V * values).norm(dim=0)
    )
    assert_close(found.residuals * values, gaps, rtol=1e-3, atol=1e-12)
    eye = torch.eye(len(values))
    assert_close(V.mT @ V, eye, rtol=0, atol=1e-12)
    assert_close(U.mT @ U, eye, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(70, 60), (60, 70)])
@pytest.mark.parametrize(("k", "basis_size"), [(1, 3), (1, None), (4, 6), (7, None)])
def test_restarts_find_the_largest(k, basis_size, shape, seed):
    A = with_spectrum(*shape, EVEN, seed=seed)
    found = largest_singular_values(
        DenseOperator(A),
        k,
        tol=1e-6,
        basis_size=basis_size,
        generator=generator(seed),
    )
    assert found.converged
    assert float(found.residuals.max()) <= 1e-6
    assert_close(found.values, torch.linalg.svdvals(A)[:k], rtol=1e-9, atol=0)
    check_triplets(A, found)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", [1, 2, 4, 6, 9])
def test_multiple_values_are_found_as_often_as_they_occur(k, seed):
    """A connected component that repeats repeats its singular values."""
    A = with_spectrum(50, 40, FEW, seed=seed)
    found = largest_singular_values(DenseOperator(A), k, generator=generator(seed))
    assert found.converged
    truth = torch.linalg.svdvals(A)[:k]
    assert bool(((found.values - truth).abs() <= 2e-3 * truth).all())
    check_triplets(A, found)


@pytest.mark.parametrize("matrix", [3 * torch.eye(6), torch.ones(5, 7), torch.eye(1)])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_fewer_distinct_values_than_asked_for(matrix, k):
    k = min(k, *matrix.shape)
    found = largest_singular_values(DenseOperator(matrix), k)
    assert found.converged
    truth = torch.linalg.svdvals(matrix)[:k]
    assert_close(found.values, truth, rtol=1e-12, atol=1e-12)
    assert bool((found.values[truth < 1e-9] == 0).all())


@pytest.mark.parametrize("shape", SHAPES)
def test_all_values_are_those_of_lapack(shape):
    A = gaussian(*shape)
    for k in (None, min(shape)):
        found = largest_singular_values(DenseOperator(A), k, tol=1e-9)
        assert found.converged
        assert_close(found.values, torch.linalg.svdvals(A))
        check_triplets(A, found)
        assert (found.U.shape[0], found.V.shape[0]) == shape


def test_a_value_that_hides_behind_many():
    """All but one agree to 1e-4: the first residuals are small, and prove nothing."""
    values = [1.1, *torch.linspace(1.0001, 1, 399).tolist()]
    op = DenseOperator(torch.tensor(values).diag())
    for seed in range(10):
        found = largest_singular_values(op, 1, generator=generator(seed))
        assert float(found.values[0]) == pytest.approx(1.1, rel=1e-4)


def test_too_few_steps_are_not_converged():
    A = with_spectrum(70, 60, EVEN)
    found = largest_singular_values(
        DenseOperator(A), 2, tol=1e-6, max_matvecs=5, generator=generator()
    )
    assert not found.converged
    assert float(found.residuals.max()) > 1e-6
    check_triplets(A, found)
    assert bool((found.values <= torch.linalg.svdvals(A)[:2]).all())
    # Converged, but no step is left to look for copies.
    found = largest_singular_values(
        DenseOperator(3 * torch.eye(9)), 2, max_matvecs=1, generator=generator()
    )
    assert (len(found.values), found.converged) == (1, False)


@pytest.mark.parametrize("k", [1, 3])
def test_all_products_are_counted(k):
    calls, A = [], with_spectrum(50, 40, FEW)
    op = FunctionOperator(
        lambda v: calls.append(0) or A @ v,
        lambda w: calls.append(1) or A.mT @ w,
        (50, 40),
        A.dtype,
        A.device,
    )
    found = largest_singular_values(op, k, generator=generator())
    assert found.products == len(calls)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e170, 1e300])
def test_largest_at_any_scale(scale):
    A = with_spectrum(50, 40, FEW)
    one, other = (
        largest_singular_values(DenseOperator(f * A), 5, generator=generator())
        for f in (1, scale)
    )
    assert other.converged
    assert_close(other.values / scale, one.values)
    check_triplets(A, replace(other, values=other.values / scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_largest_in_low_precision(dtype):
    A = with_spectrum(30, 20, [3.0, 2.0] + [0.5] * 18).to(dtype)
    eps = torch.finfo(dtype).eps
    for k in (1, 2, None):
        found = largest_singular_values(
            DenseOperator(A), k, tol=100 * eps, generator=generator()
        )
        truth = torch.linalg.svdvals(A.double())[:k]
        assert_close(found.values, truth, rtol=0, atol=100 * eps)
        assert (found.U.dtype, found.V.dtype) == (dtype, dtype)
        assert found.converged


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_small_rank_is_not_taken_for_rounding(dtype):
    """A random start sees a hundredth of the second value: small, but no noise."""
    values = torch.zeros(10_000, dtype=dtype)
    values[:2] = torch.tensor([1.0, 0.05])
    op = FunctionOperator(
        lambda v: values * v,
        lambda w: values * w,
        (10_000, 10_000),
        dtype,
        values.device,
    )
    found = largest_singular_values(op, 3, generator=generator())
    assert found.converged
    assert_close(found.values, torch.tensor([1.0, 0.05, 0.0]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("k", [1, 2, None])
def test_largest_of_zero_and_nan(k):
    zero = largest_singular_values(DenseOperator(torch.zeros(4, 3)), k)
    assert zero.converged
    assert not zero.values.any()
    assert not zero.residuals.any()
    for bad in (math.nan, math.inf):
        found = largest_singular_values(DenseOperator(torch.full((4, 3), bad)), k)
        assert not found.converged
        assert found.values.isnan().all()
        assert found.values.shape == (k or 3,)


def test_randomness_of_the_largest_comes_from_the_generator():
    op, before = DenseOperator(gaussian(30, 30)), torch.get_rng_state()
    one, again, other = (
        largest_singular_values(op, 2, generator=generator(seed)).values.tolist()
        for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"k": 0}, r"`k` must be in \[1, 3\].*Got 0"),
        ({"k": 4}, r"`k` must be in \[1, 3\].*Got 4"),
        ({"tol": 0.0}, r"`tol` must be in \(0, 1\).*Got 0.0"),
        ({"tol": math.nan}, r"`tol` must be in \(0, 1\).*Got nan"),
        ({"max_matvecs": 0}, r"`max_matvecs` must be at least 1. Got 0"),
        ({"basis_size": 2}, r"`basis_size` must be at least 3 for k = 1.*Got 2"),
        ({"k": None, "byte_budget": 8}, r"`byte_budget` must be at least 120"),
    ],
)
def test_bad_arguments_of_the_largest(arguments, match):
    with pytest.raises(ValueError, match=match):
        largest_singular_values(DenseOperator(gaussian(5, 3)), **{"k": 1} | arguments)
