"""Which nodes a layer lets a node see, found by probing its derivative."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, eye_array
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.layer_map import LayerMap, random_rows
from graphfathom.linalg.components import csr_parts
from graphfathom.validation import edge_indices

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["neighbourhoods"]

MAX_HOPS = 8
"""How far a layer may see; the farthest of PyG's, TAGConv, sees 3 by default."""
NUM_ROWS = 8
"""Nodes whose inputs are looked up."""


def neighbourhoods(layer: LayerMap, max_entries: int) -> Iterator[csr_array]:
    r"""Patterns that may hold the Jacobian of a layer, the smallest first.

    A pattern is a power of :math:`I + A`, :math:`I + A^\top` or their sum, with
    :math:`A` the edges in the data. Only those are returned that hold all the inputs of
    eight nodes, among them the one with most neighbours, found by one transposed
    product each. Without edges in the data every node is looked up.

    Args:
        layer: The derivative of the layer.
        max_entries: Most pairs of nodes that the caller can afford.

    Yields:
        Matrices of shape (N, N): row v is what node v may see.

    Raises:
        JacobianError: If no pattern holds all inputs, or the first is too large.
    """
    n = layer.num_nodes
    edges = _edges(layer.trace, n)
    if edges is None:
        yield _all_inputs(layer)
        return
    seen = {v: _inputs(layer, v) for v in _rows(edges)}
    identity = csr_array(eye_array(n))
    bases = [_pattern(identity + a) for a in (edges, edges.T, edges + edges.T)]
    near = any(_holds(pattern, seen) for pattern in bases)
    mixing = None if near else _mixing_module(layer)
    powers, last = list(bases), -1
    for _ in range(MAX_HOPS if mixing is None else 0):
        for pattern in powers:
            if pattern.nnz == last or not _holds(pattern, seen):
                continue
            if pattern.nnz > max_entries:
                raise JacobianError(
                    f"`{layer.name}` lets {pattern.nnz} pairs of nodes see each other, "
                    f"of which {max_entries} fit the budget. Raise `byte_budget`, or "
                    "use the operator `trace.jacobian(k - 1, k)`."
                )
            last = pattern.nnz
            yield pattern
        if min(pattern.nnz for pattern in powers) > max_entries:
            break
        powers = [_pattern(p @ b) for p, b in zip(powers, bases, strict=True)]
    if last < 0:
        farthest = max(len(rows) for rows in seen.values())
        raise JacobianError(
            f"{mixing or f'`{layer.name}`'} lets a node see {farthest} of {n} nodes, "
            f"more than its neighbours: the Jacobian of layer {layer.k} "
            f"(`{layer.name}`) is not sparse. Use the operator `trace.jacobian(k - 1, "
            "k)`, or its `to_dense()` on a small graph."
        )


def _edges(trace: Trace, num_nodes: int) -> csr_array | None:
    """All edges in the data, row v holding what points at v."""
    with trace.running() as problem:
        found = [e.detach().cpu().numpy() for e in edge_indices(problem.data)]
    found = [e for e in found if int(e.max(initial=-1)) < num_nodes]
    if not found:
        return None
    source, target = np.concatenate(found, axis=1)
    ones = np.ones(len(source))
    return _pattern(coo_array((ones, (target, source)), shape=(num_nodes,) * 2))


def _pattern(matrix: Any) -> csr_array:
    matrix = csr_array(matrix)
    matrix.sum_duplicates()
    matrix.data = np.ones_like(matrix.data)
    return matrix


def _rows(edges: csr_array) -> list[int]:
    """The node with most neighbours, and others evenly spread."""
    rowptr, col, _ = csr_parts(edges)
    n = len(rowptr) - 1
    counts = np.diff(rowptr) + np.bincount(col, minlength=n)
    spread = np.linspace(0, n - 1, min(n, NUM_ROWS)).astype(int)
    return sorted({int(counts.argmax()), *spread.tolist()}) if n else []


def _inputs(layer: LayerMap, node: int) -> np.ndarray:
    """Nodes whose features change one node's output."""
    generator = torch.Generator().manual_seed(node)
    cotangent = random_rows(layer, layer.out_channels, generator)
    keep = torch.zeros_like(cotangent[:, :1])
    keep[node] = 1
    return (layer.vjp(cotangent * keep) != 0).any(1).nonzero().flatten().cpu().numpy()


def _all_inputs(layer: LayerMap) -> csr_array:
    inputs = [_inputs(layer, node) for node in range(layer.num_nodes)]
    rows = np.repeat(np.arange(len(inputs)), [len(columns) for columns in inputs])
    columns = np.concatenate([np.zeros(0, int), *inputs])
    shape = (layer.num_nodes,) * 2
    return _pattern(coo_array((np.ones(len(rows)), (rows, columns)), shape=shape))


def _holds(pattern: csr_array, seen: dict[int, np.ndarray]) -> bool:
    rowptr, col, _ = csr_parts(pattern)
    return all(
        np.isin(inputs, col[rowptr[v] : rowptr[v + 1]]).all()
        for v, inputs in seen.items()
    )


def _mixing_module(layer: LayerMap) -> str | None:
    """The module around a layer that mixes nodes without passing messages."""
    trace, log = layer.trace, _Log()
    with trace.running() as problem, ExitStack() as stack:
        for name, module in problem.model.named_modules():
            if name in trace.layers:
                handle = module.register_forward_pre_hook(log.mark)
            elif not any(isinstance(m, MessagePassing) for m in module.modules()):
                hook = log.probe(f"`{name}` ({type(module).__name__})")
                handle = module.register_forward_hook(hook, with_kwargs=True)
            else:
                continue
            stack.callback(handle.remove)
        with torch.no_grad():
            problem.call()
    # What is called behind the layer, else before it; of nested modules the innermost.
    for begin in (layer.k, layer.k - 1):
        if len(log.mixing) == trace.num_layers + 1 and log.mixing[begin]:
            # PyG's norms wrap torch's under this name.
            own = [name for name in log.mixing[begin] if ".module` " not in name]
            return max(own, key=len)
    return None


class _Log:
    """Modules that mix nodes, by the number of layers called before them."""

    def __init__(self) -> None:
        self.mixing: list[list[str]] = [[]]
        self.busy = False

    def mark(self, *_: Any) -> None:
        self.mixing.append([])

    def probe(self, name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self.busy or not args or not isinstance(args[0], Tensor):
                return
            self.busy = True
            try:
                if _mixes(module, args, kwargs, output):
                    self.mixing[-1].append(name)
            finally:
                self.busy = False

        return hook


def _mixes(module: nn.Module, args: Any, kwargs: Any, output: Any) -> bool:
    """Whether one row of a module's output depends on several rows of its input."""
    x = args[0]
    if not isinstance(output, Tensor) or x.dim() < 2 or not x.is_floating_point():
        return False
    if output.shape[:1] != x.shape[:1] or not len(x):
        return False
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        row = module(x, *args[1:], **kwargs)[len(x) // 2]
        if not row.requires_grad:
            return False
        weights = torch.linspace(1, 2, row.numel(), dtype=row.dtype, device=row.device)
        (grad,) = torch.autograd.grad((row.flatten() * weights).sum(), x)
    return int((grad.flatten(1) != 0).any(1).sum()) > 1
