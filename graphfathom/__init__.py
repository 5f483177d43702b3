"""Find out why a deep graph network does not learn, and make it learn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphfathom import (
        datasets,
        diagnostics,
        linalg,
        monitoring,
        nn,
        plotting,
        theory,
        training,
        transforms,
    )
    from graphfathom.calibration import calibrate
    from graphfathom.diagnostics.report import Report
    from graphfathom.diagnostics.trace import capture
    from graphfathom.monitoring.loop import Monitor
    from graphfathom.problem import Problem
    from graphfathom.rewrite import to_state_space, unwrap
    from graphfathom.verbs import before_after, controls, diagnose, stabilize

__version__ = "0.1.0"

__all__ = [
    "Monitor",
    "Problem",
    "Report",
    "before_after",
    "calibrate",
    "capture",
    "controls",
    "datasets",
    "diagnose",
    "diagnostics",
    "linalg",
    "monitoring",
    "nn",
    "plotting",
    "stabilize",
    "theory",
    "to_state_space",
    "training",
    "transforms",
    "unwrap",
]

_HOME = {
    "Monitor": "graphfathom.monitoring.loop",
    "Problem": "graphfathom.problem",
    "Report": "graphfathom.diagnostics.report",
    "before_after": "graphfathom.verbs",
    "calibrate": "graphfathom.calibration",
    "capture": "graphfathom.diagnostics.trace",
    "controls": "graphfathom.verbs",
    "diagnose": "graphfathom.verbs",
    "stabilize": "graphfathom.verbs",
    "to_state_space": "graphfathom.rewrite",
    "unwrap": "graphfathom.rewrite",
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
