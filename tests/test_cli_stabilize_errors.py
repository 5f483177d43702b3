"""``graphfathom stabilize``: what is refused, how it is said, and the exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import DEEP, Calls, replace_stabilization, run
from torch import nn

from graphfathom import verbs
from graphfathom.calibration import CalibrationError
from graphfathom.problem import Problem
from graphfathom.rewrite import RewriteError

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return replace_stabilization(monkeypatch)


@pytest.fixture
def fails(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces stabilizing by an error, at some depths or at all."""

    def use(error: Exception, *depths: int) -> None:
        given = verbs.stabilize

        def stabilize(problem: Problem, **options: Any) -> nn.Module:
            if not depths or len(problem.model.convs) in depths:
                raise error
            return given(problem, **options)

        monkeypatch.setattr(verbs, "stabilize", stabilize)

    return use


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stabilize Cora --data a:b", "Name a data set or pass `--data`, not both."),
        (f"{DEEP} --epochs -1", "`--epochs` must be >= 0. Got -1."),
        (f"{DEEP} --strength 0", "`--strength` must be positive and finite. Got 0.0."),
        (f"{DEEP} --strength nan", "`--strength` must be positive and finite."),
        (f"{DEEP} --depths 4 0", "`--depths` must be >= 1. Got 0."),
        (f"{DEEP} --depths 4 --epochs 0", "`--depths` needs training."),
        (f"{DEEP} --model mlp", "`--model mlp` passes no messages"),
        (f"{DEEP} --model user_code:build --act tanh", "`--act` is for built-in"),
        (f"{DEEP} --model user_code:no", "module 'user_code' has no 'no'."),
        (f"{DEEP} --out user_code.py", "`--out` must be a folder to write to."),
        (f"{DEEP} --layers 0", "`num_layers` must be >= 1. Got 0."),
        (
            "stabilize --data user_code:unlabelled --layers 3",
            "Without them pass `--epochs 0`.",
        ),
        (
            f"{DEEP} --model user_code:fixed --depths 3",
            "'user_code:fixed' does not accept `num_layers`: give it this argument.",
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
    assert not calls
    assert not Path("report").exists()


@pytest.mark.parametrize("line", ["stabilize --strength big", "stabilize --depths x"])
def test_a_command_line_that_cannot_be_read(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(line, capsys)
    assert (code, out) == (2, "")
    assert line.split()[1] in err


@pytest.mark.parametrize("kind", [RewriteError, CalibrationError])
def test_a_refusal_is_one_sentence(
    kind: type[Exception],
    fails: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fails(kind("it carries a state"))
    code, out, err = run(f"{DEEP} --quiet", capsys)
    assert (code, out, err) == (4, "", "graphfathom: it carries a state\n")
    assert not Path("report").exists()


def test_a_network_without_a_state_space_form(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = "stabilize --data user_code:masked --model user_code:widening --quiet"
    code, out, err = run(line, capsys)
    assert (code, out) == (4, "")
    assert err.startswith("graphfathom: ")
    assert len(err.splitlines()) == 1


def test_a_strength_that_fails_the_criteria(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = "stabilize --data user_code:graph --layers 16 --hidden 16 --quiet"
    code, out, err = run(f"{line} --strength 16", capsys)
    assert (code, out) == (4, "")
    assert err.startswith("graphfathom: `strength` 16 does not meet the criteria: ")


def test_data_errors(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("stabilize Coar", capsys)
    assert code == 3
    assert "Unknown data set 'Coar'. Did you mean Cora" in err


def test_training_that_breaks(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("graphfathom.verbs.side_by_side.side_by_side", broken)
    code, _, err = run(DEEP, capsys)
    assert code == 4
    assert err.endswith("graphfathom: Training failed with RuntimeError: no luck\n")


def test_files_that_cannot_be_written(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", refuse)
    code, _, err = run(DEEP, capsys)
    assert code == 2
    assert "`--out` must be a folder to write to: disk full." in err


def test_a_depth_that_cannot_be_stabilized_is_a_note(
    fails: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    fails(RewriteError("no step"), 2)
    code, out, _ = run(f"{DEEP} --depths 2", capsys)
    assert code == 0
    record = json.loads(Path("report/stabilize.json").read_text())
    sweep = record["sweep"]
    assert [row["run"] for row in sweep["rows"]] == ["original"]
    assert sweep["notes"] == ["2 layers, not stabilized: no step"]
    assert sweep["notes"][0] in out
