import math

import numpy as np
import pytest
import torch
from checks import check_estimator

from graphfathom.linalg import (
    DenseOperator,
    Estimate,
    FunctionOperator,
    largest_singular_value,
    singular_value_quantiles,
    singular_value_summary,
    squared_frobenius,
)

SEEDS = range(3)
SHARES = (0.0, 0.1, 0.25, 0.5, 0.77, 0.9, 1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def diagonal(values: torch.Tensor, rows: int | None = None) -> DenseOperator:
    """Rotated on both sides, so that probes see no coordinate system."""
    values, n = values.double(), len(values)
    U, _ = torch.linalg.qr(gaussian(rows or n, n, seed=1))
    V, _ = torch.linalg.qr(gaussian(n, n, seed=2))
    return DenseOperator(U @ values.diag() @ V.mT)


def inverted_cdf(values: torch.Tensor, share: float) -> float:
    return float(np.quantile(values.numpy(), share, method="inverted_cdf"))


@pytest.mark.parametrize("shape", [(15, 15), (30, 5), (5, 30), (1, 7)])
def test_squared_frobenius_is_unbiased(shape):
    A = gaussian(*shape)
    if shape[0] == 1:  # one row: any sign gives the same
        check_estimator(
            lambda g: squared_frobenius(DenseOperator(A), 2, generator=g),
            float(A.square().sum()),
            exact=True,
        )
        return
    check_estimator(
        lambda g: squared_frobenius(DenseOperator(A), 20, generator=g),
        float(A.square().sum()),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_squared_frobenius_is_exact_for_orthogonal_rows(seed):
    Q, _ = torch.linalg.qr(gaussian(9, 9, seed=seed))
    A = torch.arange(1.0, 10.0, dtype=torch.float64).diag() @ Q
    check_estimator(
        lambda g: squared_frobenius(DenseOperator(A), 2, generator=g), 285, exact=True
    )


def test_squared_frobenius_error_shrinks_with_samples():
    op = DenseOperator(gaussian(30, 30))
    errors = [
        squared_frobenius(op, num_samples, generator=generator()).stderr
        for num_samples in (25, 400)
    ]
    assert 2.5 < errors[0] / errors[1] < 6  # four in the mean


def test_squared_frobenius_needs_products_of_the_transpose_only():
    A = gaussian(4, 6)

    def never(v: torch.Tensor) -> torch.Tensor:
        raise AssertionError("matvec was called")

    op = FunctionOperator(never, lambda w: A.mT @ w, (4, 6), A.dtype, A.device)
    assert squared_frobenius(op, 3).value > 0


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_squared_frobenius_at_extreme_scales(scale):
    op = DenseOperator(gaussian(8, 8))
    plain = squared_frobenius(op, 4, generator=generator())
    scaled = squared_frobenius(scale * op, 4, generator=generator())
    assert scaled.value / scale / scale == pytest.approx(plain.value)
    assert scaled.stderr / scale / scale == pytest.approx(plain.stderr)


def test_squared_frobenius_of_zero_and_nan():
    assert squared_frobenius(DenseOperator(torch.zeros(3, 4)), 2) == Estimate(0.0, 0.0)
    nan = squared_frobenius(DenseOperator(torch.full((3, 4), math.nan)), 2)
    assert math.isnan(nan.value)
    assert math.isnan(nan.stderr)


@pytest.mark.parametrize("num_samples", [1, 0, -3])
def test_too_few_samples(num_samples):
    op = DenseOperator(gaussian(4, 4))
    match = rf"`num_samples` must be at least 2.*Got {num_samples}\."
    with pytest.raises(ValueError, match=match):
        squared_frobenius(op, num_samples)
    with pytest.raises(ValueError, match=match):
        singular_value_summary(op, (0.5,), 2, num_samples)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_bad_share(share):
    with pytest.raises(ValueError, match=r"`quantiles` must lie in \[0, 1\]. Got"):
        singular_value_quantiles(DenseOperator(gaussian(4, 4)), (0.5, share))


@pytest.mark.parametrize("num_matvecs", [0, 5])
def test_bad_num_matvecs(num_matvecs):
    with pytest.raises(ValueError, match=r"`num_matvecs` must be in \[1, 4\]"):
        singular_value_quantiles(DenseOperator(gaussian(4, 9)), (0.5,), num_matvecs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(12, 12), (20, 9), (9, 20), (1, 5), (5, 1)])
def test_full_budget_is_exact(shape, seed):
    A = gaussian(*shape, seed=seed)
    values = torch.linalg.svdvals(A)
    summary = singular_value_summary(
        DenseOperator(A), SHARES, min(shape), 2, generator=generator(seed)
    )
    assert summary.largest.value == pytest.approx(float(values[0]))
    for share, quantile in zip(SHARES, summary.quantiles, strict=True):
        expected = pytest.approx(inverted_cdf(values, share))
        assert quantile.value == expected
        assert quantile.lower == expected
        assert quantile.upper == expected
        assert quantile.stderr < 1e-10


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rows", [200, 300])
def test_few_distinct_values_are_exact_at_few_steps(rows, seed):
    values = torch.tensor([0.0] * 60 + [0.5] * 90 + [3.0] * 50)
    quantiles = singular_value_quantiles(
        diagonal(values, rows), (0.1, 0.2, 0.5, 0.9), 6, generator=generator(seed)
    )
    # Zeros are found as exact zeros, not as small numbers.
    assert [one.value for one in quantiles[:2]] == [0.0, 0.0]
    assert [one.stderr for one in quantiles[:2]] == [0.0, 0.0]
    for quantile, truth in zip(quantiles[2:], (0.5, 3.0), strict=True):
        assert quantile.value == pytest.approx(truth, rel=1e-9)
        assert quantile.stderr < 1e-9


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "values",
    [
        torch.linspace(0, 1, 400),
        torch.linspace(0.8, 1.2, 400),
        torch.linspace(0, 1, 400) ** 3,
        torch.cat([torch.zeros(200), torch.linspace(0, 1, 200)]),
        torch.cat([torch.linspace(0.01, 0.02, 200), torch.linspace(5, 9, 200)]),
    ],
    ids=["even", "near one", "near zero", "half zero", "two clusters"],
)
def test_bounds_hold_and_shrink(values, seed):
    op, widths = diagonal(values), []
    for num_matvecs in (10, 30):
        quantiles = singular_value_quantiles(
            op, (0.1, 0.3, 0.7, 0.9), num_matvecs, generator=generator(seed)
        )
        for share, quantile in zip((0.1, 0.3, 0.7, 0.9), quantiles, strict=True):
            # The bounds are those of the probes, which see a share with an error of
            # sqrt(2 share (1 - share) / (n num_samples)) < 0.02.
            low, high = (inverted_cdf(values, share + d) for d in (-0.06, 0.06))
            assert quantile.lower <= high + 1e-9
            assert quantile.upper >= low - 1e-9
            assert quantile.lower <= quantile.value <= quantile.upper
            assert quantile.stderr <= quantile.upper - quantile.lower + 0.05
        widths.append(sum(one.upper - one.lower for one in quantiles))
    assert widths[1] < 0.6 * widths[0]


@pytest.mark.parametrize("seed", SEEDS)
def test_quantiles_of_an_even_spectrum(seed):
    values = torch.linspace(0, 2, 500)
    quantiles = singular_value_quantiles(
        diagonal(values), (0.1, 0.5, 0.9), 25, 10, generator=generator(seed)
    )
    for share, quantile in zip((0.1, 0.5, 0.9), quantiles, strict=True):
        # Nodes are 0.13 apart at 25 steps; the spread evens them out.
        assert quantile.value == pytest.approx(2 * share, abs=0.04)
        assert abs(quantile.value - 2 * share) <= 2 * quantile.stderr


def test_spread_over_probes_covers_the_truth():
    """Twenty steps resolve 20 singular values apart, so only probes differ."""
    values = torch.arange(1.0, 9.0).repeat_interleave(4)
    op, covered = diagonal(values), 0
    for seed in range(60):
        (quantile,) = singular_value_quantiles(
            op, (0.45,), 8, 6, generator=generator(seed)
        )
        covered += abs(quantile.value - 4.0) <= 2 * quantile.stderr + 1e-9
    assert covered >= 0.85 * 60


def test_no_overconfidence_about_unresolved_zeros():
    """Zeros without a gap cannot be found in ten steps: the error must say so."""
    values = torch.cat([torch.zeros(300), torch.linspace(0, 1, 300)])
    (low,) = singular_value_quantiles(
        diagonal(values), (0.3,), 10, generator=generator()
    )
    assert low.value - 2 * low.stderr <= 0
    assert low.lower == 0.0


@pytest.mark.parametrize("seed", SEEDS)
def test_summary_shares_its_runs(seed):
    A, counts = gaussian(50, 40, seed=seed), [0, 0]

    def matvec(v: torch.Tensor) -> torch.Tensor:
        counts[0] += 1
        return A @ v

    def rmatvec(w: torch.Tensor) -> torch.Tensor:
        counts[1] += 1
        return A.mT @ w

    op = FunctionOperator(matvec, rmatvec, (50, 40), A.dtype, A.device)
    summary = singular_value_summary(op, (0.1, 0.5), 8, 3, generator=generator(seed))
    assert counts == [24, 24]
    singles = singular_value_quantiles(op, (0.1, 0.5), 8, 3, generator=generator(seed))
    assert summary.quantiles == singles
    stream = generator(seed)
    runs = [
        largest_singular_value(op, num_matvecs=8, generator=stream) for _ in range(3)
    ]
    assert summary.largest == max(runs, key=lambda run: run.value)
    (top,) = singular_value_quantiles(op, (1.0,), 8, 3, generator=generator(seed))
    assert top.value == pytest.approx(summary.largest.value)


def test_transpose_has_the_same_quantiles():
    op = DenseOperator(gaussian(30, 50))
    one, other = (
        singular_value_quantiles(each, SHARES, 8, generator=generator())
        for each in (op, op.T)
    )
    assert one == other


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_quantiles_at_extreme_scales(scale):
    op = DenseOperator(gaussian(30, 30))
    plain, scaled = (
        singular_value_quantiles(each, (0.1, 0.5), 8, generator=generator())
        for each in (op, scale * op)
    )
    for one, other in zip(plain, scaled, strict=True):
        assert other.value / scale == pytest.approx(one.value)
        assert other.stderr / scale == pytest.approx(one.stderr)


def test_zero_operator():
    summary = singular_value_summary(DenseOperator(torch.zeros(5, 4)), (0.1, 1.0))
    assert summary.largest.value == 0.0
    assert [one.value for one in summary.quantiles] == [0.0, 0.0]
    assert [one.stderr for one in summary.quantiles] == [0.0, 0.0]


def test_operator_that_is_not_finite():
    summary = singular_value_summary(
        DenseOperator(torch.full((5, 4), math.nan)), (0.5,)
    )
    assert math.isnan(summary.largest.value)
    (quantile,) = summary.quantiles
    assert math.isnan(quantile.value)
    assert math.isnan(quantile.stderr)


def test_nan_of_one_probe_is_not_hidden():
    A, calls = gaussian(20, 20), []

    def sometimes_nan(v: torch.Tensor) -> torch.Tensor:
        calls.append(v)
        return A @ v * (math.nan if len(calls) == 4 else 1.0)

    op = FunctionOperator(
        sometimes_nan, lambda w: A.mT @ w, (20, 20), A.dtype, A.device
    )
    summary = singular_value_summary(op, (0.5,), 3, 2, generator=generator())
    assert math.isnan(summary.largest.value)
    assert math.isnan(summary.quantiles[0].value)


def test_randomness_comes_from_the_generator():
    op, before = DenseOperator(gaussian(30, 30)), torch.get_rng_state()
    for function in (
        lambda g: squared_frobenius(op, 3, generator=g),
        lambda g: singular_value_quantiles(op, (0.5,), 4, generator=g),
    ):
        one, again, other = (function(generator(seed)) for seed in (1, 1, 2))
        assert one == again
        assert one != other
    assert torch.equal(torch.get_rng_state(), before)
