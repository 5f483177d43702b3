"""The derivative of one layer as a map of matrices with one row per node."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphfathom.diagnostics.jacobian import JacobianError, differentiating
from graphfathom.linalg.operator import AbstractLinearOperator

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import State, Trace

__all__ = ["LayerMap", "random_rows"]


class LayerMap:
    r"""The Jacobian :math:`\partial H_k / \partial H_{k-1}` acting on node features.

    The tensors of a state are put side by side, so that all that belongs to a node is
    one row. For a state of one tensor, its rows flattened one behind the other are the
    vectors of ``trace.jacobian(k - 1, k)``.

    Args:
        trace: Where the states come from.
        k: The layer, 1 to L.

    Raises:
        ValueError: If there is no such layer.
        JacobianError: If a state has a tensor without one row for each node.
    """

    def __init__(self, trace: Trace, k: int) -> None:
        if not 1 <= k <= trace.num_layers:
            raise ValueError(
                f"`k` must be in [1, {trace.num_layers}], the layers. Got {k}."
            )
        self.trace, self.k, self.name = trace, k, trace.layers[k - 1]
        self.before, self.behind = trace.states[k - 1], trace.states[k]
        self.num_nodes = self.behind.main.shape[0]
        tensors = (*self.before.carried, *self.behind.carried)
        if any(t.dim() == 0 or t.shape[0] != self.num_nodes for t in tensors):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise JacobianError(
                f"The states around `{self.name}` must have one row for each node. Got "
                f"{shapes}: use the operator `trace.jacobian(k - 1, k)`."
            )
        self.in_channels = sum(_widths(self.before))
        self.out_channels = sum(_widths(self.behind))
        self.num_products = 0

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the trace."""
        return self.behind.main.dtype

    @property
    def device(self) -> torch.device:
        """Device of the states."""
        return self.behind.main.device

    def jvp(self, x: Tensor) -> Tensor:
        """Change of the next state, (N, out), for a change of this one, (N, in)."""
        self.num_products += 1
        with differentiating(self.name):
            tangents = self.trace.segment(self.k).jvp(_split(x, self.before))
        return _join(tangents, self.behind)

    def vjp(self, y: Tensor) -> Tensor:
        """The transposed map: (N, out) to (N, in)."""
        self.num_products += 1
        with differentiating(self.name):
            cotangents, _ = self.trace.segment(self.k).vjp(_split(y, self.behind))
        return _join(cotangents, self.before)

    def defect(
        self,
        operator: AbstractLinearOperator,
        count: int = 3,
        sides: Collection[str] = ("jvp", "vjp"),
    ) -> float:
        """How far an operator is from this map, on random vectors.

        Args:
            operator: What is compared.
            count: Number of vectors from each side.
            sides: Which products are compared, both by default.

        Returns:
            The largest norm of a difference, relative to that of the product; NaN if
            one of them is not finite.
        """
        generator = torch.Generator().manual_seed(self.k)
        found = []
        for _ in range(count):
            for side, product, width in (
                ("jvp", operator.matvec, self.in_channels),
                ("vjp", operator.rmatvec, self.out_channels),
            ):
                if side not in sides:
                    continue
                rows = random_rows(self, width, generator)
                truth = getattr(self, side)(rows).flatten()
                error = (product(rows.flatten()) - truth).norm()
                found.append(error / truth.norm() if error != 0 else error)
        return float(torch.stack(found).max())  # max hands on NaN


def random_rows(layer: LayerMap, width: int, generator: torch.Generator) -> Tensor:
    """Random features in (-1, 1), of shape (N, width), none of them zero.

    A draw of 64 bits makes four: that is three times as quick as uniform numbers.
    """
    size = layer.num_nodes * width
    draws = torch.empty(size // 4 + 1, dtype=torch.int64)
    bits = draws.random_(-(2**63), None, generator=generator).view(torch.int16)
    sample = bits[:size].view(layer.num_nodes, width).to(layer.device, layer.dtype)
    return sample.add_(0.5).mul_(2**-15)


def _widths(state: State) -> list[int]:
    return [tensor[0].numel() if len(tensor) else 0 for tensor in state.carried]


def _split(rows: Tensor, state: State) -> tuple[Tensor, ...]:
    """Tensors of a state from their rows side by side, zeros for taps."""
    parts = iter(rows.split(_widths(state), dim=1))
    return tuple(
        torch.zeros_like(tensor)
        if name in state.taps
        else next(parts).reshape(tensor.shape)
        for name, tensor in zip(state.names, state.tensors, strict=True)
    )


def _join(tensors: tuple[Tensor, ...], state: State) -> Tensor:
    """The inverse of :func:`_split`."""
    pairs = zip(state.names, tensors, strict=True)
    kept = [t.reshape(len(t), -1) for name, t in pairs if name not in state.taps]
    return torch.cat(kept, dim=1)
