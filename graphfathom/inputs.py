"""Model and data from words: names of ours, or ``module:callable`` of the user."""

from __future__ import annotations

import difflib
import importlib
import inspect
import operator
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data.data import BaseData

from graphfathom.datasets import DataError, UnavailableError, load, synthetic_cora
from graphfathom.nn.zoo import build
from graphfathom.validation import map_tensors

__all__ = [
    "Case",
    "RunError",
    "accepts_depth",
    "called_data",
    "called_model",
    "named_data",
    "named_model",
    "place",
]

DEFAULTS = {"num_layers": 64, "hidden_channels": 64}
"""Depth and width where neither the user nor a callable of the user says any."""

ARGUMENTS = ("forward_fn", "loss", "target", "mask")
"""What a callable may return beside the data: arguments of ``diagnose``."""


class RunError(RuntimeError):
    """A model that cannot be built or trained."""


@dataclass(frozen=True)
class Case:
    """Data to diagnose a model on, and how to speak of them."""

    data: Any
    """What ``diagnose`` takes as its data."""
    name: str
    """A few words for a headline."""
    description: str
    """One line: sizes, split, origin."""
    note: str = ""
    """What the reader of the report must know, or empty."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Further arguments of ``diagnose``."""


def named_data(
    name: str | None,
    data_dir: str | os.PathLike[str] | None,
    progress: Callable[[str], None],
) -> Case:
    """A data set by name; for Cora a generated graph where it cannot be had.

    Args:
        name: Name of a data set; Cora if None.
        data_dir: Folder of data sets.
        progress: Called with a sentence for each stage.

    Returns:
        The data set.

    Raises:
        UnavailableError: If another data set than Cora is neither found nor to be
            downloaded.
        ValueError: If the name is that of a callable.
    """
    if name is not None and ":" in name:
        raise ValueError(
            f"{name!r} is no data set. For your own data write `--data {name}`."
        )
    if name is None:
        progress("no data set named: taking Cora")
    name = name or "Cora"
    try:
        data, description = load(name, data_dir, progress=progress)
    except UnavailableError as error:
        if name.lower() != "cora":
            raise
        note = f"A generated graph of Cora's size was used. {error}"
        return Case(synthetic_cora(), "synthetic Cora", "synthetic_cora(seed=0)", note)
    return Case(data, description.split(":")[0], description)


def called_data(spec: str) -> Case:
    """Data from a callable of the user.

    Args:
        spec: ``module:callable``, called with nothing. It returns the data, or a pair
            of the data and a dictionary with some of :data:`ARGUMENTS`. A graph (PyG's
            data objects can be called) is taken as it is.

    Returns:
        The data and the arguments.

    Raises:
        ValueError: If there is no such callable.
        DataError: If it raises.
    """
    function = _import(spec, "--data")
    if isinstance(function, BaseData):
        return Case(function, spec, spec)
    _arguments(function, {}, {}, spec, "--data")
    try:
        data = function()
    except Exception as error:
        kind = type(error).__name__
        raise DataError(f"`--data {spec}` raised {kind}: {error}") from error
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], dict):
        graph, further = data
        # Anything else is the pair (args, kwargs) of a call of the model.
        if set(further) <= set(ARGUMENTS):
            return Case(graph, spec, spec, arguments=further)
    return Case(data, spec, spec)


def named_model(
    name: str,
    data: Any,
    num_layers: int | None = None,
    hidden_channels: int | None = None,
    **options: Any,
) -> nn.Module:
    """A built-in model of the right width for the data.

    Args:
        name: A name that :func:`graphfathom.nn.zoo.build` knows.
        data: One homogeneous graph with features.
        num_layers: Depth; :data:`DEFAULTS` if None.
        hidden_channels: Width; :data:`DEFAULTS` if None.
        **options: Further arguments of ``build``.

    Returns:
        The model.

    Raises:
        ValueError: If the data is anything else.
    """
    given = {"num_layers": num_layers, "hidden_channels": hidden_channels}
    sizes = {
        key: given[key] if given[key] is not None else DEFAULTS[key] for key in given
    }
    widths = _widths(data)
    if not isinstance(widths.get("in_channels"), int):
        raise ValueError(
            f"The built-in model {name!r} needs one homogeneous graph with features "
            f"`x`. Got {type(data).__name__}: pass `--model module:callable`."
        )
    # Without labels any width of the output will do.
    widths.setdefault("out_channels", sizes["hidden_channels"])
    return build(name.lower(), **widths, **sizes, **options)


def called_model(
    spec: str,
    data: Any,
    num_layers: int | None = None,
    hidden_channels: int | None = None,
) -> nn.Module:
    """A model, or a model from a callable, of the user.

    Args:
        spec: ``module:callable``. It is called with what it accepts by name of
            ``in_channels``, ``out_channels``, ``num_layers``, ``hidden_channels`` and
            ``data``. A module is taken as it is.
        data: The data.
        num_layers: Depth; if None, the callable's own default, else
            :data:`DEFAULTS`.
        hidden_channels: Width, likewise.

    Returns:
        The model.

    Raises:
        ValueError: If there is no such callable or it returns no module.
        RunError: If it raises.
    """
    function = _import(spec, "--model")
    if isinstance(function, nn.Module):
        return function
    given = {"num_layers": num_layers, "hidden_channels": hidden_channels}
    given = {key: value for key, value in given.items() if value is not None}
    offered = {"data": data, **_widths(data), **given}
    arguments = _arguments(function, offered, DEFAULTS, spec, "--model")
    try:
        model = function(**arguments)
    except Exception as error:
        kind = type(error).__name__
        raise RunError(f"`--model {spec}` raised {kind}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"`--model {spec}` must return a torch.nn.Module. "
            f"Got {type(model).__name__}."
        )
    return model


def accepts_depth(spec: str) -> bool:
    """Whether a callable of the user, ``module:callable``, takes ``num_layers``.

    Raises:
        ValueError: If there is no such callable.
    """
    function = _import(spec, "--model")
    if isinstance(function, nn.Module):
        return False
    try:
        return "num_layers" in inspect.signature(function).parameters
    except ValueError:  # Written in C, without a signature.
        return False


def place(
    model: nn.Module, case: Case, device: str | None, dtype: str | None
) -> tuple[nn.Module, Case]:
    """Move and cast model and data.

    Args:
        model: The model, changed in place.
        case: The data; tensors inside a loader stay as they are.
        device: Where to; None leaves everything where it is.
        dtype: Name of a floating-point type of torch; None leaves it.

    Returns:
        Both.

    Raises:
        ValueError: If there is no such device.
    """
    try:
        where = torch.device(device) if device else None
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        # torch's message is long; its first line says what is wrong.
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"`--device` must be a device of this machine. Got {device!r}: {reason}"
        ) from error
    kind = getattr(torch, dtype) if dtype else None

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(where, kind if tensor.is_floating_point() else None)

    return model.to(where, kind), replace(case, data=map_tensors(case.data, move))


def _widths(data: Any) -> dict[str, Any]:
    """Widths of features and labels, as far as the data tells them."""
    graph = data
    if not hasattr(data, "stores") and hasattr(data, "__iter__"):
        graph = None if isinstance(data, tuple) else next(iter(data), None)
    if not hasattr(graph, "stores"):
        return {}
    x = _collect(graph, "x")
    y = _collect(graph, "y")
    widths: dict[str, Any] = {}
    if x:
        sizes = {kind: tensor.size(-1) for kind, tensor in x.items()}
        widths["in_channels"] = sizes if hasattr(graph, "node_types") else sizes[""]
    if len(y) == 1:
        widths["out_channels"] = _num_outputs(next(iter(y.values())))
    return widths


def _collect(graph: Any, name: str) -> dict[str, Tensor]:
    """An attribute of every node type; the type of a homogeneous graph is empty."""
    if hasattr(graph, "node_types"):
        return graph.collect(name, allow_empty=True)
    return {"": graph[name]} if isinstance(graph.get(name), Tensor) else {}


def _num_outputs(y: Tensor) -> int:
    if not y.is_floating_point():
        return int(y.max()) + 1 if y.numel() else 1
    return y.size(-1) if y.dim() > 1 else 1


def _import(spec: str, option: str) -> Any:
    """The object that ``module:name`` means, the current folder being importable."""
    module_name, _, path = spec.partition(":")
    if not module_name or not path:
        raise ValueError(
            f"`{option}` must be module:callable, e.g. my_package.my_module:build. "
            f"Got {spec!r}."
        )
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = getattr(error, "name", None) or ""
        if isinstance(error, ModuleNotFoundError) and (
            f"{module_name}.".startswith(f"{missing}.")
        ):
            raise ValueError(
                f"`{option} {spec}`: there is no module {missing!r} in {folder} or "
                "among the installed packages."
            ) from error
        kind = type(error).__name__
        raise ValueError(
            f"`{option} {spec}`: importing {module_name!r} raised {kind}: {error}"
        ) from error
    try:
        found = operator.attrgetter(path)(module)
    except AttributeError as error:
        near = difflib.get_close_matches(path, dir(module), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"`{option} {spec}`: module {module_name!r} has no {path!r}.{hint}"
        ) from error
    if not callable(found):
        raise ValueError(
            f"`{option} {spec}` must be callable. Got {type(found).__name__}: write a "
            "function that returns it."
        )
    return found


def _arguments(
    function: Callable[..., Any],
    offered: Mapping[str, Any],
    defaults: Mapping[str, Any],
    spec: str,
    option: str,
) -> dict[str, Any]:
    """What a callable accepts of what is offered; defaults only where it has none."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # Written in C, without a signature.
        return {}
    unnamed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    arguments: dict[str, Any] = {}
    missing: list[str] = []
    for parameter in parameters:
        name, required = parameter.name, parameter.default is parameter.empty
        if parameter.kind in unnamed:
            continue
        if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY:
            if name in offered:
                arguments[name] = offered[name]
                continue
            if required and name in defaults:
                arguments[name] = defaults[name]
                continue
        if required:
            missing.append(name)
    if missing:
        known = ", ".join(dict.fromkeys([*offered, *defaults])) or "nothing"
        raise ValueError(
            f"`{option} {spec}` needs {', '.join(missing)}, which we cannot give it. "
            f"It is called with {known}: give the others defaults."
        )
    return arguments
