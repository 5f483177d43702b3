"""A place to run the command line in: a folder, a module of the user, no network."""

from __future__ import annotations

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
from graphfathom.diagnostics.report import Report

__all__ = ["OWN", "Calls", "enter_workplace", "process", "replace_diagnosis", "run"]

OWN = "diagnose --data user_code:load"
"""A command on data of the user."""

USER_CODE = """
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCN


def load():
    ring = torch.stack([torch.arange(6), torch.arange(6).roll(1)])
    x = torch.linspace(-1, 1, 18).reshape(6, 3)
    return Data(x=x, edge_index=ring, y=torch.arange(6) % 2)


def unlabelled():
    data = load()
    del data.y
    return data


def build(in_channels, out_channels, num_layers=3):
    return GCN(in_channels, 4, num_layers, out_channels)


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


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command line in this process."""
    code = cli.main(line.split())
    return code, *capsys.readouterr()


def process(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    """The command line, or a piece of code, in a process of its own."""
    command = ["-c", code] if code else ["-m", "graphfathom.cli", *arguments]
    root = str(Path(graphfathom.__file__).parent.parent)
    folders = {"PYTHONPATH": root, "TMPDIR": tempfile.gettempdir()}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env={**os.environ, **folders},
    )
