"""``graphfathom stabilize``."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphfathom.cli.options import Stabilize
from graphfathom.cli.preparation import (
    add_facts,
    build,
    check,
    layer_pattern,
    read,
    save,
    seeded,
    speaker,
)

if TYPE_CHECKING:
    from torch import nn

    from graphfathom.diagnostics.report import Report
    from graphfathom.problem import Problem
    from graphfathom.verbs.side_by_side import SideBySide

__all__ = ["run_stabilize"]

FORMAT = 1
"""Version of ``stabilize.json``; raised when a reader must change."""
RECORD, WEIGHTS = "stabilize.json", "stabilized.pt"
RUNS = {"stabilized": "model"}
"""What a report about the stabilized network calls it."""
SHORT = 2
"""Layers of the same network beside the deep one."""


def run_stabilize(options: Stabilize, command: str) -> int:
    """Stabilize, train, write and show everything; return the exit code."""
    _check(options)
    from graphfathom import verbs

    job = _Job(options, speaker(options.quiet))
    problem = job.problem(options.layers)
    _check_labels(options, problem)
    deep = job.stabilize(problem)
    job.say("measuring the network before and after")
    report = verbs.before_after(
        problem,
        deep,
        layers=layer_pattern(options),
        seed=options.seed,
        progress=job.say,
    )
    training = job.train(problem, deep) if options.epochs else None
    sweep = job.sweep(training) if options.depths else None
    report = _complete(report, problem, deep, training)
    report = add_facts(report, job.case, command, _sentence(training))
    page = save(report, options)
    record = _record(report, deep, training, sweep)
    _write(page.parent, record, training["stabilized"].model if training else deep)
    _show(page, record, [deep.calibration, training, sweep], options)
    return 0


def _check(options: Stabilize) -> None:
    """Refuse, before anything slow, what cannot work.

    Raises:
        ValueError: If an option does not fit; the message names it.
    """
    check(options)
    if options.epochs < 0:
        raise ValueError(f"`--epochs` must be >= 0. Got {options.epochs}.")
    strength = options.strength
    if strength is not None and not 0 < strength < math.inf:
        raise ValueError(f"`--strength` must be positive and finite. Got {strength}.")
    if options.model.lower() == "mlp":
        raise ValueError(
            "`--model mlp` passes no messages: stabilize a graph network. An MLP is "
            "trained beside it anyway."
        )
    for depth in options.depths:
        if depth < 1:
            raise ValueError(f"`--depths` must be >= 1. Got {depth}.")
    if options.depths and not options.epochs:
        raise ValueError("`--depths` needs training. Got `--epochs 0`.")
    if options.depths and ":" in options.model and not _takes_depth(options):
        raise ValueError(
            f"`--depths` needs a model of any depth. {options.model!r} does not accept "
            "`num_layers`: give it this argument."
        )


def _takes_depth(options: Stabilize) -> bool:
    """Whether the model can be built with any number of layers."""
    from graphfathom import inputs

    return ":" not in options.model or inputs.accepts_depth(options.model)


def _check_labels(options: Stabilize, problem: Problem) -> None:
    if options.epochs and problem.target is None:
        raise ValueError(
            "`--epochs` needs labels `y` in the data to train on. Without them pass "
            "`--epochs 0`."
        )


class _Job:
    """One command while it runs: networks are built, stabilized and trained."""

    def __init__(self, options: Stabilize, say: Callable[[str], None]) -> None:
        self.options = options
        self.say = say
        self.source = self.case = read(options, say)

    def problem(self, layers: int | None) -> Problem:
        """The network at a depth, on the data."""
        from graphfathom.problem import Problem

        with seeded(self.options):
            model, self.case = build(self.options, self.source, layers)
        return Problem(model, self.case.data, **self.case.arguments)

    def stabilize(self, problem: Problem) -> Any:
        """The network in state-space form."""
        from graphfathom import verbs

        return verbs.stabilize(
            problem,
            layers=layer_pattern(self.options),
            strength=self.options.strength,
            seed=self.options.seed,
            progress=self.say,
        )

    def train(self, problem: Problem, deep: nn.Module) -> SideBySide:
        """The network, its stabilized form and its controls."""
        return self._train(problem, deep, short=self._short())

    def _short(self) -> nn.Module | None:
        """The network with few layers, where the user can build one."""
        from graphfathom.inputs import RunError

        if not _takes_depth(self.options):
            return None
        try:
            return self.problem(SHORT).model
        except RunError:  # a callable for deep networks only
            return None

    def sweep(self, training: SideBySide | None) -> SideBySide:
        """The network and its stabilized form, where it has one, at each depth."""
        from graphfathom.calibration import CalibrationError
        from graphfathom.rewrite import RewriteError

        rows, notes = [], []
        for depth in self.options.depths:
            self.say(f"{depth} layers")
            problem = self.problem(depth)
            try:
                deep = self.stabilize(problem)
            except (RewriteError, CalibrationError) as error:
                deep = None
                notes.append(f"{depth} layers, not stabilized: {error}")
            found = self._train(problem, deep, controls=False)
            rows += found.rows
            notes += found.notes
        assert training is not None  # _check asks for it
        return dataclasses.replace(training, rows=tuple(rows), notes=tuple(notes))

    def _train(
        self, problem: Problem, deep: nn.Module | None, **arguments: Any
    ) -> SideBySide:
        """Train with a bar on a terminal, with lines elsewhere.

        Raises:
            RunError: If the model raises.
        """
        from graphfathom.inputs import RunError
        from graphfathom.verbs.side_by_side import side_by_side

        try:
            with _bar(self.options.quiet) as on_epoch:
                return side_by_side(
                    problem,
                    deep,
                    layers=layer_pattern(self.options),
                    epochs=self.options.epochs,
                    seed=self.options.seed,
                    progress=None if on_epoch else self.say,
                    on_epoch=on_epoch,
                    **arguments,
                )
        except Exception as error:
            kind = type(error).__name__
            raise RunError(f"Training failed with {kind}: {error}") from error


@contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar over the epochs of all networks; None where there is none."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    if quiet or not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("training {task.description}"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total} epochs"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def on_epoch(network: str, done: int, total: int) -> None:
            progress.update(task, description=network, completed=done, total=total)

        yield on_epoch


def _complete(
    report: Report, problem: Problem, deep: Any, training: SideBySide | None
) -> Report:
    """The report with the names of the networks and the scores after training."""
    from graphfathom.diagnostics.observations import Observation, Observations

    rows = list(report.observations)
    for row in training.rows if training else ():
        run = f"{RUNS.get(row.run, row.run)} (trained)"
        rows.append(Observation("loss", "model", row.last.loss, run=run))
        rows += [
            Observation(f"accuracy.{split}", "model", value, unit="share", run=run)
            for split, value in row.last.accuracy.items()
        ]
    name = f"{type(problem.model).__name__} in state-space form"
    return dataclasses.replace(
        report, observations=Observations(rows), model={**report.model, "name": name}
    )


def _sentence(training: SideBySide | None) -> str:
    if training is None:
        return ""
    return (
        f"Networks called trained: Adam, full batch, {training.epochs} epochs, "
        f"learning rate {training.lr:g}, weight decay {training.weight_decay:g}; "
        "scores after the last epoch. All else is measured before training."
    )


def _record(
    report: Report, deep: Any, training: SideBySide | None, sweep: SideBySide | None
) -> dict[str, Any]:
    """What ``stabilize.json`` says."""
    from graphfathom.diagnostics.report import encode

    named = ("model", "data", "versions")
    return encode(
        {
            "format": FORMAT,
            "command": report.settings["command"],
            **{name: getattr(report, name) for name in named},
            "seed": report.settings["seed"],
            "calibration": deep.calibration.to_dict(),
            "training": training.to_dict() if training else None,
            "sweep": sweep.to_dict() if sweep else None,
            "notes": report.notes,
            "report": "report.html",
            "weights": WEIGHTS,
        }
    )


def _write(folder: Path, record: dict[str, Any], model: nn.Module) -> None:
    import torch

    text = json.dumps(record, indent=1, allow_nan=False)
    try:
        (folder / RECORD).write_text(f"{text}\n", encoding="utf-8")
        torch.save(model.state_dict(), folder / WEIGHTS)
    except OSError as error:
        raise ValueError(f"`--out` must be a folder to write to: {error}.") from error


def _show(
    page: Path, record: dict[str, Any], tables: list[Any], options: Stabilize
) -> None:
    """The tables or the JSON on stdout, and where everything is."""
    if options.json:
        print(json.dumps(record, indent=1, allow_nan=False))
        if not options.quiet:
            print(f"graphfathom: report written to {page}", file=sys.stderr)
        return
    heads = ("", "", "At each depth\n")
    for head, table in zip(heads, tables, strict=True):
        if table is not None:
            print(f"{head}{table}\n")
    weights = page.with_name(WEIGHTS)
    print(f"Report written to {page}, all numbers to {page.with_name(RECORD)}")
    print(f"Weights written to {weights}: they have the keys of the network as it was,")
    print("and in their metadata the matrices of the state-space form.")
