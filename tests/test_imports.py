"""The architecture: who may import whom, what stays light, how long things may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "graphfathom"

LADDER: dict[str, set[str]] = {
    "nn": set(),
    "linalg": set(),
    "validation": set(),
    "problem": {"validation"},
    "training": set(),
    "plotting": {"diagnostics.observations"},
    "terminal": {"plotting"},
    "html": {"diagnostics.observations", "plotting", "terminal"},
    "transforms": {"nn.propagation"},
    "datasets": {"transforms"},
    "theory": {"linalg"},
    "diagnostics": {"validation", "problem", "linalg", "theory"},
    # To record a network and to run it as a diagnosis does; a trace is not needed.
    "rewrite": {"nn", "diagnostics", "problem", "validation"},
    "calibration": {"nn", "rewrite", "diagnostics", "problem", "validation"},
    "environment": {"datasets"},
    "inputs": {"datasets", "nn", "validation", "problem"},
    "monitoring": {"diagnostics", "linalg", "problem", "validation", "verbs"},
    "verbs": {"rewrite", "calibration", "diagnostics", "problem", "training", "nn"},
}
"""Room -> what it may import of this package; a name covers everything below it."""

WIDE = {"", "cli", "__main__", "experiments"}
"""Rooms that may import every other, but for :data:`CLOSED`. "" is the package."""

CLOSED = {"experiments": {"cli"}, "cli": {"__main__"}, "": {"cli", "experiments"}}
"""Room -> the only rooms that may import it."""

LAZY = {"diagnostics.report": {"html", "plotting", "terminal"}}
"""Module -> what it may import inside its functions only: a report can show itself."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
REASONS = {
    "graphfathom/nn/models.py": "one network, whose options are documented in place",
    "graphfathom/nn/models.py::__init__": "one line for each of its options",
    "tests/nn/test_models.py": "one network with many options",
    "tests/nn/test_state_space.py": "one wrapper around every layer of PyG",
    "graphfathom/plotting/panels.py": "fourteen figures share one way of drawing",
}
"""``"path"`` or ``"path::function"`` -> why it may be longer."""

HEAVY = ("matplotlib", "pandas", "tyro", "rich", "torch_geometric")
REFUSED = ("torchvision", "torchmetrics", "ogb", "mlflow", "seaborn")


def module_files() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if file.name != "conftest.py")


def module_name(file: Path) -> str:
    """Dotted name below the package; "" is the package itself."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def import_nodes(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Import statements that run, and whether they stand inside a function."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, lazy
    if isinstance(node, ast.If) and is_type_checking(node.test):
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for child in children:
        yield from import_nodes(child, inside)


def is_module(name: str) -> bool:
    path = PACKAGE.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def targets(node: ast.stmt, package: list[str]) -> Iterator[str]:
    """Modules of this package that an import statement loads, without the prefix."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        assert isinstance(node, ast.ImportFrom)
        base = package[: len(package) - node.level + 1] if node.level else []
        origin = ".".join([*base, *(node.module or "").split(".")]).strip(".")
        names = [f"{origin}.{alias.name}" for alias in node.names]
    for name in names:
        if name == "graphfathom.__version__" or name.split(".")[0] != "graphfathom":
            continue
        below = name.removeprefix("graphfathom").removeprefix(".")
        while below and not is_module(below):  # `below` ends in a class or function
            below = below.rpartition(".")[0]
        yield below


def imports(source: str, name: str, is_package: bool) -> Iterator[tuple[str, bool]]:
    """What a module imports of this package, and whether inside a function."""
    parts = ["graphfathom", *name.split(".")] if name else ["graphfathom"]
    package = parts if is_package else parts[:-1]
    for node, lazy in import_nodes(ast.parse(source)):
        for target in targets(node, package):
            yield target, lazy


def covers(allowed: set[str], target: str) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in allowed)


def is_allowed(name: str, target: str, lazy: bool) -> bool:
    room, other = name.split(".")[0], target.split(".")[0]
    if room == other:
        return True
    if other in CLOSED:
        return room in CLOSED[other]
    if room in WIDE:
        return True
    lazily = LAZY.get(name, set()) if lazy else set()
    return covers(LADDER[room] | lazily, target)


@pytest.mark.parametrize("file", module_files(), ids=module_name)
def test_import_ladder(file: Path) -> None:
    name = module_name(file)
    room = name.split(".")[0]
    assert room in LADDER or room in WIDE, f"Give {room!r} a place in LADDER."
    found = imports(file.read_text(), name, file.name == "__init__.py")
    broken = [target for target, lazy in found if not is_allowed(name, target, lazy)]
    assert not broken, f"{name} may not import {broken}. See LADDER."


@pytest.mark.parametrize(
    ("statement", "name", "expected"),
    [
        ("import graphfathom.linalg.operator", "problem", ["linalg.operator"]),
        ("from graphfathom.linalg import slq", "problem", ["linalg"]),
        ("from graphfathom import linalg", "problem", ["linalg"]),
        ("from . import linalg", "problem", ["linalg"]),
        ("from ..linalg.operator import slq", "diagnostics.x", ["linalg.operator"]),
        ("from graphfathom import diagnose", "problem", [""]),
        ("from graphfathom import __version__", "problem", []),
        ("import graphfathoms, torch", "problem", []),
        ("if TYPE_CHECKING:\n import graphfathom.linalg", "problem", []),
        ("if t.TYPE_CHECKING:\n pass\nelse:\n from . import linalg", "x", ["linalg"]),
        ("def f():\n from . import linalg", "problem", ["linalg"]),
    ],
)
def test_imports_are_found(statement: str, name: str, expected: list[str]) -> None:
    assert [target for target, _ in imports(statement, name, False)] == expected


@pytest.mark.parametrize(
    ("name", "target", "lazy", "allowed"),
    [
        ("linalg.operator", "linalg.krylov", False, True),
        ("transforms.khop", "nn.propagation", False, True),
        ("transforms.khop", "nn.models", False, False),
        ("verbs", "experiments.spec", True, False),
        ("cli", "experiments.spec", True, True),
        ("experiments.runner", "cli", True, False),
        ("problem", "", True, False),
        ("diagnostics.report", "html", True, True),
        ("diagnostics.report", "html", False, False),
        ("diagnostics.trace", "html", True, False),
    ],
)
def test_the_ladder_refuses(name: str, target: str, lazy: bool, allowed: bool) -> None:
    assert is_allowed(name, target, lazy) is allowed


def loaded_by(code: str, after: str = "") -> set[str]:
    """Top-level packages that code loads in a fresh interpreter."""
    lines = (
        after,
        "import sys",
        "known = set(sys.modules)",
        code,
        "print(*{name.split('.')[0] for name in sys.modules.keys() - known})",
    )
    script = "\n".join(lines)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_import_is_light() -> None:
    loaded = loaded_by("import graphfathom")
    assert "graphfathom" in loaded
    assert not loaded & set(HEAVY)


def test_refused_packages_are_never_imported() -> None:
    names = [f"graphfathom.{module_name(file)}".strip(".") for file in module_files()]
    code = "\n".join(f"import {name}" for name in names if "__main__" not in name)
    # PyG imports torchmetrics by itself where it is installed.
    loaded = loaded_by(
        code, after="import torch_geometric.nn, torch_geometric.datasets"
    )
    assert "graphfathom" in loaded
    assert not loaded & set(REFUSED)


def code_files() -> list[Path]:
    folders = ("graphfathom", "tests", "benchmarks", "examples")
    return sorted(file for name in folders for file in (ROOT / name).rglob("*.py"))


def function_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node, clean=False) else node.body
    last = node.end_lineno or 0
    return last - body[0].lineno + 1 if body else 0


def too_long(file: Path) -> Iterator[tuple[str, int]]:
    """What is over its limit, with its number of lines."""
    path = file.relative_to(ROOT).as_posix()
    text = file.read_text()
    if (lines := len(text.splitlines())) > MAX_FILE_LINES:
        yield path, lines
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = function_lines(node)
            if lines > MAX_FUNCTION_LINES:
                yield f"{path}::{node.name}", lines


def test_long_files_and_functions_have_a_reason() -> None:
    found = dict(entry for file in code_files() for entry in too_long(file))
    unexplained = {name: lines for name, lines in found.items() if name not in REASONS}
    assert not unexplained
    assert not REASONS.keys() - found.keys(), "Remove the reasons no longer needed."
