"""The Jacobian of act(P X W), and of its state-space form, by its parts."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import final

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array, eye_array
from torch import Tensor

from graphfathom.diagnostics.messages import Term
from graphfathom.linalg.block_sparse import BlockSparseOperator
from graphfathom.linalg.components import csr_parts
from graphfathom.linalg.operator import AbstractLinearOperator

__all__ = ["ClosedForm"]

CACHE = 2**20
"""Bytes of the blocks that are made at a time, so that they stay in the cache."""


@final
class ClosedForm(AbstractLinearOperator):
    r"""The Jacobian of a graph layer by its parts.

    .. math:: J = I \otimes C + (I \otimes B) \, D_s
        \Bigl( \sum_t P_t \otimes M_t \Bigr) D_r

    with slopes :math:`s` of an activation behind the convolution, or :math:`r` of one
    before it, at every node and unit. A layer :math:`\sigma(P X W)` has :math:`C = 0`,
    :math:`B = I`, :math:`M = W^\top`, its state-space form :math:`C = \Lambda`. Get one
    from :func:`~graphfathom.diagnostics.solved_forms.closed_form`.

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
        return self.received(x, message).flatten()

    def received(self, x: Tensor, message: Tensor) -> Tensor:
        """Rows of the product from those of the vector and what :meth:`message` is."""
        message = self.behind * message
        if self.input is not None:
            message = message @ self.input.mT
        if self.carry is None:
            return message
        out = x @ self.carry.mT
        out[:, : self.width] += message
        return out

    def rmatvec(self, w: Tensor) -> Tensor:
        """The same products with the transposed parts."""
        return self.pull(w.reshape(self.num_nodes, 1, -1)).flatten()

    def pull(self, y: Tensor) -> Tensor:
        """Transposed products of B vectors side by side: (N, B, out) to (N, B, in)."""
        message = self._turned(y, self.behind)
        sent = ((message @ m).flatten(1) for _, m in self.terms)
        first, *others = (p @ z for p, z in zip(self._back, sent, strict=True))
        x = sum(others, first).view(*y.shape[:2], self.in_channels)
        if self.before is not None:
            x = self.before.unsqueeze(1) * x
        return x if self.carry is None else x + y @ self.carry

    def pull_rows(self, y: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The same of vectors that are zero but at a few nodes.

        Args:
            y: Their rows at these nodes, of shape (n, B, out).
            nodes: Indices of the n nodes, ascending.

        Returns:
            Rows of the products, of shape (m, B, in), and indices of the m nodes they
            belong to, ascending: those whose messages the n nodes take.
        """
        message = self._turned(y, self.behind[nodes])
        place = nodes.new_full((self.num_nodes,), -1)
        place[nodes] = torch.arange(len(nodes), device=nodes.device)
        reached = torch.zeros_like(place, dtype=torch.bool)
        reached[nodes] = self.carry is not None
        entries = []
        for row, col, weight in self._entries:
            kept = (place[col] >= 0).nonzero().flatten()
            reached[row[kept]] = True
            entries.append((row[kept], place[col[kept]], weight[kept]))
        found = reached.nonzero().flatten()
        x = y.new_zeros(len(found), y.shape[1] * self.in_channels)
        for (row, col, weight), (_, m) in zip(entries, self.terms, strict=True):
            counts = torch.bincount(row, minlength=self.num_nodes)[found]
            rowptr = F.pad(counts.cumsum(0), (1, 0))
            part = _csr(rowptr, col, weight, (len(found), len(nodes)))
            x += part @ (message @ m).flatten(1)
        x = x.view(len(found), y.shape[1], self.in_channels)
        if self.before is not None:
            x = self.before[found].unsqueeze(1) * x
        if self.carry is not None:
            x.index_add_(0, torch.searchsorted(found, nodes), y @ self.carry)
        return x, found

    def _turned(self, y: Tensor, behind: Tensor) -> Tensor:
        """Transposed product with all that comes behind the convolution."""
        message = y[..., : self.width]
        if self.input is not None:
            message = message @ self.input
        return behind.unsqueeze(1) * message

    @cached_property
    def _entries(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Rows, ascending, columns and weights of each propagation, transposed."""
        found = []
        for p, _ in self.terms:
            turned = csr_array(p.T)
            keys, weight = _keys(turned), torch.from_numpy(turned.data)
            parts = keys // self.num_nodes, keys % self.num_nodes
            found.append(
                (*(part.to(self.device) for part in parts), weight.to(self.behind))
            )
        return found

    def message(self, x: Tensor) -> Tensor:
        r"""The sum :math:`\sum_t P_t X M_t^\top`."""
        pairs = zip(self._forth, self.terms, strict=True)
        first, *others = (p @ (x @ m.mT) for p, (_, m) in pairs)
        return sum(others, first)

    @cached_property
    def _forth(self) -> list[Tensor]:
        return [_on(p, self.behind) for p, _ in self.terms]

    @cached_property
    def _back(self) -> list[Tensor]:
        return [_on(csr_array(p.T), self.behind) for p, _ in self.terms]

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


def _keys(pattern: csr_array) -> Tensor:
    """Row times n plus column of each stored entry."""
    rowptr, col = (torch.from_numpy(part).long() for part in csr_parts(pattern)[:2])
    n = len(rowptr) - 1
    return torch.arange(n).repeat_interleave(rowptr.diff()) * n + col


def _on(matrix: csr_array, like: Tensor) -> Tensor:
    """A SciPy matrix as a sparse tensor beside another tensor."""
    rowptr, col, value = map(torch.from_numpy, csr_parts(matrix))
    n = len(rowptr) - 1
    return _csr(rowptr, col, value, (n, n)).to(like.device, like.dtype)


def _csr(rowptr: Tensor, col: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")
        return torch.sparse_csr_tensor(rowptr, col, value, shape)
