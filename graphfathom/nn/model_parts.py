"""What a model is built of: layers, norms and activations from names or functions."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch_geometric.nn.resolver import activation_resolver, normalization_resolver

from graphfathom.nn.identity import IdentityMappedConv
from graphfathom.nn.propagation import shared

__all__ = [
    "build_activation",
    "build_convs",
    "build_norms",
    "check_choice",
    "check_nonnegative",
    "check_positive",
    "check_rates",
    "check_sizes",
    "reset_parameters",
    "takes",
]


def build_convs(
    conv: Callable[..., nn.Module],
    channels: int,
    num_layers: int,
    identity_mapping: float | None,
    arguments: Mapping[str, Any],
) -> nn.ModuleList:
    """The convolutions of all layers.

    Raises:
        TypeError: If ``conv`` is not a function that returns a module.
        ValueError: If ``identity_mapping`` is not a positive number.
    """
    if isinstance(conv, nn.Module) or not callable(conv):
        raise TypeError(
            "`conv` must be a class of layers or a function (in_channels, out_channels)"
            f" that returns a layer. Got {type(conv).__name__}: each layer has its own "
            "weights, so pass the class, not an instance or a name."
        )
    if identity_mapping is not None:
        check_positive(identity_mapping=identity_mapping)
    convs = nn.ModuleList()
    for layer in range(1, num_layers + 1):
        module = conv(channels, channels, **arguments)
        if not isinstance(module, nn.Module):
            raise TypeError(
                "`conv` must return a torch.nn.Module. Got "
                f"{type(module).__name__} from conv({channels}, {channels})."
            )
        module = shared(module)
        if identity_mapping is not None:
            beta = math.log(identity_mapping / layer + 1)
            module = IdentityMappedConv(module, min(beta, 1.0))
        convs.append(module)
    return convs


def build_activation(act: str | Callable[[Tensor], Tensor] | None) -> Any:
    """The activation: a function, or a module from its name.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is neither a name nor a function.
    """
    if act is None:
        return nn.Identity()
    if isinstance(act, type) and issubclass(act, nn.Module):
        return act()
    if callable(act):
        return act
    if not isinstance(act, str):
        raise TypeError(
            "`act` must be a function, a name or None. Got "
            f"{type(act).__name__}: pass for example torch.tanh or 'relu'."
        )
    try:
        return activation_resolver(act)
    except ValueError as error:
        raise ValueError(
            f"`act` must be the name of an activation in torch.nn. Got {act!r}: pass "
            "for example 'relu', 'tanh' or 'gelu', or a function."
        ) from error


def build_norms(
    norm: str | Callable[[int], nn.Module] | None, channels: int, num_layers: int
) -> nn.ModuleList | None:
    """One normalisation layer for each layer, or None.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If it is neither a name nor a function.
    """
    if norm is None:
        return None
    if isinstance(norm, nn.Module):
        return nn.ModuleList(copy.deepcopy(norm) for _ in range(num_layers))
    if callable(norm):
        return nn.ModuleList(norm(channels) for _ in range(num_layers))
    if not isinstance(norm, str):
        raise TypeError(
            "`norm` must be a name, a function of the width or None. Got "
            f"{type(norm).__name__}: pass for example 'layer'."
        )
    try:
        return nn.ModuleList(
            normalization_resolver(norm, channels) for _ in range(num_layers)
        )
    except ValueError as error:
        raise ValueError(
            "`norm` must be the name of a normalisation layer in torch_geometric.nn. "
            f"Got {norm!r}: pass for example 'layer', 'batch' or 'graph'."
        ) from error


def takes(module: nn.Module, name: str) -> bool:
    """Whether a layer can be called with a keyword.

    Layers such as ``GATConv`` name ``edge_attr`` but only take it if they were built
    with an ``edge_dim``.
    """
    if name == "edge_attr" and getattr(module, "edge_dim", 0) is None:
        return False
    return name in inspect.signature(module.forward).parameters


def reset_parameters(module: nn.Module) -> None:
    """Reset the outermost modules below one that can be."""
    for child in module.children():
        reset: Any = getattr(child, "reset_parameters", None)
        if reset is not None:
            reset()
        else:
            reset_parameters(child)


def check_sizes(in_channels: int, **sizes: int) -> None:
    """Refuse widths and depths that are no positive integers.

    Raises:
        ValueError: If one is below 1, or the width of the input is not -1 either.
    """
    if in_channels != -1:
        sizes = {"in_channels": in_channels} | sizes
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            lazy = ", or -1 to take it from the first batch"
            rest = lazy if name == "in_channels" else ""
            raise ValueError(f"`{name}` must be an integer >= 1{rest}. Got {size!r}.")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse what is not one of some names.

    Raises:
        ValueError: If it is none of them.
    """
    if value not in choices:
        known = ", ".join(map(repr, choices))
        raise ValueError(f"`{name}` must be one of {known}. Got {value!r}.")


def check_positive(**values: float) -> None:
    """Refuse numbers that are not positive and finite.

    Raises:
        ValueError: If one is not.
    """
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be a positive number. Got {value!r}.")


def check_nonnegative(**values: float) -> None:
    """Refuse numbers that are negative or not finite.

    Raises:
        ValueError: If one is.
    """
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"`{name}` must be a number >= 0. Got {value!r}.")


def check_rates(**rates: float) -> None:
    """Refuse probabilities of dropping something that are not in [0, 1).

    Raises:
        ValueError: If one is not.
    """
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"`{name}` must be in [0, 1). Got {rate}.")
