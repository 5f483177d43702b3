"""Verdicts on real small networks whose disease is known."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN, MLP, SimpleConv

import graphfathom as gf
from graphfathom.diagnostics.numerics import numeric_observations
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.report import Report
from graphfathom.diagnostics.trace import NoLayersError, capture
from graphfathom.nn.zoo import build
from graphfathom.problem import Problem

FEATURES, CLASSES, WIDTH = 16, 3, 32

pytestmark = pytest.mark.usefixtures("float32_default")
seeds = pytest.mark.parametrize("seed", [0, 1, 2])


def graph(seed: int = 0, num_nodes: int = 200) -> Data:
    return gf.datasets.csbm(
        num_nodes,
        CLASSES,
        avg_degree=4,
        homophily=0.8,
        num_features=FEATURES,
        seed=seed,
    )


def network(
    name: str, depth: int, seed: int, norm: str | None = None, width: int = WIDTH
) -> nn.Module:
    torch.manual_seed(seed)
    return build(name, FEATURES, CLASSES, depth, width, norm)


def diagnose(model: nn.Module, data: Data, controls: str = "none") -> Report:
    return gf.diagnose(model, data, controls=controls)


def names(report: Report) -> list[str]:
    return [finding.name for finding in report.findings]


def relative(report: Report, k: int) -> float:
    return report.observations.value("gradient.state.relative", f"state:{k}")


@seeds
@pytest.mark.parametrize("depth", [2, 8])
def test_a_shallow_gcn_is_healthy(seed: int, depth: int) -> None:
    report = diagnose(network("gcn", depth, seed), graph(seed))
    assert report.verdict.name == "healthy"
    assert abs(relative(report, 1)) < 3


@seeds
def test_a_deep_gcn_has_vanishing_gradients(seed: int) -> None:
    """A layer takes about 1/sqrt(degree + 1) and half of what ReLU sees."""
    report = diagnose(network("gcn", 64, seed), graph(seed))
    assert report.verdict.name == "vanishing-gradients"
    assert report.verdict.severity == "critical"
    assert report.verdict.where.startswith("layers 1-")
    assert -16 < relative(report, 1) < -6
    assert "over-smoothing-to-zero" in names(report)


def test_a_control_that_does_not_vanish_leaves_it_to_the_depth() -> None:
    report = diagnose(network("gcn", 64, 0), graph(), controls="untrained")
    assert report.verdict.name == "vanishing-gradients"
    assert {"shallow", "mlp"} <= set(report.observations.runs())


@seeds
def test_batch_norm_lets_gradients_explode(seed: int) -> None:
    """Untrained, in the mode that training would use."""
    report = diagnose(network("gcn", 64, seed, norm="batch"), graph(seed))
    assert report.settings["mode"] == "init"
    assert report.verdict.name == "exploding-gradients"
    assert relative(report, 1) > 3
    assert "model (eval)" in report.observations.runs()


@seeds
@pytest.mark.parametrize("name", ["gcnii", "res+"])
def test_connections_past_the_layers_keep_a_deep_network_healthy(
    name: str, seed: int
) -> None:
    report = diagnose(network(name, 64, seed), graph(seed))
    assert report.verdict.name == "healthy"
    assert report.severity == "healthy"
    assert len(report.layers) == 64


def first_zero(model: nn.Module, data: Data) -> int:
    """The first layer whose output is zero, by hooks and not by the tracer."""
    zero: list[bool] = []
    handles = [
        conv.register_forward_hook(lambda *call: zero.append(not call[-1].any()))
        for conv in model.convs
    ]
    with torch.no_grad():
        model.eval()(data.x, data.edge_index)
    for handle in handles:
        handle.remove()
    return zero.index(True) + 1


def test_a_gcn_of_320_layers_is_exactly_zero_in_float32() -> None:
    data, model = graph(num_nodes=60), network("gcn", 320, 0)
    expected = first_zero(copy.deepcopy(model), data)
    report = diagnose(model, data)
    assert report.verdict.name == "exactly-zero"
    assert f"layer {expected} (`convs.{expected - 1}`)" in report.verdict.title
    assert "float32 underflows" in " ".join(report.verdict.evidence)
    assert "underflow" in names(report)
    last = report.observations.value("feature_norm", "state:320")
    assert math.isfinite(last), "float64 knows better"


@pytest.mark.parametrize("seed", [1, 2])
def test_where_float32_gives_up(seed: int) -> None:
    data, model = graph(seed, 60), network("gcn", 320, seed)
    table = Observations(
        numeric_observations(capture(Problem(model, data), dtype=None))
    )
    zeros = dict(zip(*table.series("exact_zeros"), strict=True))
    expected = first_zero(model, data)
    # A conv is zero one step before or at its activation's state.
    first = min(k for k, share in zeros.items() if share == 1)
    assert expected - 1 <= first <= expected
    assert 150 < first < 320


@seeds
@pytest.mark.parametrize("layer", [1, 5, 8])
def test_a_nan_in_a_weight_names_its_layer(seed: int, layer: int) -> None:
    model = network("gcn", 8, seed)
    model.convs[layer - 1].lin.weight.data[0, 0] = math.nan
    report = diagnose(model, graph(seed))
    assert report.verdict.name == "non-finite"
    assert report.verdict.severity == "critical"
    assert report.verdict.where == f"layer {layer} (`convs.{layer - 1}`)"


def test_an_overflow_names_its_layer() -> None:
    """1e25 twice is beyond float32; the features themselves are finite before."""
    model = network("gcn", 6, 0)
    for k in (1, 2):
        model.convs[k].lin.weight.data *= 1e25
    report = diagnose(model, graph())
    assert report.verdict.name == "non-finite"
    assert report.verdict.where == "layer 3 (`convs.2`)"


@seeds
def test_a_layer_switched_off_by_its_bias(seed: int) -> None:
    model = network("gcn", 8, seed)
    model.convs[3].bias.data.fill_(-100.0)
    report = diagnose(model, graph(seed))
    assert report.verdict.name == "exactly-zero"
    assert report.verdict.where == "layers 4-8 of 8"
    assert "switched off" in " ".join(report.verdict.evidence)
    columns = report.observations.value("zero_columns", "layer:4")
    assert columns == 1, "no output responds"


@seeds
def test_dead_units_are_counted(seed: int) -> None:
    """Three of four units switched off; the others carry signal and gradient."""
    model = network("gcn", 3, seed, width=64)
    model.convs[0].bias.data[:48] = -100.0
    report = diagnose(model, graph(seed))
    assert report.verdict.name == "dead-units"
    assert report.verdict.where == "layers 1-1 of 3"
    assert report.observations.value("dead_units", "state:1") >= 0.75


class MeanNet(nn.Module):
    """Averages over neighbours, then an orthogonal matrix: size is kept, not shape."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            SimpleConv(aggr="mean", combine_root="self_loop") for _ in range(depth)
        )
        self.lins = nn.ModuleList(
            nn.Linear(FEATURES, FEATURES, bias=False) for _ in range(depth)
        )
        for lin in self.lins:
            nn.init.orthogonal_(lin.weight)
        self.readout = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for conv, lin in zip(self.convs, self.lins, strict=True):
            x = lin(conv(x, edge_index))
        return self.readout(x)


@seeds
def test_averaging_smooths_to_constants(seed: int) -> None:
    """Row-stochastic aggregation keeps the mean, so features do not become zero."""
    torch.manual_seed(seed)
    data = gf.datasets.csbm(200, CLASSES, avg_degree=8, homophily=0.8, seed=seed)
    data.x = data.x + 1.0
    report = diagnose(MeanNet(32), data)
    assert report.verdict.name == "over-smoothing-to-constants"
    assert names(report) == ["over-smoothing-to-constants"]
    table = report.observations
    distances = [table.value("deviation.constant", f"state:{k}") for k in (0, 8, 32)]
    assert distances[0] > 0.3 > distances[1] > 0.01 > distances[2]
    assert abs(table.value("feature_rms", "state:32")) < 1


@seeds
def test_few_averages_are_healthy(seed: int) -> None:
    torch.manual_seed(seed)
    assert diagnose(MeanNet(3), graph(seed)).verdict.name == "healthy"


@seeds
def test_an_mlp_is_measured_where_its_layers_are_named(seed: int) -> None:
    torch.manual_seed(seed)
    model = MLP([FEATURES, WIDTH, WIDTH, CLASSES], norm=None)
    report = gf.diagnose(model, graph(seed), layers="lins.*", controls="none")
    assert report.verdict.name == "healthy"
    assert report.layers == ("lins.0", "lins.1", "lins.2")
    assert report.settings["layers"] == "lins.*"


def test_a_deep_mlp_vanishes_without_any_graph() -> None:
    """The disease is not that of message passing alone."""
    torch.manual_seed(0)
    model = MLP([FEATURES, *[WIDTH] * 40, CLASSES], norm=None)
    for lin in model.lins:
        lin.weight.data *= 0.5
    report = gf.diagnose(model, graph(), layers="lins.*", controls="none")
    assert report.verdict.name == "vanishing-gradients"


def test_an_mlp_has_no_message_passing() -> None:
    model = MLP([FEATURES, WIDTH, CLASSES], norm=None)
    with pytest.raises(NoLayersError, match=r"No message-passing layer.*`layers="):
        gf.diagnose(model, graph())


def test_without_labels_there_is_not_enough_evidence() -> None:
    data = graph()
    del data.y
    report = diagnose(network("gcn", 4, 0), data)
    assert report.verdict.name == "not-enough-evidence"
    assert "no labels" in " ".join(report.verdict.evidence)


def test_equal_labels_come_before_the_depth() -> None:
    data = graph()
    data.y = torch.zeros_like(data.y)
    report = diagnose(network("gcn", 40, 0), data)
    assert names(report)[:2] == ["equal-labels", "vanishing-gradients"]


def test_equal_features_are_named() -> None:
    data = graph()
    data.x = torch.ones_like(data.x)
    assert diagnose(network("gcn", 2, 0), data).verdict.name == "constant-features"


def test_a_nan_that_is_there_at_depth_one_is_not_the_depth() -> None:
    model = GCN(FEATURES, FEATURES, num_layers=4)
    model.convs[0].lin.weight.data[0, 0] = math.nan
    data = graph()
    data.y = data.x.clone()
    report = diagnose(model, data, controls="untrained")
    assert names(report)[:2] == ["not-a-depth-problem", "non-finite"]
