r"""What the gradient of a weight matrix is made of, read off a backward pass.

A matrix that multiplies rows of nodes, :math:`F W`, has the gradient

.. math:: \frac{\partial \mathcal{L}}{\partial W} = F^\top B
    = (\Pi F)^\top \Pi B + (Q F)^\top Q B, \qquad Q = I - \Pi,

with the error signal B of the product and any projection :math:`\Pi`: equation (6.4) of
:mod:`graphfathom.theory.backward`. Both factors are there while a gradient is computed:
autograd keeps F, and B passes by. So nothing is assumed of the layer, and nothing is
computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor

from graphfathom.diagnostics.backward import log10_norm
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.segments import Segment
from graphfathom.diagnostics.solved_forms import tolerance
from graphfathom.diagnostics.structure import GraphStructure, Kind

__all__ = ["WeightProduct", "explained", "recorded_products", "weight_observations"]

PRODUCTS = {"MmBackward0": (1, "_saved_self"), "AddmmBackward0": (2, "_saved_mat1")}
"""What autograd calls products, where W stands among their arguments, and where F is
kept."""
TURNED = ("TBackward0", "TransposeBackward0")
"""What it calls the transposition of W."""

MAX_WIDTH = 1_000
"""The norm of a square matrix of this size takes less than a second."""


@dataclass(eq=False)
class WeightProduct:
    """A product of rows with a weight matrix in a layer."""

    weight: Tensor
    """The parameter W, as it is stored."""
    is_turned: bool
    """Whether it is stored as the transpose of W."""
    features: Tensor
    """The rows F, of shape (n, in)."""
    factor: float
    """A number that the product is multiplied by."""
    errors: Tensor
    """The gradient B of the loss in the product, of shape (n, out)."""

    def receive(self, gradients: tuple[Tensor | None, ...]) -> None:
        """Add a gradient that passes by."""
        if gradients[0] is not None:
            self.errors = self.errors + self.factor * gradients[0].detach()

    def gradient(self, features: Tensor, errors: Tensor) -> Tensor:
        """What parts of F and B add to the gradient of the parameter."""
        product = features.mT @ errors
        return product.mT if self.is_turned else product


@contextmanager
def recorded_products(segment: Segment) -> Iterator[list[WeightProduct]]:
    """Find the products of a segment, and note which errors reach them meanwhile."""
    found = list(_products(segment))
    handles = [node.register_prehook(product.receive) for node, product in found]
    try:
        yield [product for _, product in found]
    finally:
        for handle in handles:
            handle.remove()


def _products(segment: Segment) -> Iterator[tuple[Any, WeightProduct]]:
    seen: set[Any] = set()
    stack: list[Any] = [output.grad_fn for output in segment.outputs]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        parents = [parent for parent, _ in node.next_functions]
        stack += parents
        if node.name() not in PRODUCTS:
            continue
        place, kept = PRODUCTS[node.name()]
        is_turned = parents[place] is not None and parents[place].name() in TURNED
        if is_turned:
            parents[place] = parents[place].next_functions[0][0]
        weight = getattr(parents[place], "variable", None)
        if not any(weight is p for p in segment.parameters):
            continue
        assert isinstance(weight, Tensor)
        rows = getattr(node, kept)
        if rows.layout == torch.strided:
            factor = getattr(node, "_saved_alpha", 1)
            out = weight.shape[0 if is_turned else 1]
            none = rows.new_zeros(1, 1).expand(len(rows), out)
            yield node, WeightProduct(weight, is_turned, rows.detach(), factor, none)


def explained(
    products: list[WeightProduct],
    parameters: tuple[Tensor, ...],
    gradients: tuple[Tensor | None, ...],
) -> tuple[WeightProduct, ...]:
    """Those products that make up the whole gradient of their weights.

    Args:
        products: All products of a segment.
        parameters: Its parameters.
        gradients: The gradients of the parameters from the same backward pass.
    """
    kept: list[WeightProduct] = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        own = [product for product in products if product.weight is parameter]
        if not own or gradient is None:
            continue
        total = sum(p.gradient(p.features, p.errors) for p in own)
        size = sum(p.features.norm() * p.errors.norm() for p in own)
        if bool((total - gradient).norm() <= tolerance(gradient.dtype) * size):
            kept += own
    return tuple(kept)


def weight_observations(
    products: tuple[WeightProduct, ...],
    k: int,
    log10_scale: float,
    structure: GraphStructure,
    dtype: str,
) -> list[Observation]:
    r"""The two parts of the gradients of the weight matrices of layer k.

    ``gradient.weights.kernel.constant`` is :math:`\|(\Pi F)^\top \Pi B\|_F` with the
    means over components as :math:`\Pi F`, ``gradient.weights.deviation.constant`` is
    :math:`\|(Q F)^\top Q B\|_F`; those with ``degree`` belong to the kernel of GCN's
    propagation. All are decimal logarithms. ``weight_norm`` is :math:`\|W\|_2`.

    Args:
        products: The products of the layer.
        k: The layer.
        log10_scale: Logarithm of a factor that was taken out of the errors.
        structure: The graph of its N nodes.
        dtype: Name of the precision.

    Returns:
        Rows about the matrices that multiply rows of nodes, empty if there are none. No
        ``weight_norm`` if there are several, or one of over 1,000 rows and columns.
    """
    own = [p for p in products if len(p.features) == structure.num_nodes]
    if not own:
        return []
    rows, place = [], f"layer:{k}"
    for kind in get_args(Kind):
        for part, value in _parts(own, structure, kind).items():
            name = f"gradient.weights.{part}.{kind}"
            value += log10_scale
            rows.append(Observation(name, place, value, None, "log10", dtype))
    weight = own[0].weight.detach().double()
    is_only = all(product.weight is own[0].weight for product in own)
    if is_only and min(weight.shape) <= MAX_WIDTH:
        size = float(torch.linalg.matrix_norm(weight, 2))
        rows.append(Observation("weight_norm", place, size, None, "1", dtype))
    return rows


def _parts(
    products: list[WeightProduct], structure: GraphStructure, kind: Kind
) -> dict[str, float]:
    """Logarithms of the norms of both parts, over all weights."""
    kernel: dict[int, Tensor] = {}
    deviation: dict[int, Tensor] = {}
    for product in products:
        weight = id(product.weight)
        features, errors = product.features.double(), product.errors.double()
        f, b = (structure.kernel_part(rows, kind) for rows in (features, errors))
        both = product.gradient(f, b), product.gradient(features - f, errors - b)
        for sums, part in zip((kernel, deviation), both, strict=True):
            sums[weight] = sums[weight] + part if weight in sums else part
    return {
        "kernel": log10_norm(kernel.values()),
        "deviation": log10_norm(deviation.values()),
    }
