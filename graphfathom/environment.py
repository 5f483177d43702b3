"""What this machine has: versions, devices, packages that do harm, data sets."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
from typing import Any

from graphfathom.datasets import NAMES, cache_folder, data_folder, locate
from graphfathom.datasets.loading import probe
from graphfathom.datasets.sources import SOURCES

__all__ = ["examine", "render"]

REQUIRED = {
    "torch": "torch",
    "torch_geometric": "torch_geometric",
    "numpy": "numpy",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "tyro": "tyro",
    "Jinja2": "jinja2",
}
"""Distribution and module of what GraphFathom cannot do without."""

UNWANTED = {
    "torchvision": "breaks imports where its version does not match torch",
    "torchmetrics": "breaks imports where its version does not match torch",
    "ogb": "starts a thread that asks the network when it is imported",
    "mlflow": "downgrades other packages",
    "aim": "downgrades other packages",
}
"""Packages that GraphFathom does not use, and why."""

EXTENSIONS = ("pyg_lib", "torch_scatter", "torch_sparse", "torch_cluster")
"""Compiled companions of PyG: not needed, but harmful where they do not load."""


def examine(data_dir: str | os.PathLike[str] | None, online: bool) -> dict[str, Any]:
    """Collect the facts.

    Args:
        data_dir: Folder of data sets; ``GRAPHFATHOM_DATA`` if None.
        online: Whether to try to reach the servers of the data sets.

    Returns:
        Facts by section; ``problems`` lists what must be put right.

    Raises:
        DataError: If the folder of data sets does not exist.
    """
    problems: list[str] = []
    facts: dict[str, Any] = {
        "versions": _versions(problems),
        "machine": _machine(),
        "packages": _packages(problems),
        "data": _data(data_dir),
    }
    if online:
        hosts = dict.fromkeys(source.host for source in SOURCES)
        facts["network"] = {host: probe(host) or "reachable" for host in hosts}
    facts["problems"] = problems
    return facts


def render(facts: dict[str, Any]) -> str:
    """The facts as text, one section after the other.

    Args:
        facts: What :func:`examine` returned.

    Returns:
        Lines without colours.
    """
    lines: list[str] = []
    for section, content in facts.items():
        lines.append(section)
        if not content:
            lines.append("  none")
        elif isinstance(content, dict):
            width = max(len(key) for key in content)
            lines += [f"  {key:<{width}}  {value}" for key, value in content.items()]
        else:
            lines += [f"  {each}" for each in content]
    return "\n".join(lines)


def _versions(problems: list[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for distribution, module in {"graphfathom": "graphfathom", **REQUIRED}.items():
        try:
            importlib.import_module(module)
            found[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[distribution] = "not installed, imported from a folder"
        except Exception as error:
            found[distribution] = "broken"
            kind = type(error).__name__
            problems.append(f"{module} cannot be imported ({kind}: {error}).")
    return found


def _machine() -> dict[str, str]:
    import torch

    devices = ["cpu"]
    for place in range(torch.cuda.device_count()):
        devices.append(f"cuda:{place} ({torch.cuda.get_device_name(place)})")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {
        "system": platform.platform(),
        "devices": ", ".join(devices),
        "cores": str(os.cpu_count()),
        "threads": f"{torch.get_num_threads()} of torch",
    }


def _packages(problems: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in EXTENSIONS:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            importlib.import_module(name)
            found[name] = "works"
        except Exception as error:
            found[name] = "broken"
            kind = type(error).__name__
            problems.append(
                f"{name} cannot be imported ({kind}: {error}): remove it, or install "
                "the build for this version of torch."
            )
    for name, reason in UNWANTED.items():
        if name in sys.modules or importlib.util.find_spec(name) is not None:
            found[name] = f"installed, not used by us: {reason}"
    return found


def _data(data_dir: str | os.PathLike[str] | None) -> dict[str, str]:
    folder = data_folder(data_dir)
    found = {name: locate(name, data_dir) for name in NAMES}
    downloaded = [
        name
        for name in NAMES
        if (cache_folder() / "data" / f"{name}-download").is_dir()
    ]
    missing = [name for name in NAMES if not found[name] and name not in downloaded]
    return {
        "folder": str(folder or "none set (GRAPHFATHOM_DATA)"),
        "cache": str(cache_folder()),
        **{name: str(place) for name, place in found.items() if place},
        **{name: "downloaded" for name in downloaded if not found[name]},
        "not here": ", ".join(missing) or "none",
    }
