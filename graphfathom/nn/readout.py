"""From the last state to the output: pooling over a graph, and a head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch_geometric.nn import (
    Linear,
    global_add_pool,
    global_max_pool,
    global_mean_pool,
)

from graphfathom.nn.model_parts import check_choice

__all__ = ["READOUTS", "Head", "build_head", "pool"]

POOLS: dict[str, Callable[..., Tensor]] = {
    "mean": global_mean_pool,
    "sum": global_add_pool,
    "max": global_max_pool,
}
READOUTS = ("node", *POOLS, "all")
"""``"node"``, one way of pooling, or all of them side by side."""
HEADS = ("linear", "mlp")

Head = str | Callable[[int, int], nn.Module]
"""``"linear"``, ``"mlp"``, or ``head(in_channels, out_channels)`` returns a module."""


def build_head(head: Head, readout: str, channels: int, out_channels: int) -> nn.Module:
    r"""What maps the pooled state to the output.

    ``"mlp"`` is :math:`W_2\, \mathrm{LeakyReLU}(W_1 h)` with half of the width between.

    Args:
        head: One of the above.
        readout: One of :data:`READOUTS`.
        channels: Width of the state.
        out_channels: Width of the output.

    Raises:
        ValueError: If a name is unknown.
        TypeError: If the function does not return a module.
    """
    check_choice("readout", readout, READOUTS)
    width = len(POOLS) * channels if readout == "all" else channels
    if isinstance(head, str):
        check_choice("head", head, HEADS)
        if head == "linear":
            return Linear(width, out_channels)
        middle = max(width // 2, 1)
        return nn.Sequential(
            nn.Linear(width, middle), nn.LeakyReLU(), nn.Linear(middle, out_channels)
        )
    module = head(width, out_channels)
    if not isinstance(module, nn.Module):
        raise TypeError(
            "`head` must be 'linear', 'mlp' or a function that returns a module. Got "
            f"{type(module).__name__} from head({width}, {out_channels})."
        )
    return module


def pool(
    readout: str, x: Tensor, batch: Tensor | None, batch_size: int | None = None
) -> Tensor:
    """Node features as they are, or those of the graphs, shape (G, width)."""
    if readout == "node":
        return x
    names = POOLS if readout == "all" else (readout,)
    return torch.cat([POOLS[name](x, batch, batch_size) for name in names], dim=-1)
