"""Unitary convolutions against matrix exponentials, and what they keep."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dense_steps import shaken
from graphs import GRAPHS, directed_graph, random_graph
from torch import Tensor, nn
from torch_geometric.data import Data

from graphfathom.nn.adjacency import gcn_adjacency
from graphfathom.nn.zoo.unitary import (
    LieUnitaryConv,
    SeparableUnitaryConv,
    UnitaryGCN,
    group_sort,
)

FORMS = ["separable", "lie"]
CLOSED = 30
"""Terms after which nothing is left of the series in float64."""


def matrix(data: Data) -> Tensor:
    """The adjacency over the roots of both degrees."""
    dense = torch.zeros(data.num_nodes, data.num_nodes)
    dense[data.edge_index[1], data.edge_index[0]] = 1
    root = dense.sum(1).clamp(min=1).sqrt()
    return dense / root / root[:, None]


def separable(layer: Any, a: Tensor, z: Tensor) -> Tensor:
    m = layer.weight
    u = torch.matrix_exp(0.5 * (m - m.T) + 0.5j * (m + m.T))
    z = torch.matrix_exp(1j * a.to(z)) @ z @ u
    z = z + torch.complex(layer.real_bias, layer.imag_bias)
    return torch.complex(group_sort(z.real), group_sort(z.imag))


def lie(layer: Any, a: Tensor, x: Tensor) -> Tensor:
    w = 0.5 * (layer.weight - layer.weight.T)
    big = torch.matrix_exp(torch.kron(a, w.T.contiguous()))
    return group_sort((big @ x.flatten()).view(x.shape) + layer.bias)


@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_forward_is_the_exact_exponential(form: str, share_weights: bool) -> None:
    model = shaken(
        UnitaryGCN(3, 8, 2, 3, form, num_terms=CLOSED, share_weights=share_weights)
    )
    for name, make in GRAPHS.items():
        if name == "directed":
            continue
        data = make()
        x = model.encoder(data.x)
        state = torch.complex(x, x * 0) if form == "separable" else x
        for k in range(3):
            layer = model.layers[0 if share_weights else k]
            state = {"separable": separable, "lie": lie}[form](
                layer, matrix(data), state
            )
        expected = model.head(state.real if form == "separable" else state)
        found = model(data.x, data.edge_index)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def states(model: UnitaryGCN, data: Data) -> list[Tensor]:
    """All states, real and imaginary part side by side."""
    x = model.encoder(data.x)
    given = {"edge_weight": None}
    graph, _ = model.graph(x, data.edge_index, given)
    state = model.start(x, graph, given)
    found = [torch.cat(state, 1)]
    for layer in model.layers:
        out = layer(*state, graph)
        state = (out,) if isinstance(out, Tensor) else out
        found.append(torch.cat(state, 1))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_the_norm_is_kept_to_the_rest_of_the_series(form: str) -> None:
    data = random_graph()
    for num_terms in (2, 4, 8, 12):
        torch.manual_seed(0)
        model = UnitaryGCN(3, 8, 2, 6, form, bias=False, num_terms=num_terms)
        radius = 1.0
        if form == "lie":
            weights: Any = [layer.weight.detach() for layer in model.layers]
            radius = max(float(torch.linalg.norm((w - w.T) / 2, 2)) for w in weights)
        bound = math.exp(radius) / math.factorial(num_terms + 1)
        bound *= radius ** (num_terms + 1)
        norms = torch.stack([s.norm() for s in states(model, data)])
        drift = (norms[1:] / norms[:-1] - 1).abs().max()
        assert bound * 1e-3 < drift < bound
    exact = UnitaryGCN(3, 8, 2, 64, form, bias=False, num_terms=CLOSED)
    first, *_, last = states(exact, data)
    torch.testing.assert_close(last.norm(), first.norm(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("conv", [SeparableUnitaryConv, LieUnitaryConv])
@pytest.mark.parametrize("act", [nn.Identity(), group_sort])
def test_the_jacobian_of_a_layer_is_orthogonal(conv: Any, act: Any) -> None:
    data, layer = random_graph(), conv(4, act, num_terms=CLOSED)
    nn.init.normal_(layer.weight)
    adjacency = gcn_adjacency(data.edge_index, add_self_loops=False, dtype=data.x.dtype)
    parts = 2 if conv is SeparableUnitaryConv else 1

    def step(flat: Tensor) -> Tensor:
        out = layer(*flat.view(parts, 8, 4), adjacency)
        return torch.cat([t.flatten() for t in (out if parts == 2 else (out,))])

    jacobian: Any = torch.func.jacrev(step)(torch.randn(parts * 32))
    identity = torch.eye(parts * 32)
    torch.testing.assert_close(jacobian.T @ jacobian, identity, rtol=0, atol=1e-10)


def test_every_unitary_matrix_is_reached() -> None:
    layer = SeparableUnitaryConv(4, nn.Identity())
    u, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.complex128))
    values, vectors = torch.linalg.eig(u)
    generator = vectors @ (1j * values.angle()).diag() @ torch.linalg.inv(vectors)
    layer.weight.data = generator.real + generator.imag
    torch.testing.assert_close(layer.unitary(), u, rtol=1e-10, atol=1e-10)


def test_a_step_of_training_keeps_the_matrix_unitary() -> None:
    data, model = random_graph(), UnitaryGCN(3, 8, 2, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(data.x, data.edge_index).square().mean().backward()
    optimizer.step()
    layer: Any = model.layers[0]
    u = layer.unitary()
    torch.testing.assert_close(u @ u.mH, torch.eye(8) + 0j, rtol=0, atol=1e-12)


def test_group_sort_orders_pairs() -> None:
    x = torch.randn(5, 6)
    pairs = group_sort(x).view(5, 2, 3)
    assert (pairs[:, 0] >= pairs[:, 1]).all()
    expected = x.view(5, 2, 3).sort(1).values
    assert torch.equal(pairs.sort(1).values, expected)


@pytest.mark.parametrize("form", FORMS)
def test_a_directed_graph_is_refused(form: str) -> None:
    data, model = directed_graph(), UnitaryGCN(3, 8, 2, 3, form)
    message = r"`edge_index` must be undirected.* Got a directed graph: apply"
    with pytest.raises(ValueError, match=message):
        model(data.x, data.edge_index)
    data = random_graph()
    half = data.edge_index[0] < data.edge_index[1]
    with pytest.raises(ValueError, match=message):
        model(data.x, data.edge_index, torch.where(half, 1.0, 2.0))


def test_symmetric_weights_are_taken() -> None:
    data, model = random_graph(), UnitaryGCN(3, 8, 2, 3)
    weight = data.edge_index.sum(0).double().requires_grad_()
    out = model(data.x, data.edge_index, weight)
    assert not torch.allclose(out, model(data.x, data.edge_index))
    out.sum().backward()
    assert weight.grad is not None
    assert weight.grad.any()
    given = {"edge_weight": weight}
    adjacency, _ = model.graph(data.x, data.edge_index, given)
    torch.testing.assert_close(model(data.x, adjacency), out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "group"}, r"`form` must be one of 'separable', 'lie'. Got 'group'"),
        ({"num_terms": 0}, r"`num_terms` must be an integer >= 1. Got 0"),
        ({"num_terms": 2.0}, r"`num_terms` must be an integer >= 1. Got 2.0"),
        ({"hidden_channels": 7}, r"`hidden_channels` must be even .* Got 7"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    sizes: dict[str, Any] = {"in_channels": 3, "hidden_channels": 8}
    sizes |= {"out_channels": 2, "num_layers": 3}
    with pytest.raises(ValueError, match=message):
        UnitaryGCN(**(sizes | options))


def test_odd_widths_cannot_be_sorted() -> None:
    with pytest.raises(ValueError, match=r"`x` must have an even width .* Got 3"):
        group_sort(torch.randn(2, 3))
