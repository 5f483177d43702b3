"""Find out why a deep graph network does not learn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphfathom import datasets, diagnostics, linalg, nn, plotting, training
    from graphfathom.diagnostics.report import Report
    from graphfathom.diagnostics.trace import capture
    from graphfathom.problem import Problem
    from graphfathom.verbs import controls, diagnose

__version__ = "0.1.0"

__all__ = [
    "Problem",
    "Report",
    "capture",
    "controls",
    "datasets",
    "diagnose",
    "diagnostics",
    "linalg",
    "nn",
    "plotting",
    "training",
]

_HOME = {
    "Problem": "graphfathom.problem",
    "Report": "graphfathom.diagnostics.report",
    "capture": "graphfathom.diagnostics.trace",
    "controls": "graphfathom.verbs",
    "diagnose": "graphfathom.verbs",
}


def __getattr__(name: str) -> Any:
    # Lazily: importing torch_geometric takes seconds, which `--help` must not pay.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in __all__:
        return importlib.import_module(f"graphfathom.{name}")
    raise AttributeError(f"module 'graphfathom' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
