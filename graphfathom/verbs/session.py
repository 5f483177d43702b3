"""One diagnosis while it is made: what is measured, in which order, at what cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from graphfathom.diagnostics import facts, gradients, numerics, rates, spectra
from graphfathom.diagnostics.attention import attention_observations
from graphfathom.diagnostics.controls import output_of
from graphfathom.diagnostics.energy import energy_observations
from graphfathom.diagnostics.findings import find
from graphfathom.diagnostics.frozen import frozen_observations
from graphfathom.diagnostics.graph_facts import density_observations
from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.label_facts import label_observations
from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.output_facts import output_observations
from graphfathom.diagnostics.report import Report
from graphfathom.diagnostics.sandbox import judged_mode, running_norms
from graphfathom.diagnostics.stationarity import stationarity_observations
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.diagnostics.trace import CaptureError, NoLayersError, Trace, capture
from graphfathom.problem import Problem
from graphfathom.verbs.deep import deepen
from graphfathom.verbs.description import describe_data, describe_model, versions

__all__ = ["Session", "silent"]


def silent(_: str) -> None:
    """Progress that nobody asked for."""


@dataclass
class Session:
    """One diagnosis while it is made."""

    problem: Problem
    pattern: str | None
    seed: int
    byte_budget: int
    progress: Callable[[str], None] = silent
    rows: list[Observation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    trace: Trace | None = None

    def generator(self) -> torch.Generator:
        """A fresh source of randomness, so that no stage depends on another."""
        return torch.Generator().manual_seed(self.seed)

    @contextmanager
    def stage(self, name: str, price: str = "") -> Iterator[None]:
        """Time a stage and say that it begins, and what it will take."""
        self.progress(f"{name}: {price}" if price else name)
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.cost[name] = self.cost.get(name, 0.0) + seconds

    def measure(self, max_seconds: float | None = None) -> None:
        """Everything about the model itself; deep measures if they have a limit."""
        self.notes += self.problem.notes
        with self.stage("graph and data"):
            structure = facts.graph_structure(self.problem)
            self.rows += facts.data_observations(self.problem, structure)
            if structure is not None:
                self.rows += density_observations(structure)
        with self.stage("labels"):
            self.rows += label_observations(self.problem, structure)
        self.settings["mode"] = judged_mode(self.problem)
        try:
            with self.stage("own precision"):
                own = self._capture(dtype=None)
                self.rows += numerics.numeric_observations(own)
                output = own.output
            with self.stage("states"):
                self.trace = self._capture()
        except NoLayersError:
            raise
        except CaptureError as error:
            self.notes.append(f"No verdict per layer: {error}")
            output = output_of(self.problem)
        self.settings["loss"] = self.problem.describe_loss(output)
        self.rows += facts.loss_observations(self.problem, output, structure=structure)
        self.rows += facts.accuracy_observations(self.problem, output)
        self.rows += output_observations(self.problem)
        if self.trace is None:
            return
        self.notes += self.trace.notes
        self._states(self.trace, structure)
        self._layer_maps()
        if max_seconds is not None:
            deepen(self, self.trace, structure, max_seconds)
        self._other_mode()

    def _capture(self, **options: Any) -> Trace:
        return self.recapture(self.problem, **options)

    @property
    def recapture(self) -> Callable[..., Trace]:
        """Records another problem as this one is."""
        return partial(capture, layers=self.pattern, byte_budget=self.byte_budget)

    def _states(self, trace: Trace, structure: GraphStructure | None) -> None:
        """What there is to say of the states, of the errors in them and of weights."""
        if structure is not None:
            with self.stage("energies"):
                self.rows += _energies(trace, structure, self.notes)
        else:
            self.notes.append(
                "No energies: they need one edge_index between nodes of one type."
            )
        with self.stage("gradients"):
            measured = gradients.gradient_observations(trace, structure)
            self.rows += measured
            self.rows += gradients.gain_observations(trace, self.generator())
            if structure is not None:
                table = Observations(self.rows)
                self.rows += rates.rate_observations(trace, table, structure)
        with self.stage("last layer refitted"):
            rows, notes = stationarity_observations(
                trace, structure, measured, self.recapture
            )
            self.rows += rows
            self.notes += notes
        with self.stage("weights"):
            self.rows += attention_observations(trace)
            self.rows += frozen_observations(self.problem, trace, self.pattern)

    def _layer_maps(self) -> None:
        assert self.trace is not None
        try:
            with self.stage("layer gains"):
                generator = self.generator()
                self.rows += spectra.layer_observations(self.trace, generator)
            with self.stage("singular values"):
                generator = self.generator()
                self.rows += spectra.spectrum_observations(self.trace, generator)
        except JacobianError as error:
            self.notes.append(f"No gains of single layers: {error}")
            return
        depth, count = self.trace.num_layers, spectra.MAX_SPECTRA
        if depth > count:
            self.notes.append(
                f"Singular values on {count} of {depth} layers, evenly spread."
            )

    def _other_mode(self) -> None:
        """The same gradients in the other mode, kept if they differ by more than 2x."""
        if not running_norms(self.problem.model):
            return
        other = "eval" if self.settings["mode"] == "init" else "init"
        with self.stage("other mode"):
            trace = self._capture(mode=other)
            rows = gradients.gradient_observations(trace)
        table = Observations(self.rows)
        differs = any(
            row.name == "gradient.state"
            and abs(row.value - table.value(row.name, row.place)) > 0.3
            for row in rows
        )
        if differs:
            self.rows += [replace(row, run=f"model ({other})") for row in rows]
            self.notes.append(
                f"Normalisation layers: gradients differ more than twofold in {other} "
                f"mode; the verdict is on {self.settings['mode']} mode."
            )

    def measure_run(self, run: str, other: Problem, pattern: str | None) -> None:
        """Gradients, gains and losses of another network, as the rows of a run."""
        try:
            trace = capture(other, pattern)
            own = capture(other, pattern, dtype=None)
        except (CaptureError, RuntimeError) as error:
            self.notes.append(f"Control `{run}` could not be measured: {error}")
            return
        rows = gradients.gradient_observations(trace)
        rows += gradients.gain_observations(trace, self.generator())
        rows += numerics.numeric_observations(own)
        rows += facts.loss_observations(other, own.output)
        self.settings.setdefault("controls", {})[run] = f"{trace.num_layers} layers"
        self.rows += [
            replace(row, run=run) for row in rows if row.name != "loss.constant"
        ]

    def report(self, controls: str) -> Report:
        """The frozen record."""
        table = Observations(self.rows)
        layers = self.trace.layers if self.trace else ()
        states = tuple(s.names for s in self.trace.states) if self.trace else ()
        self.settings |= {"seed": self.seed, "layers": self.pattern or "by role"}
        self.settings["controls_asked"] = controls
        return Report(
            findings=find(table, layers),
            observations=table,
            layers=layers,
            states=states,
            model=describe_model(self.problem.model, layers),
            data=describe_data(self.problem, table),
            settings=self.settings,
            notes=tuple(dict.fromkeys(self.notes)),
            versions=versions(),
            cost={name: round(seconds, 3) for name, seconds in self.cost.items()},
        )


def _energies(trace: Trace, structure: Any, notes: list[str]) -> list[Observation]:
    states = [state.main for state in trace.states]
    fits = [s.dim() == 2 and s.size(0) == structure.num_nodes for s in states]
    if not all(fits):
        notes.append("No energies: some states do not have one row per node.")
        return []
    return energy_observations(states, structure)
