"""docs/measures.md: every name that a diagnosis can give is explained there."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from report_factory import make_report
from torch_geometric.data import Data
from torch_geometric.nn import GCN

import graphfathom as gf

PAGE = Path(__file__).parent.parent / "docs" / "measures.md"


@cache
def explained() -> set[str]:
    """What stands in code type in the first column of a table."""
    rows = re.findall(r"^\| (`.*?`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def generic(name: str) -> str:
    """The name as the page writes it: with x for a point of a grid."""
    return re.sub(r"log10=.*", "log10=x", name)


def measured() -> gf.Report:
    """A deep diagnosis of a network to which every theorem applies."""
    generator = torch.Generator().manual_seed(0)
    one = torch.arange(12)
    edges = torch.stack([one, (one + 1) % 12])
    data = Data(
        x=torch.randn(12, 4, generator=generator),
        edge_index=torch.cat([edges, edges.flip(0)], dim=1),
        y=one % 3,
        train_mask=one < 6,
        val_mask=one >= 6,
        test_mask=one >= 6,
    )
    model = GCN(4, 4, num_layers=3, out_channels=3, bias=False)
    return gf.diagnose(model, data, deep=True)


@pytest.mark.parametrize("report", [make_report, measured])
def test_every_measure_is_explained(report):
    names = {generic(name) for name in report().observations.names()}
    assert names <= explained(), f"Not on the page: {names - explained()}."
    assert {"sensitivity", "theory.density.log10=x", "theory.feature_norm"} <= names
