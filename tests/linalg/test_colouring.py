import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

from graphfathom.linalg import bicolour, colour_rows

SHAPES = [(8, 8), (12, 5), (5, 12), (1, 7), (7, 1)]


def pattern(shape, density=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return csr_array(random_array(shape, density=density, format="csr", rng=rng))


def star(n):
    matrix = np.eye(n)
    matrix[0], matrix[:, 0] = 1, 1
    return csr_array(matrix)


def read(matrix, plan):
    """The matrix from one product per group, as whoever follows the plan would."""
    dense, found = matrix.toarray(), np.zeros(matrix.shape)
    stored = np.zeros(matrix.shape, bool)
    for i in range(matrix.shape[0]):
        stored[i, matrix.indices[matrix.indptr[i] : matrix.indptr[i + 1]]] = True
    by_column = plan.columns >= 0
    for group in range(plan.num_row_groups):
        members = plan.rows == group
        sums = members @ dense
        for i in np.flatnonzero(members):
            wanted = stored[i] & ~by_column
            found[i, wanted] = sums[wanted]
    for group in range(plan.num_column_groups):
        members = plan.columns == group
        sums = dense @ members
        for j in np.flatnonzero(members):
            found[stored[:, j], j] = sums[stored[:, j]]
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_rows_of_a_group_share_no_column(shape, seed):
    matrix = pattern(shape, seed=seed)
    groups = colour_rows(matrix)
    used = np.diff(matrix.indptr) > 0
    assert (groups[used] >= 0).all()
    assert (groups[~used] == -1).all()
    for group in range(groups.max(initial=-1) + 1):
        rows = matrix[np.flatnonzero(groups == group)]
        assert np.bincount(rows.indices).max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("prices", [(1, 1), (1, 10), (10, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_plan_reads_every_entry(shape, prices, seed):
    matrix = pattern(shape, seed=seed)
    assert np.array_equal(read(matrix, bicolour(matrix, *prices)), matrix.toarray())


def test_diagonal_takes_one_group():
    plan = bicolour(csr_array(np.eye(50)))
    assert (plan.num_row_groups, plan.num_column_groups) == (1, 0)


def test_star_takes_a_handful_of_groups():
    matrix = star(200)
    assert colour_rows(matrix).max() + 1 == 200
    plan = bicolour(matrix)
    assert plan.num_row_groups + plan.num_column_groups <= 3
    assert np.array_equal(read(matrix, plan), matrix.toarray())


def test_prices_decide():
    row = csr_array(np.ones((1, 30)))  # one product with the transpose, or 30
    assert bicolour(row).num_column_groups == 0
    assert bicolour(row, row_price=100).num_row_groups == 0
    column = csr_array(np.ones((30, 1)))
    assert bicolour(column).num_row_groups == 0
    assert bicolour(column, column_price=100).num_column_groups == 0


def test_stored_zeros_count():
    matrix = csr_array((np.zeros(2), np.array([0, 0]), np.array([0, 1, 2])))
    assert colour_rows(matrix).tolist() == [0, 1]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (3, 3)])
def test_nothing_to_read(shape):
    plan = bicolour(csr_array(shape))
    assert (plan.num_row_groups, plan.num_column_groups) == (0, 0)


def test_bad_price():
    with pytest.raises(ValueError, match=r"must be positive\. Got 0 and 1"):
        bicolour(star(3), 0, 1)
