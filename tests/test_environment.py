"""What this machine has."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from raw_files import go_offline, write_minesweeper

from graphfathom.datasets import DataError
from graphfathom.environment import examine, render


@pytest.fixture(autouse=True)
def _workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go_offline(monkeypatch, tmp_path / "cache")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of packages that look installed, and break when imported."""
    names: set[str] = set()
    find_spec = importlib.util.find_spec

    def find(name: str, package: str | None = None) -> Any:
        if name in names:
            return importlib.machinery.ModuleSpec(name, None)
        return find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find)
    return names


def test_versions_and_machine() -> None:
    facts = examine(None, online=False)
    # A build may carry a local suffix in one of the two: 2.6.0 and 2.6.0+cu124.
    expected = str(torch.__version__).partition("+")[0]
    assert facts["versions"]["torch"].partition("+")[0] == expected
    assert "cpu" in facts["machine"]["devices"]
    assert facts["machine"]["threads"] == f"{torch.get_num_threads()} of torch"
    assert facts["problems"] == []
    assert "network" not in facts


def test_a_required_package_that_does_not_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    facts = examine(None, online=False)
    assert facts["versions"]["scipy"] == "broken"
    (problem,) = facts["problems"]
    assert problem.startswith("scipy cannot be imported (ModuleNotFoundError: ")


def test_a_broken_extension_is_a_problem(installed: set[str]) -> None:
    installed.add("torch_sparse")
    facts = examine(None, online=False)
    assert facts["packages"]["torch_sparse"] == "broken"
    (problem,) = facts["problems"]
    assert "remove it, or install the build for this version of torch" in problem


def test_an_unwanted_package_is_named_and_not_imported(installed: set[str]) -> None:
    installed.add("ogb")
    facts = examine(None, online=False)
    assert facts["packages"]["ogb"].startswith("installed, not used by us: starts a")
    assert facts["problems"] == []
    assert "ogb" not in sys.modules


def test_data_sets_are_found(tmp_path: Path) -> None:
    raw = write_minesweeper(tmp_path / "data")
    downloaded = tmp_path / "cache" / "graphfathom" / "data" / "Texas-download"
    downloaded.mkdir(parents=True)
    data = examine(tmp_path / "data", online=False)["data"]
    assert data["folder"] == str(tmp_path / "data")
    assert data["Minesweeper"] == str(raw)
    assert data["Texas"] == "downloaded"
    assert data["not here"].startswith("Cora, CiteSeer, PubMed, Wisconsin")


def test_no_folder_is_said() -> None:
    data = examine(None, online=False)["data"]
    assert data["folder"] == "none set (GRAPHFATHOM_DATA)"


def test_a_folder_that_does_not_exist() -> None:
    with pytest.raises(DataError, match=r"`data_dir` must be a folder of data sets"):
        examine("/no/where", online=False)


def test_the_network_is_only_asked_on_request() -> None:
    network = examine(None, online=True)["network"]
    assert network["github.com"] == "Network is unreachable"


def test_render() -> None:
    facts = {"versions": {"a": "1", "bc": "2"}, "packages": {}, "problems": ["one"]}
    expected = "versions\n  a   1\n  bc  2\npackages\n  none\nproblems\n  one"
    assert render(facts) == expected
