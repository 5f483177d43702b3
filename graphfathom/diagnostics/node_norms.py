"""Norms of the blocks of node pairs, in logarithms."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from graphfathom.diagnostics.node_jacobian import NodeJacobian, Product

__all__ = ["NORMS", "log10_norms", "log10_sum", "norms_by_root"]

NORMS = ("operator", "frobenius", "l1")
"""The largest singular value, the root of the sum of squares, the sum of absolutes."""

LN10 = math.log(10)


def norms_by_root(
    jacobian: NodeJacobian, roots: Tensor, norm: str, direction: str
) -> Iterator[Tensor]:
    """Decimal logarithms of the norms between roots and all nodes.

    Args:
        jacobian: The derivative between the two states.
        roots: Indices of nodes, of shape (R,).
        norm: One of :data:`NORMS`.
        direction: ``"of"`` the roots to all nodes or of all nodes ``"to"`` the roots.

    Yields:
        One vector of shape (N,) for each root, in float64 on the CPU.
    """
    multiply, width = jacobian.pull, jacobian.out_width
    if direction == "to":
        multiply, width = jacobian.push, jacobian.in_width
    vectors = torch.eye(width, dtype=torch.float64).repeat(len(roots), 1)
    products = multiply(roots.repeat_interleave(width), vectors)
    for _ in range(len(roots)):
        found = islice(products, width)
        if norm == "operator":
            yield _largest_singular_value(found)
        else:
            order = 1 if norm == "l1" else 2
            logs = torch.stack([log10_norms(product, order) for product in found])
            yield log10_sum(order * logs, 0) / order


def log10_norms(product: Product, order: int) -> Tensor:
    """Logarithms of the 1- or 2-norms of the rows, of shape (N,)."""
    rows, log10_top = _scaled(product)
    # For absolutes `vector_norm` takes ten times as long as their sum.
    norms = rows.abs().sum(1) if order == 1 else torch.linalg.vector_norm(rows, dim=1)
    return norms.cpu().double().log10() + log10_top


def log10_sum(logs: Tensor, dim: int) -> Tensor:
    """Logarithm of the sum of numbers of which the logarithms are given."""
    return torch.logsumexp(logs * LN10, dim) / LN10


def _largest_singular_value(products: Iterable[Product]) -> Tensor:
    """Of the block of each node, of which the products are the rows or columns."""
    rows, tops = zip(*map(_scaled, products), strict=True)
    logs = torch.stack(tops, 1)
    top = logs.amax(1)
    shift = torch.where(top.isfinite()[:, None], logs - top[:, None], -math.inf)
    blocks = torch.stack([row.cpu().double() for row in rows], 1)
    blocks = blocks.nan_to_num(0.0) * (10**shift)[..., None]
    return torch.linalg.matrix_norm(blocks, 2).log10() + top


def _scaled(product: Product) -> tuple[Tensor, Tensor]:
    """Rows over their largest absolute entries, and the logarithms of these entries.

    Powers of the rows can then neither over- nor underflow.
    """
    rows = product.rows
    rows = rows.float() if rows.element_size() < 4 else rows
    top = rows.abs().amax(1)
    scaled = rows / torch.where(top == 0, 1, top)[:, None]
    return scaled, top.cpu().double().log10() + product.log10_scale
