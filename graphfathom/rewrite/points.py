"""Hooks that put the state in at the points of a network, and take themselves off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from graphfathom.rewrite.carrier import Carrier

__all__ = [
    "Key",
    "add_block",
    "add_boundary",
    "add_scope",
    "pick",
    "remove_hooks",
    "replaced",
]

Key = int | str
"""Where a call has its features: the position or the name of an argument."""

_REGISTRIES = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


def pick(args: tuple[Any, ...], kwargs: dict[str, Any], key: Key) -> Any:
    """The argument at a position or of a name, None if it is not there."""
    if isinstance(key, int):
        return args[key] if key < len(args) else None
    return kwargs.get(key)


def replaced(
    args: tuple[Any, ...], kwargs: dict[str, Any], key: Key, value: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with another tensor at a position or of a name."""
    if isinstance(key, int):
        return (*args[:key], value, *args[key + 1 :]), kwargs
    return args, {**kwargs, key: value}


@dataclass(eq=False)
class _Hook:
    # Objects and not functions: a deep copy of the network has hooks of its own.
    between_layers: ClassVar[bool] = False
    """Whether it runs before its module, so that what it does is no part of it."""
    carrier: Carrier
    name: str
    key: Key = 0

    def features(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The features that a module is called with.

        Raises:
            TypeError: If they are not where they were.
        """
        found = pick(args, kwargs, self.key)
        if not isinstance(found, Tensor):
            place = f"argument {self.key}" if isinstance(self.key, int) else self.key
            raise TypeError(
                f"`{self.name}` must be called with its features as {place}, as when "
                f"the network was rewritten. Got {type(found).__name__} there."
            )
        return found


class _Enter(_Hook):
    """Opens a run."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.carrier.begin()


class _Leave(_Hook):
    """Closes a run, also after an error."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.carrier.end(output is not None)


class _Before(_Hook):
    """Puts the state in for the input of a module."""

    between_layers = True

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        state = self.carrier.cross(self.name, self.features(args, kwargs))
        return replaced(args, kwargs, self.key, state)


class _After(_Hook):
    """Puts the state in for the output of a module."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        carrier = self.carrier
        position = carrier.position
        if carrier.route[position : position + 1] != (self.name,):
            return None  # an earlier call of a shared module
        return carrier.cross(self.name, output)


class _First(_Hook):
    """Shows state 0 to those who watch, before the first block."""

    between_layers = True

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if self.carrier.position != 0:
            return None
        state = self.carrier.start(self.features(args, kwargs))
        return replaced(args, kwargs, self.key, state)


class _Block(_Hook):
    """Makes the next state of a block's input and its output, in one place."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        state, carrier = self.features(args, kwargs), self.carrier
        if carrier.position < 0:
            # Recomputed by a checkpoint: all that is needed is at hand.
            return carrier.form.advance(state, output)
        return carrier.advance(carrier.due(self.name) + 1, state, output)


def add_scope(module: nn.Module, carrier: Carrier, name: str) -> None:
    """Let each call of a module be a run."""
    module.register_forward_pre_hook(
        _Enter(carrier, name), prepend=True, with_kwargs=True
    )
    module.register_forward_hook(_Leave(carrier, name), always_call=True)


def add_boundary(
    module: nn.Module, carrier: Carrier, name: str, key: Key | None
) -> None:
    """Make the input of a module a point, or its output where ``key`` is None."""
    if key is None:
        module.register_forward_hook(_After(carrier, name))
    else:
        before = _Before(carrier, name, key)
        module.register_forward_pre_hook(before, with_kwargs=True)


def add_block(module: nn.Module, carrier: Carrier, name: str, key: Key) -> None:
    """Let a module map a state to the next one."""
    module.register_forward_pre_hook(_First(carrier, name, key), with_kwargs=True)
    module.register_forward_hook(_Block(carrier, name, key), with_kwargs=True)


def remove_hooks(model: nn.Module) -> None:
    """Take the hooks of this module off, and no others."""
    for module in model.modules():
        ours = {
            key
            for registry in ("_forward_hooks", "_forward_pre_hooks")
            for key, hook in getattr(module, registry).items()
            if isinstance(hook, _Hook)
        }
        for registry in _REGISTRIES:
            for key in ours:
                getattr(module, registry).pop(key, None)
