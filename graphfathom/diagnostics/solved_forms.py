"""Solve for the slopes of a layer whose Jacobian has a closed form.

The form is known, its slopes are not: they are solved for from a few products with the
layer's own derivative. So the activation may be any function of single entries, before
or behind the convolution, and nothing is assumed that the derivative does not say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from graphfathom.diagnostics.closed_forms import ClosedForm
from graphfathom.diagnostics.layer_map import LayerMap, random_rows
from graphfathom.diagnostics.messages import Term

__all__ = ["checked_form", "closed_form", "tolerance"]

NUM_PROBES = 4
"""Two determine a slope and a carry; with four, the smallest of 173,312 sums of squares
of random numbers is far from zero. On a graph of a few nodes there are more."""
REFINEMENTS = 3
"""The normal equations at a node lose half of the digits; two corrections find them."""


def tolerance(dtype: torch.dtype) -> float:
    """Relative error up to which products agree: 4e-10 in float64, 7e-5 in float32."""
    return torch.finfo(dtype).eps ** 0.6


def closed_form(layer: LayerMap) -> ClosedForm | None:
    r"""Solve for the closed form of the Jacobian of a layer.

    Propagation and weights are read from the layer, see
    :func:`~graphfathom.diagnostics.messages.linear_messages`. The carry is absent, or
    :math:`\Lambda` and :math:`E` of the layer's module, or one number per channel;
    slopes and numbers are solved for by least squares from four products. The result
    explains these products; compare it with others before you rely on it, as
    :func:`~graphfathom.diagnostics.exact_jacobian.sparse_jacobian` does.

    Args:
        layer: The derivative of the layer.

    Returns:
        The form, or None if the layer does not have it.
    """
    if layer.dtype not in (torch.float32, torch.float64):
        return None  # there are no sparse products in less
    messages = layer.trace.messages[layer.k - 1]
    terms = messages.terms
    sizes = {(len(m), m.shape[1] <= layer.in_channels) for _, m in terms}
    if len(sizes) != 1 or not all(fits for _, fits in sizes):
        return None
    like = layer.behind.main
    terms = [(p, _padded(m.to(like), layer.in_channels)) for p, m in terms]
    known = None
    if messages.input is not None:
        known = [m.to(like) for m in messages.carry], messages.input.to(like)
    form = _solve(terms, *_products(layer, transposed=False), known)
    if form is None and layer.out_channels == len(terms[0][1]):
        # An activation before the convolution: the transpose has it behind.
        turned = [(csr_array(p.T), m.mT) for p, m in terms]
        form = _solve(turned, *_products(layer, transposed=True), None)
        if form is not None:
            carry = None if form.carry is None else form.carry.mT
            ones = layer.behind.main.new_ones(layer.num_nodes, layer.out_channels)
            form = ClosedForm(terms, ones, form.behind, carry)
    return form


def checked_form(layer: LayerMap) -> ClosedForm | None:
    """The closed form of a layer if its products agree with the derivative.

    The form explains the four products from the side that it was solved from; one
    product from the other side is compared, up to :func:`tolerance`.
    """
    form = closed_form(layer)
    if form is None:
        return None
    sides = ("vjp",) if form.before is None else ("jvp",)
    return form if layer.defect(form, 1, sides) <= tolerance(layer.dtype) else None


def _padded(matrix: Tensor, width: int) -> Tensor:
    """Zeros for the tensors of a state that send no messages."""
    return F.pad(matrix, (0, width - matrix.shape[1]))


def _products(layer: LayerMap, transposed: bool) -> tuple[Tensor, Tensor]:
    """Random probes and what the layer makes of them, of shapes (Q, N, width)."""
    generator = torch.Generator().manual_seed(layer.k)
    width = layer.out_channels if transposed else layer.in_channels
    product = layer.vjp if transposed else layer.jvp
    count = max(NUM_PROBES, 2 + math.ceil(width / max(layer.num_nodes, 1)))
    probes = [random_rows(layer, width, generator) for _ in range(count)]
    return torch.stack(probes), torch.stack([product(probe) for probe in probes])


def _solve(
    terms: list[Term],
    probes: Tensor,
    products: Tensor,
    known: tuple[list[Tensor], Tensor] | None,
) -> ClosedForm | None:
    """The first form that explains the products."""
    out = len(terms[0][1])
    linear = ClosedForm(terms, probes.new_ones(probes.shape[1], out))
    messages = torch.stack([linear.message(x) for x in probes])
    size = products.norm()
    if not bool(messages.norm().isfinite() and size.isfinite()):
        return None
    for carry, input in _carries(messages, probes, products, known):
        rest = products if carry is None else products - probes @ carry.mT
        slopes = _slopes(messages, rest[..., :out], input)
        form = ClosedForm(terms, slopes, None, carry, input)
        made = [form.received(x, z) for x, z in zip(probes, messages, strict=True)]
        error = (torch.stack(made) - products).norm()
        if bool(error <= tolerance(products.dtype) * size):
            return form
    return None


def _carries(
    messages: Tensor,
    probes: Tensor,
    products: Tensor,
    known: tuple[list[Tensor], Tensor] | None,
) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Matrices C and B to try."""
    out, given, made = messages.shape[2], probes.shape[2], products.shape[2]
    if out == made:
        yield None, None
    if known is not None and known[1].shape == (out, out) and out <= made:
        first = torch.cat(known[0], dim=1)
        if first.shape == (out, given):
            yield _with_rest(first, probes, products), known[1]
    if given % out == 0 and out <= made:
        first = _per_channel(messages, probes, products)
        yield _with_rest(first, probes, products), None


def _with_rest(first: Tensor, probes: Tensor, products: Tensor) -> Tensor:
    """C from its first rows: the other tensors of a state are handed on, or copies."""
    x, y = probes.flatten(0, 1), products.flatten(0, 1)[:, len(first) :]
    if not y.shape[1]:
        return first
    return torch.cat([first, _snapped(torch.linalg.lstsq(x, y).solution.mT)])


def _per_channel(messages: Tensor, probes: Tensor, products: Tensor) -> Tensor:
    r"""One number per channel and tensor of the state, as the first rows of C.

    Per channel, :math:`y_q = \sum_t c_t x_{tq} + s \circ z_q`: the slopes are
    eliminated by a projection along z at every node, the rest is least squares.
    """
    out = messages.shape[2]
    x = probes.unflatten(2, (-1, out))  # (Q, N, T, out)
    z = messages / messages.norm(dim=0).clamp(min=torch.finfo(messages.dtype).tiny)

    def project(values: Tensor) -> Tensor:
        return values - z.unsqueeze(2) * (z.unsqueeze(2) * values).sum(0)

    x, y = project(x), project(products[..., :out].unsqueeze(2)).squeeze(2)
    gram = torch.einsum("qntc,qnuc->ctu", x, x)
    right = torch.einsum("qntc,qnc->ct", x, y)
    numbers = _snapped(torch.linalg.lstsq(gram, right.unsqueeze(2)).solution.squeeze(2))
    return torch.cat([torch.diag(column) for column in numbers.unbind(1)], dim=1)


def _slopes(messages: Tensor, rest: Tensor, input: Tensor | None) -> Tensor:
    """Slopes s of ``rest = (s * messages) input'`` by least squares at every node."""
    squares = messages.square().sum(0)
    silent = squares == 0
    if input is None:
        slopes = (messages * rest).sum(0) / squares
        return _snapped(torch.where(silent, 1.0, slopes))
    gram = (input.mT @ input) * torch.einsum("qna,qnb->nab", messages, messages)
    slopes = torch.zeros_like(messages[0])
    for _ in range(REFINEMENTS):
        left = rest - (slopes * messages) @ input.mT
        right = (messages * (left @ input)).sum(0)
        slopes += torch.linalg.lstsq(gram, right.unsqueeze(2)).solution.squeeze(2)
    return _snapped(torch.where(silent, 1.0, slopes))


def _snapped(values: Tensor) -> Tensor:
    """Numbers that are 0 or 1 but for rounding."""
    whole = values.round().clamp(0, 1)
    close = (values - whole).abs() < torch.finfo(values.dtype).eps ** 0.7
    return torch.where(close, whole, values)
