"""Where in a forward pass messages are passed."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn
from torch_geometric.nn import (
    HeteroJumpingKnowledge,
    JumpingKnowledge,
    MessagePassing,
)

__all__ = ["Event", "Log", "module_hooks", "outermost_layers"]


@dataclass
class Event:
    """Calls ``start`` to ``stop - 1``, made by one message passing."""

    name: str
    start: int
    stop: int = 0
    role: str = "module"
    inner: list[Event] = field(default_factory=list)
    block_stop: int = 0
    """End of the module that this event was opened from, or of the block around it."""


class Log(Protocol):
    """What events are written to."""

    operations: list[Event]
    readouts: list[Event]
    roots: list[Event]
    stack: list[Event]

    @property
    def clock(self) -> int:
        """Number of calls so far."""
        ...


def _is_convolution(module: nn.Module, whole: bool) -> bool:
    # Nine of PyG's convolutions are not MessagePassing; by PyG's naming rule all layers
    # that pass messages end in "Conv". A whole model may be called so too.
    named = not whole and type(module).__name__.endswith("Conv")
    return named or isinstance(module, MessagePassing)


def whole_networks(model: nn.Module) -> Iterator[str]:
    """Name of the network itself, and of the one inside of a state-space form."""
    yield ""
    for name, module in model.named_modules():
        if hasattr(type(module), "network_name"):
            yield f"{name}.{type(module).network_name}".lstrip(".")  # pyright: ignore


def role_of(name: str, module: nn.Module, layers: str | None, whole: bool) -> str:
    """``"layer"``, ``"named"`` (by the user: never opened), ``"readout"`` or none."""
    if layers is not None:
        parts, patterns = name.split("."), layers.split(".")
        # Component by component: `convs.*` is not to match `convs.0.lin`.
        pairs = zip(parts, patterns, strict=False)
        same = all(fnmatch.fnmatchcase(part, pattern) for part, pattern in pairs)
        return "named" if same and len(parts) == len(patterns) else "module"
    if isinstance(module, JumpingKnowledge | HeteroJumpingKnowledge):
        return "readout"
    return "layer" if _is_convolution(module, whole) else "module"


@contextmanager
def module_hooks(model: nn.Module, recorder: Log, layers: str | None) -> Iterator[None]:
    """Turn module calls and propagations into events while the context lasts."""

    def enter(name: str, role: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            recorder.stack.append(Event(name, recorder.clock, role=role))

        return hook

    def leave(*_: Any) -> None:
        event = recorder.stack.pop()
        event.stop = recorder.clock
        if event.role == "readout":
            recorder.readouts.append(event)
        parent = recorder.stack[-1].inner if recorder.stack else recorder.roots
        parent.append(event)

    whole = set(whole_networks(model))
    with ExitStack() as stack:
        for name, module in model.named_modules():
            role = role_of(name, module, layers, name in whole)
            label = name or type(module).__name__
            before = module.register_forward_pre_hook(enter(label, role), prepend=True)
            _put_behind_boundary(module)
            handles = [before, module.register_forward_hook(leave)]
            if layers is None and isinstance(module, MessagePassing):
                opens = enter(f"{label}.propagate", "propagate")
                handles += [
                    module.register_propagate_forward_pre_hook(opens),
                    module.register_propagate_forward_hook(leave),
                ]
            for handle in handles:
                stack.callback(handle.remove)
        yield


def _put_behind_boundary(module: nn.Module) -> None:
    """Let the first hook run when the state has been put in, which is no layer's work.

    The other hooks keep their order, and what one before the boundary does is, like
    the state, between layers.
    """
    hooks: Any = module._forward_pre_hooks  # an OrderedDict, which torch calls dict
    _, *others = hooks
    count = len(others)
    while count and not getattr(hooks[others[count - 1]], "between_layers", False):
        count -= 1
    for key in reversed(others[:count]):
        hooks.move_to_end(key, last=False)


def outermost_layers(recorder: Log, layers: str | None) -> list[Event]:
    """Outermost layers, and hand-written operations outside of them, in call order."""
    found: list[Event] = []
    pending = list(recorder.roots)
    modules: list[Event] = []
    while pending:
        event = pending.pop()
        if event.role == "module":
            modules.append(event)
            pending += event.inner
        elif event.role != "readout":
            found.append(event)
    if layers is None:
        free = [op for op in recorder.operations if not _inside(op, found)]
        found += _promote(free, [m for m in modules if m not in recorder.roots])
    _mark_blocks(found, modules)
    return sorted(found, key=lambda event: (event.start, event.stop))


def _mark_blocks(events: list[Event], modules: list[Event]) -> None:
    """Note where the largest module around an event, but not around all, ends."""
    first = min((event.start for event in events), default=0)
    last = max((event.stop for event in events), default=0)
    blocks = [m for m in modules if m.inner and (m.start > first or m.stop < last)]
    for event in events:
        around = (m.stop for m in blocks if _inside(event, [m]))
        event.block_stop = max(around, default=event.stop)


def _inside(event: Event, others: list[Event]) -> bool:
    return any(o.start <= event.start and event.stop <= o.stop for o in others)


def _promote(operations: list[Event], modules: list[Event]) -> list[Event]:
    """Each operation, or the innermost module call whose only operation it is."""
    promoted = []
    for operation in operations:
        around = [module for module in modules if _inside(operation, [module])]
        block = min(around, key=lambda m: m.stop - m.start, default=operation)
        alone = sum(_inside(other, [block]) for other in operations) == 1
        promoted.append(block if alone else operation)
    return promoted
