"""Each convolution of PyG: the right number, or a refusal that says why."""

from __future__ import annotations

import pytest
from conv_catalogue import CONVS, ENTRIES, NUM_CONVS, ConvEntry
from conv_outcomes import examine
from torch_geometric.nn import conv as pyg_conv

PYG_LIB = "not installed here: '{}' requires 'pyg-lib>=0.6.0'"
CUGRAPH = "not installed here: '{}' requires 'pylibcugraphops>=23.02'"

OTHERWISE: dict[str, str] = {
    "CuGraphSAGEConv": CUGRAPH,
    "CuGraphGATConv": CUGRAPH,
    "CuGraphRGCNConv": CUGRAPH,
    "DynamicEdgeConv": PYG_LIB,
    "FusedGATConv": "not installed here: No module named 'dgNN'",
    "GravNetConv": PYG_LIB,
    "PANConv": "not installed here: 'SparseTensor' requires 'torch-sparse'",
    "SplineConv": PYG_LIB,
    "WLConv": "refused: No message-passing layer was found",
    "XConv": PYG_LIB,
}
"""How the outcome begins where it is not "exact"; "exact" for all others."""

LAYERS = {"APPNP": 4, "AntiSymmetricConv": 4, "GatedGraphConv": 4, "SGConv": 4}
"""Layers found where they are not two: these iterate twice inside one call."""


def test_every_convolution_of_pyg_is_in_the_catalogue() -> None:
    names = set(pyg_conv.__all__) - {"MessagePassing"}
    assert len(names) == NUM_CONVS
    assert CONVS.keys() == names
    assert len(ENTRIES) == len(CONVS)
    assert OTHERWISE.keys() <= names


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_outcome_is_the_pinned_one(entry: ConvEntry) -> None:
    row = examine(entry)
    expected = OTHERWISE.get(entry.name, "exact").format(entry.name)
    assert row.outcome.startswith(expected)
    if expected == "exact":
        assert row.num_layers == LAYERS.get(entry.name, 2)
        assert row.state
