"""The monitor as a callback of Lightning, which is imported when it is asked for."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.report import Report
from graphfathom.monitoring.loop import EVERY, Monitor
from graphfathom.monitoring.writers import Writer

__all__: list[str] = []
"""``LightningMonitor`` is made when it is asked for, where Lightning is installed."""

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Two names of one library, whose callbacks do not know each other."""


class _Watch:
    """A :class:`~graphfathom.monitoring.Monitor` of the module that a trainer fits.

    Args:
        every: Distance of measured steps, counted in optimiser steps.
        layers: Pattern of the names of the modules that are layers.
        writers: Where rows are written; by the process of rank 0 alone.
    """

    def __init__(
        self,
        every: int = EVERY,
        layers: str | None = None,
        writers: Sequence[Writer] = (),
    ) -> None:
        super().__init__()
        self.every, self.layers, self.writers = every, layers, writers
        self.monitor: Monitor | None = None
        self._loss: Any = None
        self._batch = 0

    @property
    def observations(self) -> Observations:
        """What was measured so far, with ``run="training"``."""
        return self._watching().observations

    def report(self, data: Any, **options: Any) -> Report:
        """See :meth:`graphfathom.monitoring.Monitor.report`."""
        return self._watching().report(data, **options)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Put the hooks in."""
        writers = self.writers if trainer.is_global_zero else ()
        first = int(trainer.global_step)
        self.monitor = Monitor(pl_module, self.every, self.layers, writers, first)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the index of the batch."""
        self._batch = batch_idx

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """Note the loss, which Lightning divides where gradients accumulate."""
        self._loss = loss.detach() * trainer.accumulate_grad_batches

    def on_before_optimizer_step(
        self, trainer: Any, pl_module: Any, optimizer: Any
    ) -> None:
        """Measure: gradients are there, and unscaled."""
        plugin = getattr(trainer, "precision_plugin", None)
        scaler = getattr(plugin, "scaler", None)
        scale = scaler.get_scale() if isinstance(scaler, torch.amp.GradScaler) else 1.0
        monitor = self._watching()
        monitor.step(self._loss, scale=scale, unscaled=True, batch=self._batch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the hooks off."""
        self._watching().close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: Any) -> None:
        """Take the hooks off."""
        if self.monitor is not None:
            self.monitor.close()

    def _watching(self) -> Monitor:
        if self.monitor is None:
            raise RuntimeError(
                "No training was monitored yet: pass this callback to a Trainer and "
                "call `fit`."
            )
        return self.monitor


if TYPE_CHECKING:

    class LightningMonitor(_Watch):
        """See :class:`_Watch`; it also is a ``Callback`` of the package in use."""


def _callback() -> type:
    """``Callback`` of the package in use."""
    # One that is loaded already is the one whose Trainer will be used.
    for name in sorted(PACKAGES, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name).Callback
        except ImportError:
            continue
    raise ImportError(
        "Lightning is not installed, and `LightningMonitor` is one of its callbacks: "
        "`pip install lightning`, or use `Monitor` in a loop of your own."
    )


@functools.cache
def _subclass(base: type) -> type:
    about = {"__module__": __name__, "__doc__": _Watch.__doc__}
    return type("LightningMonitor", (_Watch, base), about)


def __getattr__(name: str) -> Any:
    if name != "LightningMonitor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _subclass(_callback())
