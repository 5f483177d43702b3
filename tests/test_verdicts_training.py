"""Verdicts on what a network is given and on how it was trained, on real networks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN, GATConv

import graphfathom as gf
from graphfathom.diagnostics.report import Finding, Report
from graphfathom.monitoring import Monitor

CLASSES, WIDTH = 3, 16

pytestmark = pytest.mark.usefixtures("float32_default")


def graph(seed: int = 0) -> Data:
    return gf.datasets.csbm(
        150, CLASSES, avg_degree=6, homophily=0.8, num_features=16, mu=2.0, seed=seed
    )


class Classifier(nn.Module):
    """Two layers and a linear head, with something behind it."""

    def __init__(self, behind: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gnn = GCN(16, WIDTH, num_layers=2)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.behind = behind

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        output = self.head(self.gnn(x, edge_index))
        return self.behind(output) if self.behind else output


def monitored(model: nn.Module, data: Data, lr: float = 0.01) -> Report:
    """Train a copy with a monitor, then judge the network that it began with."""
    trained = type(model)()
    trained.load_state_dict(model.state_dict())
    for own, other in zip(trained.parameters(), model.parameters(), strict=True):
        own.requires_grad_(other.requires_grad)
    optimizer = torch.optim.Adam(trained.parameters(), lr=lr)
    with Monitor(trained, every=5) as monitor:
        for _ in range(60):
            optimizer.zero_grad()
            output = trained(data.x, data.edge_index)[data.train_mask]
            loss = F.cross_entropy(output, data.y[data.train_mask])
            loss.backward()
            monitor.step(loss)
            optimizer.step()
    return gf.diagnose(
        model, data, trajectory=monitor.observations, controls="untrained"
    )


def finding(report: Report, name: str) -> Finding:
    (found,) = [each for each in report.findings if each.name == name]
    return found


def test_a_network_that_trains_is_healthy() -> None:
    report = monitored(Classifier(), graph())
    assert report.verdict.name == "healthy"
    assert {row.step for row in report.observations.select(run="training")} >= {0, 55}
    assert "training" not in report.observations.networks()


class Deeper(Classifier):
    """Six layers: with two, Adam finds its way back from anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.gnn = GCN(16, WIDTH, num_layers=6)


def test_a_learning_rate_of_one() -> None:
    assert monitored(Deeper(), graph(), lr=1.0).verdict.name == "learning-rate"


def test_a_frozen_head_of_rank_one_is_stuck() -> None:
    model = Classifier()
    with torch.no_grad():
        model.head.weight[1:] = model.head.weight[0]
    model.head.requires_grad_(False)
    report = monitored(model, graph())
    assert report.verdict.name == "stuck-head"
    assert report.observations.value("head.frozen") == 1
    # Tried out on copies: the caller's head is still frozen.
    assert "unfrozen" in report.observations.runs()
    assert not model.head.weight.requires_grad


def test_a_relu_behind_the_logits_is_tried_out() -> None:
    model = Classifier(lambda output: F.relu(output - 5))
    report = gf.diagnose(model, graph())
    assert report.verdict.name == "wrong-output-activation"
    runs = ("model (short training)", "without activation")
    with_it, without = (report.observations.value("accuracy.val", run=r) for r in runs)
    assert without > with_it + 0.1


def test_a_softmax_that_does_no_harm_is_a_note() -> None:
    report = gf.diagnose(Classifier(lambda output: output.softmax(-1)), graph())
    assert report.verdict.name == "healthy"
    assert finding(report, "wrong-output-activation").severity == "note"


def test_an_average_over_a_complete_graph() -> None:
    data = graph()
    ones = torch.ones(data.num_nodes, data.num_nodes).fill_diagonal_(0)
    data.edge_index = ones.nonzero().T.contiguous()
    report = gf.diagnose(Classifier(), data, controls="none")
    assert report.verdict.name == "complete-graph"
    assert report.verdict.severity == "critical"


def test_labels_that_were_redrawn_in_training() -> None:
    data = graph()
    chosen = data.train_mask & (torch.rand(150, generator=torch.manual_seed(0)) < 0.7)
    data.y[chosen] = (data.y[chosen] + 1) % CLASSES
    assert gf.diagnose(Classifier(), data).verdict.name == "label-noise"


class Attentive(nn.Module):
    """One layer of attention, which is frozen at zero."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = GATConv(16, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        for name in ("att_src", "att_dst"):
            parameter = getattr(self.conv, name)
            nn.init.zeros_(parameter)
            parameter.requires_grad_(False)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.head(self.conv(x, edge_index).tanh())


def test_uniform_attention_among_friends_is_a_note() -> None:
    report = gf.diagnose(Attentive(), graph())
    assert report.verdict.name == "healthy"
    assert finding(report, "uniform-attention").severity == "note"
