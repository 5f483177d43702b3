import math

import pytest
import torch
from checks import check_operator
from matrices import gaussian, generator, with_spectrum
from torch.testing import assert_close

from graphfathom.linalg import (
    DenseOperator,
    FunctionOperator,
    golub_kahan,
    largest_singular_value,
)

SHAPES = [(12, 12), (20, 8), (8, 20), (1, 6), (6, 1)]
SEEDS = range(3)


def check_identities(A: torch.Tensor, run, rtol: float = 1e-12) -> None:
    size = float(A.abs().max())
    last = torch.zeros(run.steps, dtype=A.dtype)
    last[-1] = 1
    right = run.V @ run.bidiagonal.mT + torch.outer(run.residual, last)
    assert_close(A @ run.V, run.U @ run.bidiagonal, rtol=0, atol=rtol * size)
    assert_close(A.mT @ run.U, right, rtol=0, atol=rtol * size)


def check_orthonormal(run) -> None:
    eye = torch.eye(run.steps, dtype=run.V.dtype)
    assert_close(run.V.mT @ run.V, eye, rtol=0, atol=1e-13)
    if run.alphas[-1] == 0:
        eye[-1, -1] = 0
    assert_close(run.U.mT @ run.U, eye, rtol=0, atol=1e-13)
    assert float((run.V.mT @ run.residual).abs().max()) <= 1e-12


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("reorthogonalise", [True, False])
def test_identities(shape, depth, reorthogonalise, seed):
    A, start = gaussian(*shape, seed=seed), gaussian(shape[1], seed=seed + 10)
    k = max(1, round(depth * min(shape)))
    run = golub_kahan(DenseOperator(A), k, start, reorthogonalise=reorthogonalise)
    check_identities(A, run)
    assert run.U.shape == (shape[0], k)
    assert run.V.shape == (shape[1], k)
    assert run.steps == k
    assert run.residual_norm == pytest.approx(float(run.residual.norm()))
    assert_close(run.V[:, 0], start / start.norm())
    if reorthogonalise:
        check_orthonormal(run)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(12, 12), (20, 8)])
def test_full_depth_is_the_svd(shape, seed):
    A = gaussian(*shape, seed=seed)
    run = golub_kahan(DenseOperator(A), shape[1], gaussian(shape[1]))
    values, weights, residuals = run.ritz()
    assert_close(values, torch.linalg.svdvals(A))
    assert float(weights.sum()) == pytest.approx(1)
    assert run.breakdown
    assert not residuals.any()


@pytest.mark.parametrize("seed", SEEDS)
def test_orthogonality_where_it_is_hard(seed):
    A = with_spectrum(60, 50, [10.0**-i for i in range(16)] + [0.0] * 34, seed=seed)
    start = gaussian(50, seed=seed + 5)
    run = golub_kahan(DenseOperator(A), 40, start)
    check_orthonormal(run)
    check_identities(A, run)


@pytest.mark.parametrize("seed", SEEDS)
def test_orthogonality_with_an_inexact_transpose(seed):
    A = with_spectrum(70, 60, [10.0 ** (-i / 5) for i in range(60)], seed=seed)
    B = A + 1e-9 * gaussian(70, 60, seed=seed + 5)
    op = FunctionOperator(
        lambda v: A @ v, lambda w: B.mT @ w, (70, 60), A.dtype, A.device
    )
    run = golub_kahan(op, 59, gaussian(60, seed=seed + 6))
    assert run.steps == 59
    check_orthonormal(run)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("shape", "values", "steps"),
    [
        ((10, 10), [3.0] * 10, 1),
        ((12, 10), [3.0] * 5 + [1.0] * 5, 2),
        ((12, 10), [3.0] * 4 + [1.0] * 3, 3),
        ((10, 12), [2.0], 2),
    ],
)
def test_breakdown(shape, values, steps, seed):
    A = with_spectrum(*shape, values, seed=seed)
    run = golub_kahan(DenseOperator(A), 9, gaussian(shape[1], seed=seed + 5))
    assert run.steps == steps
    assert run.breakdown
    assert run.residual_norm == 0.0
    check_identities(A, run)
    check_orthonormal(run)
    distinct = sorted({*values, *([0.0] if len(values) < shape[1] else [])})
    assert_close(run.ritz()[0].flip(0), torch.tensor(distinct, dtype=torch.float64))


def test_start_in_the_null_space():
    A = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))
    start = torch.tensor([0.0, 0.0, 5.0], dtype=torch.float64)
    run = golub_kahan(DenseOperator(A), 3, start)
    assert (run.steps, run.breakdown) == (1, True)
    assert run.alphas.tolist() == [0.0]
    check_identities(A, run)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e170, 1e300])
def test_any_scale(scale):
    A = with_spectrum(20, 15, [1 / (i + 1) for i in range(15)])
    one, other = (
        golub_kahan(DenseOperator(factor * A), 6, gaussian(15)) for factor in (1, scale)
    )
    assert other.steps == 6
    assert_close(other.alphas / scale, one.alphas)
    assert_close(other.ritz()[0] / scale, one.ritz()[0])
    assert_close(other.ritz()[1], one.ritz()[1], rtol=1e-6, atol=1e-12)


def test_float32_stops_at_its_own_rounding():
    A = with_spectrum(40, 30, [3.0] * 15 + [1.0] * 15).float()
    run = golub_kahan(DenseOperator(A), 10, gaussian(30))
    assert run.alphas.dtype == torch.float32
    assert run.steps == 2


@pytest.mark.parametrize("num_matvecs", [0, -1, 4])
def test_num_matvecs_out_of_range(num_matvecs):
    op = DenseOperator(gaussian(5, 3))
    match = rf"`num_matvecs` must be in \[1, 3\].*Got {num_matvecs}\."
    with pytest.raises(ValueError, match=match):
        golub_kahan(op, num_matvecs, gaussian(3))
    with pytest.raises(ValueError, match=match):
        largest_singular_value(op, num_matvecs=num_matvecs)


@pytest.mark.parametrize(
    "start",
    [torch.zeros(3), torch.ones(4), torch.ones(3, 1), torch.full((3,), math.nan)],
)
def test_bad_start(start):
    with pytest.raises(ValueError, match=r"`start` must be a finite non-zero vector"):
        golub_kahan(DenseOperator(gaussian(5, 3)), 2, start)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_matvecs", [1, 3, None])
def test_residual_is_the_backward_error(shape, num_matvecs, seed):
    A = gaussian(*shape, seed=seed)
    if num_matvecs is not None:
        num_matvecs = min(num_matvecs, *shape)
    result = largest_singular_value(
        DenseOperator(A), num_matvecs=num_matvecs, generator=generator(seed)
    )
    values = torch.linalg.svdvals(A)
    nearest = float((values - result.value).abs().min())
    assert nearest <= result.residual * result.value
    assert result.value <= float(values[0]) * (1 + 1e-12)
    if num_matvecs is None:  # the whole smaller side
        assert result.value == pytest.approx(float(values[0]), rel=1e-12)
        assert result.residual < 1e-12
        assert result.converged


@pytest.mark.parametrize("seed", SEEDS)
def test_perturbation_that_makes_it_exact(seed):
    A = gaussian(30, 20, seed=seed)
    run = golub_kahan(DenseOperator(A), 6, gaussian(20, seed=seed + 1))
    P, values, Qt = torch.linalg.svd(run.bidiagonal)
    u, v = run.U @ P[:, 0], run.V @ Qt[0]
    E = torch.outer(u, values[0] * v - A.mT @ u)
    residual = float(run.ritz()[2][0])
    assert float(torch.linalg.matrix_norm(E, 2)) == pytest.approx(residual)
    assert_close((A + E) @ v, values[0] * u)
    assert_close((A + E).mT @ u, values[0] * v)


@pytest.mark.parametrize("seed", SEEDS)
def test_convergence_on_a_prescribed_spectrum(seed):
    A = with_spectrum(120, 100, torch.linspace(2, 0, 100).tolist(), seed=seed)
    errors = []
    for num_matvecs in (5, 20, 60):
        result = largest_singular_value(
            DenseOperator(A), num_matvecs=num_matvecs, generator=generator(seed)
        )
        errors.append(2 - result.value)
        assert result.converged == (result.residual <= 0.05)
        assert result.steps == num_matvecs
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.05
    assert errors[2] < 1e-6


@pytest.mark.parametrize("shape", [(4, 4), (3, 6)])
def test_zero_operator(shape):
    result = largest_singular_value(DenseOperator(torch.zeros(shape)))
    assert (result.value, result.residual, result.steps) == (0.0, 0.0, 1)
    assert result.converged


def test_operator_that_is_not_finite():
    for bad in (math.nan, math.inf):
        result = largest_singular_value(DenseOperator(torch.full((4, 4), bad)))
        assert math.isnan(result.value)
        assert math.isnan(result.residual)
        assert not result.converged


def test_default_number_of_steps():
    A = gaussian(60, 40)
    assert largest_singular_value(DenseOperator(A)).steps == 20


def test_randomness_comes_from_the_generator():
    op = DenseOperator(gaussian(30, 30))
    before = torch.get_rng_state()
    one, again, other = (
        largest_singular_value(op, num_matvecs=3, generator=generator(seed))
        for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other
    assert torch.equal(torch.get_rng_state(), before)


def test_composed_operator_against_its_matrix():
    A, B = gaussian(8, 5), gaussian(5, 9)
    op = DenseOperator(A) @ DenseOperator(B)
    check_operator(op, A @ B)
    result = largest_singular_value(op)
    assert result.value == pytest.approx(float(torch.linalg.matrix_norm(A @ B, 2)))


def test_gradients_are_not_tracked():
    A = gaussian(6, 5).requires_grad_()
    run = golub_kahan(DenseOperator(A), 3, gaussian(5))
    assert not run.alphas.requires_grad
    assert not run.residual.requires_grad


def test_products_are_counted():
    counts = {"A v": 0, "A' w": 0}
    A = gaussian(30, 20)

    def matvec(v: torch.Tensor) -> torch.Tensor:
        counts["A v"] += 1
        return A @ v

    def rmatvec(w: torch.Tensor) -> torch.Tensor:
        counts["A' w"] += 1
        return A.mT @ w

    op = FunctionOperator(matvec, rmatvec, (30, 20), A.dtype, A.device)
    largest_singular_value(op, num_matvecs=7)
    assert counts == {"A v": 7, "A' w": 7}
