"""State-space form of layers on graphs with several node types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from graphfathom.nn.abstract_state_space import AbstractStateSpace
from graphfathom.nn.step import advance, carry
from graphfathom.nn.transition import Scalar, Transition

__all__ = ["HeteroSSM"]


class HeteroSSM(AbstractStateSpace):
    r"""A layer of dictionaries in state-space form.

    .. math:: H_t^+ = H_t \Lambda_t^\top + F(H)_t B_t^\top \; (+ \; H_{0,t} E_t^\top)

    for every node type :math:`t`. A type that the layer returns nothing for, because
    no edge ends there, keeps :math:`H_t \Lambda_t^\top`.

    Args:
        layer: A layer such as :class:`~torch_geometric.nn.conv.HeteroConv` or
            :class:`~torch_geometric.nn.conv.HGTConv`, from a dictionary of features as
            first argument to one of the same widths.
        state: The matrices :math:`\Lambda_t` by node type, or one for all of them.
            Default: the identity.
        input: The matrices :math:`B_t` likewise. Default: the identity.
        persistent: The matrices :math:`E_t` likewise; if given, ``forward`` takes the
            first states as the keyword ``initial``.

    Shapes:
        - **input:** states :math:`(N_t, d_t)` by node type, then what the layer takes
        - **output:** states :math:`(N_t, d_t)` by node type

    Raises:
        TypeError: If ``layer`` or a matrix is of the wrong kind.

    Example:
        >>> from torch_geometric.nn import HeteroConv, SAGEConv
        >>> cites = {("paper", "cites", "paper"): SAGEConv(4, 4)}
        >>> layer = HeteroSSM(HeteroConv(cites), input=Scalar(0.1))
        >>> x = {"paper": torch.ones(2, 4), "author": torch.ones(1, 4)}
        >>> edges = {("paper", "cites", "paper"): torch.tensor([[0], [1]])}
        >>> layer(x, edges)["author"]
        tensor([[1., 1., 1., 1.]])
    """

    def __init__(
        self,
        layer: nn.Module,
        state: Transition | Mapping[str, Transition] | None = None,
        input: Transition | Mapping[str, Transition] | None = None,
        *,
        persistent: Transition | Mapping[str, Transition] | None = None,
    ) -> None:
        state = Scalar(1.0) if state is None else state
        input = Scalar(1.0) if input is None else input
        parts = {"state": state, "input": input, "persistent": persistent}
        super().__init__(layer, parts)

    def forward(
        self, x_dict: Any, *args: Any, initial: Any = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """The next states."""
        name = type(self.layer).__name__
        if not isinstance(x_dict, Mapping):
            raise TypeError(
                f"The first argument of {name} must be a dictionary of states by node "
                f"type. Got {type(x_dict).__name__}: use StateSpaceConv for a layer of "
                "tensors."
            )
        if self.persistent is not None and not isinstance(initial, Mapping):
            raise ValueError(
                "`initial` must be the dictionary of first states where `persistent` "
                f"is given. Got {type(initial).__name__}: call "
                "`conv(x_dict, ..., initial=x_dict_0)`."
            )
        messages = self.layer(x_dict, *args, **kwargs)
        if not isinstance(messages, Mapping):
            raise TypeError(
                f"{name} must return a dictionary of messages by node type. Got "
                f"{type(messages).__name__}: wrap it in a module that returns one."
            )
        unknown = [kind for kind in messages if kind not in x_dict]
        if unknown:
            raise ValueError(
                f"{name} returns messages for {', '.join(unknown)}, which has no "
                "state: encode every node type before the state-space layers."
            )
        return {
            kind: self._advance(kind, x, messages.get(kind), initial)
            for kind, x in x_dict.items()
        }

    def _advance(
        self, kind: str, x: Tensor, message: Tensor | None, initial: Any
    ) -> Tensor:
        state, input = self._of("state", kind), self._of("input", kind)
        for part in (state, input):
            if part.needs_width:
                part.bind(x.size(-1), x)
        source = None
        if self.persistent is not None:
            source = self._of("persistent", kind)(initial[kind])
        if message is None:
            carried = carry(x, state)
            return carried if source is None else carried + source
        if message.shape != x.shape:
            raise ValueError(
                f"{type(self.layer).__name__} must keep the shape of the state of "
                f"{kind!r}, {tuple(x.shape)}. It returns {tuple(message.shape)}: give "
                "it the width of the state, or use it as the encoder without HeteroSSM."
            )
        return advance(x, message, state, input, source)

    def _of(self, name: str, kind: str) -> Transition:
        """The matrix of a node type."""
        part: Any = self._modules[name]
        if isinstance(part, Transition):
            return part
        if kind not in part:
            raise ValueError(
                f"`{name}` must have a transition for every node type. It has none for "
                f"{kind!r}: add it to the dictionary."
            )
        return part[kind]
