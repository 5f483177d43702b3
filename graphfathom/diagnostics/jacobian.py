"""The Jacobian between two states as a linear operator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from graphfathom.linalg.operator import AbstractLinearOperator

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import State, Trace

__all__ = ["JacobianError", "JacobianOperator", "differentiating"]


class JacobianError(ValueError):
    """A map whose two products with vectors do not agree; the message names it."""


@contextmanager
def differentiating(name: str) -> Iterator[None]:
    """Turn what autograd raises into a sentence that names the layer."""
    try:
        yield
    except RuntimeError as error:
        raise JacobianError(f"`{name}` cannot be differentiated: {error}") from error


@final
class JacobianOperator(AbstractLinearOperator):
    r"""The derivative :math:`\partial H_j / \partial H_i` of state j in state i.

    The tensors of a state are flattened row by row and put one behind the other.
    ``rmatvec`` is one vector-Jacobian product through the layers between, ``matvec``
    the derivative of that product in its vector: forward mode is not used, because not
    every scatter operation has a right rule for it.

    Args:
        trace: Where the states come from.
        i: Index of the state that is differentiated in.
        j: Index of the state that is differentiated, :math:`j \ge i`.

    Raises:
        ValueError: If ``i`` and ``j`` are no states in this order.
        JacobianError: If :math:`\langle Jv, w\rangle \neq \langle v, J^\top w\rangle`
            on a random pair: a layer in between has a wrong derivative or none.
    """

    def __init__(self, trace: Trace, i: int, j: int) -> None:
        if not 0 <= i <= j <= trace.num_layers:
            raise ValueError(
                f"`i` and `j` must satisfy 0 <= i <= j <= {trace.num_layers}, the "
                f"states. Got i = {i}, j = {j}."
            )
        self._trace, self.i, self.j = trace, i, j
        self._check_adjoint()

    @property
    def shape(self) -> tuple[int, int]:
        """Sizes of state j and of state i, without taps."""
        rows, columns = self._trace.states[self.j], self._trace.states[self.i]
        return state_size(rows), state_size(columns)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the trace."""
        return self._trace.states[self.i].main.dtype

    @property
    def device(self) -> torch.device:
        """Device of the states."""
        return self._trace.states[self.i].main.device

    def matvec(self, v: Tensor) -> Tensor:
        """One Jacobian-vector product."""
        tangents = unflatten(v, self._trace.states[self.i])
        for k in range(self.i + 1, self.j + 1):
            tangents = self._trace.segment(k).jvp(tangents)
        return flatten(tangents, self._trace.states[self.j])

    def rmatvec(self, w: Tensor) -> Tensor:
        """One vector-Jacobian product."""
        cotangents = unflatten(w, self._trace.states[self.j])
        for k in range(self.j, self.i, -1):
            cotangents, _ = self._trace.segment(k).vjp(cotangents)
        return flatten(cotangents, self._trace.states[self.i])

    def _check_adjoint(self) -> None:
        generator = torch.Generator(self.device).manual_seed(self.i + 1)
        name = " to ".join(dict.fromkeys(self._trace.layers[self.i : self.j]))
        try:
            defect = self.adjoint_defect(generator)
        except RuntimeError as error:
            raise JacobianError(
                f"`{name}` cannot be differentiated twice, which products with its "
                f"Jacobian need: {error}"
            ) from error
        if defect > torch.finfo(self.dtype).eps ** 0.5:
            raise JacobianError(
                f"The derivative of `{name}` is inconsistent: <Jv, w> and <v, J'w> "
                f"differ by {defect:.1e} of their size. An operation in it cannot be "
                "differentiated twice, or has a wrong backward."
            )


def state_size(state: State) -> int:
    """Number of entries of a state, without taps."""
    return sum(tensor.numel() for tensor in state.carried)


def flatten(tensors: Iterable[Tensor], state: State) -> Tensor:
    """One vector of the tensors of a state, without taps."""
    pairs = zip(state.names, tensors, strict=True)
    return torch.cat([t.reshape(-1) for name, t in pairs if name not in state.taps])


def unflatten(vector: Tensor, state: State) -> tuple[Tensor, ...]:
    """The inverse of :func:`flatten`, with zeros for taps."""
    parts = iter(vector.split([t.numel() for t in state.carried]))
    return tuple(
        torch.zeros_like(tensor)
        if name in state.taps
        else next(parts).view(tensor.shape)
        for name, tensor in zip(state.names, state.tensors, strict=True)
    )
