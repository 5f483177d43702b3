"""Dropout from random bytes against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from graphfathom.nn.dropout import dropout


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.6, 0.9])
def test_distribution(p: float) -> None:
    """The share of zeros is q, the nearest multiple of 1/256, and the mean is kept."""
    q = round(256 * p) / 256
    y = dropout(torch.ones(1000, 999), p)
    error = 5 * (q * (1 - q) / y.numel()) ** 0.5
    assert abs(float((y == 0).double().mean()) - q) < error
    assert float(y.mean()) == pytest.approx(1, abs=error / (1 - q))
    assert set(y.unique().tolist()) == {0.0, 1 / (1 - q)}


def test_entries_are_independent() -> None:
    y = dropout(torch.ones(100_000), 0.5) / 2
    for lag in range(1, 17):  # eight neighbours come from one random word
        both = (y[lag:] * y[:-lag]).mean()
        assert float(both) == pytest.approx(0.25, abs=0.01)
    for lane in range(8):
        assert float(y[lane::8].mean()) == pytest.approx(0.5, abs=0.03)


def test_the_global_seed_reproduces_it() -> None:
    x = torch.randn(33, 7)
    torch.manual_seed(5)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(5)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(first, second)


def test_gradient_is_the_mask() -> None:
    x = torch.randn(20, 7, requires_grad=True)
    y = dropout(x, 0.25)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0,), (1,), (), (3, 5), (2, 3, 4)])
def test_shapes_and_dtypes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.ones(shape, dtype=dtype)
    y = dropout(x, 0.5)
    assert (y.shape, y.dtype) == (x.shape, dtype)


def test_nothing_happens_outside_of_training() -> None:
    x = torch.randn(3, 4)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0) is x


def test_extreme_probabilities_are_those_of_torch() -> None:
    x = torch.ones(3, 4)
    assert not bool(dropout(x, 1.0).any())
    for p in (0.001, 0.999):
        torch.manual_seed(1)
        expected = F.dropout(x, p)
        torch.manual_seed(1)
        torch.testing.assert_close(dropout(x, p), expected)


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan")])
def test_no_probability_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match=r"`p` must be in \[0, 1\]. Got"):
        dropout(torch.ones(2), p)


def test_compiles() -> None:
    compiled = torch.compile(
        lambda x: dropout(x, 0.5), fullgraph=True, dynamic=True, backend="eager"
    )
    assert set(compiled(torch.ones(50)).tolist()) == {0.0, 2.0}
