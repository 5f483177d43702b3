"""Convolutions and normalisations of the plain networks, by name or function."""

from __future__ import annotations

from collections.abc import Callable
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
from graphfathom.nn.propagation import GCNConv

__all__ = [
    "CONVS",
    "NORMS",
    "Conv",
    "Norm",
    "build_conv",
    "build_norm",
    "edge_names",
    "is_by_graph",
    "name_of",
    "normalize",
    "taken_by",
]


def _gin(in_channels: int, out_channels: int, depth: int = 1) -> GINConv:
    parts: list[nn.Module] = [nn.Linear(in_channels, out_channels)]
    if depth > 1:
        parts += [nn.ReLU(), nn.Linear(out_channels, out_channels)]
    return GINConv(nn.Sequential(*parts), train_eps=True)


EDGES = ("edge_weight", "edge_attr")

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


def edge_names(conv: nn.Module) -> frozenset[str]:
    """Which of weights and features of edges a layer takes: looked up once."""
    return frozenset(name for name in EDGES if takes(conv, name))


def taken_by(names: frozenset[str], **given: Tensor | None) -> dict[str, Tensor]:
    """Weights and features of edges, those that there are and that are taken."""
    return {
        name: value
        for name, value in given.items()
        if value is not None and name in names
    }


def name_of(choice: Any) -> Any:
    """What ``repr`` shows of a name or a function."""
    return getattr(choice, "__name__", choice)


def normalize(norm: Any, x: Tensor, batch: Tensor | None, by_graph: bool) -> Tensor:
    """What a normalisation, or none, makes of the features of some graphs.

    Args:
        norm: The normalisation, or None.
        x: The features.
        batch: Graph of each node.
        by_graph: Whether the normalisation takes ``batch``, see :func:`is_by_graph`.
    """
    if norm is None:
        return x
    return norm(x, batch=batch) if by_graph else norm(x)


def is_by_graph(norm: nn.Module | None) -> bool:
    """Whether a normalisation is told the graph of each node: looked up once."""
    return norm is not None and takes(norm, "batch")
