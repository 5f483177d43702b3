"""GPS against PyG's layer and against dense matrices."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dense_steps import perturbed
from graphs import random_graph, two_components
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GPSConv

from graphfathom.nn import GCNConv
from graphfathom.nn.zoo.gps import GPS, GPSLayer

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def joined() -> Batch:
    return Batch.from_data_list([random_graph(), two_components(), random_graph(3)])


def attend(attn: nn.MultiheadAttention, h: Tensor) -> Tensor:
    """Multi-head attention of all rows to all rows, head by head."""
    parts = (h @ attn.in_proj_weight.T + attn.in_proj_bias).chunk(3, dim=1)
    queries, keys, values = (part.chunk(attn.num_heads, dim=1) for part in parts)
    heads = [
        (q @ k.T / math.sqrt(q.size(1))).softmax(1) @ v
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return attn.out_proj(torch.cat(heads, dim=1))


def dense_layer(layer: Any, h: Tensor, edge_index: Tensor) -> Tensor:
    a = torch.eye(len(h))
    a[edge_index[1], edge_index[0]] = 1
    scale = a.sum(1).rsqrt()
    conv = layer.conv
    local = scale[:, None] * a * scale @ h @ conv.lin.weight.T + conv.bias
    out = layer.norm1(h + local) + layer.norm2(h + attend(layer.attn, h))
    first, _, _, second, _ = layer.mlp
    return layer.norm3(out + second(torch.tanh(first(out))))


@pytest.mark.parametrize("share_weights", [False, True])
def test_forward_is_the_equation(share_weights: bool) -> None:
    data, options = random_graph(), {"heads": 2, "norm": "layer", "act": "tanh"}
    model = perturbed(GPS(3, 4, 2, 3, share_weights=share_weights, **options))
    h = model.encoder(data.x)
    for k in range(3):
        h = dense_layer(model.layers[0 if share_weights else k], h, data.edge_index)
    found = model(data.x, data.edge_index)
    torch.testing.assert_close(found, model.head(h), **CLOSE)


@pytest.mark.parametrize("act", [torch.tanh, nn.ReLU()])
def test_the_layer_is_that_of_pyg(act: Any) -> None:
    batch = joined()
    layer = perturbed(GPSLayer(4, GCNConv(4, 4), 2, act=act))
    h = torch.randn(batch.num_nodes, 4)
    expected = GPSConv.forward(layer, h, batch.edge_index, batch.batch)
    found = layer(h, batch.edge_index, batch.batch)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_the_nodes_of_a_graph_need_not_lie_side_by_side() -> None:
    batch, model = joined(), GPS(3, 4, 2, 3).eval()
    order = torch.randperm(batch.num_nodes)
    edge_index = order.argsort()[batch.edge_index]
    found = model(batch.x[order], edge_index, batch=batch.batch[order])
    expected = model(batch.x, batch.edge_index, batch=batch.batch)[order]
    torch.testing.assert_close(found, expected, **CLOSE)


def test_a_graph_without_nodes_harms_no_gradient() -> None:
    data, model = random_graph(), GPS(3, 4, 2, 2)
    graph = torch.arange(data.num_nodes) // 4 * 2
    model(data.x, data.edge_index, batch=graph).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_a_node_is_moved_by_all_nodes_of_its_graph_and_by_no_others() -> None:
    batch, model = joined(), GPS(3, 4, 2, 1, norm="layer").eval()

    def output(x: Tensor) -> Tensor:
        return model(x, batch.edge_index, batch=batch.batch)

    jacobian: Any = torch.autograd.functional.jacobian(output, batch.x)
    moved = jacobian.abs().amax((1, 3)) > 0
    assert torch.equal(moved, batch.batch[:, None] == batch.batch)


def test_derivatives_of_second_order() -> None:
    data, model = random_graph(), GPS(3, 4, 2, 2, norm="layer", act="tanh")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(
            lambda x: model(x, data.edge_index), data.x.requires_grad_()
        )


def test_dropout_acts_in_training_only() -> None:
    data, model = random_graph(), GPS(3, 4, 2, 2, norm="layer", layer_dropout=0.5)
    assert not torch.equal(*[model(data.x, data.edge_index) for _ in range(2)])
    model.eval()
    assert torch.equal(*[model(data.x, data.edge_index) for _ in range(2)])


@pytest.mark.parametrize("heads", [3, 0])
def test_heads_that_do_not_divide_the_width(heads: int) -> None:
    message = rf"`heads` must divide `hidden_channels`, 4. Got {heads}"
    with pytest.raises(ValueError, match=message):
        GPS(3, 4, 2, 1, heads=heads)


def test_an_unknown_convolution() -> None:
    with pytest.raises(ValueError, match=r"`conv` must be one of .*Got 'gated'"):
        GPS(3, 4, 2, 1, "gated")
