"""What a problem is made of, read and checked: attributes, graphs, devices."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "as_labels",
    "attribute",
    "attribute_names",
    "check_devices",
    "check_graph",
    "check_labels",
    "check_placement",
    "edge_indices",
    "leaf_tensors",
    "map_tensors",
]


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor of nested containers and PyG data objects.

    Containers are rebuilt, everything else is kept as it is; the argument is not
    changed.
    """
    if isinstance(value, Tensor):
        return function(value)
    if hasattr(value, "stores") and hasattr(value, "apply"):  # PyG Data and HeteroData
        return copy.copy(value).apply(lambda item: map_tensors(item, function))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, function) for item in value))
    if type(value) in (list, tuple):
        return type(value)(map_tensors(item, function) for item in value)
    if type(value) is dict:
        return {key: map_tensors(item, function) for key, item in value.items()}
    return value


def attribute(data: Any, name: str) -> Any:
    """A tensor attribute, or for heterogeneous data the dictionary of them."""
    if hasattr(data, "node_types"):
        found = data.collect(name.removesuffix("_dict"), allow_empty=True)
        return found or None
    value = data.get(name)
    is_sparse = hasattr(value, "storage")
    return value if isinstance(value, Tensor) or is_sparse else None


def attribute_names(data: Any) -> str:
    """The attributes of the data in words."""
    names = sorted(set(data.keys())) if hasattr(data, "keys") else []
    return ", ".join(map(str, names)) or "no attributes"


def leaf_tensors(data: Any) -> list[Tensor]:
    """All tensors of nested containers and PyG data objects."""
    found: list[Tensor] = []
    map_tensors(data, lambda tensor: (found.append(tensor), tensor)[1])
    return found


def _is_edge_index(tensor: Tensor) -> bool:
    return tensor.dim() == 2 and tensor.size(0) == 2 and tensor.dtype == torch.long


def edge_indices(data: Any) -> list[Tensor]:
    """The integer tensors of shape (2, E) of the data."""
    if isinstance(data, tuple):
        return [tensor for tensor in leaf_tensors(data) if _is_edge_index(tensor)]
    if hasattr(data, "edge_types"):
        stores = [data[kind] for kind in data.edge_types]
        return [store.edge_index for store in stores if "edge_index" in store]
    return [data.edge_index] if "edge_index" in data else []


def check_graph(data: Any) -> None:
    """Refuse an empty graph, wrong edges and features that are not finite.

    Raises:
        TypeError: If a tensor has a type that cannot be used.
        ValueError: If nodes are missing, edges point nowhere or features are NaN.
    """
    for tensor in leaf_tensors(data):
        if tensor.is_complex():
            raise TypeError(
                f"Complex features are not supported. Got {tensor.dtype}: pass real "
                "and imaginary parts as separate channels."
            )
    if isinstance(data, tuple):
        for tensor in leaf_tensors(data):
            _check_features(tensor, "A tensor of the call")
        return
    if hasattr(data, "edge_types"):
        for kind in data.node_types:
            _check_features(data[kind].get("x"), f"`data[{kind!r}].x`")
        for kind in data.edge_types:
            if "edge_index" in data[kind]:
                sizes = (data[kind[0]].num_nodes, data[kind[2]].num_nodes)
                _check_edge_index(data[kind].edge_index, sizes)
        return
    # PyG warns where it has nothing to count.
    num_nodes = int(data.num_nodes or 0) if data.keys() else 0
    if num_nodes == 0:
        raise ValueError(
            "`data` is an empty graph: it has 0 nodes. Pass a graph with features `x`."
        )
    if "edge_index" in data:
        _check_edge_index(data.edge_index, (num_nodes, num_nodes))
    _check_features(data.get("x"), "`data.x`")


def _check_features(x: Any, name: str) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() == 0:
        return
    if x.layout != torch.strided or x.is_meta or x.size(0) == 0:
        return
    bad = ~torch.isfinite(x).reshape(x.size(0), -1).all(dim=1)
    if bool(bad.any()):
        raise ValueError(
            f"{name} has NaN or infinite features in {int(bad.sum())} of "
            f"{x.size(0)} rows, first in row {int(bad.nonzero()[0])}: clean the "
            "features before you look for a cause in the model."
        )


def _check_edge_index(edge_index: Any, sizes: tuple[int, int]) -> None:
    if not isinstance(edge_index, Tensor) or edge_index.layout != torch.strided:
        return
    if edge_index.dtype != torch.long:
        raise TypeError(
            f"`edge_index` must be torch.int64. Got {edge_index.dtype}: "
            "call `edge_index.long()`."
        )
    if edge_index.dim() != 2 or edge_index.size(0) != 2:
        raise ValueError(
            f"`edge_index` must have shape (2, E). Got {tuple(edge_index.shape)}: "
            "transpose it if its rows are edges."
        )
    for row, size in zip(edge_index, sizes, strict=True):
        if row.numel() and (int(row.max()) >= size or int(row.min()) < 0):
            worst = int(row.max()) if int(row.max()) >= size else int(row.min())
            raise ValueError(
                f"`edge_index` points to node {worst}, but the graph has {size} nodes "
                f"(0 to {size - 1}): set `data.num_nodes` or drop the edge."
            )


def check_devices(model: nn.Module, data: Any) -> None:
    """Refuse data that the model cannot read because they are elsewhere.

    Raises:
        ValueError: If model and data are on different devices, or on none.
    """
    first = next(model.parameters(), None)
    home = None if first is None else first.device
    for tensor in leaf_tensors(data):
        home = home or tensor.device
        if tensor.device != home:
            raise ValueError(
                f"The model is on {home} and the data on {tensor.device}: call "
                f"`data.to('{home}')` or `model.to('{tensor.device}')`."
            )
    if home is not None and home.type == "meta":
        raise ValueError(
            "Model and data are on the device meta, which holds no numbers: load them "
            "on a real device."
        )


def as_labels(target: Tensor | None) -> Tensor | None:
    """Classes as int64, several binary labels per row as floats.

    Raises:
        ValueError: If several integers per row are no binary labels.
    """
    if target is None or target.is_floating_point():
        return target
    if target.dim() < 2:
        return target.long()
    if bool(((target != 0) & (target != 1)).any()):
        raise ValueError(
            f"Integer labels must be one class per row, or 0 and 1 in several columns. "
            f"Got shape {tuple(target.shape)} with values from {int(target.min())} to "
            f"{int(target.max())}: pass one column as `target=`."
        )
    return target.to(torch.get_default_dtype())


def check_labels(output: Tensor, target: Tensor) -> None:
    """Refuse labels that an inferred loss cannot compare with the output.

    Raises:
        ValueError: If classes are out of range or the widths differ.
    """
    columns = output.size(-1) if output.dim() > 1 else 1
    if target.is_floating_point():
        if target.numel() != output.numel():
            raise ValueError(
                f"The output has shape {tuple(output.shape)} and the target "
                f"{tuple(target.shape)}: pass `target=` of the output's shape, or "
                "`loss=`."
            )
        return
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= max(columns, 2):
        worst = low if low < 0 else high
        raise ValueError(
            f"Classes must be in [0, {max(columns, 2) - 1}], as the output has "
            f"{columns} columns. Got {worst}: mask rows without a label, widen the "
            "output, or pass floats if it is a regression."
        )


def check_placement(model: nn.Module, data: Any) -> None:
    """Refuse uninitialised parameters and data of another precision."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ValueError(
                f"Parameter `{name}` has no shape yet (lazy width -1): run the model "
                "once on the data first."
            )
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    features = [t for t in leaf_tensors(data) if t.is_floating_point()]
    if not isinstance(data, tuple) and isinstance(attribute(data, "x"), Tensor):
        features = [attribute(data, "x")]
    if not parameters or not features:
        return
    first, x = parameters[0], features[0]
    if x.is_floating_point() and x.dtype != first.dtype and _no_autocast(x):
        raise ValueError(
            f"The model is in {first.dtype} and the features are {x.dtype}: cast one "
            f"of them, e.g. `data.x = data.x.to({first.dtype})`."
        )


def _no_autocast(x: Tensor) -> bool:
    return not torch.is_autocast_enabled(x.device.type)
