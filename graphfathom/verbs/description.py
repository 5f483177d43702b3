"""What a report says about the model, the data and the versions."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.sandbox import dtype_name
from graphfathom.problem import Problem

__all__ = ["describe_data", "describe_model", "versions"]


def describe_model(model: nn.Module, layers: tuple[str, ...]) -> dict[str, Any]:
    """Name, number of layers and parameters, precision and device."""
    parameters = list(model.parameters())
    first = parameters[0] if parameters else torch.empty(0)
    return {
        "name": type(model).__name__,
        "layers": len(layers),
        "parameters": sum(p.numel() for p in parameters),
        "dtype": dtype_name(first.dtype),
        "device": str(first.device),
    }


def describe_data(problem: Problem, table: Observations) -> dict[str, Any]:
    """Kind, sizes and classes."""
    x = None if problem.is_call else problem.data.get("x")
    described = {
        "name": type(problem.data).__name__,
        "nodes": sum(problem.num_nodes),
        "edges": problem.num_edges,
        "features": x.size(-1) if isinstance(x, Tensor) else None,
        "classes": problem.num_classes,
    }
    for row in table.select(place="model"):
        if row.name in ("data.components", "data.diameter"):
            described[row.name.removeprefix("data.")] = int(row.value)
    return {key: value for key, value in described.items() if value is not None}


def versions() -> dict[str, str]:
    """Version of each package that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("graphfathom", "torch", "torch_geometric", "scipy", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
