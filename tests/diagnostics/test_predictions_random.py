"""Predictions for random weights, beside networks with random weights."""

from __future__ import annotations

import pytest
import torch
from graphs import random_graph
from layer_cases import network, traced
from problems import gcn_matrix
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from graphfathom.diagnostics.densities import GRID, grid_name
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.predictions import prediction_observations
from graphfathom.diagnostics.trace import Trace


def predicted(trace: Trace) -> Observations:
    return Observations(prediction_observations(trace, None))


def singular_values(trace: Trace, k: int) -> Tensor:
    return torch.linalg.svdvals(trace.jacobian(k - 1, k).to_dense())


@pytest.mark.parametrize("act", [None, "relu"])
def test_theorem_3_2_is_the_mean_over_random_networks(act: str | None) -> None:
    """Glorot's weights have variance 2 / (m + p); ReLU switches half of them off."""
    data = random_graph(6)
    norm = float(gcn_matrix(data).square().sum()) / 6
    expected = norm * 16 * 2 / (16 + 16) * (0.5 if act else 1)
    found, exact = [], []
    for seed in range(60):
        torch.manual_seed(seed)
        data.x = torch.randn(6, 16)
        model = Activated(16) if act else GCNConv(16, 16, bias=False)
        trace = traced(model, data)
        table = predicted(trace)
        found.append(table.value("theory.mean_squared_gain", "layer:1"))
        exact.append(float(singular_values(trace, 1).square().sum()) / (6 * 16))
    for values in (torch.tensor(found), torch.tensor(exact)):
        assert abs(float(values.mean()) - expected) <= 4 * float(values.std()) / 60**0.5


class Activated(nn.Module):
    """One layer with an activation behind it, and a read-out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = GCNConv(width, width, bias=False)
        self.readout = nn.Linear(width, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.readout(self.conv(x, edge_index).relu())


def test_the_gain_of_a_linear_layer_is_exact() -> None:
    """The variance is that of its own weights."""
    trace = traced(network("linear"), random_graph())
    table = predicted(trace)
    for k in range(1, 5):
        jacobian = trace.jacobian(k - 1, k).to_dense()
        gain = float(jacobian.square().sum()) / jacobian.shape[1]
        found = table.value("theory.mean_squared_gain", f"layer:{k}")
        assert found == pytest.approx(gain)


def density(table: Observations, k: int) -> Tensor:
    place = f"layer:{k}"
    names = [grid_name("theory.density", x) for x in GRID.tolist()]
    return torch.tensor([table.value(name, place) for name in names])


@pytest.mark.parametrize("widths", [(64, 64), (32, 96), (96, 32)])
def test_the_density_is_that_of_random_weights(widths: tuple[int, int]) -> None:
    """Beside all singular values of the layer, in bins of a fifth of a decade."""
    torch.manual_seed(0)
    data = random_graph(30)
    data.x = torch.randn(30, widths[0])
    model = GCNConv(*widths, bias=False)
    trace = traced(model, data)
    found = density(predicted(trace), 1)
    assert 0.1 * float(found.sum()) == pytest.approx(1, abs=0.03)
    values = torch.outer(
        torch.linalg.eigvalsh(gcn_matrix(data)).abs(),
        torch.linalg.svdvals(model.lin.weight.detach()),
    )
    logs = values.flatten().log10()
    counts = torch.histc(logs, bins=20, min=-3.05, max=0.95) / len(logs)
    bins = 0.1 * found[:40].view(20, 2).sum(1)
    assert float((counts - bins).abs().max()) < 0.02
