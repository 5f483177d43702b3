"""The command line: ``graphfathom diagnose`` and ``graphfathom doctor``.

Data goes to stdout, progress and errors to stderr. Exit codes: 0 ok, 1 findings at or
above ``--fail-on``, 2 usage, 3 data, 4 a run failed, 70 an internal error,
130 interrupted. torch is imported when a command runs, so that help is quick.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

if TYPE_CHECKING:
    from torch import nn

    from graphfathom.diagnostics.report import Report
    from graphfathom.inputs import Case

__all__ = ["Diagnose", "Doctor", "main"]

DESCRIPTION = """Finds out why a deep graph network does not learn.

$ graphfathom diagnose Cora --model gcn --layers 64
$ graphfathom diagnose --model my_package.my_module:build --data my_module:load
$ graphfathom --version

Exit codes: 0 ok, 1 findings at or above --fail-on, 2 usage, 3 data, 4 a run failed,
70 an internal error, 130 interrupted.
"""

CONTROLS = ("none", "untrained", "trained")

LAYER_NAMES = {"mlp": "lins.*"}
"""Names of the layers of built-in models that pass no messages."""


def _arg(metavar: str, default: str = "") -> Any:
    """How help shows an option whose default is None."""
    hint = f"(default: {default})" if default else ""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


@dataclass(frozen=True)
class Diagnose:
    """Diagnose a network on a data set and write a report.

    Args:
        dataset: Name of a data set in PyG, e.g. Cora, Texas or Minesweeper. Where Cora
            is neither found nor to be downloaded, a graph of its size is generated.
        data: Your own data instead: called with nothing, returns a Data, HeteroData or
            loader, or a pair (data, kwargs) with some of forward_fn, loss, target and
            mask in kwargs.
        model: gcn, gat, gin, sage, mlp, gcnii or res+; or your own module, or a
            callable that is given what it accepts by name of in_channels,
            out_channels, num_layers, hidden_channels and data.
        layers: Number of layers.
        hidden: Hidden channels.
        norm: Normalisation of a built-in model; res+ takes layer for none.
        dropout: Dropout of a built-in model.
        act: Activation of a built-in model, e.g. relu, gelu, tanh, identity.
        epochs: Train for this many epochs (Adam, full batch), then diagnose.
        controls: What to compare with: an MLP and the same network with one layer. A
            bare --controls means trained: each control is trained for a short time.
        layer_names: Pattern of the names of the modules that are layers, e.g. convs.*,
            where message passing does not tell.
        mode: Judge normalisation and dropout as at initialisation or as in evaluation.
        data_dir: Folder of data sets, laid out as the roots of PyG.
        device: Where to move model and data, e.g. cuda.
        dtype: What to cast model and data to: float16, bfloat16, float32 or float64.
        seed: Seed of weights, training and random probes.
        out: Folder for report.html, report.json and the plots.
        json: Print report.json and not the summary.
        quiet: No progress.
        fail_on: Exit with 1 if a finding is this severe or worse.
        traceback: Show the traceback of an error.
    """

    dataset: Annotated[str | None, tyro.conf.Positional, _arg("[DATASET]", "Cora")] = (
        None
    )
    data: Annotated[str | None, _arg("MODULE:CALLABLE")] = None
    model: Annotated[str, tyro.conf.arg(metavar="NAME|MODULE:CALLABLE")] = "gcn"
    layers: Annotated[int | None, _arg("INT", "64, or that of your callable")] = None
    hidden: Annotated[int | None, _arg("INT", "64, or that of your callable")] = None
    norm: Literal["none", "batch", "layer"] = "none"
    dropout: float = 0.0
    act: str = "relu"
    epochs: int = 0
    controls: Literal["none", "untrained", "trained"] = "untrained"
    layer_names: Annotated[str | None, _arg("PATTERN", "found by role")] = None
    mode: Literal["auto", "init", "eval"] = "auto"
    data_dir: Annotated[Path | None, _arg("DIR", "GRAPHFATHOM_DATA")] = None
    device: Annotated[str | None, _arg("DEVICE", "where they are")] = None
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32", "float64"] | None,
        _arg("DTYPE", "as they are; what is built in is float32"),
    ] = None
    seed: int = 0
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("report")
    json: bool = False
    quiet: bool = False
    fail_on: Literal["warning", "critical", "never"] = "never"
    traceback: bool = False


@dataclass(frozen=True)
class Doctor:
    """Say what this machine has: versions, devices, packages, data sets.

    Args:
        data_dir: Folder of data sets, laid out as the roots of PyG.
        online: Also try to reach the servers of the data sets.
        json: Print one JSON object.
        traceback: Show the traceback of an error.
    """

    data_dir: Annotated[Path | None, _arg("DIR", "GRAPHFATHOM_DATA")] = None
    online: bool = False
    json: bool = False
    traceback: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the name of the program. Default: those of the process.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        from graphfathom import __version__

        print(f"graphfathom {__version__}")
        return 0
    try:
        options = _parse(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    try:
        if isinstance(options, Doctor):
            code = _doctor(options)
        else:
            code = _diagnose(options, shlex.join(["graphfathom", *arguments]))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("graphfathom: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nobody is left to tell. What is
        # still buffered must not raise again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _explain(error, options.traceback)


def _parse(arguments: list[str]) -> Diagnose | Doctor:
    """The options of a command; raises SystemExit after help and usage errors."""
    parsed: list[str] = []
    for argument, following in zip_longest(arguments, arguments[1:]):
        parsed.append(argument)
        if argument == "--controls" and following not in CONTROLS:
            parsed.append("trained")
    # tyro colours what goes to a terminal, but not what goes to a buffer.
    texts = (io.StringIO(), io.StringIO()) if os.environ.get("NO_COLOR") else None
    with contextlib.ExitStack() as stack:
        if texts is not None:
            stack.callback(lambda: sys.stderr.write(texts[1].getvalue()))
            stack.callback(lambda: sys.stdout.write(texts[0].getvalue()))
            stack.enter_context(contextlib.redirect_stdout(texts[0]))
            stack.enter_context(contextlib.redirect_stderr(texts[1]))
        return tyro.extras.subcommand_cli_from_dict(
            {"diagnose": Diagnose, "doctor": Doctor},
            prog="graphfathom",
            description=DESCRIPTION,
            args=parsed,
            config=(tyro.conf.FlagCreatePairsOff,),
        )


def _explain(error: Exception, show_traceback: bool) -> int:
    """Say what went wrong on stderr; return the exit code."""
    code = _exit_code(error)
    text = "".join(traceback.format_exception(error))
    if show_traceback:
        sys.stderr.write(text)
    elif code == 4 and error.__cause__ is not None:  # The model's own error.
        traceback.print_exception(error.__cause__)
    elif code == 70:
        with tempfile.NamedTemporaryFile(
            "w", prefix="graphfathom-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        print(f"graphfathom: the traceback is in {file.name}", file=sys.stderr)
    kind = f"internal error: {type(error).__name__}: " if code == 70 else ""
    print(f"graphfathom: {kind}{error}", file=sys.stderr)
    return code


def _exit_code(error: Exception) -> int:
    from graphfathom.datasets import DataError
    from graphfathom.diagnostics.trace import CaptureError, ForwardError
    from graphfathom.inputs import RunError

    if isinstance(error, DataError):
        return 3
    if isinstance(error, CaptureError | ForwardError | RunError):
        return 4
    if isinstance(error, ValueError | TypeError):
        # Our own checks raise, in our own files. The same types from elsewhere, or
        # without a `raise`, mean that something went wrong that nobody checked.
        place = traceback.extract_tb(error.__traceback__)[-1]
        ours = Path(__file__).parent in Path(place.filename).parents
        if ours and (place.line or "").startswith("raise"):
            return 2
    return 70


def _diagnose(options: Diagnose, command: str) -> int:
    def say(message: str) -> None:
        if not options.quiet:
            print(f"graphfathom: {message}", file=sys.stderr, flush=True)

    _check(options)
    import torch

    from graphfathom import inputs, verbs

    if options.data is not None:
        case = inputs.called_data(options.data)
    else:
        case = inputs.named_data(options.dataset, options.data_dir, say)
    say(case.description)
    if case.note:  # A warning and not progress: also with --quiet.
        print(f"graphfathom: {case.note}", file=sys.stderr, flush=True)
    # The caller of `main` keeps its random state.
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(options.seed)
        model = _build(options, case.data)
        model, case = inputs.place(model, case, options.device, options.dtype)
        trained = _train(model, case, options.epochs, say) if options.epochs else ""
    report = verbs.diagnose(
        model,
        case.data,
        **case.arguments,
        layers=options.layer_names or LAYER_NAMES.get(options.model.lower()),
        mode="eval" if trained and options.mode == "auto" else options.mode,
        controls=options.controls,
        seed=options.seed,
        progress=say,
    )
    report = _complete(report, case, trained, command)
    try:
        page = report.save(options.out.expanduser())
    except OSError as error:
        raise ValueError(f"`--out` must be a folder to write to: {error}.") from error
    _show(report, page, options)
    return int(_reaches(report.severity, options.fail_on))


def _reaches(severity: str, limit: str) -> bool:
    from graphfathom.diagnostics.report import SEVERITIES

    return limit in SEVERITIES[: SEVERITIES.index(severity) + 1]


def _check(options: Diagnose) -> None:
    """Refuse, before anything slow, what cannot work."""
    if options.dataset is not None and options.data is not None:
        raise ValueError(
            f"Name a data set or pass `--data`, not both. Got {options.dataset!r} and "
            f"{options.data!r}."
        )
    if options.epochs < 0:
        raise ValueError(f"`--epochs` must be >= 0. Got {options.epochs}.")
    for name in ("norm", "dropout", "act"):
        if ":" in options.model and getattr(options, name) != getattr(Diagnose, name):
            raise ValueError(
                f"`--{name}` is for built-in models: set it in {options.model!r}."
            )
    out = options.out.expanduser().absolute()
    nearest = next(folder for folder in (out, *out.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"`--out` must be a folder to write to. Got {options.out}.")


def _build(options: Diagnose, data: Any) -> nn.Module:
    from graphfathom import inputs

    sizes = (options.layers, options.hidden)
    if ":" in options.model:
        return inputs.called_model(options.model, data, *sizes)
    return inputs.named_model(
        options.model,
        data,
        *sizes,
        norm=None if options.norm == "none" else options.norm,
        dropout=options.dropout,
        act=options.act,
    )


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


def _complete(report: Report, case: Case, trained: str, command: str) -> Report:
    """The report with what only the command line knows."""
    settings = {**report.settings, "data": case.description, "command": command}
    if case.note:
        settings["data_note"] = case.note
    if trained:
        settings["training"] = trained
    notes = tuple(note for note in (case.note, trained) if note)
    return dataclasses.replace(
        report,
        settings=settings,
        data={**report.data, "name": case.name},
        notes=(*notes, *report.notes),
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


def _doctor(options: Doctor) -> int:
    from graphfathom.environment import examine, render

    facts = examine(options.data_dir, options.online)
    print(json.dumps(facts, indent=2) if options.json else render(facts))
    return 4 if facts["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
