"""GRAND against dense attention, exact solutions and the maximum principle."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from graphs import GRAPHS, isolated_node, random_graph
from torch import Tensor
from torch_geometric.data import Data

from graphfathom.nn.zoo.grand import GRAND, Attention, GRANDConv


def built(**options: Any) -> GRAND:
    model = GRAND(3, 8, 2, **({"num_layers": 3} | options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def dense_attention(attention: Attention, x: Tensor, data: Data) -> Tensor:
    """The matrix A, from all pairs of nodes."""
    source, target = data.edge_index
    near = torch.eye(len(x), dtype=torch.bool)
    near[target, source] = True
    heads = []
    query = attention.query(x).chunk(attention.heads, -1)
    key = (x @ attention.key.weight.T).chunk(attention.heads, -1)
    for q, k in zip(query, key, strict=True):
        logits = q @ k.T / math.sqrt(k.shape[1])
        heads.append(logits.masked_fill(~near, -math.inf).softmax(1))
    return torch.stack(heads).mean(0)


def dense_step(model: GRAND, k: int, x: Tensor, first: Tensor, data: Data) -> Tensor:
    layer: Any = model.layers[0 if model.share_weights else k]
    epsilon, rate = layer.epsilon, layer.alpha.sigmoid()

    def slope(x: Tensor) -> Tensor:
        attention = model.attention or layer.attention
        seen = x if model.attention is None else first
        return rate * (dense_attention(attention, seen, data) @ x - x)

    if layer.method == "euler":
        return x + epsilon * slope(x)
    k_1 = slope(x)
    k_2 = slope(x + epsilon * k_1 / 2)
    k_3 = slope(x + epsilon * k_2 / 2)
    k_4 = slope(x + epsilon * k_3)
    return x + epsilon * (k_1 / 6 + k_2 / 3 + k_3 / 3 + k_4 / 6)


CASES = list(itertools.product(("euler", "rk4"), (False, True), (1, 4), (False, True)))


@pytest.mark.parametrize(("method", "linear", "heads", "share_weights"), CASES)
def test_forward_is_the_dense_equation(
    method: str, linear: bool, heads: int, share_weights: bool
) -> None:
    model = built(
        method=method,
        linear=linear,
        heads=heads,
        share_weights=share_weights,
        epsilon=0.7,
    )
    for make in GRAPHS.values():
        data = make()
        x = first = model.encoder(data.x)
        for k in range(3):
            x = dense_step(model, k, x, first, data)
        found = model(data.x, data.edge_index)
        torch.testing.assert_close(found, model.head(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("linear", [False, True])
def test_loops_among_the_edges_change_nothing(linear: bool) -> None:
    model, data = built(linear=linear), random_graph()
    loops = torch.tensor([[0, 3], [0, 3]])
    found = model(data.x, torch.cat([loops, data.edge_index], 1))
    torch.testing.assert_close(found, model(data.x, data.edge_index))


def test_a_bias_of_the_keys_would_change_nothing() -> None:
    data, attention = random_graph(), Attention(3)
    before = attention(data.x, data.edge_index)
    attention.key.bias = torch.nn.Parameter(torch.randn(3))
    torch.testing.assert_close(attention(data.x, data.edge_index), before)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_weights_of_a_node_add_up_to_less_than_one(heads: int) -> None:
    data, attention = isolated_node(), Attention(8, heads)
    weight = attention(torch.randn(5, 8), data.edge_index)
    received = torch.zeros(5).index_add(0, data.edge_index[1], weight)
    assert (weight > 0).all()
    assert (received[:4] < 1).all()
    assert received[4] == 0


@pytest.mark.parametrize("method", ["euler", "rk4"])
@pytest.mark.parametrize("linear", [False, True])
def test_constant_features_stay_exactly(method: str, linear: bool) -> None:
    model, data = built(method=method, linear=linear, num_layers=64), random_graph()
    x = torch.randn(3).expand(8, 3)
    found = model(x, data.edge_index)
    assert torch.equal(found, model.head(model.encoder(x)))


@pytest.mark.parametrize("name", GRAPHS)
def test_an_euler_step_stays_among_the_neighbours(name: str) -> None:
    data = GRAPHS[name]()
    layer = GRANDConv(3, epsilon=1.0)
    torch.nn.init.constant_(layer.alpha, 6.0)
    found = layer(data.x, data.edge_index)
    source, target = data.edge_index
    for i in range(data.num_nodes):
        around = torch.cat([data.x[source[target == i]], data.x[i : i + 1]])
        assert (found[i] <= around.amax(0) + 1e-14).all()
        assert (found[i] >= around.amin(0) - 1e-14).all()


def test_a_step_beyond_the_bound_leaves_the_range() -> None:
    data = Data(edge_index=torch.tensor([[0, 1], [1, 0]]))
    layer = GRANDConv(1, heads=None, epsilon=2.0)
    torch.nn.init.constant_(layer.alpha, 6.0)
    x = torch.tensor([[0.0], [1.0]])
    assert layer(x, data.edge_index, torch.full((2,), 0.9)).max() > 1


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("rk4", 4)])
def test_order_of_the_method_in_the_linear_case(method: str, order: int) -> None:
    data, attention, time = random_graph(), Attention(3), 4.0
    x = data.x
    weight = attention(x, data.edge_index)
    flow = dense_attention(attention, x, data) - torch.eye(8)
    exact = torch.matrix_exp(0.5 * time * flow) @ x  # the rate starts from a half

    def error(count: int) -> float:
        layer, h = GRANDConv(3, None, time / count, method), x
        for _ in range(count):
            h = layer(h, data.edge_index, weight)
        return (h - exact).norm().item()

    errors = [error(count) for count in (16, 32, 64)]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2**order, rel=0.15)


def test_edge_weights_are_not_used() -> None:
    data = random_graph()
    weight = torch.rand(data.num_edges)
    for model in (built(), built(linear=True)):
        found = model(data.x, data.edge_index, weight)
        assert torch.equal(found, model(data.x, data.edge_index))


def test_a_layer_without_heads_needs_weights() -> None:
    data = random_graph()
    with pytest.raises(ValueError, match=r"`edge_weight` must be given to a layer wit"):
        GRANDConv(3, heads=None)(data.x, data.edge_index)


def test_repr() -> None:
    found = repr(GRAND(3, 8, 2, num_layers=4, method="rk4", heads=2))
    expected = "GRAND(3, 8, 2, num_layers=4, method=rk4, linear=False, heads=2, "
    assert found == expected + "epsilon=1.0, share_weights=True)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dopri5"}, r"`method` must be one of 'euler', 'rk4'. Got 'dopri5'"),
        ({"heads": 3}, r"`heads` must divide the width, 8. Got 3: pass for"),
        ({"heads": 0, "linear": True}, r"`heads` must divide the width, 8. Got 0"),
        ({"epsilon": 0.0}, r"`epsilon` must be a positive number. Got 0.0"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRAND(3, 8, 2, num_layers=4, **options)
