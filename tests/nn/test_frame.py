"""The frame around any layer, and the read-out and recomputing it shares."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from graphs import path_graph, random_graph
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GCNConv

from graphfathom.nn import GNNSSM
from graphfathom.nn.frame import GraphNetwork
from graphfathom.nn.readout import build_head, pool
from graphfathom.nn.recompute import CHECKPOINTS, run_layers


class Echo(nn.Module):
    """Adds the number of the layer and remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def forward(
        self, x: Tensor, graph: Any, edge_weight: Any = None, step: int = 0
    ) -> Tensor:
        self.seen.append((graph, edge_weight, step))
        return x + step


def echo(**options: Any) -> GraphNetwork:
    torch.manual_seed(0)
    return GraphNetwork(3, 4, 2, 5, lambda k, act: Echo(), **options)


@pytest.mark.parametrize("share", [False, True])
def test_layers_run_in_order_with_their_number(share: bool) -> None:
    data = random_graph()
    model = echo(share_weights=share)
    assert len(model.layers) == (1 if share else 5)
    found = model(data.x, data.edge_index)
    expected = model.head(model.encoder(data.x) + 1 + 2 + 3 + 4 + 5)
    torch.testing.assert_close(found, expected)
    seen = [call for layer in model.layers for call in layer.seen]
    assert [step for *_, step in seen] == [1, 2, 3, 4, 5]


def test_layers_receive_what_they_name() -> None:
    data = random_graph()
    weight = torch.rand(data.num_edges)
    model = echo()
    model(data.x, data.edge_index, weight, edge_attr=torch.rand(data.num_edges, 2))
    graph, given, _ = model.layers[0].seen[0]
    assert graph is data.edge_index
    assert given is weight


def test_state_of_several_tensors() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor, v: Tensor, graph: Any) -> tuple[Tensor, Tensor]:
            return x + v, 2 * v

    class Network(GraphNetwork):
        def start(self, x: Tensor, graph: Any, given: dict[str, Any]) -> Any:
            return x, x

        def width(self) -> int:
            return 2 * self.hidden_channels

        def finish(self, state: Any) -> Tensor:
            return torch.cat(state, dim=1)

    data = random_graph()
    model = Network(3, 4, 2, 3, lambda k, act: Pair())
    x = model.encoder(data.x)
    expected = model.head(torch.cat([x + x + 2 * x + 4 * x, 8 * x], dim=1))
    torch.testing.assert_close(model(data.x, data.edge_index), expected)


def test_encoder_activation_and_lazy_width() -> None:
    data = random_graph()
    model = GraphNetwork(-1, 4, 2, 1, lambda k, act: Echo(), encoder_act=True)
    found = model(data.x, data.edge_index)
    expected = model.head(model.encoder(data.x).relu() + 1)
    torch.testing.assert_close(found, expected)
    assert model.encoder.in_channels == 3


def test_dropout_acts_on_input_and_head_only() -> None:
    data = random_graph()
    model = echo(dropout=0.9)
    model.head = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(0)
    first = model(data.x, data.edge_index)
    assert (first == 0).double().mean() > 0.5
    assert not (model.eval()(data.x, data.edge_index) == 0).any()


def test_repr_names_the_options() -> None:
    model = echo(options={"epsilon": 0.1}, share_weights=True)
    expected = "GraphNetwork(3, 4, 2, num_layers=5, epsilon=0.1, share_weights=True)"
    assert repr(model) == expected


@pytest.mark.parametrize("readout", ["mean", "sum", "max", "all"])
def test_pooling_by_hand(readout: str) -> None:
    parts = [random_graph(), path_graph()]
    batch = Batch.from_data_list(parts)
    ways = {"mean": lambda x: x.mean(0), "sum": lambda x: x.sum(0)}
    ways["max"] = lambda x: x.amax(0)
    chosen = ways.values() if readout == "all" else [ways[readout]]
    expected = [torch.cat([way(data.x) for way in chosen]) for data in parts]
    found = pool(readout, batch.x, batch.batch)
    torch.testing.assert_close(found, torch.stack(expected))
    alone = pool(readout, parts[0].x, None)
    torch.testing.assert_close(alone, expected[0][None])


def test_heads() -> None:
    assert build_head("linear", "all", 4, 2).weight.shape == (2, 12)
    mlp = build_head("mlp", "node", 5, 2)
    assert [tuple(p.shape) for p in mlp.parameters()] == [(2, 5), (2,), (2, 2), (2,)]
    own = build_head(lambda i, o: nn.Bilinear(i, i, o), "node", 4, 2)
    assert isinstance(own, nn.Bilinear)
    with pytest.raises(TypeError, match=r"Got int from head\(4, 2\)"):
        build_head(lambda i, o: 3, "node", 4, 2)  # pyright: ignore


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_state_space_network_with_pooled_read_out(head: str) -> None:
    batch = Batch.from_data_list([random_graph(), path_graph()])
    model = GNNSSM(3, 4, 2, num_layers=3, conv=GCNConv, readout="all", head=head)
    found = model(batch.x, batch.edge_index, batch=batch.batch)
    assert found.shape == (2, 2)
    states = copy.deepcopy(model.state_dict())
    torch.manual_seed(4)
    model.reset_parameters()
    drawn = model.state_dict()
    assert not any(torch.equal(states[k], drawn[k]) for k in states if "weight" in k)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("noted", [False, True])
def test_run_layers(checkpoint: str, noted: bool) -> None:
    x = torch.randn(3).requires_grad_()
    calls: list[range] = []
    notes: list[Tensor] = []

    def run(state: tuple[Tensor, ...], layers: range) -> tuple[Tensor, ...]:
        calls.append(layers)
        (h,) = state
        for k in layers:
            h = (h * (k + 1)).sin()
        return (h,)

    note = (lambda state: notes.append(state[0])) if noted else None
    (found,) = run_layers(run, (x,), 7, checkpoint, note=note)
    forward = [k for layers in calls for k in layers]
    assert forward == list(range(7))
    expected = x
    states = [x]
    for k in range(7):
        expected = (expected * (k + 1)).sin()
        states.append(expected)
    torch.testing.assert_close(found, expected)
    found = torch.autograd.grad(found.sum(), x)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), x)[0])
    if noted:
        torch.testing.assert_close(notes, states)
    if checkpoint == "none":
        assert len(calls) == (7 if noted else 1)
    else:  # each part once more for the backward pass
        assert sum(map(len, calls)) == 14


def test_layers_must_be_modules() -> None:
    with pytest.raises(TypeError, match=r"`layer` must return a torch.nn.Module. Got"):
        GraphNetwork(3, 4, 2, 1, lambda k, act: k)  # pyright: ignore
