import math

import numpy as np
import pytest
import torch
from checks import check_estimator
from matrices import gaussian, generator
from torch.testing import assert_close

from graphfathom.linalg import (
    DenseOperator,
    Estimate,
    singular_value_quantiles,
    squared_frobenius,
)
from graphfathom.linalg.density import SpectralDensity, spectral_density

SEEDS = range(3)
EVEN = torch.linspace(0, 2, 150)
HALF_ZERO = torch.cat([torch.zeros(60), torch.linspace(0.5, 1.5, 60)])
DECADES = torch.logspace(-0.5, 0.5, 150)
ISOLATED = torch.arange(1.0, 6.0).repeat_interleave(8)


def diagonal(values: torch.Tensor) -> DenseOperator:
    """Gaussian probes see no coordinate system, so a diagonal matrix is any other."""
    return DenseOperator(values.double().diag())


def covered(estimates: list[Estimate], truth: float) -> float:
    """Share of estimates within two standard errors of the truth."""
    inside = [
        abs(one.value - truth) <= 2 * one.stderr + 1e-12 * abs(truth)
        for one in estimates
    ]
    return sum(inside) / len(inside)


def smoothed(
    values: torch.Tensor, points: torch.Tensor, width: float, log10: bool
) -> torch.Tensor:
    """The density of known values, by another implementation."""
    grid, nodes = points.numpy(), values[values > 0].numpy()
    if log10:
        grid, nodes = np.log10(grid), np.log10(nodes)
    images = [nodes] if log10 else [nodes, -nodes]
    z = [(grid[:, None] - one) / width for one in images]
    bumps = sum(np.exp(-(one**2) / 2) for one in z) / (width * (2 * np.pi) ** 0.5)
    return torch.from_numpy(bumps.mean(axis=1))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shape", [(12, 12), (20, 9), (9, 20), (1, 5), (5, 1)])
def test_full_budget_is_exact(shape, seed):
    A = gaussian(*shape, seed=seed)
    values = torch.linalg.svdvals(A)
    found = spectral_density(DenseOperator(A), min(shape), 2, generator=generator(seed))
    assert found.shape == shape
    for degree in range(6):
        moment = found.moment(degree)
        assert moment.value == pytest.approx(float((values**degree).mean()))
        assert moment.stderr <= 1e-10 * moment.value
    for threshold in (0.0, 0.5, 1.0, 2.0, 3.3, 100.0):
        share = float((values <= threshold).double().mean())
        assert found.fraction_below(threshold).value == pytest.approx(share)
        assert found.fraction_below(threshold).stderr < 1e-10
    for share in (0.0, 0.3, 0.5, 1.0):
        expected = float(np.quantile(values, share, method="inverted_cdf"))
        assert found.quantile(share).value == pytest.approx(expected)
    points = torch.linspace(0.1, 3, 7)
    for log10 in (False, True):
        density, stderr = found.density(points, 0.3, log10=log10)
        assert_close(density, smoothed(values, points, 0.3, log10))
        assert float(stderr.max()) < 1e-10


@pytest.mark.parametrize("shape", [(30, 30), (40, 20), (20, 40)])
def test_gain_is_the_trace_per_input(shape):
    A = gaussian(*shape) / 5
    op = DenseOperator(A)
    truth = float(A.square().sum()) / shape[1]
    found = spectral_density(op, min(shape), 2, generator=generator())
    assert found.mean_squared_gain.value == pytest.approx(truth)
    assert found.edge_of_chaos.value == pytest.approx(math.log10(truth) / 2)
    # The same number by Hutchinson's estimator, which is other code.
    other = squared_frobenius(op, 400, generator=generator())
    error = abs(other.value / shape[1] - found.mean_squared_gain.value)
    assert error <= 4 * other.stderr / shape[1]


@pytest.mark.parametrize("degree", [1, 2, 6])
def test_moments_are_unbiased_and_calibrated(degree):
    """Even degrees need few steps; the first needs the spectrum to be resolved."""
    steps = {1: 5, 2: 1, 6: 2}[degree]
    op, truth = diagonal(ISOLATED), float((ISOLATED**degree).mean())
    check_estimator(
        lambda g: spectral_density(op, steps, 10, generator=g).moment(degree),
        truth,
        num_seeds=60,
    )


@pytest.mark.parametrize("degree", [2, 4, 10])
def test_even_moments_are_those_of_the_probes(degree):
    """The quadrature has no error of its own up to degree 2 steps - 1 of A'A."""
    steps = (degree // 2 + 2) // 2
    few, many = (
        spectral_density(diagonal(EVEN), num, 4, generator=generator())
        for num in (steps, 40)
    )
    for one, other in ((few.moment(degree), many.moment(degree)),):
        assert one.value == pytest.approx(other.value, rel=1e-10)
        assert one.stderr == pytest.approx(other.stderr, rel=1e-8)
    rough = spectral_density(diagonal(EVEN), 1, 4, generator=generator())
    assert rough.moment(4).value < 0.99 * many.moment(4).value


@pytest.mark.parametrize("values", [EVEN, HALF_ZERO, DECADES, ISOLATED])
def test_errors_are_calibrated(values):
    op = diagonal(values)
    runs = [
        spectral_density(op, 10, 10, generator=generator(seed)) for seed in range(40)
    ]
    chi = float(values.square().mean())
    # Ten probes: 92 % of Student's distribution lie within two standard errors.
    assert 0.84 <= covered([run.mean_squared_gain for run in runs], chi) <= 0.99
    edge = [run.edge_of_chaos for run in runs]
    assert 0.84 <= covered(edge, math.log10(chi) / 2) <= 0.99
    for threshold in (0.01, 0.77, 1.9):
        truth = float((values <= threshold).double().mean())
        shares = [run.fraction_below(threshold) for run in runs]
        assert covered(shares, truth) >= 0.88
    for share in (0.3, 0.7):
        truth = float(np.quantile(values, share, method="inverted_cdf"))
        quantiles = [run.quantile(share) for run in runs]
        estimates = [Estimate(one.value, one.stderr) for one in quantiles]
        assert covered(estimates, truth) >= 0.88


def test_resolved_shares_have_the_error_of_the_probes_alone():
    op, truth = diagonal(ISOLATED), 2 / 5
    check_estimator(
        lambda g: spectral_density(op, 5, 10, generator=g).fraction_below(2.5),
        truth,
        num_seeds=60,
    )


def test_errors_of_shares_include_the_resolution():
    """More probes do not narrow them below it; more steps do."""
    few, more_probes, more_steps = (
        spectral_density(diagonal(EVEN), steps, num, generator=generator())
        .fraction_below(0.9)
        .stderr
        for steps, num in ((8, 4), (8, 40), (40, 40))
    )
    assert more_probes > 0.7 * few
    assert more_steps < 0.4 * more_probes


@pytest.mark.parametrize("log10", [False, True])
@pytest.mark.parametrize("values", [EVEN[1:], DECADES, HALF_ZERO])
def test_density_integrates_to_one(values, log10):
    found = spectral_density(diagonal(values), 20, 4, generator=generator())
    u = torch.linspace(-7, 3, 20001) if log10 else torch.linspace(0, 20, 20001)
    points = 10**u if log10 else u
    density, _ = found.density(points, 0.1, log10=log10)
    assert float(torch.trapezoid(density, u)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("values", "width", "log10"), [(EVEN, 0.2, False), (DECADES, 0.15, True)]
)
def test_density_is_calibrated(values, width, log10):
    op = diagonal(values)
    points = torch.tensor([0.5, 1.0, 1.7])
    truth = smoothed(values, points, width, log10)
    inside, total = torch.zeros(3), torch.zeros(3)
    for seed in range(40):
        found = spectral_density(op, 20, 8, generator=generator(seed))
        value, stderr = found.density(points, width, log10=log10)
        inside += (value - truth).abs() <= 2 * stderr
        total += value
    assert float(inside.min()) >= 0.8 * 40
    assert_close(total / 40, truth, rtol=0.05, atol=0)


def test_default_width_does_not_show_the_nodes():
    found = spectral_density(diagonal(EVEN), 20, 2, generator=generator())
    points = torch.linspace(0.4, 1.6, 300)
    turns = []
    for width in (None, 0.002):
        slope = found.density(points, width)[0].diff().sign()
        turns.append(int((slope.diff() != 0).sum()))
    assert turns[0] <= 6  # the probes see hills of the size of the width
    assert turns[1] >= 30  # one summit and one valley per node


@pytest.mark.parametrize("seed", SEEDS)
def test_zeros_are_counted_apart(seed):
    values = torch.tensor([0.0] * 60 + [0.5] * 90 + [3.0] * 50)
    found = spectral_density(diagonal(values), 6, 40, generator=generator(seed))
    zero = found.mass_at_zero
    assert abs(zero.value - 0.3) <= 3 * zero.stderr
    assert 0 < zero.stderr < 0.05
    assert len(found.probes[0].nodes) == 3
    points = torch.tensor([0.5, 3.0])
    density, _ = found.density(points, 0.01)
    assert_close(
        density * 0.01 * (2 * math.pi) ** 0.5,
        points.new_tensor([9, 5]) / 14,
        rtol=0.1,
        atol=0,
    )


def test_zeros_without_a_gap_are_not_claimed():
    values = torch.cat([torch.zeros(100), torch.linspace(0, 1, 100)])
    zero = spectral_density(diagonal(values), 10, generator=generator()).mass_at_zero
    assert zero.stderr > 0.1
    assert abs(zero.value - 0.5) <= 2 * zero.stderr + 0.1


def test_quantiles_are_those_of_the_summary():
    op = diagonal(EVEN)
    found = spectral_density(op, 9, 5, generator=generator())
    (expected,) = singular_value_quantiles(op, (0.3,), 9, 5, generator=generator())
    assert found.quantile(0.3) == expected


def test_transpose_has_the_same_density():
    op = DenseOperator(gaussian(30, 50))
    one, other = (
        spectral_density(each, 8, generator=generator()) for each in (op, op.T)
    )
    assert one.moment(2) == other.moment(2)
    assert one.mean_squared_gain.value == pytest.approx(
        0.6 * other.mean_squared_gain.value
    )


@pytest.mark.parametrize("scale", [1e-140, 1e140])
def test_any_scale(scale):
    op = DenseOperator(gaussian(30, 30))
    plain, scaled = (
        spectral_density(each, 8, generator=generator()) for each in (op, scale * op)
    )
    one, other = plain.edge_of_chaos, scaled.edge_of_chaos
    assert other.value - math.log10(scale) == pytest.approx(one.value)
    assert other.stderr == pytest.approx(one.stderr)
    share = scaled.fraction_below(3 * scale)
    assert share.value == pytest.approx(plain.fraction_below(3).value)
    density, _ = scaled.density(torch.tensor([scale, 2 * scale]))
    assert_close(density * scale, plain.density(torch.tensor([1.0, 2.0]))[0])


def test_float32():
    A = gaussian(30, 30)
    one, other = (
        spectral_density(DenseOperator(each), 8, generator=generator())
        for each in (A, A.float())
    )
    assert other.moment(2).value == pytest.approx(one.moment(2).value, rel=1e-5)
    assert other.probes[0].nodes.dtype == torch.float64


def test_zero_operator():
    found = spectral_density(DenseOperator(torch.zeros(5, 4)))
    assert found.mass_at_zero == Estimate(1.0, 0.0)
    assert found.moment(2) == Estimate(0.0, 0.0)
    assert found.edge_of_chaos == Estimate(-math.inf, 0.0)
    assert found.density([1.0])[0].isnan().all()


def test_operator_that_is_not_finite():
    found = spectral_density(DenseOperator(torch.full((5, 4), math.nan)))
    for one in (found.moment(2), found.fraction_below(1), found.edge_of_chaos):
        assert math.isnan(one.value)
        assert math.isnan(one.stderr)
    assert math.isnan(found.quantile(0.5).value)
    assert found.density([1.0])[0].isnan().all()


def test_default_steps_stop_at_the_smaller_side():
    assert len(spectral_density(diagonal(EVEN)).probes[0].nodes) == 30
    assert len(spectral_density(diagonal(EVEN[:7])).probes[0].nodes) == 7


def test_repr_is_one_line():
    text = repr(spectral_density(DenseOperator(torch.zeros(4, 3)), 2))
    assert text == (
        "SpectralDensity(shape=(4, 3), 10 probes of 1 nodes, mean squared gain 0 ± 0)"
    )


def test_randomness_comes_from_the_generator():
    op, before = DenseOperator(gaussian(30, 30)), torch.get_rng_state()
    one, again, other = (
        spectral_density(op, 4, generator=generator(seed)).moment(2)
        for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def found() -> SpectralDensity:
    return spectral_density(DenseOperator(torch.eye(3)), 1, 2)


def test_bad_arguments(found):
    op = DenseOperator(torch.eye(3))
    with pytest.raises(ValueError, match=r"`num_matvecs` must be in \[1, 3\]"):
        spectral_density(op, 4)
    with pytest.raises(ValueError, match=r"`num_samples` must be at least 2"):
        spectral_density(op, num_samples=1)
    with pytest.raises(ValueError, match=r"`degree` must be at least 0. Got -1"):
        found.moment(-1)
    with pytest.raises(ValueError, match=r"`share` must lie in \[0, 1\]. Got 2"):
        found.quantile(2)
    for bad in (-0.1, math.nan):
        with pytest.raises(ValueError, match=r"`threshold` must be at least 0. Got"):
            found.fraction_below(bad)
        with pytest.raises(ValueError, match=r"`points` must be one row of numbers"):
            found.density([1.0, bad])
    with pytest.raises(ValueError, match=r"`points` .* positive"):
        found.density([0.0], log10=True)
    with pytest.raises(ValueError, match=r"`points` must be one row"):
        found.density(torch.ones(2, 2))
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"`width` must be positive. Got"):
            found.density([1.0], bad)
