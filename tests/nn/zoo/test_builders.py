"""Models by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch_geometric.nn import GAT, GCN, GIN, MLP, BatchNorm, GraphSAGE

from graphfathom.nn.zoo import GCNII, NAMES, DeepGCN, build

CLASSES = {
    "gcn": GCN,
    "gat": GAT,
    "gin": GIN,
    "sage": GraphSAGE,
    "mlp": MLP,
    "gcnii": GCNII,
    "res+": DeepGCN,
}


def small(name: str = "gcn", **options: Any) -> nn.Module:
    options = {"num_layers": 3, "hidden_channels": 4, **options}
    return build(name, 5, 2, **options)


def test_every_name_has_its_class() -> None:
    assert set(NAMES) == set(CLASSES)
    for name, expected in CLASSES.items():
        assert type(small(name)) is expected


def test_one_layer() -> None:
    x, edge_index = torch.randn(3, 5), torch.tensor([[0, 1], [1, 0]])
    for name in NAMES:
        model = small(name, num_layers=1)
        output = model(x) if name == "mlp" else model(x, edge_index)
        assert output.shape == (3, 2)


@pytest.mark.parametrize(
    ("norm", "expected"), [("batch", BatchNorm), ("layer", nn.LayerNorm)]
)
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"gcnii"}))
def test_norm(name: str, norm: str, expected: type[nn.Module]) -> None:
    modules = list(small(name, norm=norm).modules())
    assert any(isinstance(module, expected) for module in modules)


def test_without_norm_there_is_none_but_in_res_plus() -> None:
    for name in NAMES:
        norms = [m for m in small(name).modules() if isinstance(m, nn.LayerNorm)]
        assert bool(norms) == (name == "res+")


@pytest.mark.parametrize("name", NAMES)
def test_dropout_and_activation(name: str) -> None:
    model = small(name, dropout=0.5, act="tanh")
    assert any(isinstance(module, nn.Tanh) for module in model.modules())
    x, edge_index = torch.randn(3, 5), torch.tensor([[0, 1], [1, 0]])
    inputs = (x,) if name == "mlp" else (x, edge_index)
    assert not torch.equal(model(*inputs), model(*inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "gnc"}, r"`name` must be one of gcn.*Got 'gnc'. .* gin or gcn\?"),
        ({"name": "GCNII"}, r"Got 'GCNII'. Did you mean gcnii or gcn\?"),
        ({"name": "?"}, r"Got '\?'.$"),
        ({"norm": "bach"}, r"`norm` must be one of batch, layer. Got 'bach'"),
        ({"act": "rely"}, r"`act` must be one of .*Did you mean relu\?"),
        ({"num_layers": 0}, r"`num_layers` must be >= 1. Got 0."),
        ({"hidden_channels": 0}, r"`hidden_channels` must be >= 1. Got 0."),
        ({"dropout": 1.0}, r"`dropout` must lie in \[0, 1\). Got 1.0."),
        ({"name": "gcnii", "norm": "batch"}, r"`norm` must be None for gcnii"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
