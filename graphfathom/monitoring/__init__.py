"""Cheap measures while a network trains, and where they are written.

``LightningMonitor`` is here too where Lightning is installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphfathom.monitoring.loop import Monitor
    from graphfathom.monitoring.measures import MEASURES
    from graphfathom.monitoring.writers import (
        JsonLines,
        TensorBoard,
        Writer,
        read_json_lines,
    )

__all__ = [
    "MEASURES",
    "JsonLines",
    "Monitor",
    "TensorBoard",
    "Writer",
    "read_json_lines",
]

_HOME = {
    "JsonLines": "writers",
    "LightningMonitor": "lightning",
    "MEASURES": "measures",
    "Monitor": "loop",
    "TensorBoard": "writers",
    "Writer": "writers",
    "read_json_lines": "writers",
}


def __getattr__(name: str) -> Any:
    # Lazily: what a monitor has written is read without PyG, and Lightning is optional.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
