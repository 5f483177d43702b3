"""GatedGCN against dense algebra, and the ends of its gates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dense_steps import shaken
from graphs import GRAPHS, random_graph
from torch import Tensor, nn
from torch_geometric.data import Data

from graphfathom.nn.zoo.gated_gcn import GatedGCN


def with_edges(data: Data) -> Data:
    data.edge_attr = torch.randn(data.num_edges, 2)
    return data


def arguments(data: Data) -> dict[str, Tensor]:
    return {name: data[name] for name in ("x", "edge_index", "edge_attr")}


def normalised(rows: Tensor, norm: nn.Module) -> Tensor:
    """Batch normalisation by the statistics of the rows."""
    if isinstance(norm, nn.Identity):
        return rows
    inner: Any = norm.module
    centred = rows - rows.mean(0)
    return centred / (centred.square().mean(0) + 1e-5).sqrt() * inner.weight + (
        inner.bias
    )


def dense(model: Any, x: Tensor, e: Tensor, data: Data) -> Tensor:
    """The equation with one (N, N, F) tensor of gates; no edge may be doubled."""
    source, target = data.edge_index
    for k in range(model.num_layers):
        layer = model.layers[0 if model.share_weights else k]
        hat = layer.lin_edge(e) + layer.lin_target(x)[target]
        hat = hat + layer.lin_source(x)[source]
        gates = torch.zeros(len(x), len(x), x.shape[1])
        gates[target, source] = 1 / (1 + torch.exp(-hat))
        total = gates.sum(1)
        message = torch.einsum("ijf,jf->if", gates, layer.lin_message(x))
        update = layer.lin_self(x) + message / (total + 1e-6)
        x = x + normalised(update, layer.norm).clamp(min=0)
        e = e + normalised(hat, layer.edge_norm).clamp(min=0)
    return model.head(x)


@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("edge_dim", [2, None])
def test_forward_is_the_dense_equation(
    share_weights: bool, norm: str | None, edge_dim: int | None
) -> None:
    model = shaken(
        GatedGCN(3, 8, 2, 3, edge_dim, norm=norm, share_weights=share_weights)
    )
    for name in ("path", "random", "directed", "isolated node"):
        data = with_edges(GRAPHS[name]())
        e = model.edge_encoder(data.edge_attr if edge_dim else data.edge_index[0] * 0)
        expected = dense(model, model.encoder(data.x), e, data)
        found = model(**arguments(data))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_equal_gates_give_the_mean() -> None:
    data = random_graph()
    model = shaken(GatedGCN(3, 8, 2, 1, norm=None, act=None))
    (layer,) = model.layers
    for lin in (layer.lin_edge, layer.lin_target, layer.lin_source):
        nn.init.zeros_(lin.weight)
        nn.init.constant_(lin.bias, 10.0)
    x, e = torch.randn(8, 8), torch.randn(data.num_edges, 8)
    means = torch.zeros(8, 8)
    for i in range(8):
        senders = data.edge_index[0][data.edge_index[1] == i]
        means[i] = layer.lin_message(x[senders]).mean(0)
    found = layer(x, e, data.edge_index) - x - layer.lin_self(x)
    torch.testing.assert_close(found, means, rtol=1e-6, atol=1e-5)  # epsilon


def test_a_closed_gate_lets_nothing_through() -> None:
    data = random_graph()
    model = shaken(GatedGCN(3, 8, 2, 1, norm=None))
    (layer,) = model.layers
    shut = data.edge_index[0] == 0
    e = torch.zeros(data.num_edges, 8)
    nn.init.eye_(layer.lin_edge.weight)
    e[shut] = -1e3
    x = torch.randn(8, 8)
    changed = torch.cat([x[:1] + 0.1, x[1:]])
    nn.init.zeros_(layer.lin_source.weight)
    found, expected = (layer(y, e, data.edge_index)[1:] for y in (changed, x))
    assert torch.equal(found, expected)


def test_the_last_layer_leaves_the_edges() -> None:
    data = with_edges(random_graph())
    model = GatedGCN(3, 8, 2, 2, 2)
    x, e = torch.randn(8, 8), torch.randn(data.num_edges, 8)
    after = model.layers[0](x, e, data.edge_index)
    assert [t.shape for t in after] == [x.shape, e.shape]
    assert model.layers[1](x, e, data.edge_index).shape == x.shape
    names = [name for name, _ in model.named_parameters() if "edge_norm" in name]
    assert names
    assert all(name.startswith("layers.0.") for name in names)


def test_a_single_edge_can_be_trained() -> None:
    edge = torch.tensor([[0], [1]])
    out = GatedGCN(3, 8, 2, 3).train()(torch.randn(2, 3), edge)
    out.sum().backward()
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edge_dim": 0}, r"`edge_dim` must be an integer >= 1 or None. Got 0"),
        ({"edge_dim": True}, r"`edge_dim` must be an integer >= 1 or None. Got True"),
        ({"norm": "layer"}, r"`norm` must be 'batch' or None. Got 'layer'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GatedGCN(3, 8, 2, 3, **options)


def test_bad_edge_features() -> None:
    data, model = random_graph(), GatedGCN(3, 8, 2, 3, edge_dim=2)
    with pytest.raises(ValueError, match=r"`edge_attr` must be given .* Got None"):
        model(data.x, data.edge_index)
    wide = torch.randn(data.num_edges, 3)
    with pytest.raises(
        ValueError, match=r"must have shape \(\d+, 2\), .* Got \(\d+, 3"
    ):
        model(data.x, data.edge_index, edge_attr=wide)
