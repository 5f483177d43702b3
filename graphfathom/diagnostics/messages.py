"""What a graph layer sends along which edge, if it sends linear messages."""

from __future__ import annotations

from collections.abc import Iterator
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
    from graphfathom.diagnostics.trace import Trace
    from graphfathom.problem import Problem

__all__ = ["Term", "linear_messages", "transitions"]

Term = tuple[csr_array, Tensor]
r"""A propagation :math:`P`, of shape (N, N), and a matrix :math:`M`, of shape
(out, in), that stand for :math:`P X M^\top`."""

NEIGHBOUR_MAPS = ("lin", "lin_rel", "lin_l")
"""How PyG's layers call the matrix on what neighbours send."""
ROOT_MAPS = ("lin_root", "lin_r")
"""How they call the matrix on a node's own features."""


def linear_messages(trace: Trace, k: int) -> list[Term]:
    r"""What layer k would be if it were :math:`\sum_t P_t X M_t^\top`.

    The propagation is what the layer's own forward hands to ``propagate``, normalised
    as it does it; the matrices are taken by the names that PyG gives them. Both are a
    guess, to be compared with the derivative of the layer.

    Args:
        trace: The network.
        k: The layer, 1 to L.

    Returns:
        The terms; none if the layer is not of this kind.
    """
    name, rows = trace.layers[k - 1], trace.states[k].main.shape[0]
    with trace.running() as problem:
        found = list(_convolutions(problem.model, name))
        if len(found) != 1:
            return []
        conv = found[0]
        calls = _observe(problem, name, conv)
        seen = trace.layers[:k].count(name) - 1
        graph = calls[seen] if seen < len(calls) else None
        propagation = None if graph is None else _matrix(conv, graph, rows)
        if propagation is None:
            return []
        pairs = _maps(problem.model.get_submodule(name), conv)
        matrices = (propagation, csr_array(eye_array(rows)))
        return [(matrices[position], m.detach().clone()) for position, m in pairs]


def transitions(trace: Trace, k: int) -> tuple[list[Tensor], Tensor] | None:
    r"""The matrices of a layer in state-space form, where its module has them.

    Returns:
        :math:`\Lambda` and, if there is one, :math:`E`; and :math:`B`. None if the
        layer is not in this form.
    """
    parts = trace.layers[k - 1].split(".")
    paths = [".".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
    with trace.running() as problem, torch.no_grad():
        modules = dict(problem.model.named_modules())
        for path in paths:
            owner: Any = modules.get(path)
            state, input = (getattr(owner, name, owner) for name in ("state", "input"))
            if hasattr(state, "unscaled") and hasattr(input, "unscaled"):
                maps = [state, getattr(owner, "persistent", None), input]
                eye = torch.eye(state.channels).to(trace.states[k].main)
                *carried, last = [part(eye).mT for part in maps if part is not None]
                return carried, last
    return None


def _convolutions(model: nn.Module, name: str) -> Iterator[MessagePassing]:
    """Layers with a matrix of their own, at a name or below it."""
    for path, module in model.named_modules():
        inside = path == name or path.startswith(f"{name}.")
        if inside and isinstance(module, MessagePassing) and _maps(module, module):
            yield module


def _maps(owner: nn.Module, conv: nn.Module) -> list[tuple[int, Tensor]]:
    r"""Matrices on what neighbours send (0) and on a node's own features (1)."""
    if isinstance(conv, GCN2Conv):
        # Behind the layer's own columns are those of its first features, x_0.
        own = _mixed(conv.weight1, conv.beta).mT
        first = own if conv.weight2 is None else _mixed(conv.weight2, conv.beta).mT
        zeros = torch.zeros_like(first)
        root = torch.cat([zeros, conv.alpha * first], dim=1)
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


def _observe(problem: Problem, name: str, conv: MessagePassing) -> list[Any]:
    """Graph of each call of a layer, with the weights it propagates with."""
    calls: list[Any] = []

    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        # A shared adjacency is used as it is, without `propagate`.
        shared = [item for item in (*args, *kwargs.values()) if hasattr(item, "rowptr")]
        calls.append(shared[0] if shared else None)

    def propagate(_: nn.Module, inputs: Any) -> None:
        weight = inputs[-1].get("edge_weight") if len(inputs) > 2 else None
        if calls and calls[-1] is None:
            calls[-1] = inputs[0], weight

    owner = problem.model.get_submodule(name)
    handles = [
        owner.register_forward_pre_hook(enter, with_kwargs=True),
        conv.register_propagate_forward_pre_hook(propagate),
    ]
    try:
        with torch.no_grad():
            problem.call()
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _matrix(conv: MessagePassing, call: Any, rows: int) -> csr_array | None:
    """The propagation as a matrix: row v is what node v receives."""
    graph, weight = call if isinstance(call, tuple) else (call, None)
    if hasattr(graph, "rowptr"):
        parts = (graph.value, graph.col, graph.rowptr)
        arrays = tuple(part.detach().cpu().numpy() for part in parts)
        return _summed(csr_array(arrays, shape=(rows, rows), copy=True))
    if is_sparse(graph):  # transposed, as PyG's layers take it
        (target, source), weight = to_edge_index(graph)
    elif isinstance(graph, Tensor):
        source, target = graph
    else:
        return None
    if getattr(conv, "flow", "") == "target_to_source" and not is_sparse(graph):
        source, target = target, source
    values = np.ones(len(source))
    if isinstance(weight, Tensor) and weight.numel() == len(source):
        values = weight.detach().double().flatten().cpu().numpy()
    places = (target.cpu().numpy(), source.cpu().numpy())
    if max((int(index.max(initial=-1)) for index in places), default=-1) >= rows:
        return None
    matrix = csr_array(coo_array((values, places), shape=(rows, rows)))
    if conv.aggr == "mean":
        count = np.bincount(places[0], minlength=rows).clip(min=1)
        rowptr, _, value = csr_parts(matrix)
        value /= count.repeat(np.diff(rowptr))
    return _summed(matrix) if conv.aggr in ("add", "sum", "mean") else None


def _summed(matrix: csr_array) -> csr_array:
    matrix.sum_duplicates()
    return matrix
