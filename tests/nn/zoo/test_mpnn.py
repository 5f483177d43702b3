"""Plain message passing against dense matrices, and its controls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense_steps import perturbed
from graphs import random_graph, two_components
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GATv2Conv

from graphfathom.nn import gcn_adjacency
from graphfathom.nn.zoo.mpnn import MPNN, MPNNLayer

DATA = random_graph()
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def matrix() -> Tensor:
    """Row i has a one for each neighbour that sends to i."""
    a = torch.zeros(DATA.num_nodes, DATA.num_nodes)
    a[DATA.edge_index[1], DATA.edge_index[0]] = 1
    return a


def gcn(conv: Any, h: Tensor) -> Tensor:
    a = matrix() + torch.eye(len(h))
    scale = a.sum(1).rsqrt()
    return scale[:, None] * a * scale @ h @ conv.lin.weight.T + conv.bias


def attention(scores: Tensor) -> Tensor:
    """Of node i, in row i, to itself and its neighbours."""
    seen = (matrix() + torch.eye(len(scores))) > 0
    scores = F.leaky_relu(scores, 0.2)
    return scores.masked_fill(~seen, -torch.inf).softmax(1)


def gat(conv: Any, h: Tensor) -> Tensor:
    z = h @ conv.lin.weight.T
    target, source = z @ conv.att_dst.flatten(), z @ conv.att_src.flatten()
    return attention(target[:, None] + source) @ z + conv.bias


def gatv2(conv: Any, h: Tensor) -> Tensor:
    source, target = conv.lin_l(h), conv.lin_r(h)
    pairs = F.leaky_relu(target[:, None] + source, 0.2) @ conv.att.flatten()
    seen = (matrix() + torch.eye(len(h))) > 0
    weights = pairs.masked_fill(~seen, -torch.inf).softmax(1)
    return weights @ source + conv.bias


def gin(conv: Any, h: Tensor) -> Tensor:
    first, *others = conv.nn
    z = first((1 + conv.eps) * h + matrix() @ h)
    return others[1](z.clamp(min=0)) if others else z


def sage(conv: Any, h: Tensor) -> Tensor:
    a = matrix()
    mean = a / a.sum(1, keepdim=True) @ h
    return conv.lin_l(mean) + h @ conv.lin_r.weight.T


DENSE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "gcn": gcn,
    "gat": gat,
    "gatv2": gatv2,
    "gin": gin,
    "gin_mlp": gin,
    "sage": sage,
}


def states(model: MPNN, dense: Callable[[Any, Tensor], Tensor]) -> list[Tensor]:
    """What each layer returns, by dense matrices; ReLU, no norm."""
    h, found = model.encoder(DATA.x), []
    for k in range(model.num_layers):
        layer: Any = model.layers[0 if model.share_weights else k]
        new = dense(layer.conv, h).clamp(min=0)
        h = h + new if layer.residual else new
        found.append(h)
    return found


@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("conv", DENSE)
def test_forward_is_the_equation(
    conv: str, residual: bool, share_weights: bool
) -> None:
    options = {"residual": residual, "share_weights": share_weights}
    model = perturbed(MPNN(3, 4, 2, 3, conv, **options))
    expected = model.head(states(model, DENSE[conv])[-1])
    torch.testing.assert_close(model(DATA.x, DATA.edge_index), expected, **CLOSE)


@pytest.mark.parametrize("residual", [False, True])
def test_the_read_out_sees_all_layers(residual: bool) -> None:
    for jk in ("cat", "max"):
        model = perturbed(MPNN(3, 4, 2, 3, jk=jk, residual=residual))
        found = states(model, gcn)
        seen = torch.cat(found, 1) if jk == "cat" else torch.stack(found).amax(0)
        expected = model.head(seen)
        torch.testing.assert_close(model(DATA.x, DATA.edge_index), expected, **CLOSE)


def test_normalisation_lies_between_convolution_and_activation() -> None:
    model = perturbed(MPNN(3, 4, 2, 2, norm="layer", act="tanh"))
    h = model.encoder(DATA.x)
    for layer in model.layers:
        z = gcn(layer.conv, h)
        z = (z - z.mean(1, keepdim=True)) / (z.var(1, False, True) + 1e-5).sqrt()
        h = torch.tanh(z * layer.norm.weight + layer.norm.bias)
    expected = model.head(h)
    torch.testing.assert_close(model(DATA.x, DATA.edge_index), expected, **CLOSE)


def test_pair_norm_keeps_the_distances_between_the_nodes_of_each_graph() -> None:
    """Zhao and Akoglu, 2020: the mean squared distance is 2 in every layer."""
    batch = Batch.from_data_list([DATA, two_components()])
    for depth in (1, 16):
        model = MPNN(3, 4, 2, depth, norm="pair", act=None, head=lambda i, o: Same())
        h = model(batch.x, batch.edge_index, batch=batch.batch)
        for graph in range(2):
            rows = h[batch.batch == graph]
            torch.testing.assert_close(rows.mean(0), torch.zeros(4))
            # Without the constant that guards against a division by zero.
            expected = torch.tensor(2 * len(rows) ** 2.0)
            found = torch.cdist(rows, rows).square().sum()
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)


class Same(nn.Identity):
    """A head that shows the last state."""


def seen_graphs(model: MPNN, **given: Tensor) -> list[tuple[Any, dict[str, Any]]]:
    """Graph and keywords that each convolution is called with."""
    seen: list[tuple[Any, dict[str, Any]]] = []
    for layer in model.layers:
        layer.conv.register_forward_pre_hook(  # pyright: ignore
            lambda _, args, kwargs: seen.append((args[1], kwargs)), with_kwargs=True
        )
    model(DATA.x, DATA.edge_index, **given)
    return seen


def test_every_layer_and_step_of_training_drops_edges_of_its_own() -> None:
    model = MPNN(3, 4, 2, 4, drop_edge=0.5)
    weight = torch.arange(1.0, DATA.num_edges + 1)
    drawn = []
    for _ in range(2):
        for graph, kwargs in seen_graphs(model, edge_weight=weight)[-4:]:
            kept = kwargs["edge_weight"].long() - 1
            # A weight stays with its edge.
            assert torch.equal(graph, DATA.edge_index[:, kept])
            drawn.append(tuple(kept.tolist()))
    assert len(set(drawn)) == 8


def test_the_share_of_edges_that_stay() -> None:
    model, counts = MPNN(3, 4, 2, 200, drop_edge=0.3), []
    counts = [graph.size(1) for graph, _ in seen_graphs(model)]
    share = sum(counts) / (200 * DATA.num_edges)
    assert share == pytest.approx(0.7, abs=0.04)


def test_no_edges_are_dropped_in_evaluation() -> None:
    model = MPNN(3, 4, 2, 4, drop_edge=0.5).eval()
    plain = MPNN(3, 4, 2, 4).eval()
    plain.load_state_dict(model.state_dict())
    found, expected = (m(DATA.x, DATA.edge_index) for m in (model, plain))
    assert torch.equal(found, expected)


def test_dropout_inside_the_layers_acts_in_training_only() -> None:
    model = MPNN(3, 4, 2, 3, layer_dropout=0.5)
    found = [model(DATA.x, DATA.edge_index) for _ in range(2)]
    assert not torch.equal(*found)
    model.eval()
    assert torch.equal(*[model(DATA.x, DATA.edge_index) for _ in range(2)])


def test_edge_weights_reach_gcn_once_and_other_layers_never() -> None:
    weight = torch.rand(DATA.num_edges)
    model = MPNN(3, 4, 2, 2)
    dense = gcn_adjacency(DATA.edge_index, weight, DATA.num_nodes)
    expected = model(DATA.x, dense)
    torch.testing.assert_close(model(DATA.x, DATA.edge_index, weight), expected)
    model = MPNN(3, 4, 2, 2, "sage")
    expected = model(DATA.x, DATA.edge_index)
    assert torch.equal(model(DATA.x, DATA.edge_index, weight), expected)


def test_a_layer_that_takes_edge_features_gets_them() -> None:
    model = MPNN(3, 4, 2, 2, lambda i, o: GATv2Conv(i, o, edge_dim=2))
    ones = torch.ones(DATA.num_edges, 2)
    one, two = (model(DATA.x, DATA.edge_index, edge_attr=k * ones) for k in (1, 2))
    assert not torch.allclose(one, two)


def test_repr_names_what_was_chosen() -> None:
    model = MPNN(3, 4, 2, 5, "gat", norm=nn.BatchNorm1d, residual=True, drop_edge=0.1)
    assert repr(model) == (
        "MPNN(3, 4, 2, num_layers=5, conv=gat, norm=BatchNorm1d, residual=True, "
        "drop_edge=0.1)"
    )


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"conv": "gnc"}, ValueError, r"`conv` must be one of 'gcn', .*Got 'gnc'"),
        ({"conv": 3}, TypeError, r"`conv` must be a class of layers"),
        ({"norm": "bach"}, ValueError, r"`norm` must be one of 'batch'.*Got 'bach'"),
        ({"norm": 3}, TypeError, r"`norm` must be a name, a function"),
        ({"jk": "lstm"}, ValueError, r"`jk` must be one of 'last', 'cat', 'max'"),
        ({"drop_edge": 1.0}, ValueError, r"`drop_edge` must be in \[0, 1\). Got 1.0"),
        ({"layer_dropout": -0.1}, ValueError, r"`layer_dropout` must be in \[0, 1\)"),
    ],
)
def test_bad_input(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        MPNN(3, 4, 2, 2, **options)


def test_edges_of_an_adjacency_cannot_be_dropped() -> None:
    layer = MPNNLayer(nn.Identity(), drop_edge=0.5)
    adjacency = gcn_adjacency(DATA.edge_index)
    with pytest.raises(ValueError, match=r"`edge_index` must be edge indices of shape"):
        layer(DATA.x, adjacency)
