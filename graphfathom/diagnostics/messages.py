"""What graph layers send along which edge, if they send linear messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array, csr_array, eye_array
from torch import Tensor, nn
from torch_geometric.nn import GCN2Conv, MessagePassing
from torch_geometric.utils import is_sparse, to_edge_index

from graphfathom.linalg.components import csr_parts

if TYPE_CHECKING:
    from graphfathom.problem import Problem

__all__ = ["Messages", "Term", "linear_messages"]

Term = tuple[csr_array, Tensor]
r"""A propagation :math:`P`, of shape (N, N), and a matrix :math:`M`, of shape
(out, in), that stand for :math:`P X M^\top`."""

NEIGHBOUR_MAPS = ("lin", "lin_rel", "lin_l")
"""How PyG's layers call the matrix on what neighbours send."""
ROOT_MAPS = ("lin_root", "lin_r")
"""How they call the matrix on a node's own features."""


@dataclass(frozen=True, eq=False)
class Messages:
    """The parts of one layer, as far as its modules show them."""

    terms: tuple[Term, ...] = ()
    r"""The sum :math:`\sum_t P_t X M_t^\top`; empty if the layer is of another kind."""
    carry: tuple[Tensor, ...] = ()
    r"""In state-space form :math:`\Lambda` and, if there is one, :math:`E`."""
    input: Tensor | None = None
    """In state-space form B."""


def linear_messages(
    problem: Problem, layers: tuple[str, ...], num_nodes: int
) -> tuple[Messages, ...]:
    r"""What each layer would be if it were :math:`\sum_t P_t X M_t^\top`.

    The propagation is what the layer's own forward hands to ``propagate``, normalised
    as it does it; the matrices are taken by the names that PyG gives them. Both are a
    guess, to be compared with the derivative of the layer.

    Args:
        problem: The network, which runs once.
        layers: Names of the layers, in the order in which they are called.
        num_nodes: Number of nodes N.

    Returns:
        One record per layer.
    """
    modules = dict(problem.model.named_modules())
    whole = type(problem.model).__name__  # what a model is called that is one layer
    layers = tuple("" if n == whole and n not in modules else n for n in layers)
    convs = {name: list(_convolutions(modules, name)) for name in set(layers)}
    calls = _observe(
        problem, {n: found[0] for n, found in convs.items() if len(found) == 1}
    )
    matrices, found = _Matrices(num_nodes), []
    for k, name in enumerate(layers):
        seen = layers[:k].count(name)
        terms: list[Term] = []
        if seen < len(calls.get(name, ())):
            conv = convs[name][0]
            propagation = matrices.read(conv, calls[name][seen])
            if propagation is not None:
                both = (propagation, matrices.identity)
                pairs = _maps(modules[name], conv)
                terms = [(both[i], m.detach().clone()) for i, m in pairs]
        found.append(Messages(tuple(terms), *_transitions(modules, name)))
    return tuple(found)


def _convolutions(modules: dict[str, nn.Module], name: str) -> Iterator[MessagePassing]:
    """Layers with a matrix of their own, at a name or below it."""
    for path, module in modules.items():
        inside = path == name or path.startswith(f"{name}.")
        if inside and isinstance(module, MessagePassing) and _maps(module, module):
            yield module


def _maps(owner: nn.Module, conv: nn.Module) -> list[tuple[int, Tensor]]:
    r"""Matrices on what neighbours send (0) and on a node's own features (1)."""
    if isinstance(conv, GCN2Conv):
        # Behind the layer's own columns are those of its first features, x_0.
        own = _mixed(conv.weight1, conv.beta).mT
        first = own if conv.weight2 is None else _mixed(conv.weight2, conv.beta).mT
        root = torch.cat([torch.zeros_like(first), conv.alpha * first], dim=1)
        return [(0, F.pad((1 - conv.alpha) * own, (0, len(own)))), (1, root)]
    weight = _weight(conv, NEIGHBOUR_MAPS)
    if weight is None:
        return []
    if owner is not conv and isinstance(getattr(owner, "beta", None), float):
        weight = _mixed(weight, owner.beta)
    root = _weight(conv, ROOT_MAPS) if getattr(conv, "root_weight", True) else None
    return [(0, weight)] if root is None else [(0, weight), (1, root)]


def _mixed(weight: Tensor, beta: Any) -> Tensor:
    """An identity map of which a share is the weight."""
    return torch.lerp(torch.eye(*weight.shape).to(weight), weight, beta)


def _weight(conv: nn.Module, names: tuple[str, ...]) -> Tensor | None:
    maps = (getattr(getattr(conv, name, None), "weight", None) for name in names)
    return next((weight for weight in maps if isinstance(weight, Tensor)), None)


def _transitions(
    modules: dict[str, nn.Module], name: str
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Lambda, E and B of the nearest module around a layer that has them."""
    parts = name.split(".")
    for depth in range(len(parts), -1, -1):
        owner: Any = modules.get(".".join(parts[:depth]))
        state, input = (getattr(owner, part, owner) for part in ("state", "input"))
        if hasattr(state, "unscaled") and hasattr(input, "unscaled"):
            maps = (state, getattr(owner, "persistent", None), input)
            *carry, last = [_matrix(part) for part in maps if part is not None]
            return tuple(carry), last
    return (), None


@torch.no_grad()
def _matrix(transition: Any) -> Tensor:
    """In the precision of its entries; a scale has that of a Python number."""
    held = [*transition.parameters(), *transition.buffers()]
    eye = torch.eye(transition.channels, dtype=torch.float64)
    return transition(eye.to(held[0]) if held else eye).mT


def _observe(
    problem: Problem, convs: dict[str, MessagePassing]
) -> dict[str, list[Any]]:
    """Graph of each call of each layer, with the weights it propagates with."""
    calls: dict[str, list[Any]] = {name: [] for name in convs}

    def enter(name: str) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
            given = (*args, *kwargs.values())
            # A shared adjacency is used as it is, without `propagate`.
            shared = [item for item in given if hasattr(item, "rowptr")]
            calls[name].append(shared[0] if shared else None)

        return hook

    def propagate(name: str) -> Any:
        def hook(_: nn.Module, inputs: Any) -> None:
            weight = inputs[-1].get("edge_weight") if len(inputs) > 2 else None
            if calls[name] and calls[name][-1] is None:
                calls[name][-1] = inputs[0], weight

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, conv in convs.items():
            owner = problem.model.get_submodule(name)
            for handle in (
                owner.register_forward_pre_hook(enter(name), with_kwargs=True),
                conv.register_propagate_forward_pre_hook(propagate(name)),
            ):
                stack.callback(handle.remove)
        problem.call()
    return calls


class _Matrices:
    """Propagations as matrices; layers that propagate alike share one."""

    def __init__(self, num_nodes: int) -> None:
        self.num_nodes = num_nodes
        self.identity = csr_array(eye_array(num_nodes))
        self._known: list[csr_array] = []

    def read(self, conv: MessagePassing, call: Any) -> csr_array | None:
        """The propagation of a call: row v is what node v receives."""
        if call is None or conv.aggr not in ("add", "sum", "mean"):
            return None
        graph, weight = call if isinstance(call, tuple) else (call, None)
        if hasattr(graph, "rowptr"):
            if len(graph.rowptr) != self.num_nodes + 1:
                return None
            parts = (graph.value, graph.col, graph.rowptr)
            arrays = tuple(part.detach().cpu().numpy() for part in parts)
            shape = (self.num_nodes, self.num_nodes)
            return self._shared(csr_array(arrays, shape=shape, copy=True))
        if is_sparse(graph):  # transposed, as PyG's layers take it
            (target, source), weight = to_edge_index(graph)
        elif isinstance(graph, Tensor):
            source, target = graph
            if conv.flow == "target_to_source":
                source, target = target, source
        else:
            return None
        return self._from_edges(source, target, weight, conv.aggr == "mean")

    def _from_edges(
        self, source: Tensor, target: Tensor, weight: Any, mean: bool
    ) -> csr_array | None:
        n, values = self.num_nodes, np.ones(len(source))
        if isinstance(weight, Tensor) and weight.numel() == len(source):
            values = weight.detach().double().flatten().cpu().numpy()
        places = (target.cpu().numpy(), source.cpu().numpy())
        if any(int(index.max(initial=-1)) >= n for index in places):
            return None
        matrix = csr_array(coo_array((values, places), shape=(n, n)))
        if mean:
            count = np.bincount(places[0], minlength=n).clip(min=1)
            rowptr, _, value = csr_parts(matrix)
            value /= count.repeat(np.diff(rowptr))
        return self._shared(matrix)

    def _shared(self, matrix: csr_array) -> csr_array:
        matrix.sum_duplicates()
        new = csr_parts(matrix)
        for known in self._known:
            if all(map(np.array_equal, csr_parts(known), new)):
                return known
        self._known.append(matrix)
        return matrix
