"""A-DGN against its equation on dense matrices, PyG's layer and its theory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_steps import adjacency, gcn, jacobian, shaken
from graphs import GRAPHS, directed_graph, no_edges, random_graph
from torch import nn
from torch_geometric.nn import AntiSymmetricConv, GCNConv

from graphfathom.nn.propagation import gcn_adjacency
from graphfathom.nn.zoo.adgn import ADGN, ADGNLayer


@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("aggregator", ["gcn", "sum"])
@pytest.mark.parametrize("weighted", [True, False])
def test_forward_is_the_equation(
    aggregator: str, share_weights: bool, weighted: bool
) -> None:
    data, epsilon, gamma = directed_graph(), 0.3, 0.2
    options: Any = {"epsilon": epsilon, "gamma": gamma, "share_weights": share_weights}
    model = shaken(ADGN(3, 4, 2, 3, aggregator, **options))
    weight = torch.rand(data.num_edges) + 0.5 if weighted else None
    A = adjacency(data.edge_index, weight, 5)
    S = gcn(A) if aggregator == "gcn" else A
    h = model.encoder(data.x)
    for k in range(3):
        layer = model.layers[0 if share_weights else k]
        M = layer.W - layer.W.T - gamma * torch.eye(4)
        u = h @ M.T + S @ h @ layer.phi.lin.weight.T + layer.bias
        h = h + epsilon * torch.tanh(u)
    found = model(data.x, data.edge_index, weight)
    torch.testing.assert_close(found, model.head(h), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("graph", GRAPHS)
def test_shared_layers_are_iterations_of_pygs(graph: str) -> None:
    data = GRAPHS[graph]()
    model = shaken(ADGN(3, 4, 2, num_layers=5))
    peer = AntiSymmetricConv(4, GCNConv(4, 4, bias=False), num_iters=5)
    peer.load_state_dict(model.layers[0].state_dict())
    expected = model.head(peer(model.encoder(data.x), data.edge_index))
    torch.testing.assert_close(model(data.x, data.edge_index), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, -0.5])
def test_eigenvalues_of_a_step_without_messages(gamma: float) -> None:
    epsilon, x = 0.1, torch.randn(4, 6)
    layer = shaken(ADGNLayer(6, "sum", epsilon, gamma, nn.Identity()))
    found = torch.linalg.eigvals(jacobian(layer, x, no_edges().edge_index))
    assert (found.real - (1 - epsilon * gamma)).abs().max() < 1e-12
    turns = torch.linalg.eigvals(layer.W - layer.W.T).imag.repeat(4)
    expected = (epsilon * turns).sort().values
    torch.testing.assert_close(found.imag.sort().values, expected)


def test_eigenvalues_lie_near_the_circle_where_gcns_do_not() -> None:
    data, x = random_graph(), torch.randn(8, 12)
    layer = ADGNLayer(12, "gcn", epsilon=0.1, gamma=0.1, act=torch.tanh)
    found = torch.linalg.eigvals(jacobian(layer, x, data.edge_index)).abs()
    assert (found - 1).abs().max() < 0.1
    conv = GCNConv(12, 12)
    plain = jacobian(lambda x, edges: conv(x, edges).tanh(), x, data.edge_index)
    assert torch.linalg.eigvals(plain).abs().median() < 0.3


def test_an_adjacency_in_the_place_of_edges() -> None:
    data, model = random_graph(), ADGN(3, 4, 2, num_layers=3)
    expected = model(data.x, data.edge_index)
    torch.testing.assert_close(model(data.x, gcn_adjacency(data.edge_index)), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregator": "mean"}, r"`aggregator` must be one of 'gcn', 'sum'. Got 'mea"),
        ({"epsilon": 0.0}, r"`epsilon` must be a positive number. Got 0.0"),
        ({"gamma": float("nan")}, r"`gamma` must be a finite number. Got nan"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ADGN(3, 4, 2, num_layers=2, **options)
