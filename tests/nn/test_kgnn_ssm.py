"""kGNNSSM against its equation, and how far it sees."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch_geometric.nn as pyg
from graphs import GRAPHS, directed_graph, path_graph, random_graph
from shells import hop_distances, with_shells
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import graphfathom as gf
from graphfathom.diagnostics.trace import capture
from graphfathom.nn.kgnn_ssm import kGNNSSM
from graphfathom.nn.transition import Dense, Orthogonal, Scalar
from graphfathom.problem import Problem

SHELLS = ("x", "edge_index", "shell_index", "shell_hop")
PLAIN: dict[str, Any] = {
    "act": None,
    "state": Scalar(1.0),
    "input": Scalar(1.0),
    "normalize": False,
}


class EdgeGCN(pyg.GCNConv):
    """Not GCNConv itself, so it gets edges and no matrix."""


def network(num_layers: int = 4, **options: Any) -> kGNNSSM:
    torch.manual_seed(0)
    model = kGNNSSM(3, 4, 2, num_layers, **copy.deepcopy(options))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def call(model: nn.Module, data: Data) -> Tensor:
    return model(**{name: data[name] for name in SHELLS})


def matrices(data: Data, num_hops: int) -> list[Tensor]:
    """Normalised shells with self-loops; row i receives."""
    found = []
    for hop in range(1, num_hops + 1):
        shell = (hop == hop_distances(data).T).double() + torch.eye(data.num_nodes)
        scale = shell.sum(1).rsqrt()
        found.append(scale[:, None] * shell * scale)
    return found


@pytest.mark.parametrize("graph", GRAPHS)
def test_forward_is_the_equation(graph: str) -> None:
    data = with_shells(GRAPHS[graph](), 9)
    model = network(num_layers=7, act="tanh", state=Orthogonal(0.9), input=Dense())
    carry, enter = model.state.matrix(), model.input.matrix()
    h = model.encoder(data.x)
    for shell, conv in zip(matrices(data, 7), model.convs, strict=True):
        message = torch.tanh(shell @ h @ conv.lin.weight.T + conv.bias)
        h = h @ carry.T + message @ enter.T
    torch.testing.assert_close(call(model, data), model.decoder(h), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (kGNNSSM, {}),
        (kGNNSSM, {"flow": "target_to_source"}),
        (kGNNSSM, {"add_self_loops": False}),
        (kGNNSSM.paper, {}),
        (kGNNSSM.convex, {}),
    ],
)
def test_any_conv_runs_on_the_pairs_of_its_shell(
    build: Any, options: dict[str, Any]
) -> None:
    data = with_shells(directed_graph(), 4)
    torch.manual_seed(0)
    by_matrix = build(3, 4, 2, 4, **options)
    by_edges = build(3, 4, 2, 4, EdgeGCN, **options)
    by_edges.load_state_dict(by_matrix.state_dict())
    found, expected = call(by_edges, data), call(by_matrix, data)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_attention_over_shells() -> None:
    data = with_shells(random_graph(), 3)
    model = network(num_layers=3, conv=pyg.GATConv)
    h = model.encoder(data.x)
    for hop, conv in enumerate(model.convs, start=1):
        pairs = data.shell_index[:, data.shell_hop == hop]
        h = model.state(h) + model.input(torch.relu(conv(h, pairs)))
    torch.testing.assert_close(call(model, data), model.decoder(h))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_layers", [1, 3, 8])
def test_reads_shortest_paths_off_the_shells(seed: int, num_layers: int) -> None:
    # Random graphs are of small diameter.
    data = with_shells(random_graph(20, seed) if seed else path_graph(12), 11)
    source = 2
    model = kGNNSSM(1, 2, 1, num_layers, **PLAIN)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.encoder.weight[0] = 1  # the first feature marks the source
        model.decoder.weight[0, 1] = 1  # the second one is its distance
        for hop, conv in enumerate(model.convs, start=1):
            conv.lin.weight[1, 0] = hop
    data.x = torch.zeros(data.num_nodes, 1)
    data.x[source] = 1
    distance = hop_distances(data)[source]
    expected = torch.where(distance <= num_layers, distance, 0).double()
    assert torch.equal(call(model, data)[:, 0], expected)


@pytest.mark.parametrize("graph", ["path", "random", "directed", "two components"])
def test_sees_what_hops_of_all_sizes_reach(graph: str) -> None:
    data = with_shells(GRAPHS[graph](), 3)
    model = network(num_layers=3, act="tanh")
    distance = hop_distances(data).T
    sees = torch.eye(data.num_nodes)
    for hop in (1, 2, 3):
        sees = sees + (distance == hop).double() @ sees
    assert torch.equal(influences(model, data), sees > 0)


def test_three_layers_see_six_hops() -> None:
    data = with_shells(path_graph(12), 11)
    seen = influences(network(num_layers=3, act="tanh"), data)
    assert seen[0].tolist() == [True] * 7 + [False] * 5


def influences(model: nn.Module, data: Data) -> Tensor:
    """Whether the output of node i depends on the features of node j."""

    def output(x: Tensor) -> Tensor:
        return model(x, **{name: data[name] for name in SHELLS[1:]})

    jacobian = torch.autograd.functional.jacobian(output, data.x)
    return jacobian.abs().sum((1, 3)) != 0  # pyright: ignore


def test_layers_beyond_the_largest_distance_see_the_node_alone() -> None:
    data = with_shells(path_graph(3), 2)
    model = network(num_layers=5)
    alone = with_shells(data, 2)
    alone.shell_index = torch.empty(2, 0, dtype=torch.long)
    alone.shell_hop = torch.empty(0, dtype=torch.long)
    h = model.encoder(data.x)
    seen = [call(model, data), call(model, alone)]
    for conv in model.convs:
        h = model.state(h) + model.input(torch.relu(conv.lin(h) + conv.bias))
    torch.testing.assert_close(seen[1], model.decoder(h))
    assert not torch.allclose(*seen)


def test_is_diagnosed_with_a_state_behind_each_layer() -> None:
    data = with_shells(random_graph(), 4)
    model = network()
    trace = capture(Problem(model, data))
    assert [len(state.tensors) for state in trace.states] == [1] * 5
    assert len(gf.diagnose(model, data).layers) == 4
    with model.watch() as states:
        call(model, data)
    for found, expected in zip(trace.states, states, strict=True):
        torch.testing.assert_close(found.main, expected.detach())


def test_watch_and_checkpoints_on_a_batch() -> None:
    parts = [with_shells(random_graph(), 4), with_shells(path_graph(), 4)]
    batch: Any = Batch.from_data_list(parts)
    found = []
    for checkpoint in ("none", "every"):
        model = network(readout="mean", checkpoint=checkpoint)
        names = {name: batch[name] for name in (*SHELLS, "batch")}
        model(**names).square().sum().backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)


def test_other_layers_compile() -> None:
    data = with_shells(random_graph(), 3)
    model = network(num_layers=3, conv=pyg.SAGEConv)
    torch.compiler.reset()
    compiled: Any = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(call(compiled, data), call(model, data))


@pytest.mark.parametrize("conv", [pyg.GCNConv, EdgeGCN])
def test_a_graph_without_shells_is_refused(conv: type[nn.Module]) -> None:
    data = random_graph()
    with pytest.raises(ValueError, match=r"apply `KHopShells\(4\)`"):
        network(conv=conv)(data.x, data.edge_index)


def test_values_of_edges_are_refused() -> None:
    data = with_shells(random_graph(), 4)
    arguments = {name: data[name] for name in SHELLS}
    ones = torch.ones(data.num_edges, 2)
    with pytest.raises(ValueError, match=r"`edge_weight` must be None: the shells"):
        network()(**arguments, edge_weight=ones[:, 0])
    attention = network(conv=pyg.GATConv, edge_dim=2)
    with pytest.raises(ValueError, match=r"`edge_attr` must be None for layers that"):
        attention(**arguments, edge_attr=ones)
    assert network()(**arguments, edge_attr=ones).isfinite().all()
