"""Which modules a network calls on what, in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from torch_geometric.nn import MessagePassing

from graphfathom.diagnostics.sandbox import Sandbox
from graphfathom.rewrite.form import RewriteError
from graphfathom.rewrite.points import Key, pick

__all__ = ["Call", "Survey", "survey"]


@dataclass(frozen=True)
class Trail:
    """A tensor that was seen: kept as what it was and not as its numbers.

    A network of 1,000 layers makes tensors of gigabytes.
    """

    serial: int
    """The same for the same object."""
    version: int
    """How often it was changed in place."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def zeros(self, *shape: int) -> Tensor:
        """A tensor of its kind."""
        return torch.zeros(shape, dtype=self.dtype, device=self.device)


@dataclass(eq=False)
class Call:
    """One call of a module."""

    name: str
    module: nn.Module
    occurrence: int
    """How often the module was called before."""
    start: int
    parent: Call | None
    takes: str
    """Kind of the first argument."""
    key: Key | None
    """Where its features are among the arguments; None if there are none."""
    input: Trail | None
    stop: int = -1
    returns: str = ""
    """Kind of what it returned."""
    output: Trail | None = None
    """What it returned, if that is a tensor."""
    layers: int = 0
    """Number of calls of layers inside."""

    def encloses(self, other: Call) -> bool:
        """Whether another call was made inside of this one, or is this one."""
        return self.start <= other.start and other.stop <= self.stop

    def above(self) -> Iterator[Call]:
        """The calls that this one was made in, the nearest first."""
        call = self.parent
        while call is not None:
            yield call
            call = call.parent

    @property
    def label(self) -> str:
        """Name and class, for messages."""
        return f"`{self.name}` ({type(self.module).__name__})"


@dataclass
class Survey:
    """The calls of one forward pass."""

    calls: list[Call]
    layers: list[Call]
    """The calls that pass messages, in order."""
    scope: Call
    """The innermost call that all layers are made in."""


class _Log:
    def __init__(self, layers: set[str]) -> None:
        self.layers = layers
        self.calls: list[Call] = []
        self.stack: list[Call] = []
        self.clock = 0
        self.counts: dict[str, int] = {}
        self.serials = WeakTensorKeyDictionary()
        self.count = 0

    def trail(self, value: Any) -> Trail | None:
        if not isinstance(value, Tensor):
            return None
        if value not in self.serials:
            self.count += 1
            self.serials[value] = self.count
        # No tensor, be it empty: small ones between large ones pin the memory of these.
        return Trail(
            self.serials[value],
            value._version,
            tuple(value.shape),
            value.dtype,
            value.device,
        )

    def enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.clock += 1
        count = self.counts.get(name, 0)
        self.counts[name] = count + 1
        parent = self.stack[-1] if self.stack else None
        key = _find_features(args, kwargs)
        found = None if key is None else self.trail(pick(args, kwargs, key))
        takes = type(args[0]).__name__ if args else "keyword"
        call = Call(name, module, count, self.clock, parent, takes, key, found)
        self.calls.append(call)
        self.stack.append(call)

    def leave(self, output: Any) -> None:
        call = self.stack.pop()
        self.clock += 1
        call.stop, call.output = self.clock, self.trail(output)
        call.returns = _kind(output)
        if call.parent is not None:
            call.parent.layers += call.layers + (call.name in self.layers)


def _kind(value: Any) -> str:
    items = f" of {len(value)} items" if isinstance(value, tuple | list) else ""
    return ("dict" if isinstance(value, Mapping) else type(value).__name__) + items


def _find_features(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Key | None:
    """The first argument if it is a matrix of floats, else ``x`` among the keywords."""
    if args:
        return 0 if _is_matrix(args[0]) else None
    names = ["x", *kwargs]
    return next((name for name in names if _is_matrix(kwargs.get(name))), None)


def _is_matrix(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1


@contextmanager
def _logged(model: nn.Module, log: _Log) -> Iterator[None]:
    with ExitStack() as stack:
        for name, module in model.named_modules():

            def enter(module: Any, args: Any, kwargs: Any, name: str = name) -> None:
                log.enter(name, module, args, kwargs)

            def leave(module: Any, args: Any, output: Any) -> None:
                log.leave(output)

            before = module.register_forward_pre_hook(
                enter, prepend=True, with_kwargs=True
            )
            stack.callback(before.remove)
            stack.callback(module.register_forward_hook(leave).remove)
        yield


def survey(box: Sandbox, layers: tuple[str, ...]) -> Survey:
    """Run a network once and look up the calls of its layers.

    Args:
        box: The network on its data, which may be run freely.
        layers: Names of the modules that pass messages, in order; a name that occurs
            again is a further call.

    Raises:
        RewriteError: If a layer is no module, or no module is around all of them.
    """
    log = _Log(set(layers))
    with box.running() as problem, torch.no_grad(), _logged(problem.model, log):
        problem.run()
    title = type(box.problem.model).__name__
    found: list[Call] = []
    seen: dict[str, int] = {}
    for name in layers:
        wanted = seen.get(name, 0)
        seen[name] = wanted + 1
        same = (c for c in log.calls if c.name == name and c.occurrence == wanted)
        call = next(same, None)
        if call is None:
            raise RewriteError(_no_module(name, title))
        found.append(call)
    around = [c for c in found[0].above() if all(c.encloses(f) for f in found)]
    if not around:
        raise RewriteError(
            f"{title} calls {', '.join(f'`{n}`' for n in layers[:3])} from outside of "
            "any module, so that no forward is there to keep a state in. Write a "
            "module whose forward calls the layers."
        )
    scope = around[0]
    # PyG's rule of naming: what passes messages ends in "Conv".
    named = bool(scope.name) and type(scope.module).__name__.endswith("Conv")
    if named or isinstance(scope.module, MessagePassing):
        raise RewriteError(_iterates(scope.name, title))
    return Survey(log.calls, found, scope)


def _iterates(layer: str, title: str) -> str:
    return (
        f"`{layer}` of {title} already carries a state: it propagates several times "
        "inside one call. Set the number of iterations and the step where the layer "
        "is built, or stack layers of one propagation each."
    )


def _no_module(name: str, title: str) -> str:
    if name.endswith(".propagate"):
        return _iterates(name.removesuffix(".propagate"), title)
    if " + " in name:
        parts = name.replace(" + ", "` and `")
        return (
            f"`{parts}` of {title} read the same state side by side. Put them into one "
            "module, whose forward adds them up, and call that as the layer."
        )
    return (
        f"{title} passes messages by `{name}` in a forward around several layers, "
        "where no module is that a state could be put into. Write the layer as a "
        "module, `x = layer(x, ...)`."
    )
