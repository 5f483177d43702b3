"""A wrapper around a layer that leaves the layer's state dict as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch_geometric.nn.module_dict import ModuleDict

from graphfathom.nn.model_parts import reset_parameters
from graphfathom.nn.transition import Transition, warn_if_growing

__all__ = ["AbstractStateSpace", "as_part", "as_transition"]


class AbstractStateSpace(nn.Module):
    """A wrapper whose state dict has the keys of the wrapped layer.

    Fixed transitions travel in ``state_dict()._metadata`` and what is trained under
    ``state_space.``, so the files of layer and wrapper are exchangeable.
    """

    def __init__(
        self,
        layer: nn.Module,
        parts: Mapping[str, Transition | Mapping[str, Transition] | None],
    ) -> None:
        super().__init__()
        if not isinstance(layer, nn.Module):
            raise TypeError(
                "`layer` must be a torch.nn.Module. Got "
                f"{type(layer).__name__}: pass an instance of the layer."
            )
        if isinstance(layer, AbstractStateSpace):
            raise TypeError(
                f"`layer` already is in state-space form. Got {type(layer).__name__}: "
                f"pass the layer inside it, `layer.layer`."
            )
        self.layer = layer
        for name, part in parts.items():
            setattr(self, name, as_part(name, part))

    def transitions(self) -> Iterator[tuple[str, Transition]]:
        """Name and matrix of every transition."""
        # Not named_modules(): one transition may serve under two names.
        for name, module in self._modules.items():
            below = module._modules if isinstance(module, ModuleDict) else {"": module}
            for kind, part in below.items():
                if isinstance(part, Transition):
                    yield f"{name}.{kind}".rstrip("."), part

    def reset_parameters(self) -> None:
        """Reset the layer, the transitions and the gates."""
        reset_parameters(self)

    def train(self, mode: bool = True) -> Any:
        """Switch the mode; warn if training has made the state grow."""
        super().train(mode)
        for name, part in self.transitions():
            if name.partition(".")[0] == "state" and part.trainable:
                warn_if_growing(part)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Keys of the layer; fixed transitions in the metadata."""
        names = ("destination", "prefix", "keep_vars")
        kwargs = dict(zip(names, args, strict=False)) | kwargs
        prefix, keep = kwargs.get("prefix", ""), kwargs.get("keep_vars", False)
        found = self.layer.state_dict(**kwargs)
        fixed = {}
        for name, part in self.transitions():
            if part.trainable:
                below = f"{prefix}state_space.{name}."
                part.state_dict(destination=found, prefix=below, keep_vars=keep)
            else:
                entries = dict(part.state_dict())
                fixed[name] = {"type": type(part).__name__, "entries": entries}
        gates = self._modules.get("gates")
        if gates is not None:
            below = f"{prefix}state_space.gates."
            gates.state_dict(destination=found, prefix=below, keep_vars=keep)
        found._metadata[prefix[:-1]]["state_space"] = fixed
        return found

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = f"{prefix}state_space."
        for key in [key for key in state_dict if key.startswith(prefix)]:
            value = state_dict.pop(key)
            below = key.removeprefix(prefix)
            inside = key.startswith(own)
            name = key.removeprefix(own) if inside else f"layer.{below}"
            state_dict[prefix + name] = value
        saved = local_metadata.get("state_space", {})
        parts = {name: p for name, p in self.transitions() if not p.trainable}
        for name, part in parts.items():
            found = saved.get(name, {"type": type(part).__name__})
            if found["type"] != type(part).__name__:
                error_msgs.append(
                    f"`{prefix}{name}` is {type(part).__name__} and was saved as "
                    f"{found['type']}: build the layer with `{name}={found['type']}"
                    "(...)`."
                )
                continue
            for key, value in found.get("entries", part.state_dict()).items():
                state_dict[f"{prefix}{name}.{key}"] = value
        if strict and saved.keys() - dict(self.transitions()):
            extra = ", ".join(sorted(saved.keys() - dict(self.transitions())))
            error_msgs.append(
                f"The checkpoint has the transitions {extra}, which `{prefix[:-1]}` "
                "was built without: pass them to its constructor."
            )
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )


def as_part(
    name: str, part: Transition | Mapping[str, Transition] | None
) -> nn.Module | None:
    """A transition, a module of transitions by node type, or None."""
    if part is None:
        return None
    if isinstance(part, Mapping):
        return ModuleDict({key: as_transition(name, p) for key, p in part.items()})
    return as_transition(name, part)


def as_transition(name: str, part: Any) -> Transition:
    """Refuse what is not a transition.

    Raises:
        TypeError: If it is none; the message names the argument.
    """
    if isinstance(part, Transition):
        return part
    hint = "pass an instance of graphfathom.nn.Transition"
    if isinstance(part, int | float) and math.isfinite(part):
        hint = f"pass `{name}=Scalar({part})`"
    raise TypeError(
        f"`{name}` must be a Transition. Got {type(part).__name__}: {hint}."
    )
