"""The command line: ``graphfathom diagnose``, ``stabilize`` and ``doctor``.

Data goes to stdout, progress and errors to stderr. Exit codes: 0 ok, 1 findings at or
above ``--fail-on``, 2 usage, 3 data, 4 a run failed or a network is refused, 70 an
internal error, 130 interrupted. torch is imported when a command runs, so that help is
quick.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from graphfathom.cli.options import Diagnose, Doctor, Stabilize, parse

__all__ = ["Diagnose", "Doctor", "Stabilize", "main"]


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
        options = parse(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    try:
        code = _run(options, shlex.join(["graphfathom", *arguments]))
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


def _run(options: Diagnose | Stabilize | Doctor, command: str) -> int:
    if isinstance(options, Doctor):
        return _doctor(options)
    if isinstance(options, Stabilize):
        from graphfathom.cli.stabilization import run_stabilize

        return run_stabilize(options, command)
    from graphfathom.cli.diagnosis import run_diagnose

    return run_diagnose(options, command)


def _doctor(options: Doctor) -> int:
    from graphfathom.environment import examine, render

    facts = examine(options.data_dir, options.online)
    print(json.dumps(facts, indent=2) if options.json else render(facts))
    return 4 if facts["problems"] else 0


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
    from graphfathom.calibration import CalibrationError
    from graphfathom.datasets import DataError
    from graphfathom.diagnostics.trace import CaptureError, ForwardError
    from graphfathom.inputs import RunError
    from graphfathom.rewrite import RewriteError, StepError

    if isinstance(error, DataError):
        return 3
    refusals = CaptureError | RewriteError | StepError | CalibrationError
    if isinstance(error, refusals | ForwardError | RunError):
        return 4
    if isinstance(error, ValueError | TypeError):
        # Our own checks raise, in our own files. The same types from elsewhere, or
        # without a `raise`, mean that something went wrong that nobody checked.
        place = traceback.extract_tb(error.__traceback__)[-1]
        ours = Path(__file__).parent.parent in Path(place.filename).parents
        if ours and (place.line or "").startswith("raise"):
            return 2
    return 70
