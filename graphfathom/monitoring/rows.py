"""From tensors on a device to rows of the table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.training_rules import TRAINING
from graphfathom.monitoring.measures import MEASURES

__all__ = ["Losses", "Rows"]


class Losses:
    """Sum and maximum of the losses since the last measured step, not read yet."""

    def __init__(self) -> None:
        self._count = 0
        self._last: Tensor | None = None
        self._sum: Tensor | None = None
        self._peak: Tensor | None = None

    def add(self, loss: Tensor) -> None:
        """Take the loss of a step."""
        if loss.numel() != 1:
            raise ValueError(
                f"`loss` must be one number. Got shape {tuple(loss.shape)}: reduce it, "
                "e.g. by its mean."
            )
        self._last = loss = loss.reshape(())
        self._count += 1
        self._sum = loss if self._sum is None else self._sum + loss
        self._peak = loss if self._peak is None else torch.fmax(self._peak, loss)

    def measured(self) -> dict[str, Tensor]:
        """The last loss, the mean and the maximum, by name."""
        assert self._last is not None
        assert self._sum is not None
        assert self._peak is not None
        return {
            "loss": self._last,
            "loss.mean": self._sum / self._count,
            "loss.peak": self._peak,
        }


@dataclass
class _Row:
    name: str
    place: str
    dtype: str
    shift: float


class Rows:
    """The rows of one measured step, whose values come to the CPU together."""

    def __init__(self, step: int, batch: int) -> None:
        self._step, self._batch = step, batch
        self._rows: list[_Row] = []
        self._values: list[Tensor] = []

    def add(
        self,
        name: str,
        place: str,
        dtype: torch.dtype | None,
        value: Tensor,
        scale: float = 1.0,
    ) -> None:
        """Add a value; ``scale`` is taken out of one that is a logarithm."""
        is_log10 = MEASURES[name].unit == "log10"
        shift = math.log10(scale) if is_log10 else 0.0
        kind = str(dtype).removeprefix("torch.")
        self._rows.append(_Row(name, place, kind, shift))
        self._values.append(value)

    def measured(self) -> list[Observation]:
        """All rows as observations."""
        device = self._values[0].device
        values = torch.stack([value.to(device) for value in self._values]).tolist()
        return [
            Observation(
                row.name,
                row.place,
                value - row.shift,
                unit=MEASURES[row.name].unit,
                dtype=row.dtype,
                run=TRAINING,
                step=self._step,
                batch=self._batch,
            )
            for row, value in zip(self._rows, values, strict=True)
        ]
