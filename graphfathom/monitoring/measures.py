r"""What a monitor measures of a layer, as functions of tensors.

Every value stays a tensor without dimensions on the device of its layer: a measured
step moves all of them to the CPU at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from graphfathom.diagnostics.structure import GraphStructure, Kind
from graphfathom.linalg.vector import stable_norm

__all__ = ["MEASURES", "Measure", "dead_share", "errors", "features", "log10_norm"]


@dataclass(frozen=True)
class Measure:
    """One entry of the list of what is measured."""

    unit: str
    """That of its observations."""
    meaning: str
    """What the number is."""


MEASURES: dict[str, Measure] = {
    "loss": Measure("1", "the loss that `step` was given"),
    "loss.mean": Measure("1", "its mean over the steps since the last measured one"),
    "loss.peak": Measure("1", "its maximum over the same steps, NaN left out"),
    "weights.norm": Measure("log10", "norm of a layer's parameters"),
    "update.relative": Measure(
        "log10",
        "norm of what they changed by since the last measured step, over their norm "
        "then",
    ),
    "gradient.weights": Measure("log10", "norm of the loss gradient in them"),
    "gradient_non_finite": Measure("share", "entries of it that are not finite"),
    "feature_rms": Measure("log10", "root mean square of a layer's output"),
    "non_finite": Measure("share", "entries of it that are not finite"),
    "deviation.constant": Measure(
        "1", "share of a layer's output beside component constants"
    ),
    "deviation.degree": Measure(
        "1", "share of it beside multiples of the root of the degrees"
    ),
    "dead_units": Measure(
        "share", "units that are zero on every node in what the next layer reads"
    ),
    "gradient.output": Measure(
        "log10", "norm of the loss gradient in a layer's output, the error signal"
    ),
    "error.deviation.constant": Measure(
        "1", "share of the error signal beside component constants"
    ),
    "error.deviation.degree": Measure(
        "1", "share of it beside multiples of the root of the degrees"
    ),
}
"""Name to measure: everything that a monitor records, and nothing else."""


def features(x: Tensor, structure: GraphStructure | None) -> dict[str, Tensor]:
    """Measures of a layer's output.

    Args:
        x: Output, of shape (N, F), or of any other shape without a structure.
        structure: The graph of its N nodes, if there is one.
    """
    x = _at_least_float32(x)
    size = log10_norm([x])
    return {
        "feature_rms": size - x.new_tensor(max(x.numel(), 1)).log10() / 2,
        "non_finite": non_finite_share([x]),
        **_deviations(x, structure, "deviation"),
    }


def errors(gradient: Tensor, structure: GraphStructure | None) -> dict[str, Tensor]:
    """Measures of the loss gradient in a layer's output, which has its shape.

    Args:
        gradient: The gradient.
        structure: The graph of the nodes, if there is one.
    """
    gradient = _at_least_float32(gradient)
    return {
        "gradient.output": log10_norm([gradient]),
        **_deviations(gradient, structure, "error.deviation"),
    }


def dead_share(x: Tensor) -> Tensor:
    """Share of the columns of ``x``, of shape (N, F), that are zero on every node."""
    if not len(x):
        return x.new_ones(())
    # Faster than `any`, which goes through the rows one by one.
    return (x.detach().abs().amax(dim=0) == 0).float().mean()


def non_finite_share(tensors: Sequence[Tensor]) -> Tensor:
    """Share of all entries that are not finite."""
    entries = torch.cat([tensor.reshape(-1) for tensor in tensors])
    return 1 - entries.isfinite().count_nonzero() / entries.numel()


def log10_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Decimal logarithm of the norm of all entries; ``-inf`` if all are zero."""
    entries = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return stable_norm(_at_least_float32(entries)).log10()


def _at_least_float32(tensor: Tensor) -> Tensor:
    # Sums over nodes leave the range of float16 and the resolution of bfloat16.
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype.itemsize < 4 else tensor


def _deviations(
    x: Tensor, structure: GraphStructure | None, name: str
) -> dict[str, Tensor]:
    """Share of ``x`` beside what a propagation leaves alone; NaN for a zero ``x``."""
    if structure is None:
        return {}
    x = x / x.abs().amax()  # squares of 1e-25 are zero in float32
    norm = torch.linalg.vector_norm(x)
    return {
        f"{name}.{kind}": (
            torch.linalg.vector_norm(x - structure.kernel_part(x, kind)) / norm
        ).clamp(max=1)
        for kind in get_args(Kind)
    }
