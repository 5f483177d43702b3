"""A place to run the command line in: a folder, a module of the user, no network."""

from __future__ import annotations

import copy
import dataclasses
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from raw_files import go_offline
from report_factory import make_report
from torch import nn

import graphfathom
from graphfathom import cli, verbs
from graphfathom.calibration import Calibration, Criteria
from graphfathom.diagnostics.report import Report
from graphfathom.problem import Problem

__all__ = [
    "DEEP",
    "OWN",
    "Calls",
    "enter_workplace",
    "make_calibration",
    "process",
    "replace_diagnosis",
    "replace_stabilization",
    "run",
]

OWN = "diagnose --data user_code:load"
"""A command on data of the user."""

DEEP = "stabilize --data user_code:masked --layers 4 --hidden 4 --epochs 2"
"""Another one, small enough to be trained."""

USER_CODE = """
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCN


def load():
    ring = torch.stack([torch.arange(6), torch.arange(6).roll(1)])
    x = torch.linspace(-1, 1, 18).reshape(6, 3)
    return Data(x=x, edge_index=ring, y=torch.arange(6) % 2)


def masked():
    data = load()
    data.train_mask = torch.arange(6) < 3
    data.val_mask = torch.arange(6) == 3
    data.test_mask = torch.arange(6) > 3
    return data


def graph():
    from graphfathom.datasets import csbm

    return csbm(60, 3, avg_degree=4, homophily=0.8, seed=0)


def unlabelled():
    data = load()
    del data.y
    return data


def build(in_channels, out_channels, num_layers=3):
    return GCN(in_channels, 4, num_layers, out_channels)


def fixed(in_channels, out_channels):
    return GCN(in_channels, 4, 5, out_channels)


def deep_only(in_channels, out_channels, num_layers):
    if num_layers < 3:
        raise ValueError("too shallow")
    return GCN(in_channels, 4, num_layers, out_channels)


def widening(in_channels, out_channels):
    from torch_geometric.nn import GCNConv, Sequential

    layers = [
        (GCNConv(i, o), "x, edge_index -> x")
        for i, o in [(in_channels, 5), (5, 6), (6, 7), (7, out_channels)]
    ]
    return Sequential("x, edge_index", layers)


def broken():
    raise RuntimeError("no luck")


class Breaking(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = torch.nn.Linear(3, 2)

    def forward(self, x, edge_index):
        raise RuntimeError("no luck")
"""


class Calls(list[dict[str, Any]]):
    """What ``diagnose`` was called with."""

    model: nn.Module
    data: Any
    reported: dict[str, Any]
    """What ``before_after`` was called with."""


def enter_workplace(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """A folder with a module of the user, no network, no data, a cache of its own."""
    go_offline(monkeypatch, folder / "cache")
    (folder / "work").mkdir()
    (folder / "work" / "user_code.py").write_text(USER_CODE)
    monkeypatch.chdir(folder / "work")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.delitem(sys.modules, "user_code", raising=False)


def replace_diagnosis(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replaces the diagnosis by a made-up report and records its arguments."""
    calls = Calls()

    def diagnose(model: nn.Module, data: Any = None, **options: Any) -> Report:
        options["progress"]("stage one")
        calls.model, calls.data = model, data
        calls.append(options)
        return make_report(8)

    monkeypatch.setattr(verbs, "diagnose", diagnose)
    # Seconds of drawing, which other tests look at.
    monkeypatch.setattr("graphfathom.plotting.figures", lambda report: {})
    monkeypatch.setattr("graphfathom.html.render", lambda report: "")
    return calls


def make_calibration() -> Calibration:
    """A made-up calibration."""
    measured = {field.name: 0.75 for field in dataclasses.fields(Criteria)}
    runs = tuple(Criteria(**{**measured, "mode": mode}) for mode in ("train", "eval"))
    return Calibration(
        strength=2.0,
        radius=0.9,
        input_scale=1.0,
        num_steps=4,
        state="Scalar(0.9)",
        input="Centered(1)",
        before=runs,
        after=runs,
    )


def replace_stabilization(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Replaces the calibration and the report by made-up ones; records arguments."""
    calls = Calls()

    def stabilize(problem: Problem, **options: Any) -> nn.Module:
        options["progress"]("strength 1")
        calls.model, calls.data = problem.model, problem.data
        calls.append(options)
        deep: Any = copy.deepcopy(problem.model)
        deep.calibration = make_calibration()
        return deep

    def before_after(problem: Problem, deep: nn.Module, **options: Any) -> Report:
        options.pop("progress")("states")
        calls.reported = options
        report = make_report(8, "healthy", controls=False)
        return dataclasses.replace(report, settings={**report.settings, **options})

    monkeypatch.setattr(verbs, "stabilize", stabilize)
    monkeypatch.setattr(verbs, "before_after", before_after)
    monkeypatch.setattr("graphfathom.plotting.figures", lambda report: {})
    monkeypatch.setattr("graphfathom.html.render", lambda report: "")
    return calls


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line in this process."""
    code = cli.main(line.split())
    return code, *capsys.readouterr()


def process(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """The command line, or a piece of code, in a process of its own."""
    command = ["-c", code] if code else ["-m", "graphfathom", *arguments]
    root = str(Path(graphfathom.__file__).parent.parent)
    folders = {"PYTHONPATH": root, "TMPDIR": tempfile.gettempdir()}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env={**os.environ, **folders},
    )
