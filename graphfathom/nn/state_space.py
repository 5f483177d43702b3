r"""State-space form of a layer: what it computes is added to a state that is kept.

Glossary:
    H: the state, features of the nodes, :math:`(N, d)`; ``x`` in code.
    F: the wrapped layer; what it returns is the message.
    Lambda, B, E: the matrices of state, input and persistent input,
        :math:`(d, d)`; ``state``, ``input`` and ``persistent`` in code.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from graphfathom.nn.abstract_state_space import AbstractStateSpace
from graphfathom.nn.hetero import HeteroSSM
from graphfathom.nn.step import Gates, advance
from graphfathom.nn.transition import Scalar, Transition, warn_if_growing

__all__ = ["Gates", "HeteroSSM", "StateSpaceConv", "advance"]


class StateSpaceConv(AbstractStateSpace):
    r"""A layer in state-space form.

    .. math:: H^+ = H \Lambda^\top + F(H) B^\top \; (+ \; H_0 E^\top)

    :math:`F` is any module that keeps the width of the state, called as it always is:
    all arguments are handed on. :math:`\Lambda`, :math:`B` and :math:`E` act on the
    features and are not trained unless they are built with ``trainable=True``; pass the
    same ones to all layers to share them.

    The keys of ``state_dict`` are those of the layer alone, so the checkpoint of a
    wrapped network loads into the unwrapped one and back.

    Args:
        layer: The layer :math:`F`. Of a tuple that it returns the first tensor is the
            message, and the rest is returned as it is.
        state: The matrix :math:`\Lambda`. Default: the identity.
        input: The matrix :math:`B`. Default: the identity.
        persistent: The matrix :math:`E`; if given, ``forward`` takes the first state
            as the keyword ``initial``.
        gates: Whether to multiply state and message by gates, see :class:`Gates`; they
            are trained.
        argument: Which argument of the layer is the state: a position or the name of a
            keyword. Of a pair of source and target features it is the target's.

    Shapes:
        - **input:** state :math:`(N, d)`, then whatever the layer takes
        - **output:** state :math:`(N, d)`, then whatever else the layer returns

    Raises:
        TypeError: If ``layer`` or a matrix is of the wrong kind.

    Example:
        >>> from torch_geometric.nn import GCNConv
        >>> StateSpaceConv(GCNConv(8, 8), Scalar(0.9), Scalar(0.1))
        StateSpaceConv(
          (layer): GCNConv(8, 8)
          (state): Scalar(0.9)
          (input): Scalar(0.1)
        )

    References:
        | On Vanishing Gradients, Over-Smoothing, and Over-Squashing in GNNs
        | (Arroyo et al., 2025), https://arxiv.org/abs/2502.10818
    """

    state: Transition
    input: Transition
    persistent: Transition | None

    def __init__(
        self,
        layer: nn.Module,
        state: Transition | None = None,
        input: Transition | None = None,
        *,
        persistent: Transition | None = None,
        gates: bool = False,
        argument: int | str = 0,
    ) -> None:
        state = Scalar(1.0) if state is None else state
        input = Scalar(1.0) if input is None else input
        parts = {"state": state, "input": input, "persistent": persistent}
        super().__init__(layer, parts)
        self.argument = argument
        self.gated = gates
        self.gates: Gates | None = None
        names = list(inspect.signature(layer.forward).parameters)
        self.argument_name = argument if isinstance(argument, str) else ""
        if isinstance(argument, int) and argument < len(names):
            self.argument_name = names[argument]
        if state.channels != -1:
            self._bind(state.channels)
            if state.trainable:
                warn_if_growing(state)

    def forward(self, *args: Any, initial: Tensor | None = None, **kwargs: Any) -> Any:
        """The next state."""
        if self.persistent is None and initial is not None:
            kwargs["initial"] = initial
        x = self._state(args, kwargs)
        output = self.layer(*args, **kwargs)
        message = self._message(output, x)
        if self.state.channels != x.size(-1) or (self.gated and self.gates is None):
            self._bind(x.size(-1), x)
        source = None
        if self.persistent is not None:
            if initial is None:
                raise ValueError(
                    "`initial` must be the first state where `persistent` is given. "
                    "Got None: call `conv(x, ..., initial=x_0)`."
                )
            source = self.persistent(initial)
        x = advance(x, message, self.state, self.input, source, self.gates)
        return x if isinstance(output, Tensor) else (x, *output[1:])

    def _bind(self, channels: int, like: Tensor | None = None) -> None:
        was_bound = self.state.channels != -1
        for _, part in self.transitions():
            part.bind(channels, like)
        if self.gated and self.gates is None:
            self.gates = Gates(channels)
            if like is not None:
                self.gates.to(like.device, like.dtype)
        if not was_bound and self.state.trainable:
            warn_if_growing(self.state)

    def _state(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The state among the arguments of the layer."""
        position = self.argument
        if isinstance(position, int) and position < len(args):
            x = args[position]
        else:
            x = kwargs.get(self.argument_name)
        if isinstance(x, tuple | list) and len(x) == 2:
            x = x[1]
        if isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 1:
            return x
        kind = type(x).__name__
        hint = "pass `argument=`, the position or the name of the state"
        if isinstance(x, Mapping):
            hint = "use HeteroSSM for a layer of dictionaries"
        elif isinstance(x, Tensor):
            kind = f"{x.dtype} {tuple(x.shape)}"
            hint = "embed or encode it before the state-space layers"
        raise TypeError(
            f"Argument {position!r} of {type(self.layer).__name__} must be the state, "
            f"floats of shape (N, d). Got {kind}: {hint}."
        )

    def _message(self, output: Any, x: Tensor) -> Tensor:
        """What of the layer's output is added to the state."""
        name = type(self.layer).__name__
        message = output
        if isinstance(output, tuple | list) and output:
            message = output[0]
            alike = [item for item in output if _shape(item) == x.shape]
            if len(alike) > 1:
                raise TypeError(
                    f"{name} returns {len(alike)} tensors of the state's shape, and "
                    "each of them could be the message. Wrap it in a module that "
                    "returns one: `return self.layer(...)[0]`."
                )
        if not isinstance(message, Tensor):
            raise TypeError(
                f"{name} must return a tensor, or a tuple that begins with one. Got "
                f"{type(message).__name__}: wrap it in a module that returns one, "
                "`return self.layer(...).name`."
            )
        if message.shape != x.shape:
            wide = message.shape[:-1] == x.shape[:-1]
            rule = (
                "it can be the encoder before or the read-out after the state-space "
                "layers: `x = layer(x, ...)` without StateSpaceConv"
                if wide
                else "its rows must be those of the state"
            )
            raise ValueError(
                f"{name} must keep the shape of the state, {tuple(x.shape)}. It "
                f"returns {tuple(message.shape)}: {rule}."
            )
        return message


def _shape(item: Any) -> tuple[int, ...] | None:
    return item.shape if isinstance(item, Tensor) else None
