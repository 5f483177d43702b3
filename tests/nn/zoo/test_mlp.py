"""The network that ignores the edges."""

from __future__ import annotations

import pytest
import torch
from graphs import random_graph

from graphfathom.nn.zoo.mlp import MLP

DATA = random_graph()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("share_weights", [False, True])
def test_forward_is_the_equation(share_weights: bool, residual: bool) -> None:
    model = MLP(3, 4, 2, 3, share_weights=share_weights, residual=residual, act="tanh")
    h = DATA.x @ model.encoder.weight.T + model.encoder.bias
    for k in range(3):
        lin = model.layers[0 if share_weights else k].conv
        new = torch.tanh(h @ lin.weight.T + lin.bias)
        h = h + new if residual else new
    expected = h @ model.head.weight.T + model.head.bias
    found = model(DATA.x, DATA.edge_index)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_edges_and_other_nodes_change_nothing() -> None:
    model = MLP(3, 4, 2, 3, norm="layer")
    expected = model(DATA.x, DATA.edge_index)
    none = DATA.edge_index[:, :0]
    assert torch.equal(model(DATA.x, none, torch.rand(0)), expected)
    torch.testing.assert_close(model(DATA.x[:1], none), expected[:1])


def test_repr() -> None:
    expected = "MLP(3, 4, 2, num_layers=5, norm=layer, residual=True)"
    assert repr(MLP(3, 4, 2, 5, norm="layer", residual=True)) == expected


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"`layer_dropout` must be in \[0, 1\)"):
        MLP(3, 4, 2, 3, layer_dropout=1.0)
    with pytest.raises(ValueError, match=r"`norm` must be one of 'batch'"):
        MLP(3, 4, 2, 3, norm="bach")
