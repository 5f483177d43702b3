"""``graphfathom stabilize``: options, streams, files, refusals."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import (
    DEEP,
    Calls,
    make_calibration,
    process,
    replace_stabilization,
    run,
)
from torch_geometric.nn import GCN

from graphfathom import cli, verbs
from graphfathom.cli.stabilization import FORMAT
from graphfathom.diagnostics.report import Report
from graphfathom.problem import Problem
from graphfathom.verbs.side_by_side import side_by_side

pytestmark = pytest.mark.usefixtures("workplace")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return replace_stabilization(monkeypatch)


def record(folder: str = "report") -> dict[str, Any]:
    return json.loads(Path(folder, "stabilize.json").read_text())


def scores(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All but the time."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("stabilize --help", capsys)
    assert code == 0
    for option in dataclasses.fields(cli.Stabilize)[1:]:
        assert f"--{option.name.replace('_', '-')} " in out


def test_defaults(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stabilize --data user_code:masked --epochs 0", capsys)[0] == 0
    assert repr(calls.model) == "GCN(3, 2, num_layers=64)"
    assert callable(calls[0].pop("progress"))
    assert calls == [{"layers": None, "strength": None, "seed": 0}]
    assert cli.Stabilize().epochs == 200


def test_tables_go_to_stdout_and_progress_to_stderr(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(DEEP, capsys)
    assert code == 0
    assert out.startswith(f"{make_calibration()}\n\nTrained for 2 epochs each: ")
    for network in ("GCN  ", "GCN, stabilized  ", "MLP, no graph  "):
        assert f"\n  {network}" in out
    assert "Report written to report/report.html" in out
    assert "Weights written to report/stabilized.pt" in out
    lines = err.splitlines()
    assert lines[:4] == [
        "graphfathom: user_code:masked",
        "graphfathom: strength 1",
        "graphfathom: measuring the network before and after",
        "graphfathom: states",
    ]
    assert lines[4].startswith("graphfathom: GCN: epoch 1 of 2: loss ")
    assert len(lines) == 4 + 4 * 2
    assert "\x1b[" not in out + err


def test_quiet(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(f"{DEEP} --quiet", capsys)
    assert (code, err) == (0, "")
    assert "Trained for 2 epochs" in out


def test_json_is_the_file(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(f"{DEEP} --json --out here/there", capsys)
    assert code == 0
    found = json.loads(out)
    assert found == record("here/there")
    assert found["format"] == FORMAT
    assert found["calibration"] == json.loads(json.dumps(make_calibration().to_dict()))
    assert found["command"] == f"graphfathom {DEEP} --json --out here/there"
    assert found["data"]["name"] == "user_code:masked"
    assert (found["report"], found["weights"]) == ("report.html", "stabilized.pt")
    assert found["sweep"] is None
    assert err.endswith("graphfathom: report written to here/there/report.html\n")
    assert run(f"{DEEP} --json --quiet", capsys)[2] == ""


def test_numbers_that_json_does_not_have_are_words(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = verbs.stabilize

    def stabilize(problem: Problem, **options: Any) -> Any:
        deep: Any = given(problem, **options)
        deep.calibration = dataclasses.replace(deep.calibration, radius=float("nan"))
        return deep

    monkeypatch.setattr(verbs, "stabilize", stabilize)
    assert run(f"{DEEP} --json", capsys)[0] == 0
    assert record()["calibration"]["radius"] == "nan"


def test_the_table_is_that_of_the_library(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    run(f"{DEEP} --seed 3", capsys)
    problem = Problem(calls.model, calls.data)
    torch.manual_seed(3)
    short = GCN(3, 4, 2, 2)
    table = side_by_side(problem, calls.model, short=short, epochs=2, seed=3)
    found = record()["training"]
    assert scores(found["rows"]) == scores(
        json.loads(json.dumps(table.to_dict()))["rows"]
    )
    assert found["seed"] == 3


def test_the_weights_are_written(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    run(f"{DEEP} --epochs 0", capsys)
    untrained = torch.load("report/stabilized.pt")
    for name, value in calls.model.state_dict().items():
        assert torch.equal(value, untrained[name])
    run(DEEP, capsys)
    trained = torch.load("report/stabilized.pt")
    assert not torch.equal(trained["convs.0.bias"], untrained["convs.0.bias"])
    calls.model.load_state_dict(trained)


def test_without_training(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    line = "stabilize --data user_code:unlabelled --layers 3 --epochs 0"
    code, out, _ = run(line, capsys)
    assert code == 0
    assert "Trained" not in out
    assert record()["training"] is None
    assert "training" not in Report.load("report").settings


def test_the_report_has_the_scores_after_training(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    run(DEEP, capsys)
    report = Report.load("report")
    rows = {row["run"]: row for row in record()["training"]["rows"]}
    for run_name, key in (("model", "stabilized"), ("original", "original")):
        name = f"{run_name} (trained)"
        expected = rows[key]["last"]
        assert report.observations.value("loss", run=name) == expected["loss"]
        for split, value in expected["accuracy"].items():
            found = report.observations.value(f"accuracy.{split}", run=name)
            assert found == value
    assert report.model["name"] == "GCN in state-space form"
    assert report.data["name"] == "user_code:masked"
    assert report.settings["command"] == f"graphfathom {DEEP}"
    assert report.settings["training"] in report.notes


def test_depths(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(f"{DEEP} --depths 2 3", capsys)
    assert code == 0
    rows = record()["sweep"]["rows"]
    found = [(row["run"], row["layers"]) for row in rows]
    assert found == [
        ("original", 2),
        ("stabilized", 2),
        ("original", 3),
        ("stabilized", 3),
    ]
    assert "\nAt each depth\nTrained for 2 epochs each" in out
    assert "graphfathom: 2 layers\n" in err
    again = Path("again")
    run(f"{DEEP} --layers 3 --out again", capsys)
    expected = record(str(again))["training"]["rows"][:2]
    assert scores(rows[2:]) == scores(expected)


def test_options_reach_the_library(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "--strength 0.5 --seed 2 --layer-names convs.* --dtype float64"
    model = "--model GCN --hidden 8 --norm batch --dropout 0.5 --act tanh"
    assert run(f"{DEEP} {line} {model} --device cpu", capsys)[0] == 0
    assert (calls[0]["strength"], calls[0]["seed"]) == (0.5, 2)
    assert calls[0]["layers"] == "convs.*"
    assert calls.reported == {"layers": "convs.*", "seed": 2}
    assert calls.model.hidden_channels == 8
    assert calls.model.dropout.p == 0.5
    assert next(calls.model.parameters()).dtype == torch.float64
    assert calls.data.x.dtype == torch.float64


def test_the_random_state_of_the_caller_stays(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.random.get_rng_state()
    run(f"{DEEP} --dropout 0.5 --depths 2", capsys)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("model", "depth", "short"),
    [("build", 3, 2), ("fixed", 5, 2), ("deep_only", 64, 2)],
)
def test_a_model_of_the_user(
    model: str,
    depth: int,
    short: int,
    calls: Calls,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = f"stabilize --data user_code:masked --epochs 1 --model user_code:{model}"
    assert run(line, capsys)[0] == 0
    rows = record()["training"]["rows"]
    assert [row["layers"] for row in rows] == [depth, depth, short, 2]


def test_arguments_beside_the_data(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pair.py").write_text(
        "from user_code import load\n"
        "def data():\n"
        "    graph = load()\n"
        "    graph.label = graph.y\n"
        "    del graph.y\n"
        "    return graph, {'target': 'label'}\n"
    )
    line = "stabilize --data pair:data --layers 3 --hidden 4 --epochs 1"
    assert run(line, capsys)[0] == 0


def test_a_bar_on_a_terminal(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = run(DEEP, capsys)
    assert code == 0
    assert "training MLP, no graph" in err
    assert "8 of 8 epochs" in err
    assert "epoch 1 of 2" not in err
    assert "\x1b[" not in out
    assert "\x1b[" in err
    assert run(f"{DEEP} --quiet", capsys)[2] == ""
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in run(DEEP, capsys)[2]


def test_the_real_thing() -> None:
    options = ("--layers", "12", "--hidden", "16", "--epochs", "20", "--dropout", "0.2")
    found = process("stabilize", "--data", "user_code:graph", *options)
    assert found.returncode == 0, found.stderr
    assert "(a) features" in found.stdout
    assert "GCN, stabilized" in found.stdout
    page = Path("report/report.html").read_text()
    assert "before stabilizing" in page
    assert "GCN in state-space form" in page
    training = {row["run"]: row for row in record()["training"]["rows"]}
    assert training["stabilized"]["parameters"] == training["original"]["parameters"]
    report = Report.load("report")
    assert report.observations.series("gradient.state", "original")[0]
    weights = torch.load("report/stabilized.pt")
    GCN(16, 16, 12, 3).load_state_dict(weights)
