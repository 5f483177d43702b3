"""The command line: what goes wrong, how it is said, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import OWN, Calls, process, replace_diagnosis, run

from graphfathom import verbs
from graphfathom.diagnostics.report import Report
from graphfathom.diagnostics.trace import CaptureError, ForwardError

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return replace_diagnosis(monkeypatch)


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Replaces the diagnosis by an error."""

    def use(error: BaseException) -> None:
        def diagnose(*_: Any, **__: Any) -> Report:
            raise error

        monkeypatch.setattr(verbs, "diagnose", diagnose)

    return use


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "Expected one of {diagnose, stabilize, doctor}"),
        ("diagnos", "diagnos"),
        ("diagnose --contrls", "--controls"),
        ("diagnose --layers many", "--layers"),
        ("diagnose --mode train", "train"),
    ],
)
def test_a_command_line_that_cannot_be_read(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(line, capsys)
    assert code == 2
    assert out == ""
    assert message in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("diagnose Coar", "Unknown data set 'Coar'. Did you mean Cora"),
        ("diagnose PubMed", "PubMed cannot be had: "),
        ("diagnose Cora --data-dir /no/where", "`data_dir` must be a folder"),
        ("doctor --data-dir /no/where", "`data_dir` must be a folder"),
        ("diagnose --data user_code:broken", "raised RuntimeError: no luck"),
    ],
)
def test_data_errors(
    line: str, message: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(line, capsys)
    assert (code, out) == (3, "")
    last = err.splitlines()[-1]
    assert last.startswith("graphfathom: ")
    assert message in last
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("diagnose Cora --data a:b", "Name a data set or pass `--data`, not both."),
        ("diagnose user_code:load", "write `--data user_code:load`"),
        (f"{OWN} --epochs -1", "`--epochs` must be >= 0. Got -1."),
        (f"{OWN} --model gnc", "`name` must be one of gcn, "),
        (f"{OWN} --layers 0", "`num_layers` must be >= 1. Got 0."),
        (f"{OWN} --device abacus", "`--device` must be a device of this machine."),
        (f"{OWN} --out user_code.py", "`--out` must be a folder to write to."),
        (f"{OWN} --out user_code.py/x", "`--out` must be a folder to write to."),
        (f"{OWN} --model user_code:build --norm batch", "`--norm` is for built-in"),
        (f"{OWN} --model user_code:no", "module 'user_code' has no 'no'."),
        ("diagnose --data no_such:load", "there is no module 'no_such' in "),
        (
            "diagnose --data user_code:unlabelled --epochs 1",
            "`--epochs` needs labels `y` in the data to train on.",
        ),
    ],
)
def test_usage_errors(
    line: str, message: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(line, capsys)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not Path("report").exists()


def test_a_report_that_cannot_be_written(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Report, folder: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Report, "save", refuse)
    code, _, err = run(OWN, capsys)
    assert code == 2
    assert "`--out` must be a folder to write to: disk full." in err


@pytest.mark.parametrize("error", [CaptureError("no cut"), ForwardError("in lin")])
def test_a_run_that_failed(
    error: Exception,
    fails: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    error.__cause__ = KeyError("the model's own")
    fails(error)
    code, _, err = run(OWN, capsys)
    assert code == 4
    assert 'KeyError: "the model\'s own"' in err
    assert err.endswith(f"graphfathom: {error}\n")


def test_a_refusal_is_one_sentence(
    fails: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fails(CaptureError("no cut"))
    code, _, err = run(f"{OWN} --quiet", capsys)
    assert (code, err) == (4, "graphfathom: no cut\n")


def test_a_model_that_breaks_in_training(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(f"{OWN} --model user_code:Breaking --epochs 1", capsys)
    assert code == 4
    assert err.endswith("graphfathom: Training failed with RuntimeError: no luck\n")
    assert "user_code.py" in err  # its own traceback


def test_an_internal_error_keeps_its_traceback_in_a_file(
    fails: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fails(ZeroDivisionError("oh no"))
    code, _, err = run(f"{OWN} --quiet", capsys)
    assert code == 70
    where, what = err.splitlines()
    assert what == "graphfathom: internal error: ZeroDivisionError: oh no"
    file = Path(where.removeprefix("graphfathom: the traceback is in "))
    assert "ZeroDivisionError: oh no" in file.read_text()
    file.unlink()


def test_traceback_on_request(
    fails: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fails(ZeroDivisionError("oh no"))
    code, _, err = run(f"{OWN} --traceback", capsys)
    assert code == 70
    assert "Traceback (most recent call last)" in err
    assert "the traceback is in" not in err
    assert "Traceback" in run("diagnose Coar --traceback", capsys)[2]


def test_an_error_that_nobody_checked_is_internal(
    fails: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    # The same types as our own checks, but raised in this file.
    fails(ValueError("from deep below"))
    assert run(f"{OWN} --traceback", capsys)[0] == 70


def test_interrupted(
    fails: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    fails(KeyboardInterrupt())
    code, _, err = run(OWN, capsys)
    assert code == 130
    assert err.endswith("graphfathom: interrupted\n")


def test_a_reader_that_goes_away() -> None:
    code = (
        "import os, sys; from graphfathom import cli; "
        "read, write = os.pipe(); os.dup2(write, 1); os.close(read); os.close(write); "
        "sys.exit(cli.main(['doctor']))"
    )
    found = process(code=code)
    assert (found.returncode, found.stderr) == (0, "")


def test_doctor_fails_where_something_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, _ = run("doctor", capsys)
    assert code == 4
    assert "matplotlib cannot be imported" in out
