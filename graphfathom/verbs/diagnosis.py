"""Diagnose: why a graph network does not learn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from graphfathom.diagnostics import facts, gradients, numerics, spectra
from graphfathom.diagnostics.controls import copy_of, mlp, output_of, shallow
from graphfathom.diagnostics.energy import energy_observations
from graphfathom.diagnostics.findings import find
from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import Report
from graphfathom.diagnostics.sandbox import (
    judged_mode,
    random_state,
    running_norms,
)
from graphfathom.diagnostics.trace import (
    BYTE_BUDGET,
    CaptureError,
    NoLayersError,
    Trace,
    capture,
)
from graphfathom.problem import Problem
from graphfathom.training import fit
from graphfathom.verbs.deep import MAX_SECONDS, deepen
from graphfathom.verbs.description import describe_data, describe_model, versions
from graphfathom.verbs.state_space import data_free, inside

__all__ = ["CONTROLS", "Session", "controls", "diagnose", "silent"]

CONTROLS = ("none", "untrained", "trained")
"""How far the controls go."""

TRAINING_EPOCHS = 100
"""Length of a control's training: half of the GCN paper's, enough to see it learn."""


@torch.inference_mode(mode=False)
@torch.enable_grad()
def diagnose(
    model: nn.Module | Problem,
    data: Any = None,
    *,
    forward_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    target: Tensor | str | None = None,
    mask: Tensor | str | None = None,
    mode: str = "auto",
    layers: str | None = None,
    controls: str = "untrained",
    deep: bool = False,
    max_seconds: float = MAX_SECONDS,
    seed: int = 0,
    byte_budget: int = BYTE_BUDGET,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Find out why a graph network does not learn.

    The model is not changed: not its weights, buffers, gradients, hooks, mode, device
    or precision, nor any random state.

    Args:
        model: The network, or a :class:`~graphfathom.problem.Problem`, which already
            holds the next six arguments.
        data: What it runs on; see :class:`~graphfathom.problem.Problem`.
        forward_fn: How to call it, if not by name.
        loss: ``loss(output, target)``, if it is not to be inferred.
        target: Labels, or their name in the data.
        mask: Rows that enter the loss, or their name in the data.
        mode: ``"auto"``, ``"init"`` or ``"eval"``.
        layers: Pattern of the names of the modules that are layers, e.g.
            ``"convs.*"``. Default: message passing is found by role.
        controls: ``"none"``; ``"untrained"``: the same network at depth 1, the same in
            state-space form and an MLP are measured beside it; ``"trained"``: they and
            the network itself are trained for a short time as well, on copies.
        deep: Whether to estimate the densities of singular values, those of all layers
            together, sensitivities by distance, and what theory predicts as well.
            Each says its price first.
        max_seconds: Longest that one of these may take; a longer one is left out.
        seed: Seed of the random probes and of the controls.
        byte_budget: Bytes of saved tensors that may be alive at a time.
        progress: Called with a few words at the beginning of each stage.

    Returns:
        The report: verdict, findings, observations, notes.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an option is out of range, the data cannot be used or no layer
            is found.
        ForwardError: If the model's own forward raises; the message names the layer.

    Example:
        >>> from torch_geometric.nn import GCN
        >>> data = graphfathom.datasets.csbm(60, 3, avg_degree=4, homophily=0.8, seed=0)
        >>> gcn = GCN(data.num_features, 16, num_layers=32, out_channels=3)
        >>> diagnose(gcn, data).verdict.name
        'vanishing-gradients'
    """
    if controls not in CONTROLS:
        raise ValueError(
            f"`controls` must be one of {', '.join(CONTROLS)}. Got {controls!r}."
        )
    if not max_seconds > 0:
        raise ValueError(
            f"`max_seconds` must be > 0, a limit for each deep estimate. Got "
            f"{max_seconds}: for none, leave `deep` out."
        )
    if isinstance(model, Problem):
        problem = model
    else:
        problem = Problem(model, data, forward_fn, loss, target, mask, mode)
    session = Session(problem, layers, seed, byte_budget, progress or silent)
    session.measure(max_seconds if deep else None)
    if controls != "none":
        with session.stage("controls"):
            session.add_controls(trained=controls == "trained")
    return session.report(controls)


def controls(
    problem: Problem, *, trained: bool = False, seed: int = 0
) -> dict[str, Problem]:
    """Networks to compare with: at depth 1, without the graph, in state-space form.

    ``"shallow"`` is a copy of the network that keeps the first of its repeated layers,
    and the last where the widths demand it; ``"mlp"`` sees the features without the
    graph; ``"stabilized"`` is a copy in state-space form of strength 1, not calibrated.
    One that cannot be built is absent.

    Args:
        problem: The problem whose network is compared.
        trained: Whether to train each for a short time.
        seed: Seed of the initial weights of the MLP and of the training.

    Returns:
        Name to problem.
    """
    session = Session(problem, None, seed, BYTE_BUDGET, silent)
    session.trace = capture(problem)
    built = session.build_controls()
    if trained:
        for control in built.values():
            _train(control, seed)
    return built


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
        self.rows += facts.loss_observations(self.problem, output)
        self.rows += facts.accuracy_observations(self.problem, output)
        if self.trace is None:
            return
        self.notes += self.trace.notes
        if structure is not None:
            with self.stage("energies"):
                self.rows += _energies(self.trace, structure, self.notes)
        else:
            self.notes.append(
                "No energies: they need one edge_index between nodes of one type."
            )
        with self.stage("gradients"):
            self.rows += gradients.gradient_observations(self.trace, structure)
            self.rows += gradients.gain_observations(self.trace, self.generator())
        self._layer_maps()
        if max_seconds is not None:
            deepen(self, self.trace, structure, max_seconds)
        self._other_mode()

    def _capture(self, **options: Any) -> Trace:
        return capture(
            self.problem, self.pattern, byte_budget=self.byte_budget, **options
        )

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

    def build_controls(self) -> dict[str, Problem]:
        """The controls that can be built for this problem."""
        assert self.trace is not None
        candidates = {
            "shallow": shallow(self.problem, self.trace),
            "mlp": mlp(self.problem, self.trace, self.seed),
            "stabilized": self._stabilized(),
        }
        return {run: control for run, control in candidates.items() if control}

    def _stabilized(self) -> Problem | None:
        """The network in state-space form, or a note that says why there is none."""
        try:
            return data_free(self.problem, self.pattern)
        except Exception as error:  # also what a stranger's model raises when copied
            reason = str(error).partition(". ")[0].removesuffix(".")
            self.notes.append(f"No control in state-space form: {reason}.")
            return None

    def add_controls(self, trained: bool) -> None:
        """Measure the controls beside the model."""
        if self.trace is None or self.trace.num_layers < 2:
            return
        built = self.build_controls()
        if "shallow" not in built:
            self.notes.append(
                "No control at depth 1: no copy with fewer layers runs. Compare with a "
                "shallow network of your own."
            )
        for run, control in built.items():
            self.measure_control(run, control, self._pattern(run, control))
        if not trained:
            return
        try:
            built["model (short training)"] = copy_of(self.problem)
        except Exception as error:  # whatever a stranger's model raises when copied
            self.notes.append(
                "The model was not trained for comparison: it cannot be copied "
                f"({type(error).__name__}: {error})."
            )
        for run, control in built.items():
            if not any(p.requires_grad for p in control.model.parameters()):
                self.notes.append(f"Not trained: `{run}`, all its weights are frozen.")
                continue
            self.progress(f"training {run}")
            _train(control, self.seed)
            self.rows += facts.accuracy_observations(control, output_of(control), run)
            self.rows += facts.loss_observations(control, output_of(control), run)

    def _pattern(self, run: str, control: Problem) -> str | None:
        """Which modules of a control are layers."""
        if run == "stabilized":
            return inside(control.model, self.pattern)
        return "lins.*" if run == "mlp" else self.pattern

    def measure_control(self, run: str, control: Problem, pattern: str | None) -> None:
        """Gradients, gains and losses of another network, as the rows of a run."""
        try:
            trace = capture(control, pattern)
            own = capture(control, pattern, dtype=None)
        except (CaptureError, RuntimeError) as error:
            self.notes.append(f"Control `{run}` could not be measured: {error}")
            return
        rows = gradients.gradient_observations(trace)
        rows += gradients.gain_observations(trace, self.generator())
        rows += numerics.numeric_observations(own)
        rows += facts.loss_observations(control, own.output)
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


def _train(problem: Problem, seed: int) -> None:
    """Short training of a control, by the loss of the problem."""

    def loss_fn(model: nn.Module) -> Tensor:
        loss = problem.loss_of(problem.replace(model, problem.data).run())
        if loss is None:
            raise ValueError(
                "Trained controls need labels. Pass `target=`, or "
                "`controls='untrained'`."
            )
        return loss

    with random_state():
        torch.manual_seed(seed)
        fit(problem.model, loss_fn, epochs=TRAINING_EPOCHS)
