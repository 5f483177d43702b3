"""GRED against its equations in complex numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import path_graph, random_graph
from shells import hop_distances, with_shells
from torch import Tensor, nn
from torch_geometric.data import Data

from graphfathom.nn.khop import gather_shells, khop_adjacency
from graphfathom.nn.zoo.gred import GRED, LinearRecurrence


def network(**options: Any) -> GRED:
    torch.manual_seed(0)
    model = GRED(3, 4, 2, num_layers=3, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def call(model: nn.Module, data: Data) -> Tensor:
    return model(
        data.x, data.edge_index, shell_index=data.shell_index, shell_hop=data.shell_hop
    )


def matrices(recurrence: LinearRecurrence) -> tuple[Tensor, Tensor, Tensor]:
    """The diagonal of Lambda, Gamma B and C, complex; states in columns of C."""
    eigenvalues = torch.exp(torch.complex(-recurrence.nu.exp(), recurrence.theta.exp()))
    enter = torch.complex(*recurrence.B.T.chunk(2))
    gamma = torch.sqrt(1 - eigenvalues.abs() ** 2)
    leave = torch.complex(*recurrence.C.T.chunk(2, dim=1))
    return eigenvalues, gamma[:, None] * enter, leave


def layer(conv: Any, data: Data, x: Tensor, num_hops: int) -> Tensor:
    """One layer, node by node and shell by shell."""
    distance = hop_distances(data).T
    eigenvalues, enter, leave = matrices(conv.recurrence)
    rows = []
    for node in range(data.num_nodes):
        state = torch.zeros(len(eigenvalues), dtype=torch.complex128)
        for k in range(num_hops, -1, -1):
            u = x[distance[node] == k].sum(0)
            u = u + conv.narrow(F.gelu(conv.widen(conv.norms[0](u))))
            state = eigenvalues * state + enter @ conv.norms[1](u).to(enter.dtype)
        both = conv.glu(F.gelu((leave @ state).real))
        rows.append(both[:4] * torch.sigmoid(both[4:]) + u)
    return torch.stack(rows)


@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("num_hops", "wide"), [(1, {}), (6, {"expand": 2})])
def test_forward_is_the_equation(
    share_weights: bool, norm: bool, num_hops: int, wide: dict[str, Any]
) -> None:
    data = with_shells(path_graph(6), 5)
    options = {"share_weights": share_weights, "norm": norm, "state_channels": 5}
    model = network(num_hops=num_hops, **options, **wide)
    x = model.encoder(data.x)
    for step in range(3):
        x = layer(model.layers[0 if share_weights else step], data, x, num_hops)
    torch.testing.assert_close(call(model, data), model.head(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("graph", [path_graph(9), random_graph(9)])
def test_reads_a_node_far_away_by_a_power_of_lambda(graph: Data) -> None:
    data = with_shells(graph, 8)
    torch.manual_seed(0)
    recurrence = LinearRecurrence(3, 5, 0.5, 1.0, math.pi)
    shells = khop_adjacency(
        data.shell_index, data.shell_hop, 9, 8, add_self_loops=False, normalize=False
    )
    read = recurrence(torch.cat([data.x[None], gather_shells(shells, data.x)]))
    eigenvalues, enter, leave = matrices(recurrence)
    filters = [leave @ torch.diag(eigenvalues**k) @ enter for k in range(9)]
    distance = hop_distances(data)
    for node in range(9):
        heard = [filters[distance[j, node]].real @ data.x[j] for j in range(9)]
        torch.testing.assert_close(
            read[node], torch.stack(heard).sum(0), rtol=1e-10, atol=1e-10
        )


def test_one_layer_sees_all_its_hops_and_no_more() -> None:
    data = with_shells(path_graph(9), 8)
    torch.manual_seed(0)
    model = GRED(3, 4, 2, num_layers=1, num_hops=5)

    def output(x: Tensor) -> Tensor:
        other = data.clone()
        other.x = x
        return call(model, other)[0]

    jacobian: Any = torch.autograd.functional.jacobian(output, data.x)
    assert (jacobian.abs().sum((0, 2)) > 0).tolist() == [True] * 6 + [False] * 3


def test_eigenvalues_start_evenly_on_the_ring() -> None:
    torch.manual_seed(0)
    recurrence = LinearRecurrence(2, 20_000, 0.5, 0.9, max_phase=1.0)
    eigenvalues, enter, _ = matrices(recurrence)
    size, phase = eigenvalues.abs(), eigenvalues.angle()
    assert 0.5 <= size.min() <= 0.51
    assert 0.89 <= size.max() <= 0.9
    assert 0 <= phase.min() <= 0.01
    assert 0.99 <= phase.max() <= 1
    # Area grows with the square of the radius.
    assert abs(size.square().mean() - (0.25 + 0.81) / 2) < 0.003
    rest = (1 - size.square()).sqrt()
    assert abs((enter[:, 0] / rest).abs().square().mean() - 1 / 2) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_hops": 0}, r"`num_hops` must be an integer >= 1. Got 0."),
        ({"state_channels": 0}, r"`state_channels` must be an integer >= 1. Got 0."),
        ({"expand": 0}, r"`expand` must be an integer >= 1. Got 0."),
        ({"r_min": 0.9, "r_max": 0.5}, r"0 <= r_min < r_max <= 1. Got 0.9 and 0.5."),
        ({"r_max": 1.5}, r"0 <= r_min < r_max <= 1. Got 0.0 and 1.5."),
        ({"max_phase": 0.0}, r"`max_phase` must be a positive number. Got 0.0."),
    ],
)
def test_bad_numbers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**options)


def test_a_graph_without_shells_is_refused() -> None:
    data = path_graph()
    with pytest.raises(ValueError, match=r"apply `KHopShells\(7\)`"):
        network(num_hops=7)(data.x, data.edge_index)
