import numpy as np
import pytest
import torch
from scipy.sparse import block_diag, csr_array, random_array

from graphfathom.linalg import (
    is_symmetric,
    sparse_eigenvalues,
    sparse_singular_values,
)


def blocks(sizes, symmetric, seed=0):
    """Blocks on the diagonal, in a random order of rows."""
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((size, size)) for size in sizes]
    if symmetric:
        parts = [part + part.T for part in parts]
    matrix = csr_array(block_diag(parts))
    order = rng.permutation(matrix.shape[0])
    return csr_array(matrix[order][:, order])


def by_argument(values):
    return torch.tensor(sorted(values.tolist(), key=lambda z: (z.real, z.imag)))


@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [7], [1, 5, 3, 1, 8]])
@pytest.mark.parametrize("symmetric", [True, False])
def test_equal_to_the_dense_ones(sizes, symmetric):
    matrix = blocks(sizes, symmetric)
    dense = torch.from_numpy(matrix.toarray())
    values = sparse_eigenvalues(matrix)
    if symmetric or max(sizes) == 1:
        torch.testing.assert_close(values, torch.linalg.eigvalsh(dense))
    else:
        expected = torch.linalg.eigvals(dense)
        torch.testing.assert_close(by_argument(values), by_argument(expected))
    singular = sparse_singular_values(matrix)
    torch.testing.assert_close(singular, torch.linalg.svdvals(dense))


def test_isolated_rows_are_zeros():
    matrix = csr_array((5, 5))
    assert torch.equal(sparse_eigenvalues(matrix), torch.zeros(5).double())
    assert sparse_singular_values(csr_array((0, 0))).shape == (0,)


def test_symmetric_up_to_rounding():
    matrix = blocks([6], symmetric=True)
    assert is_symmetric(matrix)
    matrix[0, 1] *= 1 + 1e-15
    assert is_symmetric(matrix)
    matrix[0, 1] += 1e-3
    assert not is_symmetric(matrix)


def test_directed_connection_joins_a_component():
    matrix = csr_array(np.array([[1.0, 5.0], [0.0, 2.0]]))
    expected = torch.linalg.svdvals(torch.from_numpy(matrix.toarray()))
    torch.testing.assert_close(sparse_singular_values(matrix), expected)


def test_budget_is_for_the_largest_block():
    matrix = blocks([10, 10, 10], symmetric=True)
    sparse_eigenvalues(matrix, byte_budget=800)
    with pytest.raises(ValueError, match="`byte_budget` must be at least 800"):
        sparse_eigenvalues(matrix, byte_budget=799)


def test_not_square():
    with pytest.raises(ValueError, match=r"must be square\. Got shape \(2, 3\)"):
        sparse_eigenvalues(random_array((2, 3), density=0.5, format="csr"))
