"""Convolutions and normalisations of the plain networks, by name or function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch_geometric.nn import (
    BatchNorm,
    GATConv,
    GATv2Conv,
    GINConv,
    PairNorm,
    SAGEConv,
)

from graphfathom.nn.model_parts import build_convs, build_norms, check_choice, takes
from graphfathom.nn.propagation import GCNConv, adjacency_for

__all__ = [
    "CONVS",
    "NORMS",
    "Conv",
    "Norm",
    "build_conv",
    "build_norm",
    "check_rates",
    "name_of",
    "normalize",
    "share_adjacency",
    "taken_by",
]


def _gin(in_channels: int, out_channels: int, depth: int = 1) -> GINConv:
    parts: list[nn.Module] = [nn.Linear(in_channels, out_channels)]
    if depth > 1:
        parts += [nn.ReLU(), nn.Linear(out_channels, out_channels)]
    return GINConv(nn.Sequential(*parts), train_eps=True)


Conv = str | Callable[[int, int], nn.Module]
"""One of :data:`CONVS`, or ``conv(in_channels, out_channels)`` returns a module."""

CONVS: dict[str, Callable[[int, int], nn.Module]] = {
    "gcn": GCNConv,
    "gat": GATConv,
    "gatv2": GATv2Conv,
    "gin": _gin,
    "gin_mlp": partial(_gin, depth=2),
    "sage": SAGEConv,
}
"""PyG's layers by name. ``"gin"`` has one linear map behind its sum and ``"gin_mlp"``
two with ReLU between them; both train their epsilon."""

Norm = str | Callable[[int], nn.Module] | None
"""One of :data:`NORMS`, or ``norm(channels)`` returns a module, or None."""

# torch's LayerNorm and not PyG's, whose default averages over all nodes of the graph:
# that mixes rows, and a batch would differ from the union of its graphs.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm,
    "layer": nn.LayerNorm,
    "pair": lambda channels: PairNorm(),
}
"""Normalisations by name: PyG's over the batch, of each node, PyG's of each graph."""


def build_conv(conv: Conv, channels: int) -> Any:
    """A convolution that keeps the width, from its name or a function.

    Raises:
        TypeError: If it is no function that returns a module.
        ValueError: If the name is unknown.
    """
    if isinstance(conv, str):
        check_choice("conv", conv, tuple(CONVS))
        conv = CONVS[conv]
    return build_convs(conv, channels, 1, None, {})[0]


def build_norm(norm: Norm, channels: int) -> nn.Module | None:
    """A normalisation from its name or a function, or None.

    Raises:
        TypeError: If it is neither.
        ValueError: If the name is unknown.
    """
    if isinstance(norm, str):
        check_choice("norm", norm, tuple(NORMS))
        norm = NORMS[norm]
    norms = build_norms(norm, channels, 1)
    return None if norms is None else norms[0]


def share_adjacency(
    layers: Iterable[Any], x: Tensor, edge_index: Any, given: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """The one adjacency of layers whose ``conv`` are GCN's; else what was given."""
    convs = [layer.conv for layer in layers]
    weight, batch = given["edge_weight"], given["batch"]
    adjacency = adjacency_for(convs, edge_index, weight, x.size(0), x.dtype, batch)
    if adjacency is None:
        return edge_index, given
    return adjacency, given | {"edge_weight": None}


def taken_by(conv: nn.Module, **given: Tensor | None) -> dict[str, Tensor]:
    """Weights and features of edges, those that there are and a layer takes."""
    return {
        name: value
        for name, value in given.items()
        if value is not None and takes(conv, name)
    }


def name_of(choice: Any) -> Any:
    """What ``repr`` shows of a name or a function."""
    return getattr(choice, "__name__", choice)


def check_rates(**rates: float) -> None:
    """Refuse probabilities of dropping something that are not in [0, 1).

    Raises:
        ValueError: If one is not.
    """
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"`{name}` must be in [0, 1). Got {rate}.")


def normalize(norm: Any, x: Tensor, batch: Tensor | None) -> Tensor:
    """What a normalisation, or none, makes of the features of some graphs."""
    if norm is None:
        return x
    return norm(x, batch=batch) if takes(norm, "batch") else norm(x)
