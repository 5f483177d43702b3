"""The exact Jacobian of a layer as a sparse matrix."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from scipy.sparse import csr_array
from torch import Tensor

from graphfathom.diagnostics.closed_forms import ClosedForm
from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.layer_map import LayerMap
from graphfathom.diagnostics.pattern import neighbourhoods
from graphfathom.diagnostics.solved_forms import closed_form
from graphfathom.linalg.block_sparse import BlockSparseOperator
from graphfathom.linalg.colouring import Colouring, bicolour
from graphfathom.linalg.components import csr_parts

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["SparseJacobian", "sparse_jacobian"]

TOLERANCE = 1e-10
"""Relative error of products up to which a matrix counts as the Jacobian."""
BYTE_BUDGET = 2**30
"""1 GiB: the blocks of a layer of 64 channels on Cora take 0.4."""
MAX_PRODUCTS = 20_000
"""A minute of products with a layer of 1,000 nodes and 16 channels."""


@dataclass(frozen=True, eq=False)
class SparseJacobian:
    """Result of :func:`sparse_jacobian`."""

    matrix: BlockSparseOperator
    """The Jacobian: one block for each pair of nodes of which one may see the other."""
    method: str
    """``"closed form"`` or ``"colouring"``."""
    num_products: int
    """Products with the derivative of the layer that were taken."""
    defect: float
    """Largest relative error on three random vectors from either side."""
    form: ClosedForm | None = None
    """The parts of the closed form, whose products are faster than the matrix's."""


def sparse_jacobian(
    trace: Trace,
    k: int,
    *,
    method: str = "auto",
    byte_budget: int = BYTE_BUDGET,
    max_products: int = MAX_PRODUCTS,
) -> SparseJacobian:
    r"""The exact Jacobian :math:`\partial H_k / \partial H_{k-1}` by blocks.

    A layer :math:`\sigma(P X W)` or its state-space form is solved for in closed form,
    see :func:`~graphfathom.diagnostics.solved_forms.closed_form`. For any other layer
    the pattern is probed: the inputs of some nodes are looked up, and the nearest
    neighbourhood that holds them all is taken. It is coloured, and each group of rows
    read by one transposed product per channel, each group of crowded columns by one
    product. Either way the matrix is then compared with the layer's derivative on three
    random vectors from either side: what is returned is the Jacobian.

    Args:
        trace: The network, in float64.
        k: The layer, 1 to L. Of a state of several tensors, the columns of all are
            side by side for each node.
        method: ``"auto"``, ``"closed form"`` or ``"colouring"``.
        byte_budget: Largest size of the blocks. Default 1 GiB.
        max_products: Largest number of products for the colouring.

    Returns:
        Matrix, method, number of products and error.

    Raises:
        ValueError: If there is no such layer or method, or the trace is not in float64.
        JacobianError: If the layer couples nodes that are not near to each other, as a
            normalisation over the graph does, or the price is above a budget; nothing
            was allocated then.

    Example:
        >>> from torch_geometric.nn import GCN
        >>> data = graphfathom.datasets.csbm(60, 3, avg_degree=4, homophily=0.8, seed=0)
        >>> problem = graphfathom.Problem(GCN(data.num_features, 8, 3, 3), data)
        >>> result = sparse_jacobian(graphfathom.capture(problem), 2)
        >>> result.method, result.matrix.shape
        ('closed form', (480, 480))
    """
    if method not in ("auto", "closed form", "colouring"):
        raise ValueError(
            f"`method` must be 'auto', 'closed form' or 'colouring'. Got {method!r}."
        )
    if trace.dtype != torch.float64:
        raise ValueError(
            "`trace` must be in float64, or the result cannot be checked to "
            f"{TOLERANCE:.0e}. Got {trace.precision}: capture it without `dtype=`."
        )
    layer = LayerMap(trace, k)
    if method != "colouring":
        form = closed_form(layer)
        found = None if form is None else _from_form(layer, form, byte_budget)
        if found is not None:
            return found
        if method == "closed form":
            raise JacobianError(
                f"`{layer.name}` is not act(P X W) nor its state-space form. Use "
                "`method='colouring'`."
            )
    return _by_colouring(layer, byte_budget, max_products)


def _from_form(
    layer: LayerMap, form: ClosedForm, byte_budget: int
) -> SparseJacobian | None:
    defect = layer.defect(form)
    if not defect <= TOLERANCE:
        return None
    price = form.price()
    if price > byte_budget:
        raise JacobianError(
            f"`byte_budget` must be at least {price}, the bytes of the blocks of "
            f"`{layer.name}`. Got {byte_budget}. Raise it, or use `closed_form`, which "
            "stores the factors only."
        )
    count = layer.num_products
    return SparseJacobian(form.assemble(), "closed form", count, defect, form)


def _by_colouring(
    layer: LayerMap, byte_budget: int, max_products: int
) -> SparseJacobian:
    size = layer.in_channels * layer.out_channels * layer.behind.main.element_size()
    defect = math.inf
    for pattern in neighbourhoods(layer, byte_budget // max(size, 1)):
        plan = bicolour(pattern, layer.out_channels or 1, layer.in_channels or 1)
        price = plan.num_row_groups * layer.out_channels
        price += plan.num_column_groups * layer.in_channels
        if price > max_products:
            raise JacobianError(
                f"`max_products` must be at least {price}, the products that "
                f"`{layer.name}` takes. Got {max_products}. Raise it, or use the "
                "operator `trace.jacobian(k - 1, k)`."
            )
        matrix = _read(layer, pattern, plan)
        defect = layer.defect(matrix)
        if defect <= TOLERANCE:
            return SparseJacobian(matrix, "colouring", layer.num_products, defect)
    raise JacobianError(
        f"The sparse Jacobian of `{layer.name}` differs from its derivative by "
        f"{defect:.1e} on random vectors: some nodes see farther than others. Use the "
        "operator `trace.jacobian(k - 1, k)`."
    )


def _read(layer: LayerMap, pattern: csr_array, plan: Colouring) -> BlockSparseOperator:
    """The blocks of a pattern from one product per group and channel."""
    device = layer.device
    rowptr, col, rows, columns = (
        torch.from_numpy(index).long().to(device)
        for index in (*csr_parts(pattern)[:2], plan.rows, plan.columns)
    )
    row = torch.arange(layer.num_nodes, device=device).repeat_interleave(rowptr.diff())
    by_column = columns[col] >= 0
    shape = len(col), layer.out_channels, layer.in_channels
    blocks = torch.empty(shape, dtype=layer.dtype, device=device)
    for group in range(plan.num_row_groups):
        entries = ((rows[row] == group) & ~by_column).nonzero().flatten()
        for j in range(layer.out_channels):
            found = layer.vjp(_unit(rows == group, j, layer.out_channels, blocks))
            blocks[entries, j, :] = found[col[entries]]
    for group in range(plan.num_column_groups):
        entries = (columns[col] == group).nonzero().flatten()
        for i in range(layer.in_channels):
            found = layer.jvp(_unit(columns == group, i, layer.in_channels, blocks))
            blocks[entries, :, i] = found[row[entries]]
    return BlockSparseOperator(rowptr, col, blocks, layer.num_nodes)


def _unit(nodes: Tensor, channel: int, width: int, like: Tensor) -> Tensor:
    """Ones at some nodes in one channel."""
    rows = like.new_zeros(len(nodes), width)
    rows[:, channel] = nodes.to(like.dtype)
    return rows
