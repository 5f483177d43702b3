"""``graphfathom diagnose``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphfathom.cli.options import Diagnose
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
    from graphfathom.inputs import Case

__all__ = ["run_diagnose"]


def run_diagnose(options: Diagnose, command: str) -> int:
    """Diagnose, write and show the report; return the exit code.

    Raises:
        ValueError: If an option does not fit; the message names it.
    """
    if options.epochs < 0:
        raise ValueError(f"`--epochs` must be >= 0. Got {options.epochs}.")
    if not options.max_seconds > 0:
        raise ValueError(f"`--max-seconds` must be > 0. Got {options.max_seconds}.")
    check(options)
    from graphfathom import verbs

    say = speaker(options.quiet)
    case = read(options, say)
    with seeded(options):
        model, case = build(options, case, options.layers)
        trained = _train(model, case, options.epochs, say) if options.epochs else ""
    report = verbs.diagnose(
        model,
        case.data,
        **case.arguments,
        layers=layer_pattern(options),
        mode="eval" if trained and options.mode == "auto" else options.mode,
        controls=options.controls,
        deep=options.deep,
        max_seconds=options.max_seconds,
        seed=options.seed,
        progress=say,
    )
    report = add_facts(report, case, command, trained)
    _show(report, save(report, options), options)
    return int(_reaches(report.severity, options.fail_on))


def _reaches(severity: str, limit: str) -> bool:
    from graphfathom.diagnostics.report import SEVERITIES

    return limit in SEVERITIES[: SEVERITIES.index(severity) + 1]


def _train(
    model: nn.Module, case: Case, epochs: int, say: Callable[[str], None]
) -> str:
    """Train in place; return the sentence that says what came of it."""
    from graphfathom.inputs import RunError
    from graphfathom.problem import Problem
    from graphfathom.training import fit

    problem = Problem(model, case.data, **case.arguments)
    if problem.target is None:
        raise ValueError("`--epochs` needs labels `y` in the data to train on.")

    def loss(model: nn.Module) -> Any:
        return problem.loss_of(problem.run())

    try:
        history = fit(model, loss, epochs=epochs, progress=say)
    except Exception as error:
        kind = type(error).__name__
        raise RunError(f"Training failed with {kind}: {error}") from error
    model.eval()
    if history.diverged:
        done = len(history.losses) - 1
        return (
            f"Training diverged: diagnosed as it was after {done} of {epochs} epochs."
        )
    first, last = history.losses[0], history.losses[-1]
    return (
        f"Trained for {epochs} epochs before the diagnosis (Adam, full batch): the "
        f"loss went from {first:.4g} to {last:.4g}."
    )


def _show(report: Report, page: Path, options: Diagnose) -> None:
    """The summary or the JSON on stdout, and where the report is."""
    if options.json:
        record = page.with_name("report.json")
        sys.stdout.write(record.read_text(encoding="utf-8"))
        if not options.quiet:
            print(f"graphfathom: report written to {page}", file=sys.stderr)
        return
    from rich.console import Console

    from graphfathom.terminal import print_report

    print_report(report, Console())
    print(f"\nReport written to {page}")
