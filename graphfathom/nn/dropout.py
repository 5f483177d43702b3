"""Dropout that draws one random byte per entry."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["dropout"]

LEVELS = 256


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    r"""Zero entries at random and scale up the others.

    .. math:: y_i = \frac{b_i x_i}{1 - q}, \qquad P(b_i = 0) = q

    with :math:`q` the multiple of 1/256 nearest to :math:`p`: the expected output is
    exactly the input. On a CPU ``torch.nn.functional.dropout`` draws a double for each
    entry, which takes longer than a whole graph convolution of width 64; a byte is
    enough. Elsewhere, under ``torch.compile`` and where :math:`q` would be 0 or 1,
    torch's own function is used. Random numbers come from torch's global generator.

    Args:
        x: Any floating-point tensor.
        p: Probability of zeroing an entry.
        training: Whether to do anything at all.

    Raises:
        ValueError: If ``p`` lies outside [0, 1].

    Example:
        >>> sorted(set(dropout(torch.ones(100), 0.5).tolist()))
        [0.0, 2.0]
    """
    if not 0 <= p <= 1:
        raise ValueError(f"`p` must be in [0, 1]. Got {p}.")
    if not training or p == 0:
        return x
    limit = round(p * LEVELS)
    plain = x.device.type != "cpu" or torch.compiler.is_compiling()
    if plain or limit in (0, LEVELS):
        return F.dropout(x, p)
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64)
    words.random_(-(2**63), None)
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= limit
    # A mask of floats: the product with one of booleans takes twice as long.
    return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - limit))
