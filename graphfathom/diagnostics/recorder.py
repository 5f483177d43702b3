"""Record one forward pass as a graph of the tensors that Python sees.

Glossary:
    call: one torch function called by the model's Python code; calls are numbered.
    value: a tensor returned by a call, as an edge of the autograd graph. Identity is
        ``(grad_fn, output_nr)``, so ``x += h`` makes a new value of the same object.
    event: the calls of one message passing: a module call, a ``propagate``, or one
        hand-written operation that mixes rows.

The autograd graph is built without its saved tensors (they are dropped by a pack
hook), so that recording costs no more memory than a forward pass without gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from graphfathom.diagnostics.events import Event, module_hooks, outermost_layers
from graphfathom.problem import Problem
from graphfathom.validation import leaf_tensors, map_tensors

__all__ = [
    "READOUTS",
    "ForwardError",
    "Recording",
    "Value",
    "attach",
    "call_name",
    "flat_tensors",
    "record",
    "sources_of",
]

MATRIX_PRODUCTS = {"matmul", "__matmul__", "mm", "bmm", "addmm", "spmm", "_sparse_mm"}
SCATTERS = {"scatter_add_", "scatter_add", "scatter_reduce_", "scatter_reduce"} | {
    "index_add_",
    "index_add",
    "index_reduce_",
    "index_reduce",
}
ATTENTIONS = {"scaled_dot_product_attention", "multi_head_attention_forward"}
READOUTS = MATRIX_PRODUCTS | {"linear", "log_softmax", "softmax", "sigmoid"}


class ForwardError(RuntimeError):
    """The model's own forward failed; the message names the layer."""


@dataclass
class Value:
    """A tensor of the forward pass through which gradient flows."""

    call: int
    """Index of the call that returned it; -1 for the input features."""
    position: int | None
    """Which of the call's outputs; None if it cannot be replaced (changed in place)."""
    parents: frozenset[int]
    """Indices of the values it was computed from."""
    shape: tuple[int, ...]
    """Shape of the tensor."""


@dataclass
class Recording:
    """What one forward pass did."""

    calls: list[str]
    values: list[Value]
    events: list[Event]
    output: Tensor
    output_value: int | None
    sourced: list[bool]
    saved_bytes: list[int]
    num_nodes: tuple[int, ...]
    readouts: list[int]
    """First calls of the modules that only a read-out has (jumping knowledge)."""


def sources_of(problem: Problem) -> list[Tensor]:
    """The node features that a network transforms: ``x``, else all that there are.

    Positions, encodings and other node tensors beside ``x`` are constants: as a part of
    every state, what is handed on unchanged would hide a gradient that vanishes in x.
    """
    rows = set(problem.num_nodes)
    found = [
        tensor
        for tensor in _inputs(problem)
        if tensor.is_floating_point()
        and tensor.layout == torch.strided
        and tensor.dim() > 0
        and tensor.size(0) in rows
        and tensor is not problem.target
    ]
    # A dense adjacency matrix has one row per node too, but is a constant.
    thin = [t for t in found if t.dim() != 2 or t.size(0) != t.size(1)]
    return thin or found


def _inputs(problem: Problem) -> list[Tensor]:
    """Tensors that may be node features, without others where ``x`` is one."""
    data = problem.data
    if problem.is_call:
        first = data[0][0] if data[0] else None
        if isinstance(first, Tensor) and first.is_floating_point():
            return [first]
        return leaf_tensors(data)
    if hasattr(data, "node_types"):
        stores = [data[kind] for kind in data.node_types]
        named = [store.x for store in stores if "x" in store]
        others = [v for store in stores for key, v in store.items() if key != "y"]
        return leaf_tensors(named or others)
    names = problem.argument_names
    if "x" in names and data.x.is_floating_point():
        return leaf_tensors([data.x])
    names = [n for n in names if "edge" not in n and "adj" not in n and n != "y"]
    return leaf_tensors([data[name] for name in names])


def flat_tensors(output: Any) -> list[Tensor]:
    """The tensors of a call's result, in order; other containers are opaque."""
    if isinstance(output, Tensor):
        return [output]
    if type(output) in (list, tuple):
        return [tensor for item in output for tensor in flat_tensors(item)]
    return []


def call_name(function: Any) -> str:
    """Name by which two passes recognise the same call."""
    return getattr(function, "__name__", None) or str(function)


class _Recorder(TorchFunctionMode):
    def __init__(self, num_nodes: tuple[int, ...], embeds: bool) -> None:
        super().__init__()
        self.num_nodes = num_nodes
        # Integer features enter the network as embeddings.
        self.embeds = embeds
        self.running = ""
        self.calls: list[str] = []
        self.values: list[Value] = []
        self.sourced: list[bool] = []
        self.saved_bytes: list[int] = [0]
        self.operations: list[Event] = []
        self.readouts: list[Event] = []
        self.roots: list[Event] = []
        self.stack: list[Event] = []
        self._index: dict[tuple[Any, int], int] = {}
        self._inner: dict[Any, frozenset[int]] = {}

    @property
    def clock(self) -> int:
        return len(self.calls)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        call, arguments = self.clock, flat_tensors([*args, *(kwargs or {}).values()])
        for tensor in arguments:
            self.register(tensor, call - 1, None)
        self.running = call_name(func)
        output = func(*args, **(kwargs or {}))
        for position, tensor in enumerate(flat_tensors(output)):
            self.register(tensor, call, position)
        for tensor in arguments:
            self.register(tensor, call, None)
        self.calls.append(self.running)
        self.saved_bytes.append(0)
        if self._mixes_rows(self.calls[-1], args, output):
            self.operations.append(Event(self.calls[-1], call, call + 1, "operation"))
        return output

    def register(self, tensor: Tensor, call: int, position: int | None) -> None:
        """Make a value of a tensor through which gradient flows, if it is new."""
        node = tensor.grad_fn
        if node is None or (node, tensor.output_nr) in self._index:
            return
        parents = self.parents(node)
        self._index[node, tensor.output_nr] = len(self.values)
        is_source = call < 0 or (self.embeds and self.running == "embedding")
        self.sourced.append(is_source or any(self.sourced[i] for i in parents))
        self.values.append(Value(call, position, parents, tuple(tensor.shape)))

    def find(self, tensor: Any) -> int | None:
        """Index of a tensor's value."""
        node = tensor.grad_fn if isinstance(tensor, Tensor) else None
        return None if node is None else self._index.get((node, tensor.output_nr))

    def parents(self, node: Any) -> frozenset[int]:
        """The values nearest to a node on every path back."""
        pending = [node]
        while pending:
            current = pending[-1]
            edges = [edge for edge in current.next_functions if edge[0] is not None]
            hidden = [edge[0] for edge in edges if edge not in self._index]
            waiting = [parent for parent in hidden if parent not in self._inner]
            if waiting:
                pending += waiting
                continue
            seen = {self._index[edge] for edge in edges if edge in self._index}
            self._inner[current] = frozenset(seen).union(
                *(self._inner[parent] for parent in hidden)
            )
            pending.pop()
        return self._inner[node]

    def count_saved(self, tensor: Tensor) -> int:
        """Pack hook: count the bytes of a saved tensor and drop it."""
        # Custom functions save tensors while the mode is on: this is no call of theirs.
        with torch._C.DisableTorchFunction():
            is_dense = tensor.layout == torch.strided
            if is_dense and not isinstance(tensor, nn.Parameter):
                self.saved_bytes[-1] += tensor.untyped_storage().nbytes()
        return 0

    def _mixes_rows(self, name: str, args: Any, output: Any) -> bool:
        """Whether a call adds up features of different nodes."""
        if not isinstance(output, Tensor) or output.dim() < 2 or len(args) < 2:
            return False
        rows = output.size(-2)
        if rows not in self.num_nodes:
            return False
        if name in ATTENTIONS or name in SCATTERS:
            return self._is_sourced(output)
        if name not in MATRIX_PRODUCTS:
            return False
        left, right = args[-2:]
        if not isinstance(left, Tensor) or not isinstance(right, Tensor):
            return False
        return self._is_sourced(right) and left.size(-1) in self.num_nodes

    def _is_sourced(self, tensor: Any) -> bool:
        index = self.find(tensor)
        return index is not None and self.sourced[index]


def record(problem: Problem, layers: str | None = None) -> Recording:
    """Run the model once and record it.

    Args:
        problem: Model and data that may be run freely, see ``sandbox``.
        layers: Pattern of module names that are the layers, e.g. ``"convs.*"``.
            Default: message passing is found by role.

    Raises:
        ForwardError: If the model's forward raises.
        ValueError: If the output is empty.
    """
    sources = sources_of(problem)
    x = None if problem.is_call else problem.data.get("x")
    is_integer = isinstance(x, Tensor) and not x.is_floating_point()
    recorder = _Recorder(problem.num_nodes, embeds=not sources or is_integer)
    problem = attach(problem, sources, {id(t): _branch(t) for t in sources})
    for tensor in sources_of(problem):
        recorder.register(tensor, -1, 0)
    hooks = torch.autograd.graph.saved_tensors_hooks(
        recorder.count_saved, _refuse_unpack
    )
    with torch.enable_grad(), hooks, module_hooks(problem.model, recorder, layers):
        try:
            with recorder:
                result = problem.call()
        except Exception as error:
            raise ForwardError(_failure(error, problem, recorder)) from error
    output = problem.only_tensor(result)
    if not output.numel():
        raise ValueError(
            "The output of the model must have at least one entry. Got shape "
            f"{tuple(output.shape)}: pass a graph that it has an answer for."
        )
    recorder.register(output, recorder.clock - 1, None)
    return Recording(
        calls=recorder.calls,
        values=recorder.values,
        sourced=recorder.sourced,
        events=outermost_layers(recorder, layers),
        output=output.detach(),
        output_value=recorder.find(output),
        saved_bytes=recorder.saved_bytes,
        num_nodes=problem.num_nodes,
        readouts=[event.start for event in recorder.readouts],
    )


def attach(
    problem: Problem, sources: list[Tensor], replacement: dict[int, Tensor]
) -> Problem:
    """The problem with its input features replaced, by identity."""
    data = map_tensors(problem.data, lambda t: replacement.get(id(t), t))
    return problem.replace(problem.model, data)


@torch.enable_grad()
def _branch(tensor: Tensor) -> Tensor:
    # Not a leaf: a model may change its input in place.
    return tensor.detach().requires_grad_().clone()


def _refuse_unpack(_: int) -> Tensor:
    raise RuntimeError("The recorded graph keeps no tensors.")


def _failure(error: Exception, problem: Problem, recorder: _Recorder) -> str:
    model = type(problem.model).__name__
    place = f" in `{recorder.stack[-1].name}`" if recorder.stack else ""
    return f"The forward pass of {model} failed{place}: {type(error).__name__}: {error}"
