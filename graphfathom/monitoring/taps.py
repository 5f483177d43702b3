"""What a monitored step sees of a network: hooks that sleep on all other steps.

Glossary:
    layer: an outermost module that passes messages, or one that the user named.
    trunk: a module that holds all layers; the call of the outermost begins a pass.
    pass: one run of the network with gradients; of several before a step the last
        counts. Each call of a layer in it is one, whether or not it is the same module.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graphfathom.diagnostics.events import role_of, whole_networks
from graphfathom.diagnostics.segments import NoLayersError
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.monitoring.measures import dead_share, errors, features
from graphfathom.validation import edge_indices, leaf_tensors

__all__ = ["LayerCall", "Taps", "find_layers"]


def find_layers(model: nn.Module, pattern: str | None) -> dict[nn.Module, str]:
    """The layers of a model with their names, in the order of its modules.

    Raises:
        NoLayersError: If there is none.
    """
    whole = set(whole_networks(model))
    found: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        if model in found or (pattern and not name):  # `*` is not the model itself
            continue
        inside = any(name.startswith(f"{layer}.") for layer in found.values())
        if not inside and role_of(name, module, pattern, name in whole) in _LAYERS:
            found[module] = name
    if not found:
        asked = f" that matches {pattern!r}" if pattern else ""
        raise NoLayersError(
            f"No message-passing layer{asked} was found in {type(model).__name__}. If "
            'its layers are modules of your own, name them, e.g. `layers="convs.*"`.'
        )
    return found


_LAYERS = {"layer", "named"}


@dataclass
class LayerCall:
    """One call of a layer in a measured pass."""

    module: nn.Module
    dtype: torch.dtype | None = None
    """That of its output; None if that is no tensor."""
    forward: dict[str, Tensor] = field(default_factory=dict)
    backward: dict[str, Tensor] = field(default_factory=dict)


class _Hook:
    """A hook that stays behind when its model is copied or pickled."""

    def __init__(self, taps: Taps | None = None, method: str = "") -> None:
        self._taps, self._method = taps, method

    def __call__(self, *call: Any) -> None:
        # First, and a constant to torch.compile: compiled code has no hook in it.
        if torch.compiler.is_compiling():
            return
        if self._taps is not None and self._taps.awake:
            getattr(self._taps, self._method)(*call)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Hook:
        return _Hook()

    def __reduce__(self) -> tuple[type[_Hook], tuple[()]]:
        return _Hook, ()


class Taps:
    """Hooks on the layers of a model, asleep unless :attr:`awake`.

    Args:
        model: The model, without wrappers.
        pattern: Which modules are layers; None: found by role.
    """

    def __init__(self, model: nn.Module, pattern: str | None) -> None:
        self.layers = find_layers(model, pattern)
        self.awake = True
        self.calls: list[LayerCall] = []
        self._trunk: nn.Module | None = None
        self._graphs: list[_Graph] = []
        self._edge_index: Tensor | None = None
        self._handles = [
            layer.register_forward_hook(_Hook(self, "leave_layer"), with_kwargs=True)
            for layer in self.layers
        ]
        for trunk in _trunks(model, self.layers.values()):
            enter, leave = _Hook(self, "enter_trunk"), _Hook(self, "leave_trunk")
            self._handles += [
                trunk.register_forward_pre_hook(enter, with_kwargs=True),
                trunk.register_forward_hook(leave),
            ]

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.clear()

    def clear(self) -> None:
        """Forget the pass, but not the graph that it ran on."""
        self.calls, self._trunk = [], None

    def enter_trunk(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A pass begins, unless one is on its way."""
        # The same module once more: the call before was left by an error.
        if self._trunk not in (None, module) or not torch.is_grad_enabled():
            return
        self.clear()
        self._trunk = module
        self._edge_index = _edge_index(args, kwargs)

    def leave_trunk(self, module: nn.Module, *_: Any) -> None:
        """The pass ends where it began."""
        if module is self._trunk:
            self._trunk = None

    @torch.no_grad()
    def leave_layer(
        self, module: nn.Module, args: Any, kwargs: Any, output: Any
    ) -> None:
        """Measure the output of a layer, and its error signal when it comes."""
        # A checkpointed layer runs once more while gradients are on their way.
        again = torch._C._current_graph_task_id() != -1
        outputs = [t for t in leaf_tensors(output) if t.is_floating_point()]
        if again or not (outputs and outputs[0].requires_grad):
            return
        call, x = LayerCall(module), outputs[0]
        read = _node_features(args, kwargs)
        if self.calls and read is not None:
            self.calls[-1].forward["dead_units"] = dead_share(read)
        self.calls.append(call)
        structure = self._structure(_edge_index(args, kwargs), x, args)
        call.dtype, call.forward = x.dtype, features(x, structure)

        def arrive(gradient: Tensor) -> None:
            call.backward = errors(gradient, structure)

        x.register_hook(arrive)

    def _structure(
        self, edge_index: Tensor | None, x: Tensor, args: Any
    ) -> GraphStructure | None:
        """The graph of the rows of ``x``; None if they are not its nodes."""
        edge_index = self._edge_index if edge_index is None else edge_index
        bipartite = bool(args) and isinstance(args[0], tuple | list)
        if edge_index is None or x.dim() != 2 or bipartite:
            return None
        for graph in self._graphs:
            if graph.fits(edge_index, len(x)):
                return graph.structure
        # One graph is kept: a loader gives another with each batch.
        self._graphs = [_Graph.of(edge_index, len(x))]
        return self._graphs[0].structure


@dataclass(frozen=True, eq=False)
class _Graph:
    """A structure with what it was made of."""

    edge_index: Tensor
    version: int | None
    num_nodes: int
    structure: GraphStructure | None

    @classmethod
    def of(cls, edge_index: Tensor, num_nodes: int) -> _Graph:
        try:
            structure = GraphStructure.from_edge_index(edge_index, num_nodes)
        except ValueError:  # the rows are not the nodes
            structure = None
        return cls(edge_index, _version(edge_index), num_nodes, structure)

    def fits(self, edge_index: Tensor, num_nodes: int) -> bool:
        """Whether neither the edges nor the number of nodes have changed."""
        same = edge_index is self.edge_index and num_nodes == self.num_nodes
        return same and self.version == _version(edge_index)


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _trunks(model: nn.Module, layers: Iterable[str]) -> list[nn.Module]:
    """The modules that hold all layers, from the model down."""
    paths = [name.split(".")[:-1] if name else [] for name in layers]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    ends = range(len(shared) + 1)
    return [model.get_submodule(".".join(shared[:end])) for end in ends]


def _edge_index(args: Any, kwargs: Any) -> Tensor | None:
    """The one edge index among the arguments of a call."""
    found = edge_indices((args, kwargs))
    return found[0] if len(found) == 1 else None


def _node_features(args: Any, kwargs: Any) -> Tensor | None:
    """What a layer reads: its first float matrix."""
    tensors = leaf_tensors((args, kwargs))
    rows = (t for t in tensors if t.is_floating_point() and t.dim() == 2)
    return next(rows, None)
