"""Check that a network passes from state to state at chosen points and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch_geometric.nn import MessagePassing

from graphfathom.diagnostics.recorder import (
    ATTENTIONS,
    MATRIX_PRODUCTS,
    SCATTERS,
    attach,
    call_name,
    sources_of,
)
from graphfathom.diagnostics.sandbox import Sandbox
from graphfathom.rewrite.points import replaced
from graphfathom.rewrite.survey import Call, Survey, Trail
from graphfathom.validation import map_tensors

__all__ = ["Point", "Verdict", "verify"]


@dataclass(frozen=True)
class Point:
    """The features that a call is made with, or its output."""

    call: Call
    at_output: bool = False

    @property
    def trail(self) -> Trail:
        """What was there in the survey."""
        found = self.call.output if self.at_output else self.call.input
        assert found is not None
        return found

    @property
    def name(self) -> str:
        """Name of the module; its output is a place of its own."""
        return self.call.name + (" (its output)" if self.at_output else "")


@dataclass(frozen=True)
class Verdict:
    """Whether the points separate the network."""

    reason: str = ""
    """Why not; empty if they do."""
    carries: bool = False
    """Whether a state depends on the one before it even without messages."""


class _Cuts:
    """Leaves put in at the points of one forward pass."""

    def __init__(self, points: list[Point]) -> None:
        self.wanted = {
            (p.call.name, p.at_output, p.call.occurrence): k
            for k, p in enumerate(points)
        }
        self.counts: dict[tuple[str, bool], int] = {}
        self.keys = {p.call.name: p.call.key for p in points}
        self.nodes: dict[int, Any] = {}
        """Where in the autograd graph each point was."""
        # Leaves that hold no state, and all at once: small tensors made between large
        # ones would pin the memory of these.
        self.leaves = [p.trail.zeros().requires_grad_() for p in points]
        self.spoiled: set[int] = set()
        """Points behind which the state was changed in place."""
        self._given: Tensor | None = None

    def cut(self, name: str, at_output: bool, tensor: Any) -> Tensor | None:
        count = self.counts.get((name, at_output), 0)
        self.counts[name, at_output] = count + 1
        k = self.wanted.get((name, at_output, count))
        if k is None or not isinstance(tensor, Tensor):
            return None
        if self._given is not None and self._given._version:
            self.spoiled.add(k - 1)
        self.nodes[k] = tensor.grad_fn
        self._given = tensor.detach() + self.leaves[k]
        return self._given

    @contextmanager
    def hooks(self, model: nn.Module) -> Iterator[None]:
        modules = dict(model.named_modules())
        with ExitStack() as stack:
            for name, at_output in {(n, o) for n, o, _ in self.wanted}:
                hook = self.after(name) if at_output else self.before(name)
                module = modules[name]
                if at_output:
                    handle = module.register_forward_hook(hook)
                else:
                    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield

    def before(self, name: str) -> Any:
        key = self.keys[name]
        assert key is not None  # the input of a call without features is no point

        def hook(module: Any, args: Any, kwargs: Any) -> Any:
            tensor = args[key] if isinstance(key, int) else kwargs[key]
            leaf = self.cut(name, False, tensor)
            return None if leaf is None else replaced(args, kwargs, key, leaf)

        return hook

    def after(self, name: str) -> Any:
        return lambda module, args, output: self.cut(name, True, output)


def verify(
    box: Sandbox, found: Survey, points: list[Point], *, taps: bool = False
) -> Verdict:
    """Check that each point is computed from the one before it alone.

    Args:
        box: The network on its data, which may be run freely.
        found: Its calls.
        points: Where states 0 to L are to be put in.
        taps: Whether the read-out may use earlier states.
    """
    cuts, output, sources = _run(box, points)
    names = [f"`{point.name}`" for point in points]
    if len(cuts.nodes) != len(points):
        missing = next(n for k, n in enumerate(names) if k not in cuts.nodes)
        return Verdict(f"{missing} was not reached again in a second forward pass")
    for k in sorted(cuts.spoiled):
        return Verdict(
            f"the state at {names[k]} is changed in place behind it. Replace "
            "operations such as `x.relu_()` or `x += h` on a layer's input by "
            "`x = x.relu()`"
        )
    raw = {node: k for k, node in cuts.nodes.items()}
    leaves = {id(leaf): k for k, leaf in enumerate(cuts.leaves)}
    for k in range(1, len(points)):
        reached, passed, past = _reach(cuts.nodes[k], leaves, sources, raw)
        if past or passed - {k} or reached - {k - 1}:
            return Verdict(
                f"the features pass beside {names[k - 1]} on their way to {names[k]}"
            )
        if k - 1 not in reached:
            return Verdict(f"{names[k]} does not depend on {names[k - 1]}")
    last = len(points) - 1
    reached, passed, _ = _reach(output.grad_fn, leaves, set(), raw)
    if last not in reached:
        return Verdict(f"the output does not depend on {names[last]}")
    if not taps and (reached - {last} or passed):
        return Verdict("the read-out uses earlier states too (jumping knowledge)")
    return Verdict(carries=_carries(box, found, points))


def _carries(box: Sandbox, found: Survey, points: list[Point]) -> bool:
    """Whether some step depends on its state when all messages are held fixed."""
    cuts, _, _ = _run(box, points, found.layers)
    leaves = {id(leaf): k for k, leaf in enumerate(cuts.leaves)}
    return any(
        k - 1 in _reach(cuts.nodes[k], leaves, set(), {})[0]
        for k in range(1, len(points))
    )


def _run(
    box: Sandbox, points: list[Point], silenced: list[Call] | None = None
) -> tuple[_Cuts, Tensor, set[int]]:
    """One forward pass, cut at the points, and the features that it started from."""
    cuts = _Cuts(points)
    # Only the graph is looked at: it holds no tensors.
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: 0, _refuse)
    with box.running() as problem:
        sources = sources_of(problem)
        starts = [source.detach().clone().requires_grad_() for source in sources]
        fed = {
            id(source): start.clone()
            for source, start in zip(sources, starts, strict=True)
        }
        with (
            torch.enable_grad(),
            hooks,
            # First, so that an output is cut after it was silenced.
            _silence(problem.model, silenced or [], set(problem.num_nodes)),
            cuts.hooks(problem.model),
        ):
            output = attach(problem, sources, fed).run()
    return cuts, output, {id(start) for start in starts}


def _reach(
    start: Any, leaves: dict[int, int], sources: set[int], raw: dict[Any, int]
) -> tuple[set[int], set[int], bool]:
    """Leaves and uncut points behind a node of the graph, and whether features are."""
    reached: set[int] = set()
    passed: set[int] = set()
    past = False
    seen: set[Any] = set()
    stack = [start]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        past |= id(variable) in sources
        if id(variable) in leaves:
            reached.add(leaves[id(variable)])
        if node in raw:
            passed.add(raw[node])
        stack += [parent for parent, _ in node.next_functions]
    return reached, passed, past


@contextmanager
def _silence(
    model: nn.Module, layers: list[Call], num_nodes: set[int]
) -> Iterator[None]:
    """Hold all messages fixed: what passes them gets no gradient."""
    with ExitStack() as stack:
        modules = dict(model.named_modules())
        for name in {layer.name for layer in layers}:
            inner = [m for m in modules[name].modules() if _passes_messages(m)]
            # A layer that is made of others (GPSConv) may add to their messages.
            nested = [m for m in inner if m is not modules[name]]
            for module in nested or inner:
                stack.callback(module.register_forward_hook(_detach).remove)
            if not inner:
                stack.enter_context(_Mute(num_nodes))
        yield


def _passes_messages(module: nn.Module) -> bool:
    name = type(module).__name__
    known = isinstance(module, MessagePassing | nn.MultiheadAttention)
    return known or name.endswith(("Conv", "Attention"))


def _detach(module: nn.Module, args: Any, output: Any) -> Any:
    return map_tensors(output, torch.Tensor.detach)


class _Mute(TorchFunctionMode):
    """Detaches what operations that mix rows return, in layers written by hand."""

    def __init__(self, num_nodes: set[int]) -> None:
        super().__init__()
        self.num_nodes = num_nodes

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = call_name(func)
        mixes = name in SCATTERS or name in ATTENTIONS
        if name in MATRIX_PRODUCTS and len(args) > 1:
            left = args[-2]
            mixes = isinstance(left, Tensor) and left.size(-1) in self.num_nodes
        return output.detach() if mixes and isinstance(output, Tensor) else output


def _refuse(_: int) -> Tensor:
    raise RuntimeError("This graph keeps no tensors.")
