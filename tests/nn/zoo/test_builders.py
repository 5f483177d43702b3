"""Models by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch_geometric.nn import GAT, GCN, GIN, MLP, BatchNorm, GraphSAGE

from graphfathom.cli.options import AbstractCommand
from graphfathom.nn.zoo import GCNII, NAMES, DeepGCN, build
from graphfathom.nn.zoo.adgn import ADGN
from graphfathom.nn.zoo.dgc import DGC
from graphfathom.nn.zoo.gated_gcn import GatedGCN
from graphfathom.nn.zoo.gps import GPS
from graphfathom.nn.zoo.gradient_gating import GradientGating
from graphfathom.nn.zoo.grand import GRAND
from graphfathom.nn.zoo.graphcon import GraphCON
from graphfathom.nn.zoo.mp_ssm import MPSSM
from graphfathom.nn.zoo.mpnn import MPNN
from graphfathom.nn.zoo.phdgn import PHDGN
from graphfathom.nn.zoo.sonar import SONAR
from graphfathom.nn.zoo.swan import SWAN
from graphfathom.nn.zoo.unitary import UnitaryGCN

CLASSES = {
    "gcn": GCN,
    "gat": GAT,
    "gin": GIN,
    "sage": GraphSAGE,
    "mlp": MLP,
    "gcnii": GCNII,
    "res+": DeepGCN,
    "gatv2": MPNN,
    "gps": GPS,
    "gated-gcn": GatedGCN,
    "adgn": ADGN,
    "adgn-sum": ADGN,
    "swan": SWAN,
    "phdgn": PHDGN,
    "dgc": DGC,
    "grand": GRAND,
    "graphcon": GraphCON,
    "gradient-gating": GradientGating,
    "unitary": UnitaryGCN,
    "mp-ssm": MPSSM,
    "sonar": SONAR,
}
NORMED = ("gcn", "gat", "gatv2", "gin", "sage", "mlp", "res+", "gps")
"""Those that take any of the normalisations."""
OWN_NORM = {"res+": nn.LayerNorm, "gps": BatchNorm, "gated-gcn": nn.BatchNorm1d}
NO_ACT = ("dgc", "grand")


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
@pytest.mark.parametrize("name", NORMED)
def test_norm(name: str, norm: str, expected: type[nn.Module]) -> None:
    modules = list(small(name, norm=norm).modules())
    assert any(isinstance(module, expected) for module in modules)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {*NORMED, "gated-gcn"}))
def test_others_refuse_a_norm(name: str) -> None:
    with pytest.raises(ValueError, match=f"`norm` must be None for {name}, which has"):
        small(name, norm="batch")


def test_without_norm_there_is_the_models_own() -> None:
    known = (nn.LayerNorm, BatchNorm, nn.BatchNorm1d)
    for name in NAMES:
        norms = {type(m) for m in small(name).modules() if isinstance(m, known)}
        assert (OWN_NORM.get(name) in norms) if norms else name not in OWN_NORM


def test_the_help_of_the_command_line_has_every_name() -> None:
    words = (AbstractCommand.__doc__ or "").replace(",", " ").replace(";", " ").split()
    assert set(NAMES) <= set(words)


@pytest.mark.parametrize("name", NAMES)
def test_dropout_and_activation(name: str) -> None:
    model = small(name, dropout=0.5, act=None if name in NO_ACT else "tanh")
    assert name in NO_ACT or any(
        isinstance(module, nn.Tanh) for module in model.modules()
    )
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
        (
            {"name": "dgc", "act": "tanh"},
            r"`act` must be None for dgc, which has no ac",
        ),
        ({"name": "gated-gcn", "norm": "layer"}, r"`norm` must be 'batch' or None"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
