"""A model by name, for the command line and for tables of models."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn
from torch_geometric.nn import GAT, GCN, GIN, MLP, GraphSAGE

from graphfathom.nn.zoo.adgn import ADGN
from graphfathom.nn.zoo.choices import NORMS as ALL_NORMS
from graphfathom.nn.zoo.deep_gcn import DeepGCN
from graphfathom.nn.zoo.dgc import DGC
from graphfathom.nn.zoo.gated_gcn import GatedGCN
from graphfathom.nn.zoo.gcnii import GCNII
from graphfathom.nn.zoo.gps import GPS
from graphfathom.nn.zoo.gradient_gating import GradientGating
from graphfathom.nn.zoo.grand import GRAND
from graphfathom.nn.zoo.graphcon import GraphCON
from graphfathom.nn.zoo.mp_ssm import MPSSM
from graphfathom.nn.zoo.mpnn import MPNN
from graphfathom.nn.zoo.phdgn import PHDGN
from graphfathom.nn.zoo.sonar import SONAR
from graphfathom.nn.zoo.swan import SWAN
from graphfathom.nn.zoo.unitary import UnitaryGCN

__all__ = ["NAMES", "build"]

BASIC: dict[str, Callable[..., nn.Module]] = {
    "gcn": GCN,
    "gat": GAT,
    "gin": GIN,
    "sage": GraphSAGE,
    "mlp": MLP,
}
"""PyG models that share one constructor."""

FRAMED: dict[str, Callable[..., nn.Module]] = {
    "gcnii": GCNII,
    "gatv2": partial(MPNN, conv="gatv2"),
    "gps": GPS,
    "gated-gcn": GatedGCN,
    "adgn": ADGN,
    "adgn-sum": partial(ADGN, aggregator="sum"),
    "swan": SWAN,
    "phdgn": PHDGN,
    "dgc": DGC,
    "grand": GRAND,
    "graphcon": GraphCON,
    "gradient-gating": GradientGating,
    "unitary": UnitaryGCN,
    "mp-ssm": MPSSM,
    "sonar": SONAR,
}
"""Networks of the common frame that need no more than ``x`` and ``edge_index``."""

NAMES = (*BASIC, "res+", *FRAMED)
"""The names that :func:`build` knows."""

NORMS = {name: ALL_NORMS[name] for name in ("batch", "layer")}
"""Those that all models with a normalisation know."""

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
    act: str | None = None,
) -> nn.Module:
    """Build a model by name.

    Args:
        name: One of :data:`NAMES`. ``"gcn"``, ``"gat"``, ``"gin"``, ``"sage"`` and
            ``"mlp"`` are PyG's models, ``"res+"`` is :class:`DeepGCN`, the others are
            networks of the common frame with their own defaults.
        in_channels: Width of the input features.
        out_channels: Width of the output.
        num_layers: Number of layers.
        hidden_channels: Width of the hidden states.
        norm: ``"batch"``, ``"layer"`` (each node on its own) or None for the model's
            own: ``"layer"`` in ``"res+"``, ``"batch"`` in ``"gps"`` and
            ``"gated-gcn"``, else none.
        dropout: Probability of dropping an entry.
        act: One of ``"relu"``, ``"leaky_relu"``, ``"elu"``, ``"gelu"``, ``"silu"``,
            ``"tanh"``, ``"sigmoid"``, ``"identity"``, or None for the model's own.

    Returns:
        The model, with weights drawn from torch's global generator.

    Raises:
        ValueError: If a name is unknown, a number out of range, or ``norm`` or ``act``
            given for a model that has none.

    Example:
        >>> build("gcn", 1433, 7, num_layers=64, hidden_channels=64)
        GCN(1433, 7, num_layers=64)
    """
    _check_choice("name", name, NAMES)
    for argument, choice, known in (("norm", norm, NORMS), ("act", act, ACTS)):
        if choice is not None:
            _check_choice(argument, choice, known)
    for argument, value in [
        ("num_layers", num_layers),
        ("hidden_channels", hidden_channels),
    ]:
        if value < 1:
            raise ValueError(f"`{argument}` must be >= 1. Got {value}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must lie in [0, 1). Got {dropout}.")
    widths = {
        "in_channels": in_channels,
        "hidden_channels": hidden_channels,
        "out_channels": out_channels,
        "num_layers": num_layers,
    }
    if name in FRAMED:
        return _framed(name, norm, act, dropout=dropout, **widths)
    make_act = ACTS[act or "relu"]
    if name == "res+":
        options = {"norm": NORMS[norm or "layer"], "act": make_act}
        return DeepGCN(**widths, **options, dropout=dropout)
    return BASIC[name](
        **widths,
        norm=NORMS[norm](hidden_channels) if norm else None,
        act=make_act(),
        dropout=float(dropout),
    )


def _framed(name: str, norm: str | None, act: str | None, **options: Any) -> nn.Module:
    taken = inspect.signature(FRAMED[name]).parameters
    for argument, choice, what in (
        ("norm", norm, "normalisation"),
        ("act", act, "activation"),
    ):
        if choice is not None and argument not in taken:
            raise ValueError(
                f"`{argument}` must be None for {name}, which has no {what} to choose. "
                f"Got {choice!r}."
            )
    if norm is not None:
        options["norm"] = norm
    if act is not None:
        options["act"] = ACTS[act]()
    return FRAMED[name](**options)


def _check_choice(argument: str, value: str, choices: Iterable[str]) -> None:
    choices = list(choices)
    if value in choices:
        return
    near = difflib.get_close_matches(value.lower(), choices, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    known = ", ".join(choices)
    raise ValueError(f"`{argument}` must be one of {known}. Got {value!r}.{hint}")
