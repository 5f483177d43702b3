import pytest
import torch
from checks import check_operator

from graphfathom.linalg import BlockSparseOperator


def random_blocks(rows, cols, r, c, share=0.5, seed=0):
    """An operator and its matrix, filled block by block."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.zeros(rows, r, cols, c, dtype=torch.float64)
    keep = torch.rand(rows, cols, generator=generator) < share
    rowptr = torch.cat([torch.zeros(1, dtype=torch.long), keep.sum(1).cumsum(0)])
    row, col = keep.nonzero().unbind(1)
    blocks = torch.randn(len(col), r, c, dtype=torch.float64, generator=generator)
    for i, j, block in zip(row.tolist(), col.tolist(), blocks, strict=True):
        dense[i, :, j] = block
    return BlockSparseOperator(rowptr, col, blocks, cols), dense.view(rows * r, -1)


@pytest.mark.parametrize("shape", [(4, 4, 3, 3), (5, 3, 2, 4), (1, 6, 3, 1)])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_products(shape, share):
    operator, dense = random_blocks(*shape, share=share)
    check_operator(operator, dense)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_conversions(share):
    operator, dense = random_blocks(4, 5, 2, 3, share)
    for matrix in (operator.to_bsr(), operator.to_csr()):
        assert torch.equal(torch.from_numpy(matrix.toarray()), dense)
    assert torch.equal(operator.to_dense(), dense)


def test_bsr_shares_the_blocks():
    operator, _ = random_blocks(4, 5, 2, 3)
    matrix = operator.to_bsr()
    operator.blocks[0, 0, 0] = 7.0
    assert matrix.data[0, 0, 0] == 7.0


def test_prices_are_what_is_allocated():
    operator, _ = random_blocks(6, 5, 2, 3)
    csr, bsr = operator.to_csr(), operator.to_bsr()
    arrays = (csr.data, csr.indices, csr.indptr)
    assert operator.price("csr") == sum(array.nbytes for array in arrays)
    assert operator.price("dense") == operator.to_dense().nbytes
    indices = (*bsr.indices, *bsr.indptr)
    assert operator.price("bsr") == 4 * len(indices)
    assert operator.nbytes == operator.blocks.nbytes + 8 * len(indices)


def test_conversion_over_budget_is_refused():
    operator, _ = random_blocks(6, 5, 2, 3)
    price = operator.price("csr")
    with pytest.raises(ValueError, match=f"`byte_budget` must be at least {price}"):
        operator.to_csr(byte_budget=price - 1)
    with pytest.raises(ValueError, match="`layout` must be one of bsr, csr, dense"):
        operator.price("coo")


def test_rows_of_the_blocks():
    operator, _ = random_blocks(4, 5, 2, 3, 0.5)
    counts = torch.bincount(operator.row, minlength=4)
    assert torch.equal(counts, operator.rowptr.diff())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": torch.zeros(2, 3)}, "`blocks` must be real floats of shape"),
        ({"blocks": torch.zeros(2, 1, 1).long()}, "`blocks` must be real floats"),
        ({"col": torch.zeros(3).long()}, "`rowptr` must end at 2"),
        ({"rowptr": torch.tensor([0, 1])}, "`rowptr` must end at 2"),
        ({"col": torch.tensor([0, 2])}, r"`col` must lie in \[0, 1\]"),
        ({"col": torch.tensor([-1, 1])}, r"`col` must lie in \[0, 1\]"),
    ],
)
def test_bad_input(change, message):
    parts = {
        "rowptr": torch.tensor([0, 1, 2]),
        "col": torch.tensor([0, 1]),
        "blocks": torch.zeros(2, 1, 1),
        "num_block_cols": 2,
    }
    with pytest.raises(ValueError, match=message):
        BlockSparseOperator(**(parts | change))
