"""Where in a forward pass messages are passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from graphs import random_graph
from problems import CATALOGUE, Entry
from stubborn import gcn
from torch import Tensor, nn
from torch_geometric.nn import APPNP, GCNConv, JumpingKnowledge, MessagePassing

from graphfathom.diagnostics.events import Event, module_hooks, outermost_layers
from graphfathom.diagnostics.recorder import record
from graphfathom.problem import Problem


@dataclass
class Clock:
    """A log whose time stands still unless it is moved."""

    clock: int = 0
    operations: list[Event] = field(default_factory=list)
    readouts: list[Event] = field(default_factory=list)
    roots: list[Event] = field(default_factory=list)
    stack: list[Event] = field(default_factory=list)


class Ticking(nn.Module):
    """Moves the clock, then calls what is inside."""

    def __init__(self, log: Clock, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.ModuleList(inner)
        self.log = [log]

    def forward(self, x: Tensor) -> Tensor:
        self.log[0].clock += 1
        for module in self.inner:
            x = module(x)
        self.log[0].clock += 1
        return x


class TickingConv(Ticking):
    """A layer, by its name."""


def logged(
    build: Callable[[Clock], nn.Module], layers: str | None = None
) -> tuple[Clock, list[Event]]:
    """The log of one call, and the layers in it."""
    log = Clock()
    model = build(log)
    with module_hooks(model, log, layers):
        model(torch.ones(1))
    return log, outermost_layers(log, layers)


def test_modules_are_nested_as_they_are_called() -> None:
    log, _ = logged(lambda log: Ticking(log, Ticking(log), Ticking(log)))
    (root,) = log.roots
    assert (root.name, root.start, root.stop) == ("Ticking", 0, 6)
    spans = [(e.name, e.start, e.stop) for e in root.inner]
    assert spans == [("inner.0", 1, 3), ("inner.1", 3, 5)]
    assert log.stack == []


def test_outermost_layers_in_call_order() -> None:
    _, found = logged(
        lambda log: Ticking(
            log, TickingConv(log, TickingConv(log)), Ticking(log, TickingConv(log))
        )
    )
    assert [event.name for event in found] == ["inner.0", "inner.1.inner.0"]
    assert [child.name for child in found[0].inner] == ["inner.0.inner.0"]


def test_a_module_called_twice_is_two_layers() -> None:
    def build(log: Clock) -> nn.Module:
        shared = TickingConv(log)
        return Ticking(log, shared, shared)

    _, found = logged(build)
    assert [(e.start, e.stop) for e in found] == [(1, 3), (3, 5)]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("inner.*", ["inner.0", "inner.1"]),
        ("inner.1", ["inner.1"]),
        ("*.*.inner.*", ["inner.1.inner.0"]),
        ("inner.*.inner.0", ["inner.1.inner.0"]),
        ("inner", []),
    ],
)
def test_named_layers_match_component_by_component(
    pattern: str, names: list[str]
) -> None:
    _, found = logged(
        lambda log: Ticking(log, TickingConv(log), Ticking(log, Ticking(log))), pattern
    )
    assert [event.name for event in found] == names
    assert all(event.role == "named" for event in found)


def test_blocks_end_with_the_wrapper_of_a_layer() -> None:
    _, found = logged(
        lambda log: Ticking(
            log, Ticking(log, TickingConv(log)), Ticking(log, TickingConv(log))
        )
    )
    # The wrapper around one layer, not the model around all of them.
    assert [(event.stop, event.block_stop) for event in found] == [(4, 5), (8, 9)]


def test_hooks_are_gone_even_after_an_error() -> None:
    class Propagating(MessagePassing):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("on purpose")

    model = nn.Sequential(nn.Identity(), Propagating())

    def run() -> None:
        with module_hooks(model, Clock(), None):
            assert all(m._forward_hooks for m in model.modules())
            assert model[1]._propagate_forward_pre_hooks
            model(torch.ones(1))

    with pytest.raises(RuntimeError, match="on purpose"):
        run()
    for module in model.modules():
        hooks = [v for k, v in vars(module).items() if k.endswith("_hooks") and v]
        assert hooks == []


def test_jumping_knowledge_is_a_readout() -> None:
    log = Clock()
    model = JumpingKnowledge("cat")
    with module_hooks(model, log, None):
        model([torch.ones(2, 2)])
    assert [event.role for event in log.readouts] == ["readout"]
    assert outermost_layers(log, None) == []


def events(model: nn.Module, layers: str | None = None) -> list[Event]:
    """The layers of a network on a graph."""
    return record(Problem(model, random_graph()), layers).events


def test_convolutions_are_layers_with_their_propagation_inside() -> None:
    found = events(gcn())
    assert [event.name for event in found] == ["convs.0", "convs.1", "convs.2"]
    for event in found:
        inner = [child.name for child in event.inner if child.role == "propagate"]
        assert inner == [f"{event.name}.propagate"]


def test_repeated_propagations_are_inside_one_layer() -> None:
    (event,) = events(APPNP(K=4, alpha=0.1))
    assert [child.name for child in event.inner] == ["APPNP.propagate"] * 4


def test_named_layers_have_no_propagations() -> None:
    (event, _) = events(gcn(2), "convs.*")
    assert all(child.role == "module" for child in event.inner)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        # The class of this one ends in "Conv", as that of a layer does.
        ("shared conv", ["conv", "conv", "conv"]),
        ("dense layers", ["layers.0", "layers.1", "layers.2"]),
        ("dense inline", ["matmul", "matmul", "matmul"]),
        ("HeteroConv", ["convs.0", "convs.1", "convs.2"]),
    ],
)
def test_layers_are_found_by_role(name: str, layers: list[str]) -> None:
    entry: Entry = next(entry for entry in CATALOGUE if entry.name == name)
    found = record(entry.case().problem()).events
    assert [event.name for event in found] == layers


def test_two_hand_written_mixings_in_one_block_are_two_layers() -> None:
    class Block(nn.Module):
        def forward(self, x: Tensor, adj: Tensor) -> Tensor:
            return adj @ (adj @ x).tanh()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()
            self.conv = GCNConv(3, 3)

        def forward(self, x: Tensor, adj: Tensor, edge_index: Tensor) -> Tensor:
            return self.conv(self.block(x, adj), edge_index)

    data = random_graph()
    data.adj = torch.rand(8, 8)
    found = record(Problem(Net(), data)).events
    assert [event.role for event in found] == ["operation", "operation", "layer"]
