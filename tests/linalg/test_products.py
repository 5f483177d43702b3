"""Singular values of long products against known spectra and exact arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

import mpmath
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from graphfathom.linalg import AbstractLinearOperator, DenseOperator
from graphfathom.linalg.products import log10_singular_values, lyapunov_exponents
from graphfathom.linalg.scaled import ScaledRows

DOUBLE = torch.float64
SEEDS = range(3)


def generator(seed: int = 0) -> torch.Generator:
    """Not the stream of ``torch.manual_seed``: starts must not be the truth."""
    return torch.Generator().manual_seed(1000 + seed)


def orthogonal(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, dtype=DOUBLE)).Q


def operators(matrices: Sequence[Tensor]) -> list[DenseOperator]:
    return [DenseOperator(matrix) for matrix in matrices]


def with_spectrum(values: Sequence[float], m: int = 0, n: int = 0) -> Tensor:
    """A matrix with these singular values between random orthonormal frames."""
    k = len(values)
    left, right = orthogonal(m or k)[:, :k], orthogonal(n or k)[:, :k]
    return left @ torch.tensor(values, dtype=DOUBLE).diag() @ right.mT


def prescribed(size: int, depth: int, decades: float) -> tuple[list[Tensor], Tensor]:
    """Factors of random spectra, and the logarithms of their product's values.

    These lie ``decades`` apart from the first to the last, but for a random walk.
    """
    frame, matrices = orthogonal(size), []
    total = torch.zeros(size, dtype=DOUBLE)
    drift = torch.linspace(0, -decades / depth, size, dtype=DOUBLE)
    for _ in range(depth):
        logs = drift + 0.2 * torch.randn(size, dtype=DOUBLE)
        after = orthogonal(size)
        matrices.append(after @ torch.diag(10**logs) @ frame.mT)
        frame, total = after, total + logs
    return matrices, total.sort(descending=True).values


def coarse(matrix: Tensor) -> Tensor:
    """Rounded to 20 binary digits behind the point, for exact products."""
    return (matrix * 2**20).round() / 2**20


def exact_log10(matrices: Sequence[Tensor], digits: int) -> Tensor:
    """The values of a product of coarse matrices, multiplied as integers."""
    product = None
    for matrix in matrices:
        rows = [[int(x * 2**20) for x in row] for row in matrix.tolist()]
        if product is not None:
            columns = list(zip(*product, strict=True))
            rows = [
                [
                    sum(a * b for a, b in zip(row, column, strict=True))
                    for column in columns
                ]
                for row in rows
            ]
        product = rows
    with mpmath.workdps(digits):
        values = mpmath.svd_r(mpmath.matrix(product), compute_uv=False)
        shift = 20 * len(matrices) * mpmath.log10(2)
        logs = [float(mpmath.log10(value) - shift) for value in values]
    return torch.tensor(logs, dtype=DOUBLE)


class CountingFactors(Sequence):
    """Builds its operators on demand and counts how often."""

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        self.matrices, self.counts = matrices, [0] * len(matrices)

    def __len__(self) -> int:
        return len(self.matrices)

    def __getitem__(self, place: int) -> AbstractLinearOperator:
        self.counts[place] += 1
        return DenseOperator(self.matrices[place])


@pytest.mark.parametrize(
    ("size", "decades", "k", "seed"),
    [(6, 100, 6, 0), (6, 100, 6, 1), (12, 250, 4, 2), (6, 5000, 6, 3)],
)
def test_a_thousand_layers_with_a_known_spectrum(size, decades, k, seed):
    torch.manual_seed(seed)
    matrices, truth = prescribed(size, 1000, decades)
    found = log10_singular_values(
        operators(matrices), k, oversampling=2, generator=generator(seed)
    )
    assert float(truth[0] - truth[k - 1]) > min(50, decades / 3)
    assert_close(found.log10, truth[:k], rtol=0, atol=1e-9)
    assert found.log10.dtype == DOUBLE
    assert found.converged
    assert float(found.residual.max()) < 1e-6


@pytest.mark.parametrize(
    ("size", "depth", "digits", "k"), [(4, 1000, 900, 4), (6, 250, 450, 3)]
)
def test_random_factors_in_multiple_precision(size, depth, digits, k):
    matrices = [coarse(torch.randn(size, size, dtype=DOUBLE)) for _ in range(depth)]
    truth = exact_log10(matrices, digits)
    assert float(truth[0] - truth[-1]) > 100
    found = log10_singular_values(operators(matrices), k, oversampling=1)
    assert_close(found.log10, truth[:k], rtol=0, atol=1e-9)
    assert found.converged


@pytest.mark.parametrize("decades", [2, 6, 10, 13])
def test_the_residual_tells_of_factors_that_undo_each_other(decades):
    values = [1.0, 0.1, 0.01, 10.0**-decades]
    bend = coarse(with_spectrum(values) * 2.0**4)
    back = coarse(torch.linalg.inv(bend + 1e-3 * torch.eye(4)) * 2.0**4)
    truth = exact_log10([bend, back] * 3, 200)
    found = log10_singular_values(
        operators([bend, back] * 3), 4, tol=1e-9, max_sweeps=8
    )
    error = (found.log10 - truth).abs()
    assert float(error.max()) <= 30 * float(found.residual.max()) + 1e-13


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("max_sweeps", [2, 3, 6, 15])
@pytest.mark.parametrize("shape", [(40, 40), (60, 30), (30, 60)])
def test_a_singular_value_lies_within_the_residual(shape, max_sweeps, seed):
    matrices = [torch.randn(shape, dtype=DOUBLE), torch.randn(shape[::-1]).double()]
    truth = torch.linalg.svdvals(matrices[1] @ matrices[0])[: min(shape)].log10()
    found = log10_singular_values(
        operators(matrices),
        3,
        oversampling=2,
        max_sweeps=max_sweeps,
        generator=generator(seed),
    )
    nearest = (found.log10.unsqueeze(1) - truth).abs().amin(dim=1)
    assert bool((nearest <= found.residual + 1e-12).all())
    assert bool((found.log10 <= truth[:3] + 1e-12).all())
    assert found.converged == bool((found.residual <= 1e-6).all())
    assert found.sweeps <= max_sweeps


def test_estimates_only_grow():
    factor = operators([torch.randn(50, 50, dtype=DOUBLE)])
    runs = [
        log10_singular_values(factor, 4, max_sweeps=sweeps, generator=generator())
        for sweeps in range(2, 8)
    ]
    steps = torch.diff(torch.stack([run.log10 for run in runs]), dim=0)
    assert float(steps.min()) >= -1e-13
    assert [run.sweeps for run in runs] == list(range(2, 8))


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (1, 4), (4, 1), (1, 1)])
def test_one_factor_at_its_full_side_is_the_svd(shape):
    matrix = torch.randn(shape, dtype=DOUBLE)
    found = log10_singular_values([DenseOperator(matrix)], min(shape))
    assert_close(found.log10, torch.linalg.svdvals(matrix).log10(), atol=1e-13, rtol=0)
    assert found.converged


def test_widths_that_change():
    shapes = [(7, 5), (4, 7), (9, 4), (6, 9)]
    matrices = [torch.randn(shape, dtype=DOUBLE) for shape in shapes]
    dense = torch.linalg.multi_dot(matrices[::-1])
    found = log10_singular_values(operators(matrices), 4)
    expected = torch.linalg.svdvals(dense)[:4].log10()
    assert_close(found.log10, expected, rtol=0, atol=1e-12)
    assert found.converged


def test_the_transposed_product_has_the_same_values():
    matrices, _ = prescribed(8, 100, 30)
    back = [matrix.mT for matrix in matrices[::-1]]
    found, other = (log10_singular_values(operators(m), 3) for m in (matrices, back))
    assert_close(found.log10, other.log10, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e290])
def test_scaled_factors_shift_the_logarithms(scale):
    matrices, truth = prescribed(5, 20, 10)
    scaled = operators([scale * matrix for matrix in matrices])
    found = log10_singular_values(scaled, 5)
    expected = truth + 20 * math.log10(scale)
    assert_close(found.log10, expected, rtol=0, atol=1e-10)
    assert_close(
        lyapunov_exponents(scaled, 5, generator=generator()),
        lyapunov_exponents(operators(matrices), 5, generator=generator())
        + math.log(scale),
    )


def test_values_of_high_multiplicity():
    found = log10_singular_values(operators([orthogonal(30) for _ in range(50)]), 4)
    assert_close(found.log10, torch.zeros(4, dtype=DOUBLE), rtol=0, atol=1e-13)
    assert (found.converged, found.sweeps) == (True, 2)


def test_a_cluster_wider_than_the_frame():
    values = [1 + 1e-9 * i for i in range(20)]
    found = log10_singular_values([DenseOperator(with_spectrum(values))], 3)
    assert_close(found.log10, torch.zeros(3, dtype=DOUBLE), rtol=0, atol=1e-8)
    assert found.converged


def test_more_values_than_the_rank():
    live = with_spectrum([3.0, 2.0, 0.5, 0.1, 0.05])
    flat = with_spectrum([2.0, 1.0], 5, 5)
    matrices = [live, flat, live, live]
    dense = torch.linalg.multi_dot(matrices[::-1])
    found = log10_singular_values(operators(matrices), 5)
    expected = torch.linalg.svdvals(dense)[:2].log10()
    assert_close(found.log10[:2], expected, rtol=0, atol=1e-12)
    assert found.log10[2:].tolist() == [-math.inf] * 3
    assert found.residual[2:].tolist() == [0.0] * 3
    assert found.converged


@pytest.mark.parametrize("oversampling", [0, 8])
def test_factors_that_annihilate_each_other(oversampling):
    frame = orthogonal(6)
    onto, rest = frame[:, :3] @ frame[:, :3].mT, frame[:, 3:] @ frame[:, 3:].mT
    found = log10_singular_values(operators([onto, rest]), 2, oversampling=oversampling)
    assert found.log10.tolist() == [-math.inf] * 2
    assert found.converged
    assert lyapunov_exponents(operators([onto, rest]), 1).tolist() == [-math.inf]


def test_zero_factors():
    zero, turn = torch.zeros(4, 4, dtype=DOUBLE), orthogonal(4)
    for matrices in ([zero], [zero, turn], [turn, zero], [turn, zero, turn]):
        found = log10_singular_values(operators(matrices), 3)
        assert found.log10.tolist() == [-math.inf] * 3
        assert found.converged
        exponents = lyapunov_exponents(operators(matrices), 3)
        assert exponents.tolist() == [-math.inf] * 3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_factors_that_are_not_finite(bad):
    matrices = [orthogonal(4), orthogonal(4), orthogonal(4)]
    matrices[1][2, 1] = bad
    found = log10_singular_values(operators(matrices), 2)
    assert bool(found.log10.isnan().all() and found.residual.isnan().all())
    assert not found.converged
    assert bool(lyapunov_exponents(operators(matrices), 2).isnan().all())


def test_float32_products():
    matrices, truth = prescribed(6, 100, 20)
    singles = operators([matrix.float() for matrix in matrices])
    found = log10_singular_values(singles, 3)
    assert found.log10.dtype == DOUBLE
    error = (found.log10 - truth[:3]).abs()
    assert 1e-9 < float(error.max()) < 1e-3
    strict = log10_singular_values(singles, 3, tol=1e-12)
    assert strict.sweeps < 10  # it does not chase digits that float32 lacks
    assert not strict.converged


def test_each_factor_is_asked_for_once_per_pass():
    factors = CountingFactors(prescribed(5, 10, 4)[0])
    found = log10_singular_values(factors, 2, oversampling=1)
    assert factors.counts == [found.sweeps + 1, *[found.sweeps] * 9]


def test_randomness_comes_from_the_generator():
    factors = operators([torch.randn(20, 20, dtype=DOUBLE)])
    before = torch.get_rng_state()
    one, again, other = (
        log10_singular_values(factors, max_sweeps=2, generator=generator(seed)).log10
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    for function in (log10_singular_values, lyapunov_exponents):
        function(factors, 2, generator=generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_all_exponents_sum_to_the_determinant():
    matrices = [torch.randn(5, 5, dtype=DOUBLE) for _ in range(300)]
    total = sum(torch.linalg.slogdet(matrix).logabsdet for matrix in matrices)
    exponents = lyapunov_exponents(operators(matrices), 5)
    assert float(exponents.sum()) == pytest.approx(float(total) / 300)


@pytest.mark.parametrize("seed", range(10))
def test_exponents_lie_below_singular_values(seed):
    matrices = [torch.randn(6, 6, dtype=DOUBLE) for _ in range(5)]
    values = log10_singular_values(operators(matrices), 6).log10 * math.log(10) / 5
    exponents = lyapunov_exponents(operators(matrices), 6, generator=generator(seed))
    assert bool((exponents.cumsum(0) <= values.cumsum(0) + 1e-12).all())
    assert float((exponents - values).abs().max()) > 1e-3


def test_the_distance_to_singular_values_falls_with_the_depth():
    frame = orthogonal(4)
    values = torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=DOUBLE)
    factors = operators([frame @ values.diag() @ frame.mT])
    away = [
        lyapunov_exponents(factors * depth, 4, generator=generator(1)) - values.log()
        for depth in (40, 400)
    ]
    assert float(away[0].abs().max()) > 1e-3
    assert_close(away[1], away[0] / 10, rtol=1e-6, atol=1e-12)


def test_exponents_of_random_gaussian_factors():
    # Newman (1986): for entries of variance 1 the i-th exponent of size n is
    # (log 2 + digamma((n - i + 1) / 2)) / 2.
    size, depth = 4, 3000
    factors = operators(list(torch.randn(depth, size, size, dtype=DOUBLE)))
    halves = torch.arange(size, 0, -1, dtype=DOUBLE) / 2
    expected = (math.log(2) + torch.digamma(halves)) / 2
    stderr = (torch.polygamma(1, halves) / 4 / depth).sqrt()
    away = (lyapunov_exponents(factors, size) - expected) / stderr
    assert float(away.abs().max()) < 4


@pytest.mark.parametrize("function", [log10_singular_values, lyapunov_exponents])
def test_bad_factors(function):
    square, wide = (
        DenseOperator(torch.ones(s, dtype=DOUBLE)) for s in ((3, 3), (3, 4))
    )
    with pytest.raises(ValueError, match=r"`factors` must hold at least one operator"):
        function([])
    with pytest.raises(
        ValueError, match=r"must chain.*Got shape \(3, 4\) at place 1 behind.*3 rows"
    ):
        function([square, wide])
    with pytest.raises(TypeError, match=r"Got Tensor at place 0: wrap a matrix"):
        function([torch.ones(3, 3)])
    with pytest.raises(TypeError, match=r"float32 or float64.*Got torch\.float16"):
        function([square, DenseOperator(torch.ones(3, 3, dtype=torch.float16))])


@pytest.mark.parametrize("function", [log10_singular_values, lyapunov_exponents])
def test_k_out_of_range(function):
    factors = operators([torch.ones(2, 3, dtype=DOUBLE), torch.ones(5, 2).double()])
    with pytest.raises(ValueError, match=r"`k` must be at least 1\. Got 0\."):
        function(factors, 0)
    with pytest.raises(ValueError, match=r"`k` must be in \[1, 2\].*Got 3 and shape"):
        function(factors, 3)


def test_bad_options():
    factors = operators([torch.eye(3, dtype=DOUBLE)])
    with pytest.raises(ValueError, match=r"`oversampling` must be at least 0\. Got -1"):
        log10_singular_values(factors, oversampling=-1)
    with pytest.raises(ValueError, match=r"`max_sweeps` must be at least 2.*Got 1"):
        log10_singular_values(factors, max_sweeps=1)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("decades", [0, 3, 40, 1000])
def test_scaled_rows_against_multiple_precision(size, decades):
    rows = torch.nn.functional.normalize(torch.randn(size, size, dtype=DOUBLE), dim=1)
    logs = decades * torch.rand(size, dtype=DOUBLE)
    found, vectors = ScaledRows(rows, logs).svd()
    with mpmath.workdps(2 * decades + 40):
        scales = mpmath.diag([mpmath.mpf(10) ** mpmath.mpf(x) for x in logs.tolist()])
        truth = mpmath.svd_r(scales * mpmath.matrix(rows.tolist()), compute_uv=False)
        expected = [float(mpmath.log10(value)) for value in truth]
    assert_close(found, torch.tensor(expected, dtype=DOUBLE), rtol=1e-13, atol=1e-11)
    assert_close(
        vectors.mT @ vectors, torch.eye(size, dtype=DOUBLE), atol=1e-13, rtol=0
    )


def test_scaled_rows_without_rows():
    nothing = ScaledRows(torch.zeros(2, 3, dtype=DOUBLE), torch.full((2,), -math.inf))
    values, vectors = nothing.svd()
    assert (values.shape, vectors.shape) == ((0,), (3, 0))


def test_equal_rows_are_one_value():
    rows = torch.ones(2, 4, dtype=DOUBLE) / 2
    values, _ = ScaledRows(rows, torch.zeros(2, dtype=DOUBLE)).svd()
    assert float(values[0]) == pytest.approx(math.log10(2) / 2)
    assert float(values[1]) < -15
