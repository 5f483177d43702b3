"""Norms and random vectors."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gaussian_vector", "rademacher_vector", "stable_norm"]


def stable_norm(tensor: Tensor) -> Tensor:
    """Euclidean norm of all entries, without overflow or underflow of their squares.

    ``torch.linalg.vector_norm`` of float64 entries of size 1e-170 is 0.

    Args:
        tensor: Real floating-point tensor of any shape.

    Returns:
        The norm, with no dimensions; NaN if an entry is not finite.
    """
    if tensor.numel() == 0:
        return tensor.new_zeros(())
    largest = tensor.abs().amax()
    scale = torch.where(largest == 0, torch.ones_like(largest), largest)
    return scale * torch.linalg.vector_norm(tensor / scale)


def gaussian_vector(
    size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A vector of independent standard Gaussian numbers.

    Drawn in float64 on the generator's device, so that one seed means the same vector
    in every dtype and on every device.

    Args:
        size: Number of entries.
        dtype: Type of the result.
        device: Place of the result.
        generator: Source of randomness. The global one if None.

    Returns:
        The vector, of shape (size,).
    """
    source = "cpu" if generator is None else generator.device
    sample = torch.randn(size, generator=generator, dtype=torch.float64, device=source)
    return sample.to(device, dtype)


def rademacher_vector(
    size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A vector of independent random signs; arguments as in :func:`gaussian_vector`."""
    source = "cpu" if generator is None else generator.device
    bits = torch.randint(2, (size,), generator=generator, device=source)
    return (2 * bits - 1).to(device, dtype)
