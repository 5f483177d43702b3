"""Watch a network while it trains, in a loop of one's own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import Report
from graphfathom.linalg.vector import stable_norm
from graphfathom.monitoring.measures import log10_norm, non_finite_share
from graphfathom.monitoring.rows import Losses, Rows
from graphfathom.monitoring.taps import LayerCall, Taps
from graphfathom.monitoring.writers import Writer
from graphfathom.problem import unwrap_model
from graphfathom.verbs import diagnose

__all__ = ["EVERY", "Monitor"]

EVERY = 20
"""Steps from one measured step to the next, which takes up to about two steps more
(`benchmarks/monitor_overhead.py`)."""

KEPT = 20_000
"""Rows kept in memory: as many lines of ``report.json`` are 4 MB."""


class Monitor:
    """Records cheap measures of every layer while a network trains.

    What is measured, and its units, is :data:`~graphfathom.monitoring.MEASURES`. Steps
    0, ``every``, 2 ``every``, ... are measured; on all others the hooks only ask
    whether they sleep. ``layer:k`` is the k-th call of a layer in the forward pass,
    with the weights of a module that is called repeatedly at its first call. Features
    are those that a layer returns, before the activation behind it, in the precision
    and the mode of the training. Forward passes without gradients are not recorded.

    The model keeps its ``state_dict``. A copy or a pickle of it is not monitored. Code
    compiled by ``torch.compile`` and reentrant checkpoints run no hooks: of such layers
    the weights and their gradients are measured alone, and :attr:`notes` says so.

    Args:
        model: The network; ``torch.compile`` and ``DistributedDataParallel`` wrappers
            are taken off.
        every: Distance of measured steps.
        layers: Pattern of the names of the modules that are layers, e.g.
            ``"convs.*"``. Default: message-passing modules. A layer within a layer is
            part of it.
        writers: Where rows are written as they are measured. One that fails is left
            out from then on, with a warning; the training goes on.
        first_step: Number of the first step, for a training that is taken up again.

    Raises:
        NoLayersError: If no layer is found.
        TypeError: If ``model`` is no module.
        ValueError: If a number is out of range.

    Example:
        >>> from torch_geometric.nn import GCN
        >>> data = gf.datasets.csbm(60, 3, avg_degree=4, homophily=0.8, seed=0)
        >>> model = GCN(data.num_features, 16, num_layers=2, out_channels=3)
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        >>> monitor = Monitor(model)
        >>> for _ in range(41):
        ...     optimizer.zero_grad()
        ...     output = model(data.x, data.edge_index)
        ...     loss = torch.nn.functional.cross_entropy(output, data.y)
        ...     loss.backward()
        ...     monitor.step(loss)  # gradients are there, weights are not yet changed
        ...     optimizer.step()
        >>> monitor
        Monitor(GCN, 2 layers, every=20, 41 steps, 3 measured)
        >>> [row.step for row in monitor.observations.select("loss")]
        [0, 20, 40]
        >>> monitor.report(data, controls="none").verdict.name
        'healthy'
    """

    def __init__(
        self,
        model: nn.Module,
        every: int = EVERY,
        layers: str | None = None,
        writers: Sequence[Writer] = (),
        first_step: int = 0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(
                f"`model` must be a torch.nn.Module. Got {type(model).__name__}."
            )
        if every < 1:
            raise ValueError(f"`every` must be >= 1. Got {every}.")
        if first_step < 0:
            raise ValueError(f"`first_step` must be >= 0. Got {first_step}.")
        self.model = unwrap_model(model)
        self.every, self.pattern = every, layers
        self.writers = list(writers)
        self.notes: list[str] = []
        self.layers: tuple[str, ...] = ()
        """Names of ``layer:1``, ``layer:2``, ... at the last measured step."""
        self._taps = Taps(self.model, layers)
        self._first_step = self._step = first_step
        self._history: list[list[Observation]] = []
        self._since = Losses()
        self._before: dict[nn.Module, Tensor] = {}
        self._is_open = True

    def __repr__(self) -> str:
        state = "" if self._is_open else ", closed"
        measured = len(self.observations.select("loss"))
        return (
            f"Monitor({type(self.model).__name__}, {len(self._taps.layers)} layers, "
            f"every={self.every}, {self._step - self._first_step} steps, {measured} "
            f"measured{state})"
        )

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks off the model and close the writers; what was seen stays."""
        if self._is_open:
            self._is_open = False
            self._taps.remove()
            self._before.clear()
            for writer in self.writers:
                writer.close()

    @property
    def observations(self) -> Observations:
        """What was measured so far, with ``run="training"``.

        Beyond 20,000 rows every other measured step is left out, again and again; the
        first stays. Writers have had them all.
        """
        return Observations(row for rows in self._history for row in rows)

    def step(
        self,
        loss: Tensor | float,
        *,
        scale: float = 1.0,
        unscaled: bool = False,
        batch: int = 0,
    ) -> None:
        """Count a training step, and measure it if it is its turn.

        Call it between ``loss.backward()`` and ``optimizer.step()``. A loss that is not
        finite is recorded like any other.

        Args:
            loss: The loss, one number. Measured steps move it to the CPU, no others.
            scale: What the loss was multiplied with before ``backward``, e.g.
                ``scaler.get_scale()``.
            unscaled: Whether ``scaler.unscale_`` has divided the gradients of the
                weights by it since.
            batch: Index of the mini-batch, for the rows.

        Raises:
            RuntimeError: If the monitor is closed, or no parameter has a gradient.
            ValueError: If the loss is not one number or ``scale`` is not positive.
        """
        if not self._is_open:
            raise RuntimeError("This monitor is closed: make a new one.")
        loss = loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss))
        self._since.add(loss)
        if self._taps.awake:
            if not 0 < scale < math.inf:
                raise ValueError(f"`scale` must be positive and finite. Got {scale}.")
            self._check_gradients()
            self._record(Rows(self._step, batch), loss.dtype, scale, unscaled)
        self._step += 1
        self._taps.awake = (self._step - self._first_step) % self.every == 0
        self._taps.clear()

    def report(self, data: Any, **options: Any) -> Report:
        """Diagnose the model as it is now, together with what was seen in training.

        Args:
            data: What it runs on; see :func:`graphfathom.diagnose`.
            **options: Those of :func:`graphfathom.diagnose`.

        Returns:
            The report, with the recorded rows in its table.
        """
        options = {"layers": self.pattern, **options}
        return diagnose(self.model, data, trajectory=self.observations, **options)

    def _check_gradients(self) -> None:
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if trained and all(p.grad is None for p in trained):
            raise RuntimeError(
                "`step` must be called between `loss.backward()` and "
                "`optimizer.step()`, while gradients are there. Got none in any "
                f"parameter of {type(self.model).__name__} at step {self._step}."
            )

    @torch.no_grad()
    def _record(
        self, rows: Rows, dtype: torch.dtype, scale: float, unscaled: bool
    ) -> None:
        for name, value in self._since.measured().items():
            rows.add(name, "model", dtype, value)
        self._since = Losses()
        calls = self._taps.calls or [LayerCall(layer) for layer in self._taps.layers]
        self._note_unseen()
        self.layers = tuple(self._taps.layers[call.module] for call in calls)
        seen: set[nn.Module] = set()
        for k, call in enumerate(calls, 1):
            place = f"layer:{k}"
            for name, value in call.forward.items():
                rows.add(name, place, call.dtype, value)
            for name, value in call.backward.items():
                rows.add(name, place, call.dtype, value, scale)
            if call.module not in seen:
                seen.add(call.module)
                divisor = 1.0 if unscaled else scale
                self._add_weights(rows, place, call.module, divisor)
        self._keep(rows.measured())

    def _note_unseen(self) -> None:
        """Say which layers no hook has seen."""
        seen = {call.module for call in self._taps.calls}
        names = [name for layer, name in self._taps.layers.items() if layer not in seen]
        if not names:
            return
        note = (
            f"{len(names)} of {len(self._taps.layers)} layers, `{names[0]}` first, "
            "were not seen in a forward pass with gradients: `layer:k` does not count "
            "them, or has their weights alone. Compiled code and reentrant checkpoints "
            "run no hooks."
        )
        if note not in self.notes:
            self.notes.append(note)

    def _add_weights(
        self, rows: Rows, place: str, layer: nn.Module, scale: float
    ) -> None:
        """Measures of the parameters of a layer that are trained."""
        weights = [p for p in layer.parameters() if p.requires_grad and not is_lazy(p)]
        if not weights:
            return
        dtype = weights[0].dtype
        now = torch.cat([weight.detach().reshape(-1) for weight in weights])
        before = self._before.get(layer)
        rows.add("weights.norm", place, dtype, log10_norm([now]))
        if before is not None and before.shape == now.shape:
            change = stable_norm(now - before) / stable_norm(before)
            rows.add("update.relative", place, dtype, change.log10())
        self._before[layer] = now
        found = [weight.grad for weight in weights if weight.grad is not None]
        gradients = [g.to_dense() if g.is_sparse else g for g in found]
        # No gradient has reached them, which is one of exactly zero.
        gradients = gradients or [now.new_zeros(1)]
        rows.add("gradient.weights", place, dtype, log10_norm(gradients), scale)
        rows.add("gradient_non_finite", place, dtype, non_finite_share(gradients))

    def _keep(self, rows: list[Observation]) -> None:
        self._history.append(rows)
        # With few steps nothing could be said of a training.
        if len(self._history) > 16 and sum(map(len, self._history)) > KEPT:
            self._history = self._history[::2]
        for writer in list(self.writers):
            try:
                writer.write(rows)
            except Exception as error:
                self.writers.remove(writer)
                warnings.warn(
                    f"{type(writer).__name__} failed at step {self._step} and is left "
                    f"out from there on ({type(error).__name__}: {error}). Training "
                    "goes on, and `monitor.observations` has the rows.",
                    stacklevel=4,
                )
