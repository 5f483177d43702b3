"""MP-SSM against its closed form and the Jacobian of its linear part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_steps import shaken
from graphs import GRAPHS, random_graph
from references import gcn_matrix
from torch import Tensor

from graphfathom.nn.zoo.mp_ssm import MPSSM, MPSSMLayer


def closed_form(layer: Any, a: Tensor, u: Tensor, num_steps: int) -> Tensor:
    """A block: the sum over powers, then the perceptron."""
    w, b = layer.conv.lin.weight.T, layer.lin_input.weight.T
    x = sum(
        torch.linalg.matrix_power(a, s) @ u @ b @ torch.linalg.matrix_power(w, s)
        for s in range(num_steps + 1)
    )
    return layer.lin_output(torch.relu(layer.lin_hidden(x)))


@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize(
    ("block_size", "blocks"), [(None, [5]), (2, [2, 2, 1]), (5, [5]), (9, [5])]
)
def test_forward_is_the_closed_form(
    share_weights: bool, block_size: int | None, blocks: list[int]
) -> None:
    model = shaken(MPSSM(3, 8, 2, 5, block_size, share_weights=share_weights))
    assert len(model.layers) == (1 if share_weights else len(blocks))
    for make in GRAPHS.values():
        data = make()
        x, a = model.encoder(data.x), gcn_matrix(data)
        for block, num_steps in enumerate(blocks):
            layer = model.layers[0 if share_weights else block]
            x = closed_form(layer, a, x, num_steps)
        found = model(data.x, data.edge_index)
        torch.testing.assert_close(found, model.head(x), rtol=1e-10, atol=1e-10)


def test_the_jacobian_of_a_block_is_a_product_of_powers() -> None:
    data, layer, num_steps = random_graph(), shaken(MPSSMLayer(3, torch.relu)), 4
    source = torch.randn(8, 3)

    def block(flat: Tensor) -> Tensor:
        x = flat.view(3, 8).T  # columns stacked, as vec does
        for _ in range(num_steps):
            x, _ = layer(x, source, data.edge_index)
        return x.T.flatten()

    a = torch.linalg.matrix_power(gcn_matrix(data), num_steps)
    w = torch.linalg.matrix_power(layer.conv.lin.weight, num_steps)  # of W transposed
    found: Any = torch.func.jacrev(block)(torch.randn(24))
    torch.testing.assert_close(found, torch.kron(w, a), rtol=1e-10, atol=1e-12)


def test_the_powers_of_a_new_weight_keep_the_norm() -> None:
    layer = MPSSMLayer(6, torch.relu)
    w = layer.conv.lin.weight
    torch.testing.assert_close(w @ w.T, torch.eye(6), rtol=0, atol=1e-12)


def test_edge_weights_reach_the_recurrence() -> None:
    data, model = random_graph(), MPSSM(3, 8, 2, 4)
    plain = model(data.x, data.edge_index)
    ones = torch.ones(data.num_edges)
    torch.testing.assert_close(model(data.x, data.edge_index, ones), plain)
    weight = torch.rand(data.num_edges)
    assert not torch.allclose(model(data.x, data.edge_index, weight), plain)


@pytest.mark.parametrize("size", [0, 2.0, True])
def test_bad_block_size(size: Any) -> None:
    with pytest.raises(ValueError, match=r"`block_size` must be an integer >= 1. Got"):
        MPSSM(3, 8, 2, 4, size)
