"""DRew against its equation, and how far it sees with and without delay."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from graphs import directed_graph, path_graph, random_graph
from shells import hop_distances, with_shells
from torch import Tensor, nn
from torch_geometric.data import Data

from graphfathom.nn.zoo.drew import DRew

DELAYS = pytest.mark.parametrize("nu", [1, 2, 3, math.inf])


def network(num_layers: int = 5, **options: Any) -> DRew:
    torch.manual_seed(0)
    model = DRew(3, 4, 2, num_layers, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def call(model: nn.Module, data: Data) -> Tensor:
    return model(
        data.x, data.edge_index, shell_index=data.shell_index, shell_hop=data.shell_hop
    )


def shell(data: Data, hop: int, self_loops: bool = False) -> Tensor:
    """The normalised shell; row i receives."""
    found = (hop == hop_distances(data).T).double()
    found += self_loops * torch.eye(data.num_nodes)
    scale = found.sum(1).rsqrt().nan_to_num(posinf=0)
    return scale[:, None] * found * scale


def equation(
    model: DRew, data: Data, nu: float, hops: int, loops: bool, l2: bool
) -> Tensor:
    states = [model.encoder(data.x)]
    for step in range(model.num_layers):
        weight = model.layers[0 if model.share_weights else step].weight
        message = torch.zeros(())
        for k in range(1, min(step + 1, hops) + 1):
            old = states[int(step - max(0, k - nu))]
            message = message + shell(data, k, loops) @ old @ weight[k - 1]
        states.append(states[-1] + message.relu())
        if l2:
            states[-1] = states[-1] / states[-1].norm(dim=-1, keepdim=True)
    return model.head(states[-1])


@DELAYS
@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize("hops", [None, 1, 3, 9])
@pytest.mark.parametrize("as_in_code", [False, True])
def test_forward_is_the_equation(
    nu: float, share_weights: bool, hops: int | None, as_in_code: bool
) -> None:
    data = with_shells(path_graph(7), 6)
    extras = {"self_loops": as_in_code, "l2_norm": as_in_code}
    model = network(nu=nu, num_hops=hops, share_weights=share_weights, **extras)
    expected = equation(model, data, nu, hops or 5, as_in_code, as_in_code)
    torch.testing.assert_close(call(model, data), expected, rtol=1e-10, atol=1e-10)


def test_directed_shells_are_read_from_the_source() -> None:
    data = with_shells(directed_graph(), 4)
    model = network(nu=1)
    expected = equation(model, data, 1, 5, False, False)
    torch.testing.assert_close(call(model, data), expected, rtol=1e-10, atol=1e-10)


@DELAYS
@pytest.mark.parametrize("data", [path_graph(12), random_graph(12)])
def test_sees_what_delayed_messages_bring(nu: float, data: Data) -> None:
    data = with_shells(data, 11)
    model = network(num_layers=4, nu=nu, act="tanh")
    sees = [torch.eye(data.num_nodes)]
    for step in range(4):
        sees.append(sees[-1])
        for k in range(1, step + 2):
            old = sees[int(step - max(0, k - nu))]
            sees[-1] = sees[-1] + shell(data, k) @ old
    assert torch.equal(influences(model, data), sees[-1] > 0)


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_reach_is_linear_with_delay_and_quadratic_without(num_layers: int) -> None:
    data = with_shells(path_graph(12), 11)
    reach = {1: num_layers, math.inf: num_layers * (num_layers + 1) // 2}
    for nu, hops in reach.items():
        seen = influences(network(num_layers, nu=nu, act="tanh"), data)
        assert seen[0].tolist() == [j <= hops for j in range(12)]


def influences(model: nn.Module, data: Data) -> Tensor:
    """Whether the output of node i depends on the features of node j."""

    def output(x: Tensor) -> Tensor:
        other = data.clone()
        other.x = x
        return call(model, other)

    jacobian = torch.autograd.functional.jacobian(output, data.x)
    return jacobian.abs().sum((1, 3)) != 0  # pyright: ignore


def test_delay_and_hops_set_what_is_handed_on() -> None:
    memory = [
        (network(nu=1), 5),
        (network(nu=2, num_hops=4), 3),
        (network(nu=7), 1),
        (network(), 1),
    ]
    for model, expected in memory:
        assert model.layers[0].memory == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nu": 0}, r"`nu` must be an integer >= 1, or math.inf for no delay. Got 0."),
        ({"nu": 1.5}, r"`nu` must be an integer >= 1, or math.inf for no delay. Got 1"),
        ({"nu": math.nan}, r"`nu` must be an integer >= 1"),
        ({"num_hops": 0}, r"`num_hops` must be >= 1, or None for one a layer. Got 0."),
    ],
)
def test_bad_numbers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DRew(3, 4, 2, 5, **options)


def test_a_graph_without_shells_is_refused() -> None:
    data = path_graph()
    with pytest.raises(ValueError, match=r"apply `KHopShells\(5\)`"):
        network()(data.x, data.edge_index)
