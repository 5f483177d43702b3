"""The ends of a derivative between two states, as rows of nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["End", "end_of"]


@dataclass(frozen=True, eq=False)
class End:
    """One end of a derivative between states: its tensors, of rows for nodes."""

    tensors: tuple[Tensor, ...]
    kept: tuple[bool, ...]
    """Which of the tensors are no taps."""

    @property
    def widths(self) -> list[int]:
        kept = zip(self.tensors, self.kept, strict=True)
        return [t.numel() // t.shape[0] for t, keep in kept if keep]

    @property
    def width(self) -> int:
        return sum(self.widths)

    def place(self, nodes: Tensor, vectors: Tensor) -> list[tuple[Tensor, ...]]:
        """For each pair, zeros but for the row of the node."""
        blank = [torch.zeros_like(t) for t in self.tensors]
        found = []
        for node, vector in zip(nodes.tolist(), vectors, strict=True):
            parts = iter(vector.split(self.widths))
            placed = tuple(t.clone() for t in blank)
            for tensor, keep in zip(placed, self.kept, strict=True):
                if keep:
                    tensor[node] = next(parts).to(tensor).view(tensor.shape[1:])
            found.append(placed)
        return found

    def fill(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The inverse of :meth:`rows`, with zeros for taps."""
        parts = iter(rows.split(self.widths, 1))
        return tuple(
            next(parts).to(t).reshape(t.shape) if keep else torch.zeros_like(t)
            for t, keep in zip(self.tensors, self.kept, strict=True)
        )

    def rows(self, tensors: tuple[Tensor, ...]) -> Tensor:
        """One row for each node, without taps."""
        kept = zip(tensors, self.kept, strict=True)
        parts = [t.detach().reshape(len(t), -1) for t, keep in kept if keep]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def end_of(trace: Trace, frame: int, num_nodes: int, num_edges: int) -> End:
    """The end at a frame: 0 the input, k + 1 state k, L + 2 the output.

    Raises:
        ValueError: If its rows are not the nodes.
    """
    if frame == 0:
        end, name = _input(trace), "The input"
    elif frame == trace.num_layers + 2:
        end, name = End((trace.output,), (True,)), "The output"
    else:
        state, name = trace.states[frame - 1], f"State {frame - 1}"
        kept = tuple(label not in state.taps for label in state.names)
        end = End(state.tensors, kept)
    kept = zip(end.tensors, end.kept, strict=True)
    shapes = [tuple(t.shape) for t, keep in kept if keep]
    if any(shape[:1] != (num_nodes,) for shape in shapes):
        raise ValueError(
            f"{name} must have one row for each of the {num_nodes} nodes. Got "
            f"{', '.join(map(str, shapes))}: choose another `source` or `target`."
        )
    if len(shapes) > 1 and num_edges == num_nodes:
        raise ValueError(
            f"{name} holds {len(shapes)} tensors, and there are as many edges as nodes "
            f"({num_nodes}): their rows cannot be told apart. Choose another `source` "
            "or `target`."
        )
    return end


def _input(trace: Trace) -> End:
    problem = trace.problem
    x = None if problem.is_call else problem.data.get("x")
    tensors = trace.segment(0).inputs
    if not tensors or (isinstance(x, Tensor) and not x.is_floating_point()):
        raise ValueError(
            "`source` must hold numbers to differentiate in, and the features of the "
            'nodes are integers. Got "input": use `source=0`, the embedded features.'
        )
    return End(tensors, (True,) * len(tensors))
