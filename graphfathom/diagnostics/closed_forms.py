r"""The Jacobian of act(P X W), and of its state-space form, in closed form.

The form is known, its slopes are not: they are solved for from a few products with the
layer's own derivative. So the activation may be any function of single entries, before
or behind the convolution, and nothing is assumed that the derivative does not say.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from functools import cached_property
from typing import Any, final

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array, eye_array
from torch import Tensor

from graphfathom.diagnostics.layer_map import LayerMap, random_rows
from graphfathom.diagnostics.messages import Term
from graphfathom.linalg.block_sparse import BlockSparseOperator
from graphfathom.linalg.components import csr_parts
from graphfathom.linalg.operator import AbstractLinearOperator

__all__ = ["ClosedForm", "checked_form", "closed_form", "tolerance"]

NUM_PROBES = 4
"""Two determine a slope and a carry; with four, the smallest of 173,312 sums of squares
of random numbers is far from zero. On a graph of a few nodes there are more."""
CACHE = 2**20
"""Bytes of the blocks that are made at a time, so that they stay in the cache."""
REFINEMENTS = 3
"""The normal equations at a node lose half of the digits; two corrections find them."""


@final
class ClosedForm(AbstractLinearOperator):
    r"""The Jacobian of a graph layer by its parts.

    .. math:: J = I \otimes C + (I \otimes B) \, D_s
        \Bigl( \sum_t P_t \otimes M_t \Bigr) D_r

    with slopes :math:`s` of an activation behind the convolution, or :math:`r` of one
    before it, at every node and unit. A layer :math:`\sigma(P X W)` has :math:`C = 0`,
    :math:`B = I`, :math:`M = W^\top`, its state-space form :math:`C = \Lambda`. Get one
    from :func:`closed_form`.

    Args:
        terms: Pairs of :math:`P_t`, of shape (N, N), and :math:`M_t`, of shape
            (out, in).
        behind: The slopes :math:`s`, of shape (N, out).
        before: The slopes :math:`r`, of shape (N, in), None for ones.
        carry: The matrix :math:`C`, None for 0; of a next state of several tensors, the
            message is added to the first rows.
        input: The matrix :math:`B`, None for the identity.
    """

    def __init__(
        self,
        terms: list[Term],
        behind: Tensor,
        before: Tensor | None = None,
        carry: Tensor | None = None,
        input: Tensor | None = None,
    ) -> None:
        self.terms, self.behind, self.before = terms, behind, before
        self.carry, self.input = carry, input
        self.num_nodes, self.width = behind.shape
        self.in_channels = terms[0][1].shape[1]
        self.out_channels = self.width if carry is None else len(carry)
        self._matrices = [
            (_on(p, behind), _on(csr_array(p.T), behind)) for p, _ in terms
        ]

    @property
    def shape(self) -> tuple[int, int]:
        """Nodes times the widths of the two states."""
        return self.num_nodes * self.out_channels, self.num_nodes * self.in_channels

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the slopes."""
        return self.behind.dtype

    @property
    def device(self) -> torch.device:
        """Device of the slopes."""
        return self.behind.device

    @property
    def is_linear(self) -> bool:
        """Whether all slopes are 1."""
        slopes = (self.behind, self.before)
        return all(bool((s == 1).all()) for s in slopes if s is not None)

    def matvec(self, v: Tensor) -> Tensor:
        """One sparse and one dense product per term."""
        x = v.reshape(self.num_nodes, -1)
        message = self.message(x if self.before is None else self.before * x)
        message = self.behind * message
        if self.input is not None:
            message = message @ self.input.mT
        if self.carry is None:
            return message.flatten()
        out = x @ self.carry.mT
        out[:, : self.width] += message
        return out.flatten()

    def rmatvec(self, w: Tensor) -> Tensor:
        """The same products with the transposed parts."""
        return self.pull(w.reshape(self.num_nodes, 1, -1)).flatten()

    def pull(self, y: Tensor, rows: Tensor | None = None) -> Tensor:
        """Transposed products with B vectors side by side: (N, B, out) to (N, B, in).

        Args:
            y: The vectors.
            rows: Nodes whose rows of ``y`` may be other than zero; all if None.
        """
        message = y[..., : self.width] if rows is None else y[rows, :, : self.width]
        if self.input is not None:
            message = message @ self.input
        behind = self.behind if rows is None else self.behind[rows]
        message = behind.unsqueeze(1) * message
        x: Any = 0
        for (_, p), (_, m) in zip(self._matrices, self.terms, strict=True):
            sent = message @ m
            if rows is not None:
                sent = sent.new_zeros(len(y), *sent.shape[1:]).index_copy(0, rows, sent)
            x = x + (p @ sent.flatten(1)).view(sent.shape)
        if self.before is not None:
            x = self.before.unsqueeze(1) * x
        return x if self.carry is None else x + y @ self.carry

    def senders(self, nodes: Tensor) -> Tensor:
        """Of a mask of nodes, those that they see, as a mask of shape (N,)."""
        found = nodes.clone() if self.carry is not None else torch.zeros_like(nodes)
        for row, col in self._ends:
            found[col[nodes[row]]] = True
        return found

    @cached_property
    def _ends(self) -> list[tuple[Tensor, Tensor]]:
        """Rows and columns of the entries of each propagation."""
        keys = [_keys(p).to(self.device) for p, _ in self.terms]
        return [(key // self.num_nodes, key % self.num_nodes) for key in keys]

    def message(self, x: Tensor) -> Tensor:
        r"""The sum :math:`\sum_t P_t X M_t^\top`."""
        pairs = zip(self._matrices, self.terms, strict=True)
        return torch.as_tensor(sum(p @ (x @ m.mT) for (p, _), (_, m) in pairs))

    def price(self) -> int:
        """Bytes of the blocks that :meth:`assemble` stores."""
        size = self.behind.element_size() * self.out_channels * self.in_channels
        return int(self._pattern().nnz) * size

    def assemble(self) -> BlockSparseOperator:
        """The matrix by blocks, one for each pair of nodes of which one sends."""
        pattern = self._pattern()
        rowptr, col = (
            torch.from_numpy(index).long().to(self.device)
            for index in csr_parts(pattern)[:2]
        )
        blocks = self.behind.new_zeros(len(col), self.out_channels, self.in_channels)
        keys = _keys(pattern).to(self.device)
        count = max(CACHE // max(blocks[:1].nbytes, 1), 1)
        for p, m in self.terms:
            places = torch.searchsorted(keys, _keys(p).to(self.device))
            weights = torch.from_numpy(csr_parts(p)[2]).to(self.behind)
            whole = len(places) == len(keys)  # then the places are 0, 1, 2, ...
            for begin in range(0, len(places), count):
                part = slice(begin, begin + count)
                where = part if whole else places[part]
                rows, cols = keys[where] // self.num_nodes, keys[where] % self.num_nodes
                made = self._blocks(rows, cols, weights[part], m)
                blocks[where, : self.width] += made
        if self.carry is not None:
            nodes = torch.arange(self.num_nodes, device=self.device)
            places = torch.searchsorted(keys, nodes * (self.num_nodes + 1))
            for where in places.split(count):
                blocks[where] += self.carry
        return BlockSparseOperator(rowptr, col, blocks, self.num_nodes)

    def _blocks(self, rows: Tensor, cols: Tensor, weights: Tensor, m: Tensor) -> Tensor:
        scaled = self.behind[rows] * weights.unsqueeze(1)
        if self.input is None:
            part = scaled.unsqueeze(2) * m
        else:
            part = (self.input * scaled.unsqueeze(1)) @ m
        return part if self.before is None else part * self.before[cols].unsqueeze(1)

    def _pattern(self) -> csr_array:
        """Union of the patterns of all summands, sorted."""
        kept = [abs(p).sign() for p, _ in self.terms]
        if self.carry is not None:
            kept.append(csr_array(eye_array(self.num_nodes)))
        pattern = csr_array(sum(kept[1:], kept[0]))
        pattern.sort_indices()
        return pattern


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

    They are compared on one random vector from either side, up to :func:`tolerance`.
    """
    form = closed_form(layer)
    if form is None or not layer.defect(form, 1) <= tolerance(layer.dtype):
        return None
    return form


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
    if not bool(messages.isfinite().all() and products.isfinite().all()):
        return None
    for carry, input in _carries(messages, probes, products, known):
        rest = products if carry is None else products - probes @ carry.mT
        slopes = _slopes(messages, rest[..., :out], input)
        form = ClosedForm(terms, slopes, None, carry, input)
        if _explains(form, probes, products):
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
    silent = (messages == 0).all(0)
    if input is None:
        slopes = (messages * rest).sum(0) / messages.square().sum(0)
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


def _explains(form: ClosedForm, probes: Tensor, products: Tensor) -> bool:
    made = torch.stack([form.matvec(x.flatten()) for x in probes])
    error = (made.view(products.shape) - products).norm()
    return bool(error <= tolerance(products.dtype) * products.norm())


def _keys(pattern: csr_array) -> Tensor:
    """Row times n plus column of each stored entry."""
    rowptr, col = (torch.from_numpy(part).long() for part in csr_parts(pattern)[:2])
    n = len(rowptr) - 1
    return torch.arange(n).repeat_interleave(rowptr.diff()) * n + col


def _on(matrix: csr_array, like: Tensor) -> Tensor:
    """A SciPy matrix as a sparse tensor beside another tensor."""
    rowptr, col, value = map(torch.from_numpy, csr_parts(matrix))
    n = len(rowptr) - 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")
        tensor = torch.sparse_csr_tensor(rowptr, col, value, (n, n))
    return tensor.to(like.device, like.dtype)
