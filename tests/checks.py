"""Checkers shared by the tests of every operator and every estimator."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.testing import assert_close

from graphfathom.linalg import AbstractLinearOperator, DenseOperator, Estimate


def check_operator(
    op: AbstractLinearOperator, dense: Tensor, *, rtol: float = 1e-9, seed: int = 0
) -> None:
    """Compare an operator with its matrix, in every way an operator can be used."""
    generator = torch.Generator().manual_seed(seed)
    m, n = dense.shape
    kind = {"dtype": dense.dtype, "generator": generator}
    V, W = torch.randn(n, 3, **kind), torch.randn(m, 3, **kind)
    state = torch.get_rng_state()
    assert (op.shape, op.dtype, op.device) == ((m, n), dense.dtype, dense.device)
    for actual, expected in (*products(op, dense, V, W), *algebra(op, dense, V, W)):
        actual, expected = actual.detach(), expected.detach()
        size = float(expected.abs().max()) if expected.numel() else 0.0
        assert_close(actual, expected, rtol=rtol, atol=rtol * size)
    assert op.adjoint_defect(generator) <= rtol
    assert torch.equal(torch.get_rng_state(), state)


def products(
    op: AbstractLinearOperator, dense: Tensor, V: Tensor, W: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each way to multiply, beside the same product of the matrix."""
    v, w, exported = V[:, 0], W[:, 0], op.to_scipy()
    yield op.matvec(v), dense @ v
    yield op.rmatvec(w), dense.mT @ w
    yield op @ v, dense @ v
    yield w @ op, w @ dense
    yield op @ V, dense @ V
    yield W.mT @ op, W.mT @ dense
    yield op.matmat(V), dense @ V
    yield op.rmatmat(W), dense.mT @ W
    yield op.matmat(V[:, :0]), dense @ V[:, :0]
    yield op.matvec(2 * v - V[:, 1]), 2 * op.matvec(v) - op.matvec(V[:, 1])
    yield torch.from_numpy(exported @ v.numpy()), dense @ v
    yield torch.from_numpy(exported @ V.numpy()), dense @ V
    yield torch.from_numpy(exported.H @ w.numpy()), dense.mT @ w


def algebra(
    op: AbstractLinearOperator, dense: Tensor, V: Tensor, W: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Results of the algebra, beside the same of the matrix."""
    v, w = V[:, 0], W[:, 0]
    yield op.T @ w, dense.mT @ w
    yield op.T.T @ v, dense @ v
    yield (2 * op) @ v, 2 * (dense @ v)
    yield (op - 3 * op) @ v, -2 * (dense @ v)
    yield (op.T @ op) @ v, dense.mT @ (dense @ v)
    yield (op + DenseOperator(dense)).T @ w, 2 * (dense.mT @ w)
    yield op.to_dense(), dense
    yield op.T.to_dense(), dense.mT


def check_estimator(
    fn: Callable[[torch.Generator], Estimate],
    truth: float,
    *,
    num_seeds: int = 100,
    exact: bool = False,
) -> None:
    """Check that an estimator is unbiased and that its standard error covers the truth.

    With ``exact`` every single estimate must be right.
    """
    estimates = [fn(torch.Generator().manual_seed(seed)) for seed in range(num_seeds)]
    values = torch.tensor([one.value for one in estimates], dtype=torch.float64)
    errors = torch.tensor([one.stderr for one in estimates], dtype=torch.float64)
    again = fn(torch.Generator().manual_seed(0))
    assert again == estimates[0], "one seed, one number"
    if exact:
        expected = torch.full_like(values, truth)
        assert_close(values, expected, rtol=1e-10, atol=1e-10)
        assert float(errors.max()) <= 1e-10 * max(1, abs(truth))
        return
    # Four standard errors of the mean: one false alarm in 16,000 checks.
    spread = float(values.std())
    assert abs(float(values.mean()) - truth) <= 4 * spread / math.sqrt(num_seeds)
    # A normal variable leaves two standard errors in 5 % of cases; samples are few.
    covered = ((values - truth).abs() <= 2 * errors).double().mean()
    assert float(covered) >= 0.85
    assert 0.7 <= float(errors.square().mean().sqrt()) / spread <= 1.4
