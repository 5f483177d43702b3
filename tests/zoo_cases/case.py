"""One model of the zoo and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Case:
    """How to build a model, and what does not hold for it."""

    model: Callable[..., nn.Module]
    options: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    """What it needs besides ``x`` and ``edge_index``: names of ``edge_attr``,
    ``shell_index``, ``shell_hop``."""
    refused: str | None = None
    """Pattern of the sentence with which ``capture`` refuses it, or None."""
    stabilized: str | None = None
    """Pattern of the sentence with which ``stabilize`` refuses it, or None."""
    unused: tuple[str, ...] = ()
    """Names of parameters without a gradient, each with its reason beside the case."""
    mixes: bool = False
    """Whether a node also sees nodes of its graph that no edges lead from."""
    deep: dict[str, Any] = field(default_factory=dict)
    """Options for 256 layers, where the defaults leave the range of float32."""

    def build(self, **changes: Any) -> nn.Module:
        sizes = {
            "in_channels": 3,
            "hidden_channels": 8,
            "out_channels": 2,
            "num_layers": 4,
        }
        return self.model(**(sizes | self.options | changes))
