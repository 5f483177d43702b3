"""State-space matrices that are drawn from a seed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from graphfathom.nn.abstract_transition import Transition, finite

__all__ = ["Dense", "Orthogonal", "Rotation"]

DOUBLE: dict[str, Any] = {"dtype": torch.float64}


class Orthogonal(Transition):
    r"""A multiple of a random orthogonal matrix, :math:`M = r Q`.

    :math:`Q` is drawn from the Haar measure: the Q of a Gaussian matrix's QR
    decomposition with the diagonal of R made positive. Trained, it stays orthogonal:
    :math:`Q = Q_0 \exp(S - S^\top)` with the parameter :math:`S`, 0 at first.

    Args:
        radius: The factor :math:`r`, the modulus of all eigenvalues.
        seed: Seed of the matrix.
        channels: Width :math:`d`, or -1 to take it from the first input.
        trainable: Whether :math:`S` is trained.

    Example:
        >>> Orthogonal(0.5, channels=3).eigenvalues().abs()
        tensor([0.5000, 0.5000, 0.5000])

    References:
        | How to Generate Random Matrices from the Classical Compact Groups
        | (Mezzadri, 2007), https://arxiv.org/abs/math-ph/0609050
    """

    constant = frozenset({"weight"})
    weight: Tensor
    skew: Tensor

    def __init__(
        self,
        radius: float = 1.0,
        *,
        seed: int = 0,
        channels: int = -1,
        trainable: bool = False,
    ) -> None:
        super().__init__(finite("radius", radius), trainable)
        self.seed = seed
        if channels != -1:
            self.bind(channels)

    def unscaled(self, x: Tensor) -> Tensor:
        if self.trainable:
            x = x @ torch.matrix_exp(self.skew - self.skew.mT).mT
        return x @ self.weight.mT

    def initial(self) -> dict[str, Tensor]:
        size = self.channels, self.channels
        gaussian = torch.randn(size, generator=_generator(self.seed), **DOUBLE)
        q, r = torch.linalg.qr(gaussian)
        weight = q * r.diagonal().sign()
        if self.trainable:
            return {"weight": weight, "skew": torch.zeros_like(weight)}
        return {"weight": weight}

    def described(self) -> list[str]:
        return [f"{self.scale:g}", f"seed={self.seed}"]


class Rotation(Transition):
    r"""Plane rotations by random angles, times a radius.

    .. math::
        M = r \begin{pmatrix} \cos\theta_i & -\sin\theta_i \\
        \sin\theta_i & \cos\theta_i \end{pmatrix}
        \quad \text{on the channels } i \text{ and } i + \lfloor d/2 \rfloor

    Its eigenvalues are :math:`r e^{\pm i \theta_i}`, and the real number :math:`r` for
    the last channel of an odd width.

    Args:
        radius: The factor :math:`r`.
        low: Smallest angle, in radians.
        high: Largest angle, in radians.
        seed: Seed of the angles, which are uniform.
        channels: Width :math:`d`, or -1 to take it from the first input.
        trainable: Whether the angles are trained.

    Raises:
        ValueError: If ``low`` exceeds ``high``.

    Example:
        >>> quarter = torch.pi / 2
        >>> Rotation(2.0, quarter, quarter)(torch.tensor([[1.0, 0.0, 1.0]])).round()
        tensor([[-0., 2., 2.]])
    """

    angles: Tensor

    def __init__(
        self,
        radius: float = 1.0,
        low: float = 0.0,
        high: float = math.pi,
        *,
        seed: int = 0,
        channels: int = -1,
        trainable: bool = False,
    ) -> None:
        super().__init__(finite("radius", radius), trainable)
        self.low, self.high = finite("low", low), finite("high", high)
        if low > high:
            raise ValueError(f"`low` must not exceed `high`. Got {low} and {high}.")
        self.seed = seed
        if channels != -1:
            self.bind(channels)

    def unscaled(self, x: Tensor) -> Tensor:
        half = x.size(-1) // 2
        a, b = x[..., :half], x[..., half : 2 * half]
        cos, sin = self.angles.cos(), self.angles.sin()
        parts = a * cos - b * sin, a * sin + b * cos, x[..., 2 * half :]
        return torch.cat(parts, dim=-1)

    def initial(self) -> dict[str, Tensor]:
        size = self.channels // 2
        uniform = torch.rand(size, generator=_generator(self.seed), **DOUBLE)
        return {"angles": self.low + (self.high - self.low) * uniform}

    def eigenvalues(self) -> Tensor:
        real = self.matrix().new_ones(self.channels % 2)
        angles = torch.cat([self.angles, -self.angles, 0 * real])
        return torch.polar(torch.ones_like(angles), angles) * self.scale

    def described(self) -> list[str]:
        ends = f"low={self.low:g}", f"high={self.high:g}"
        return [f"{self.scale:g}", *ends, f"seed={self.seed}"]


class Dense(Transition):
    r"""The paper's matrix of independent entries.

    :math:`M_{ij}` is uniform on :math:`[-1/\sqrt{d}, 1/\sqrt{d}]`, the default of
    ``torch.nn.Linear``: for large :math:`d` its spectral radius is
    :math:`1/\sqrt{3} \approx 0.58` and its norm :math:`2/\sqrt{3} \approx 1.15`.

    Args:
        seed: Seed of the entries.
        radius: Spectral radius that the drawn matrix is scaled to. None: as drawn.
        scale: A factor for the matrix as drawn; of no use with ``radius``.
        channels: Width :math:`d`, or -1 to take it from the first input.
        trainable: Whether the entries are trained.

    Raises:
        ValueError: If ``radius`` is negative, or ``scale`` is given beside it.

    Example:
        >>> round(Dense(radius=0.9, channels=8).spectral_radius(), 4)
        0.9

    References:
        | On Vanishing Gradients, Over-Smoothing, and Over-Squashing in GNNs
        | (Arroyo et al., 2025), https://arxiv.org/abs/2502.10818
    """

    weight: Tensor

    def __init__(
        self,
        seed: int = 0,
        radius: float | None = None,
        *,
        scale: float = 1.0,
        channels: int = -1,
        trainable: bool = False,
    ) -> None:
        if radius is not None and not radius >= 0:
            raise ValueError(f"`radius` must be >= 0 or None. Got {radius}.")
        if radius is not None and scale != 1:
            raise ValueError(
                f"`scale` must be 1 beside `radius`, which sets it. Got {scale}."
            )
        super().__init__(scale if radius is None else radius, trainable)
        self.seed = seed
        self.normalized = radius is not None
        if channels != -1:
            self.bind(channels)

    def unscaled(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT

    def initial(self) -> dict[str, Tensor]:
        d = self.channels
        uniform = torch.rand(d, d, generator=_generator(self.seed), **DOUBLE)
        weight = (2 * uniform - 1) / math.sqrt(d)
        if self.normalized:
            weight = weight / torch.linalg.eigvals(weight).abs().max()
        return {"weight": weight}

    def described(self) -> list[str]:
        name = "radius" if self.normalized else "scale"
        return [f"seed={self.seed}", f"{name}={self.scale:g}"]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
