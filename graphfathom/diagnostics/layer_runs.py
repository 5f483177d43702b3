"""Products with neighbouring layers, many vectors at a time where a form allows it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphfathom.diagnostics.closed_forms import ClosedForm
from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.layer_map import LayerMap
from graphfathom.diagnostics.solved_forms import checked_form

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["ClosedLayers", "pulled", "rescaled"]


class ClosedLayers:
    """The closed forms of a network's layers, each solved for when it is asked for.

    Args:
        trace: The network.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._forms: dict[int, ClosedForm | None] = {}

    def form(self, j: int) -> ClosedForm | None:
        """That of a segment between two states of one tensor; None without one.

        It agrees with the derivative up to rounding in the precision of the trace.
        """
        if j not in self._forms:
            self._forms[j] = self._solve(j)
        return self._forms[j]

    def _solve(self, j: int) -> ClosedForm | None:
        if not 1 <= j <= self.trace.num_layers:
            return None
        if any(len(state.tensors) > 1 for state in self.trace.states[j - 1 : j + 1]):
            return None
        try:
            return checked_form(LayerMap(self.trace, j))
        except JacobianError:  # no rows for nodes, no second derivative
            return None

    def runs(self, order: Iterable[int]) -> list[list[int]]:
        """Segments in order; neighbours with a closed form are one run."""
        found: list[list[int]] = []
        for closed, group in groupby(order, lambda j: self.form(j) is not None):
            run = list(group)
            found += [run] if closed else [[j] for j in run]
        return found


def pulled(
    sides: Tensor, forms: Sequence[ClosedForm | None], every: int = 4
) -> tuple[Tensor, list[int]]:
    """Several vectors, of shape (N, B, width), behind layers of closed form.

    They are rescaled every few layers: after each if they leave the range on the way.
    """
    start, total = sides, torch.zeros(sides.shape[1], dtype=torch.long)
    nodes = (sides != 0).flatten(1).any(1).nonzero().flatten()
    few = 2 * len(nodes) < len(start)
    sides = sides[nodes] if few else sides
    for i, form in enumerate(forms, 1):
        assert form is not None
        if few:
            sides, nodes = form.pull_rows(sides, nodes)
            few = 2 * len(nodes) < len(start)
            sides = sides if few else _spread(sides, nodes, len(start))
        else:  # far from the roots no rows are zero any more
            sides = form.pull(sides)
        if i % every and i < len(forms):
            continue
        top = _largest(sides).cpu().double()
        if every > 1 and not bool(((top > 2**-60) & (top < 2**60)).all()):
            return pulled(start, forms, every=1)
        far = (top > 0) & top.isfinite() & ((top < 2**-8) | (top > 2**8))
        if bool(far.any()):
            reach = int(math.log2(torch.finfo(sides.dtype).max)) - 1
            exponent = torch.where(far, torch.frexp(top).exponent, 0)
            exponent = exponent.clamp(-reach, reach)
            sides = sides * (2.0**-exponent).to(sides)[:, None]
            total += exponent
    return _spread(sides, nodes, len(start)) if few else sides, total.tolist()


def _largest(sides: Tensor) -> Tensor:
    """Largest absolute entry of each vector, of shape (B,)."""
    if not sides.numel():
        return sides.new_zeros(sides.shape[1])
    return sides.flatten(1).abs().amax(0).view(sides.shape[1], -1).amax(1)


def _spread(rows: Tensor, nodes: Tensor, num_nodes: int) -> Tensor:
    """Rows at some nodes with zeros at all others."""
    out = rows.new_zeros(num_nodes, *rows.shape[1:])
    return out.index_copy_(0, nodes, rows)


def rescaled(tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], int]:
    """The tensors over a power of two, and its exponent: no digit is lost."""
    sizes = [float(t.abs().amax()) for t in tensors if t.numel()]
    size = max(sizes, default=0.0)
    if not all(map(math.isfinite, sizes)) or size == 0 or 2**-8 < size < 2**8:
        return tensors, 0
    reach = min(int(math.log2(torch.finfo(t.dtype).max)) - 1 for t in tensors)
    exponent = max(-reach, min(math.frexp(size)[1], reach))
    return tuple(t * 2.0**-exponent for t in tensors), exponent
