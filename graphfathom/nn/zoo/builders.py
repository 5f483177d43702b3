"""A model by name, for the command line and for tables of models."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch_geometric.nn import GAT, GCN, GIN, MLP, BatchNorm, GraphSAGE

from graphfathom.nn.zoo.deep_gcn import DeepGCN
from graphfathom.nn.zoo.gcnii import GCNII

__all__ = ["NAMES", "build"]

BASIC: dict[str, Callable[..., nn.Module]] = {
    "gcn": GCN,
    "gat": GAT,
    "gin": GIN,
    "sage": GraphSAGE,
    "mlp": MLP,
}
"""PyG models that share one constructor."""

NAMES = (*BASIC, "gcnii", "res+")
"""The names that :func:`build` knows."""

# torch's LayerNorm and not PyG's, whose default averages over all nodes of the graph:
# that mixes rows, and a batch would differ from the union of its graphs.
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm,
    "layer": nn.LayerNorm,
}

ACTS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}


def build(
    name: str,
    in_channels: int,
    out_channels: int,
    num_layers: int,
    hidden_channels: int,
    norm: str | None = None,
    dropout: float = 0.0,
    act: str = "relu",
) -> nn.Module:
    """Build a model by name.

    Args:
        name: One of :data:`NAMES`. ``"gcn"``, ``"gat"``, ``"gin"``, ``"sage"`` and
            ``"mlp"`` are PyG's models, ``"gcnii"`` is :class:`GCNII` and ``"res+"`` is
            :class:`DeepGCN`.
        in_channels: Width of the input features.
        out_channels: Width of the output.
        num_layers: Number of layers.
        hidden_channels: Width of the hidden states.
        norm: ``"batch"``, ``"layer"`` (each node on its own) or None. ``"res+"`` takes
            ``"layer"`` for None, ``"gcnii"`` has no normalisation.
        dropout: Probability of dropping an entry.
        act: One of ``"relu"``, ``"leaky_relu"``, ``"elu"``, ``"gelu"``, ``"silu"``,
            ``"tanh"``, ``"sigmoid"``, ``"identity"``.

    Returns:
        The model, with weights drawn from torch's global generator.

    Raises:
        ValueError: If a name is unknown, a number out of range, or ``norm`` given for
            ``"gcnii"``.

    Example:
        >>> build("gcn", 1433, 7, num_layers=64, hidden_channels=64)
        GCN(1433, 7, num_layers=64)
    """
    _check_choice("name", name, NAMES)
    _check_choice("act", act, ACTS)
    if norm is not None:
        _check_choice("norm", norm, NORMS)
    for argument, value in [
        ("num_layers", num_layers),
        ("hidden_channels", hidden_channels),
    ]:
        if value < 1:
            raise ValueError(f"`{argument}` must be >= 1. Got {value}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must lie in [0, 1). Got {dropout}.")
    widths = (in_channels, hidden_channels, out_channels, num_layers)
    if name == "res+":
        return DeepGCN(
            *widths,
            norm=NORMS[norm or "layer"],
            act=ACTS[act],
            dropout=dropout,
        )
    options: dict[str, Any] = {"dropout": float(dropout), "act": ACTS[act]()}
    if name == "gcnii":
        if norm is not None:
            raise ValueError(
                f"`norm` must be None for gcnii, which has no normalisation. Got "
                f"{norm!r}."
            )
        return GCNII(*widths, **options)
    return BASIC[name](
        in_channels=in_channels,
        hidden_channels=hidden_channels,
        num_layers=num_layers,
        out_channels=out_channels,
        norm=NORMS[norm](hidden_channels) if norm else None,
        **options,
    )


def _check_choice(argument: str, value: str, choices: Iterable[str]) -> None:
    choices = list(choices)
    if value in choices:
        return
    near = difflib.get_close_matches(value.lower(), choices, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    known = ", ".join(choices)
    raise ValueError(f"`{argument}` must be one of {known}. Got {value!r}.{hint}")
