"""The derivative between two states of a network, cut into blocks of node pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from graphfathom.diagnostics.jacobian import JacobianError, differentiating
from graphfathom.diagnostics.layer_runs import ClosedLayers, pulled, rescaled
from graphfathom.diagnostics.node_ends import end_of
from graphfathom.diagnostics.trace import Trace
from graphfathom.linalg.vector import gaussian_vector

__all__ = ["NodeJacobian", "Product"]

SIDE_BYTES = 5 * 2**20
"""Vectors side by side that stay in the cache: on Cora, seven of 64 channels."""
CHUNK_BYTES = 64 * 2**20
"""Vectors that travel side by side: a segment is still in the cache for the next."""
MANY = 24
"""Products from which a closed form pays: it takes about six itself."""
FLOWS = {"source_to_target", "target_to_source"}
"""What ``flow`` of a message passing of PyG may be."""


@dataclass(frozen=True, eq=False)
class Product:
    """A product with the derivative, one row for each node."""

    rows: Tensor
    """The rows without the factor below, of shape (N, width)."""
    log10_scale: float
    """Decimal logarithm of the factor that was taken out."""


@final
class NodeJacobian:
    r"""All blocks :math:`J_{vu} = \partial t_v / \partial s_u` of node pairs.

    Here :math:`s_u` is the row of node u in the source, :math:`t_v` that of node v in
    the target. A state of several tensors has the rows of all of them side by side,
    without taps. Products are rescaled at every layer, so that those of a thousand
    layers neither vanish nor overflow.

    Args:
        trace: The network.
        source: What is differentiated in: ``"input"``, the features of the nodes, or
            the index of a state.
        target: What is differentiated: ``"output"`` or the index of a later state.
        edge_index: Edges :math:`u \to v` along which messages go, of shape (2, E), for
            the hop distances. Default: those of the data, turned round where the layers
            have ``flow="target_to_source"``.

    Raises:
        ValueError: If the two ends are no states in this order, the rows of one are not
            the nodes, the features hold integers, or the edges are not known.

    Example:
        >>> from torch_geometric.data import Data
        >>> from torch_geometric.nn import GCN
        >>> data = Data(x=torch.eye(3), edge_index=torch.tensor([[0, 1], [1, 2]]))
        >>> model = GCN(3, 8, num_layers=2, out_channels=2)
        >>> NodeJacobian(gf.capture(gf.Problem(model, data)))
        NodeJacobian(input -> output, 3 nodes, blocks of 2 x 3)
    """

    def __init__(
        self,
        trace: Trace,
        source: int | str = "input",
        target: int | str = "output",
        *,
        edge_index: Tensor | None = None,
    ) -> None:
        self.trace, self.source, self.target = trace, source, target
        self.num_nodes = _num_nodes(trace)
        self._first = _frame(trace, source, "source", "input", 0)
        self._last = _frame(trace, target, "target", "output", trace.num_layers + 2)
        if self._first >= self._last:
            raise ValueError(
                f"`source` must come before `target`. Got {source!r} and {target!r}."
            )
        self.edge_index = _edges(trace, edge_index, self.num_nodes)
        self._together_pays = False
        self._layers = ClosedLayers(trace)
        self._begin, self._end = (
            end_of(trace, frame, self.num_nodes, self.edge_index.shape[1])
            for frame in (self._first, self._last)
        )

    def __repr__(self) -> str:
        names = [
            f"state {end}" if isinstance(end, int) else end
            for end in (self.source, self.target)
        ]
        return (
            f"NodeJacobian({' -> '.join(names)}, {self.num_nodes} nodes, "
            f"blocks of {self.out_width} x {self.in_width})"
        )

    @property
    def in_width(self) -> int:
        """Entries of a node in the source: columns of a block."""
        return self._begin.width

    @property
    def out_width(self) -> int:
        """Entries of a node in the target: rows of a block."""
        return self._end.width

    def pull(self, nodes: Tensor, vectors: Tensor) -> Iterator[Product]:
        r"""Products :math:`(J_{vu}^\top w)_u` for pairs of a node v and a vector w.

        Args:
            nodes: The nodes v, of shape (P,).
            vectors: One w for each, of shape (P, ``out_width``).

        Yields:
            One product per pair, of width ``in_width``; each costs one VJP. Of many,
            those through layers that have a closed form are taken side by side.
        """
        self._together_pays = len(nodes) >= MANY
        for part in self._chunks(len(nodes)):
            yield from self._carry(self._end.place(nodes[part], vectors[part]), False)

    def push(self, nodes: Tensor, vectors: Tensor) -> Iterator[Product]:
        r"""Products :math:`(J_{vu} x)_v` for pairs of a node u and a vector x.

        Args:
            nodes: The nodes u, of shape (P,).
            vectors: One x for each, of shape (P, ``in_width``).

        Yields:
            One product per pair, of width ``out_width``; each costs one JVP, for which
            the network is differentiated twice.

        Raises:
            JacobianError: If the two products with a random pair of vectors disagree:
                a layer cannot be differentiated twice.
        """
        self._check_adjoint()
        for part in self._chunks(len(nodes)):
            yield from self._carry(self._begin.place(nodes[part], vectors[part]), True)

    def distances(self, roots: Tensor, *, backward: bool) -> Tensor:
        """Hops between roots and all nodes along the messages.

        Args:
            roots: The nodes to start from, of shape (R,).
            backward: Count the hops from the nodes to a root, not from a root to them.

        Returns:
            Number of hops, of shape (R, N); -1 where there is no path.
        """
        ends = self.edge_index.cpu().numpy()
        place = (ends[1], ends[0]) if backward else (ends[0], ends[1])
        graph = csr_array(
            (np.ones(ends.shape[1]), place), shape=(self.num_nodes, self.num_nodes)
        )
        hops = dijkstra(graph, unweighted=True, indices=roots.cpu().numpy())
        hops[np.isinf(hops)] = -1
        return torch.from_numpy(hops).long()

    def moving_bytes(self, count: int) -> int:
        """Bytes of the vectors that are on the way together, of ``count`` in all."""
        return min(count, self._together) * self._vector_bytes

    @property
    def _vector_bytes(self) -> int:
        states = self.trace.states[max(self._first - 1, 0) : self._last]
        ends = (self._begin.tensors, self._end.tensors)
        frames = [*ends, *(state.tensors for state in states)]
        return max(sum(t.numel() * t.element_size() for t in f) for f in frames)

    @property
    def _together(self) -> int:
        return max(1, CHUNK_BYTES // self._vector_bytes)

    def _chunks(self, count: int) -> Iterator[slice]:
        for start in range(0, count, self._together):
            yield slice(start, start + self._together)

    def _carry(
        self, moving: list[tuple[Tensor, ...]], forward: bool
    ) -> Iterator[Product]:
        """All vectors through one segment before the next, whose graph may be new."""
        end = self._end if forward else self._begin
        scales = [0.0] * len(moving)
        order = range(self._first, self._last)[:: 1 if forward else -1]
        together = self._together_pays and not forward
        runs = self._layers.runs(order) if together else [[j] for j in order]
        for run in runs:
            for i, tensors, exponent in self._through(run, moving, forward):
                scales[i] += exponent * math.log10(2)
                moving[i] = tensors
                if run is runs[-1]:
                    moving[i] = ()
                    yield Product(end.rows(tensors), scales[i])
            if forward:
                self.trace.segment(run[0]).release()

    def _through(
        self, run: list[int], moving: list[tuple[Tensor, ...]], forward: bool
    ) -> Iterator[tuple[int, tuple[Tensor, ...], int]]:
        """Each vector behind a run of segments, and the binary exponent taken out."""
        together = self._together_pays and not forward
        forms = [self._layers.form(j) for j in run if together]
        if not forms or forms[0] is None:
            for i, tensors in enumerate(moving):
                yield i, *rescaled(self._multiply(run[0], tensors, forward))
            return
        shape = self.trace.states[run[-1] - 1].main.shape
        count = max(1, SIDE_BYTES // self._vector_bytes)
        for begin in range(0, len(moving), count):
            group = [tensors[0].flatten(1) for tensors in moving[begin : begin + count]]
            sides, exponents = pulled(torch.stack(group, 1), forms)
            for i, x in enumerate(sides.unbind(1)):
                yield begin + i, (x.reshape(shape),), exponents[i]

    def _multiply(
        self, j: int, tensors: tuple[Tensor, ...], forward: bool
    ) -> tuple[Tensor, ...]:
        segment = self.trace.segment(j)  # not kept, it goes before the next is built
        names = ("the encoder", *self.trace.layers, "the read-out")
        with differentiating(names[j]):
            return segment.jvp(tensors) if forward else segment.vjp(tensors)[0]

    def _check_adjoint(self) -> None:
        generator = torch.Generator().manual_seed(1)
        kind = torch.float64, torch.device("cpu")
        v, w = (
            gaussian_vector(self.num_nodes * width, *kind, generator=generator)
            for width in (self.in_width, self.out_width)
        )
        start, stop = (
            end.fill(vector.view(self.num_nodes, -1))
            for end, vector in ((self._begin, v), (self._end, w))
        )
        try:
            (forth,) = self._carry([start], forward=True)
        except JacobianError as error:
            raise JacobianError(
                "The layers cannot be differentiated twice, which `sensitivity_to` "
                f"needs: {error} Use `sensitivity_of`."
            ) from error
        (back,) = self._carry([stop], forward=False)
        pushed, pulled = (p.rows.cpu().double().reshape(-1) for p in (forth, back))
        shift = 10 ** min(back.log10_scale - forth.log10_scale, 300.0)
        left, right = float(pushed @ w), float(pulled @ v) * shift
        size = max(
            float(pushed.norm() * w.norm()), float(pulled.norm() * v.norm()) * shift
        )
        tolerance = torch.finfo(self.trace.states[0].main.dtype).eps ** 0.5
        if math.isfinite(size) and abs(left - right) > tolerance * size:
            raise JacobianError(
                "The derivative of the layers is inconsistent: <Jv, w> and <v, J'w> "
                f"differ by {abs(left - right) / size:.1e} of their size. An operation "
                "cannot be differentiated twice, or has a wrong backward. Use "
                "`sensitivity_of`."
            )


def _num_nodes(trace: Trace) -> int:
    counts = trace.problem.num_nodes
    if len(counts) != 1:
        raise ValueError(
            "Sensitivity between nodes needs nodes of one type. Got "
            f"{len(counts)} types: use `trace.jacobian`."
        )
    return counts[0]


def _frame(trace: Trace, end: int | str, name: str, word: str, frame: int) -> int:
    """Number of the frame that an end is: 0 the input, k + 1 state k."""
    if end == word:
        return frame
    is_state = isinstance(end, int) and not isinstance(end, bool)
    if is_state and 0 <= int(end) <= trace.num_layers:
        return int(end) + 1
    raise ValueError(
        f"`{name}` must be {word!r} or a state, 0 to {trace.num_layers}. Got {end!r}."
    )


def _edges(trace: Trace, edge_index: Tensor | None, num_nodes: int) -> Tensor:
    if edge_index is None:
        edge_index = _own_edges(trace)
    if edge_index.dim() != 2 or len(edge_index) != 2 or edge_index.is_floating_point():
        raise ValueError(
            "`edge_index` must hold integers of shape (2, E). Got "
            f"{edge_index.dtype} of shape {tuple(edge_index.shape)}."
        )
    low, high = edge_index.aminmax() if edge_index.numel() else (0, 0)
    if int(low) < 0 or int(high) >= max(num_nodes, 1):
        raise ValueError(
            f"`edge_index` must lie in [0, {num_nodes - 1}], the nodes. Got values in "
            f"[{int(low)}, {int(high)}]."
        )
    return edge_index


def _own_edges(trace: Trace) -> Tensor:
    edge_index = trace.problem.edge_index
    modules = trace.problem.model.modules()
    flows = {str(getattr(module, "flow", None)) for module in modules} & FLOWS
    if edge_index is None or len(flows) > 1:
        reason = "layers with both kinds of `flow`"
        if edge_index is None:
            reason = f"{len(trace.problem.edge_indices)} edge indices in the data"
        raise ValueError(
            "`edge_index` must be given, of shape (2, E) in the direction of the "
            f"messages, where hops cannot be counted otherwise. Got {reason}."
        )
    return edge_index.flip(0) if "target_to_source" in flows else edge_index
