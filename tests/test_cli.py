"""The command line: options, streams, training, the data set taken."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from command_line import OWN, Calls, process, replace_diagnosis, run
from raw_files import write_minesweeper
from report_factory import make_report

import graphfathom
from graphfathom import cli, verbs
from graphfathom.diagnostics.report import Report

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return replace_diagnosis(monkeypatch)


@pytest.mark.parametrize(
    "line", ["--help", "diagnose --help", "stabilize --help", "doctor --help"]
)
def test_help_does_not_import_torch(line: str) -> None:
    code = (
        "import sys; from graphfathom.cli import main; "
        f"code = main({line.split()}); "
        "heavy = {'torch', 'torch_geometric', 'matplotlib', 'numpy', 'rich'}; "
        "print(code, heavy & set(sys.modules))"
    )
    found = process(code=code)
    assert found.stdout.endswith("0 set()\n")
    assert found.stderr == ""


def test_help_names_every_command_and_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run("--help", capsys)
    assert (code, err) == (0, "")
    for word in ("diagnose", "stabilize", "doctor", "--version", "130 interrupted"):
        assert word in out


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("diagnose --help", capsys)
    assert code == 0
    for option in dataclasses.fields(cli.Diagnose)[1:]:
        assert f"--{option.name.replace('_', '-')} " in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    expected = (0, f"graphfathom {graphfathom.__version__}\n", "")
    assert run("--version", capsys) == expected


def test_no_color(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[" in run("--help", capsys)[1]
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, _ = run("--help", capsys)
    assert code == 0
    assert "diagnose" in out
    assert "\x1b[" not in out
    assert "\x1b[" not in run("diagnose --contrls", capsys)[2]


def test_defaults(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, _ = run(OWN, capsys)
    assert code == 0
    assert repr(calls.model) == "GCN(3, 2, num_layers=64)"
    assert calls.data.num_nodes == 6
    progress = calls[0].pop("progress")
    assert callable(progress)
    expected = {"layers": None, "mode": "auto", "controls": "untrained", "seed": 0}
    assert calls == [expected | {"deep": False, "max_seconds": 300.0}]


def test_data_goes_to_stdout_and_progress_to_stderr(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(OWN, capsys)
    assert code == 0
    assert "CRITICAL" in out
    assert out.endswith("\nReport written to report/report.html\n")
    assert err == "graphfathom: user_code:load\ngraphfathom: stage one\n"
    assert Path("report/report.html").is_file()


def test_quiet(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(f"{OWN} --quiet", capsys)
    assert (code, err) == (0, "")
    assert out.endswith("Report written to report/report.html\n")


def test_json_is_the_report(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(f"{OWN} --json --out here/and/there", capsys)
    assert code == 0
    assert json.loads(out) == json.loads(Path("here/and/there/report.json").read_text())
    assert err.endswith("graphfathom: report written to here/and/there/report.html\n")
    assert run(f"{OWN} --json --quiet", capsys)[2] == ""


def test_the_report_says_what_was_asked(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    run(f"{OWN} --seed 3", capsys)
    report = Report.load("report")
    assert report.data["name"] == "user_code:load"
    command = "graphfathom diagnose --data user_code:load --seed 3"
    assert report.settings["command"] == command
    assert "data_note" not in report.settings


@pytest.mark.parametrize(
    ("fail_on", "expected"), [("never", 0), ("warning", 1), ("critical", 1)]
)
def test_fail_on(
    fail_on: str, expected: int, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{OWN} --fail-on {fail_on}", capsys)[0] == expected


def test_fail_on_lets_lesser_findings_pass(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = make_report(8, "healthy", controls=False)
    monkeypatch.setattr(verbs, "diagnose", lambda *_, **__: report)
    assert report.severity != "critical"
    assert run(f"{OWN} --fail-on critical", capsys)[0] == 0


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("", "untrained"),
        ("--controls", "trained"),
        ("--controls none", "none"),
        ("--controls=untrained", "untrained"),
        ("--controls --quiet", "trained"),
    ],
)
def test_controls(
    option: str, expected: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"{OWN} {option}", capsys)[0] == 0
    assert calls[0]["controls"] == expected


def test_bare_controls_before_the_data_set(
    calls: Calls, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_minesweeper(tmp_path / "data")
    line = f"diagnose --controls Minesweeper --data-dir {tmp_path}/data"
    assert run(line, capsys)[0] == 0
    assert calls[0]["controls"] == "trained"
    assert calls.data.num_nodes == 8
    assert Report.load("report").data["name"] == "Minesweeper"


def test_model_options(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    line = "--model GCN --layers 5 --hidden 8 --norm batch --dropout 0.5 --act tanh"
    assert run(f"{OWN} {line} --mode init --dtype float64", capsys)[0] == 0
    assert repr(calls.model) == "GCN(3, 2, num_layers=5)"
    assert calls.model.dropout.p == 0.5
    assert calls.model.hidden_channels == 8
    assert next(calls.model.parameters()).dtype == torch.float64
    assert calls.data.x.dtype == torch.float64
    assert calls[0]["mode"] == "init"


def test_layer_names(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    run(f"{OWN} --layer-names blocks.*", capsys)
    run(f"{OWN} --model mlp", capsys)
    run(f"{OWN} --model mlp --layer-names norms.*", capsys)
    assert [call["layers"] for call in calls] == ["blocks.*", "lins.*", "norms.*"]


def test_the_seed_sets_the_weights_and_nothing_else(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = []
    state = torch.random.get_rng_state()
    for seed in (1, 1, 2):
        run(f"{OWN} --seed {seed} --layers 2", capsys)
        weights.append(calls.model.convs[0].lin.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert calls[2]["seed"] == 2
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_of_the_user(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"{OWN} --model user_code:build", capsys)[0] == 0
    assert repr(calls.model) == "GCN(3, 2, num_layers=3)"


def test_training_first(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(f"{OWN} --model mlp --layers 2 --epochs 30", capsys)
    assert code == 0
    assert "epoch 30 of 30" in err
    assert calls[0]["mode"] == "eval"
    assert not calls.model.training
    report = Report.load("report")
    said = report.settings["training"]
    assert said.startswith("Trained for 30 epochs before the diagnosis")
    assert said in report.notes
    first, last = (float(word.strip(".")) for word in said.split()[-3::2])
    assert last < first


def test_the_mode_asked_for_holds_after_training(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    run(f"{OWN} --layers 2 --epochs 1 --mode init", capsys)
    assert calls[0]["mode"] == "init"


def test_training_that_diverges_is_said(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.py").write_text(
        "from user_code import load\n"
        "def data():\n"
        "    return load(), {'loss': lambda output, target: output.sum() * 1e38 * 1e38}"
    )
    code, _, _ = run("diagnose --data bad:data --layers 2 --epochs 5", capsys)
    assert code == 0
    said = Report.load("report").settings["training"]
    assert said == "Training diverged: diagnosed as it was after 0 of 5 epochs."


def test_arguments_beside_the_data(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pair.py").write_text(
        "from user_code import load\ndef data():\n    return load(), {'target': 'y'}"
    )
    assert run("diagnose --data pair:data", capsys)[0] == 0
    assert calls[0]["target"] == "y"


def test_without_cora_a_generated_graph_and_a_word_about_it(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in ("diagnose --quiet", "diagnose Cora --quiet"):
        code, _, err = run(line, capsys)
        assert code == 0
        assert err.startswith("graphfathom: A generated graph of Cora's size was used.")
        assert "ind.cora.x is missing" in err
        assert calls.data.num_nodes == 2708
        report = Report.load("report")
        assert report.settings["data_note"] == report.notes[0]
        assert report.notes[0] in err
        assert report.data["name"] == "synthetic Cora"


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("doctor", capsys)
    assert (code, err) == (0, "")
    assert "torch_geometric" in out
    assert json.loads(run("doctor --json", capsys)[1])["problems"] == []


def test_the_real_thing() -> None:
    found = process("diagnose", "--data", "user_code:load", "--layers", "3")
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("Report written to report/report.html\n")
    assert Report.load("report").layers == ("convs.0", "convs.1", "convs.2")
