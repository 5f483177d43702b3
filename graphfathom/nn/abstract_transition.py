r"""What every matrix of a state-space layer can do.

Glossary:
    M: the :math:`d \times d` matrix of a transition; rows are features of nodes, so
        it acts as :math:`X M^\top`. As state matrix it is the paper's Lambda, as input
        matrix B.
    scale: a number that M is a multiple of, :math:`M = s M_0`; calibration sets it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Transition", "finite"]


class Transition(nn.Module):
    r"""A matrix that acts on the features of every node alike.

    .. math:: X \mapsto X M^\top, \qquad M = s M_0

    The subclasses say what :math:`M_0` is. Nothing is trained unless asked for: the
    entries are buffers, and made anew from the seed wherever the width becomes known.
    The scale is a Python number, in full precision in every dtype; it travels in
    ``state_dict`` as extra state.

    Args:
        scale: The factor :math:`s`.
        trainable: Whether the entries of :math:`M_0` are parameters.

    Shapes:
        - **input:** features :math:`(*, d)`
        - **output:** features :math:`(*, d)`
    """

    needs_width = True
    """Whether the entries of M depend on the width."""
    constant: frozenset[str] = frozenset()
    """Names of entries that are never trained."""

    def __init__(self, scale: float, trainable: bool) -> None:
        super().__init__()
        self.scale = finite("scale", scale)
        self.trainable = trainable
        self.channels = -1

    def bind(self, channels: int, like: Tensor | None = None) -> Transition:
        """Fix the width; a second call with the same width does nothing.

        Args:
            channels: Number of features :math:`d`.
            like: Tensor whose dtype and device the entries take.

        Raises:
            ValueError: If the width is not positive, or is already another one.
        """
        if channels == self.channels:
            return self
        name = type(self).__name__
        if channels < 1:
            raise ValueError(f"`channels` of {name} must be >= 1. Got {channels}.")
        if self.channels != -1:
            raise ValueError(
                f"{name} is made for {self.channels} channels. Got {channels}: give "
                "layers of another width a transition of their own."
            )
        self.channels = channels
        if self.needs_width:
            self._hold(like)
        return self

    def set_scale(self, scale: float) -> None:
        """Replace the factor :math:`s`.

        Raises:
            ValueError: If it is not a finite number.
        """
        self.scale = finite("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Features times the transposed matrix."""
        if self.needs_width or self.channels != -1:
            self.bind(x.size(-1), like=x)
        x = self.unscaled(x)
        return x if self.scale == 1 else x * self.scale

    @abstractmethod
    def unscaled(self, x: Tensor) -> Tensor:
        """Features times the transposed :math:`M_0`."""

    @abstractmethod
    def initial(self) -> dict[str, Tensor]:
        """Name -> values, in float64, that the entries start from."""

    def matrix(self) -> Tensor:
        """The matrix :math:`M` of shape (d, d).

        Raises:
            ValueError: If the width is not known yet.
        """
        if self.channels == -1:
            raise ValueError(
                f"{type(self).__name__} does not know its width: pass `channels=` or "
                "run the layer once."
            )
        return self(torch.eye(self.channels, **self.factory())).mT

    def eigenvalues(self) -> Tensor:
        """The d complex eigenvalues of the matrix, in no particular order."""
        return torch.linalg.eigvals(self.matrix())

    def spectral_radius(self) -> float:
        """Largest modulus of an eigenvalue."""
        return float(self.eigenvalues().detach().abs().max())

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Return to the values of the seed; the scale stays."""
        if self.channels != -1 or not self.needs_width:
            for name, value in self.initial().items():
                getattr(self, name).copy_(value)

    def get_extra_state(self) -> Tensor:
        """Scale and width, as a tensor: not every file format holds numbers."""
        return torch.tensor([self.scale, self.channels], dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """Take over scale and width."""
        scale, channels = state.tolist()
        self.set_scale(scale)
        if self.channels == -1 and channels != -1:
            self.bind(int(channels))

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        width = [] if self.channels == -1 else [f"channels={self.channels}"]
        trainable = ["trainable=True"] if self.trainable else []
        return ", ".join([*self.described(), *width, *trainable])

    def described(self) -> list[str]:
        """What ``repr`` shows before width and trainability."""
        return [f"{self.scale:g}"]

    def _hold(self, like: Tensor | None = None) -> None:
        """Register the entries."""
        dtype = torch.get_default_dtype() if like is None else like.dtype
        device = None if like is None else like.device
        for name, value in self.initial().items():
            value = value.to(device, dtype)
            if self.trainable and name not in self.constant:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def factory(self) -> dict[str, Any]:
        """Dtype and device of the entries; empty where there are none."""
        for tensor in (*self.parameters(), *self.buffers()):
            return {"dtype": tensor.dtype, "device": tensor.device}
        return {}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # A width that is not known yet comes with the entries.
        state = state_dict.get(f"{prefix}_extra_state")
        if isinstance(state, Tensor):
            self.set_extra_state(state)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def finite(name: str, value: float) -> float:
    """Refuse what is not a finite number.

    Raises:
        ValueError: If it is none; the message names the argument.
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number. Got {value!r}.")
    return float(value)
