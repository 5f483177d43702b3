"""The names that ``import graphfathom`` gives, and what it costs to have them."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import graphfathom as gf

PACKAGE = Path(gf.__file__).parent
VERBS = (
    "before_after",
    "calibrate",
    "capture",
    "controls",
    "diagnose",
    "stabilize",
    "to_state_space",
    "unwrap",
)


def in_a_fresh_interpreter(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_dir_lists_all_public_names() -> None:
    assert set(dir(gf)) == {*gf.__all__, "__version__"}
    assert list(gf.__all__) == sorted(gf.__all__)


@pytest.mark.parametrize("name", gf.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(gf, name)
    assert (inspect.getdoc(value) or "").strip()
    assert getattr(gf, name) is value


@pytest.mark.parametrize("name", ["diagnoze", "stabilise", "problem_", "_private"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(
        AttributeError, match=f"'graphfathom' has no attribute '{name}'"
    ):
        getattr(gf, name)


def test_a_star_import_gives_the_public_names() -> None:
    code = "from graphfathom import *; print(*[n for n in dir() if n[:2] != '__'])"
    assert set(in_a_fresh_interpreter(code)) == set(gf.__all__)


def test_dir_costs_nothing() -> None:
    code = "import sys, graphfathom as gf; dir(gf); print(*sys.modules)"
    assert "torch" not in in_a_fresh_interpreter(code)


@pytest.mark.parametrize("name", ["diagnose", "linalg"])
def test_names_are_loaded_when_they_are_asked_for(name: str) -> None:
    code = (
        "import sys, graphfathom as gf; "
        f"assert 'torch' not in sys.modules; gf.{name}; "
        "print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    )
    assert in_a_fresh_interpreter(code) == ["True", "False"]


@pytest.mark.parametrize("verb", VERBS)
def test_no_module_bears_the_name_of_a_verb(verb: str) -> None:
    """It would shadow the function once it is imported."""
    assert callable(getattr(gf, verb))
    assert not (PACKAGE / f"{verb}.py").exists()
    assert not (PACKAGE / verb).exists()


def test_names_are_the_objects_of_their_modules() -> None:
    for name, home in {
        "Problem": "problem",
        "Report": "diagnostics.report",
        "before_after": "verbs",
        "calibrate": "calibration",
        "capture": "diagnostics.trace",
        "controls": "verbs",
        "diagnose": "verbs",
        "stabilize": "verbs",
        "to_state_space": "rewrite",
        "unwrap": "rewrite",
    }.items():
        module = importlib.import_module(f"graphfathom.{home}")
        assert getattr(gf, name) is getattr(module, name)
        assert name in module.__all__


def public_modules() -> list[str]:
    files = (file for file in PACKAGE.rglob("*.py") if file.name != "conftest.py")
    parts = (file.relative_to(PACKAGE.parent).with_suffix("").parts for file in files)
    names = {".".join(p[:-1] if p[-1] == "__init__" else p) for p in parts}
    return sorted(name for name in names if "__main__" not in name)


@pytest.mark.parametrize("name", public_modules())
def test_every_exported_name_exists(name: str) -> None:
    module = importlib.import_module(name)
    exported = getattr(module, "__all__", [])
    assert all(hasattr(module, export) for export in exported)
    assert len(set(exported)) == len(exported)
    assert (module.__doc__ or "").strip()


@pytest.mark.parametrize("verb", [gf.diagnose, gf.stabilize])
def test_options_are_keywords(verb: Callable[..., Any]) -> None:
    parameters = inspect.signature(verb).parameters
    positional = [p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]
    assert positional == ["model", "data"]


def test_the_version_is_a_release() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", gf.__version__)
