"""The matrices of a state-space layer: what a state keeps and what it takes in."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from graphfathom.nn.abstract_transition import Transition, finite
from graphfathom.nn.random_transition import Dense, Orthogonal, Rotation

__all__ = [
    "Centered",
    "Dense",
    "Diagonal",
    "Orthogonal",
    "Rotation",
    "Scalar",
    "Transition",
    "layers_until_overflow",
    "warn_if_growing",
]

TOLERANCE = 1e-5
"""Radii up to 1 + this count as 1: an orthogonal matrix in float32 is rounded."""


class Scalar(Transition):
    r"""A multiple of the identity, :math:`M = r I`.

    The authors' group runs it under the name "eig(Λ) = r".

    Args:
        radius: The factor :math:`r`.
        channels: Width :math:`d`, or -1 to take it from the first input.
        trainable: Whether a factor on top of :math:`r`, 1 at first, is trained.

    Example:
        >>> Scalar(0.9)(torch.ones(1, 2))
        tensor([[0.9000, 0.9000]])

    References:
        | On Vanishing Gradients, Over-Smoothing, and Over-Squashing in GNNs
        | (Arroyo et al., 2025), https://arxiv.org/abs/2502.10818
    """

    needs_width = False
    weight: Tensor

    def __init__(
        self, radius: float = 1.0, channels: int = -1, *, trainable: bool = False
    ) -> None:
        super().__init__(finite("radius", radius), trainable)
        self._hold()
        if channels != -1:
            self.bind(channels)

    def unscaled(self, x: Tensor) -> Tensor:
        return x * self.weight if self.trainable else x

    def initial(self) -> dict[str, Tensor]:
        one = torch.ones((), dtype=torch.float64)
        return {"weight": one} if self.trainable else {}

    def eigenvalues(self) -> Tensor:
        return self.matrix().diagonal() + 0j


class Centered(Transition):
    r"""A multiple of the projection that takes the mean over the features off.

    .. math:: M = s \left(I - \tfrac{1}{d} 1 1^\top\right)

    As input matrix it removes the drift along :math:`1` that messages without negative
    entries (ReLU) push a state into.

    Args:
        scale: The factor :math:`s`.
        channels: Width :math:`d`, or -1 to take it from the first input.
        trainable: Whether a factor on top of :math:`s`, 1 at first, is trained.

    Example:
        >>> Centered(0.5)(torch.tensor([[1.0, 3.0]]))
        tensor([[-0.5000,  0.5000]])
    """

    needs_width = False
    weight: Tensor

    def __init__(
        self, scale: float = 1.0, channels: int = -1, *, trainable: bool = False
    ) -> None:
        super().__init__(scale, trainable)
        self._hold()
        if channels != -1:
            self.bind(channels)

    def unscaled(self, x: Tensor) -> Tensor:
        x = x - x.mean(dim=-1, keepdim=True)
        return x * self.weight if self.trainable else x

    def initial(self) -> dict[str, Tensor]:
        one = torch.ones((), dtype=torch.float64)
        return {"weight": one} if self.trainable else {}

    def eigenvalues(self) -> Tensor:
        factor = self.scale * (self.weight if self.trainable else 1.0)
        ones = torch.ones(self.matrix().size(0), **self.factory())
        ones[0] = 0
        return ones * factor + 0j


class Diagonal(Transition):
    r"""A diagonal matrix, :math:`M = s \operatorname{diag}(v)`.

    Args:
        values: The entries :math:`v`. None: evenly spaced from ``low`` to ``high``.
        low: Smallest entry where ``values`` is None.
        high: Largest entry where ``values`` is None.
        scale: The factor :math:`s`.
        channels: Width :math:`d`, or -1 to take it from ``values`` or the first input.
        trainable: Whether the entries are trained.

    Raises:
        ValueError: If ``values`` is not one row of finite numbers, or ``low`` exceeds
            ``high``.

    Example:
        >>> Diagonal([1.0, 0.5]).matrix()
        tensor([[1.0000, 0.0000],
                [0.0000, 0.5000]])
    """

    values: Tensor

    def __init__(
        self,
        values: Sequence[float] | Tensor | None = None,
        *,
        low: float = 0.5,
        high: float = 1.0,
        scale: float = 1.0,
        channels: int = -1,
        trainable: bool = False,
    ) -> None:
        super().__init__(scale, trainable)
        self.low, self.high = finite("low", low), finite("high", high)
        if low > high:
            raise ValueError(f"`low` must not exceed `high`. Got {low} and {high}.")
        self.given = None if values is None else _row(values)
        if self.given is not None and channels not in (-1, len(self.given)):
            raise ValueError(
                f"`values` must have `channels` = {channels} entries. "
                f"Got {len(self.given)}."
            )
        channels = channels if self.given is None else len(self.given)
        if channels != -1:
            self.bind(channels)

    def unscaled(self, x: Tensor) -> Tensor:
        return x * self.values

    def initial(self) -> dict[str, Tensor]:
        if self.given is not None:
            return {"values": torch.tensor(self.given, dtype=torch.float64)}
        ends = self.low, self.high
        return {"values": torch.linspace(*ends, self.channels, dtype=torch.float64)}

    def eigenvalues(self) -> Tensor:
        return self.matrix().diagonal() + 0j

    def described(self) -> list[str]:
        ends = [f"low={self.low:g}", f"high={self.high:g}"]
        return [*(ends if self.given is None else []), f"scale={self.scale:g}"]


def layers_until_overflow(radius: float, dtype: torch.dtype = torch.float32) -> float:
    r"""Number of layers after which a state outgrows a dtype.

    .. math:: L = \frac{\log m}{\log \rho}

    with the largest number :math:`m` of the dtype, for a state that starts at size 1.

    Args:
        radius: Spectral radius :math:`\rho` of the state matrix.
        dtype: A floating-point dtype.

    Returns:
        A number of layers, infinite for a radius of at most 1.

    Example:
        >>> round(layers_until_overflow(2.0))
        128
    """
    if radius <= 1:
        return math.inf
    return math.log(torch.finfo(dtype).max) / math.log(radius)


def warn_if_growing(state: Transition, num_layers: int | None = None) -> None:
    """Warn about a state matrix that lets the state grow without bound.

    A trainable matrix is warned about as soon as an eigenvalue lies beyond 1, a fixed
    one only if the state overflows within ``num_layers``.

    Args:
        state: A bound state matrix.
        num_layers: Number of layers that use it, if known.

    Warns:
        UserWarning: With the number of layers until the state overflows.
    """
    if state.channels == -1:
        return
    radius = state.spectral_radius()
    dtype = state.factory().get("dtype", torch.get_default_dtype())
    layers = layers_until_overflow(radius, dtype)
    overflows = num_layers is not None and layers <= num_layers
    if not overflows and (not state.trainable or radius <= 1 + TOLERANCE):
        return
    kind = "trainable" if state.trainable else "fixed"
    warnings.warn(
        f"The {kind} state matrix {state} has an eigenvalue of modulus {radius:.4g} > "
        f"1: the state overflows {str(dtype).removeprefix('torch.')} after about "
        f"{layers:.0f} layers. Lower it with `set_scale({state.scale / radius:.4g})`.",
        stacklevel=3,
    )


def _row(values: Sequence[float] | Tensor) -> list[float]:
    row = torch.as_tensor(values, dtype=torch.float64)
    if row.dim() != 1 or not row.numel() or not bool(row.isfinite().all()):
        raise ValueError(
            "`values` must be one row of finite numbers, one for each channel. Got "
            f"shape {tuple(row.shape)}."
        )
    return row.tolist()
