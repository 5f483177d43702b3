"""A network beside the explicit maps between its states.

The maps are written without the tracer, on plain tensors, so that
``torch.func.jacrev`` of a map in float64 is the dense truth.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.nn import GCNConv

from graphfathom.problem import Problem

State = tuple[Tensor, ...]
Map = Callable[..., State]

TOLERANCE = 1e-9
"""Relative error up to which two float64 results are the same."""


@dataclass(frozen=True)
class Case:
    """A network with data, and what a tracer must find in it."""

    model: nn.Module
    data: Any
    start: Callable[[Any], State] = lambda x: (x,)
    """Features -> state 0."""
    maps: tuple[Map, ...] = ()
    """State k -> state k+1, one map for each layer."""
    tail: tuple[Map, ...] = ()
    """From the last state on to the output of the model: any of these points may be
    called the last state."""
    close: Callable[[list[State]], Tensor] | None = None
    """All states -> output, where earlier states are tapped (JumpingKnowledge)."""
    call: Callable[[nn.Module, Any], Tensor] | None = None
    """The model on other features; by default ``model(x, data.edge_index)``."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of Problem."""

    @property
    def features(self) -> Any:
        """What ``start`` and ``run`` take."""
        hetero = isinstance(self.data, HeteroData)
        return self.data.x_dict if hetero else self.data.x

    def problem(self) -> Problem:
        """The problem to trace."""
        return Problem(self.model, self.data, **self.options)

    def run(self, features: Any) -> Tensor:
        """The output of the model itself."""
        if self.call is not None:
            return self.call(self.model, features)
        return self.model(features, self.data.edge_index)

    def states(self, features: Any) -> list[State]:
        """States 0..L of the reference."""
        states = [self.start(features)]
        for function in self.maps:
            states.append(function(*states[-1]))
        return states

    def output(self, states: list[State]) -> Tensor:
        """The output of the reference."""
        if self.close is not None:
            return self.close(states)
        last = states[-1]
        for function in self.tail:
            last = function(*last)
        return last[0]


@dataclass(frozen=True)
class Entry:
    """One row of the catalogue."""

    name: str
    build: Callable[[], Case]
    match: str = ""
    """What is said where the network or its Jacobian is refused; empty if they must
    be right."""

    def case(self) -> Case:
        """The network, built in float64 from seed 0; the caller's generator is kept."""
        with torch.random.fork_rng(), float64():
            torch.manual_seed(0)
            return self.build()


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Double precision as the default inside the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def dense_jacobian(function: Map, state: State) -> Tensor:
    """Jacobian of a map between states, each flattened row by row and concatenated."""
    sizes = [t.numel() for t in state]
    point = torch.cat([t.detach().reshape(-1) for t in state])

    def flat(vector: Tensor) -> Tensor:
        parts = zip(vector.split(sizes), state, strict=True)
        out = function(*(part.reshape(t.shape) for part, t in parts))
        return torch.cat([t.reshape(-1) for t in out])

    return torch.func.jacrev(flat)(point)


def gcn_matrix(data: Data) -> Tensor:
    """The dense matrix of a GCN: D^-1/2 (A + I) D^-1/2, row i receives."""
    eye = torch.eye(data.num_nodes, dtype=torch.float64)
    source, target = data.edge_index
    adj = eye.clone().index_put((target, source), torch.ones(()).double(), True)
    scale = adj.sum(dim=1).pow(-0.5)
    return scale[:, None] * adj * scale


def gcn(conv: GCNConv, adj: Tensor, x: Tensor) -> Tensor:
    """GCNConv as matrix algebra."""
    return adj @ x @ conv.lin.weight.t() + (0 if conv.bias is None else conv.bias)


def batch_norm(norm: nn.Module | None, x: Tensor) -> Tensor:
    """BatchNorm over the rows of one batch, written out; any other norm as it is."""
    if norm is None:
        return x
    inner = getattr(norm, "module", None)
    if not isinstance(inner, nn.BatchNorm1d):
        return norm(x)
    centred = x - x.mean(dim=0)
    variance = centred.square().mean(dim=0)
    return centred / (variance + inner.eps).sqrt() * inner.weight + inner.bias


def align(found: tuple[Tensor, ...], expected: State) -> Tensor | None:
    """Where the flat entries of a found state are in the expected one.

    None if the two do not hold the same tensors, in whatever order.
    """
    offsets, free = [], 0
    for tensor in expected:
        offsets.append(free)
        free += tensor.numel()
    rest = dict(enumerate(expected))
    positions = []
    for tensor in found:
        match = next((i for i, other in rest.items() if same(tensor, other)), None)
        if match is None:
            return None
        rest.pop(match)
        positions.append(offsets[match] + torch.arange(tensor.numel()))
    return None if rest else torch.cat(positions)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, up to shape and rounding."""
    if a.numel() != b.numel():
        return False
    a, b = a.reshape(-1).double(), b.detach().reshape(-1)
    return torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)


def relative_error(found: Tensor, truth: Tensor) -> float:
    """Largest deviation, relative to the largest entry of the truth."""
    assert found.shape == truth.shape
    scale = truth.abs().max().item() or 1.0
    return (found - truth).abs().max().item() / scale
