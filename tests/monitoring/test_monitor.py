"""The monitor in a plain loop: which numbers, when, and what it leaves alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graphs import isolated_node, path_graph, random_graph, two_components
from monitored import WIDTH, at_step, gcn, loss_of, train, watched
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch_geometric.nn import GCN, GCNConv, GraphSAGE

from graphfathom.diagnostics.energy import component_deviation, feature_rms
from graphfathom.diagnostics.trace import NoLayersError
from graphfathom.monitoring import MEASURES, Monitor


class Kept(nn.Module):
    """A GCN that keeps what its layers return, for a second way to measure."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        widths = [3, *[WIDTH] * (depth - 1), 2]
        self.convs = nn.ModuleList(map(GCNConv, widths[:-1], widths[1:]))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        self.outputs, self.inputs = [], []
        for conv in self.convs[:-1]:
            self.inputs.append(x)
            self.outputs.append(conv(x, edge_index))
            self.outputs[-1].retain_grad()
            x = self.outputs[-1].relu()
        self.inputs.append(x)
        self.outputs.append(self.convs[-1](x, edge_index))
        self.outputs[-1].retain_grad()
        return self.outputs[-1]


@pytest.mark.parametrize("make", [random_graph, two_components, isolated_node])
def test_features_and_errors_are_those_of_the_measures(make: Callable) -> None:
    data, model = make(), Kept()
    table = watched(model, data)
    for k, h in enumerate(model.outputs, 1):
        place = f"layer:{k}"

        def value(name: str, place: str = place) -> float:
            return table.value(name, place, "training")

        assert value("feature_rms") == pytest.approx(float(feature_rms(h, log10=True)))
        assert value("gradient.output") == pytest.approx(math.log10(h.grad.norm()))
        assert value("non_finite") == 0
        for kind in ("constant", "degree"):
            for name, tensor in (("deviation", h), ("error.deviation", h.grad)):
                dense = component_deviation(tensor, data.edge_index, kind=kind)
                assert value(f"{name}.{kind}") == pytest.approx(float(dense), abs=1e-12)
    dead = [float((h == 0).all(0).double().mean()) for h in model.inputs[1:]]
    assert table.series("dead_units", "training") == ([1, 2], pytest.approx(dead))


def test_weights_are_measured_before_their_step() -> None:
    data, model = random_graph(), gcn()
    start = copy.deepcopy(model)
    monitor = Monitor(model, every=3)
    train(model, data, monitor, steps=3)
    moved = copy.deepcopy(model)
    train(model, data, monitor, steps=1)
    loss_of(start, data).backward()
    loss_of(moved, data).backward()
    first, second = (at_step(monitor.observations, step) for step in (0, 3))
    for k, (a, b) in enumerate(zip(start.convs, moved.convs, strict=True), 1):
        before, after = (parameters_to_vector(c.parameters()).detach() for c in (a, b))
        place = f"layer:{k}"
        for table, conv, flat in ((first, a, before), (second, b, after)):
            norm = torch.cat([p.grad.flatten() for p in conv.parameters()]).norm()
            found = table.value("gradient.weights", place, "training")
            assert found == pytest.approx(math.log10(norm))
            found = table.value("weights.norm", place, "training")
            assert found == pytest.approx(math.log10(flat.norm()))
        assert first.get("update.relative", place, "training") is None
        change = math.log10((after - before).norm() / before.norm())
        found = second.value("update.relative", place, "training")
        assert found == pytest.approx(change)


def test_losses_between_measured_steps_are_summed_up() -> None:
    model, data = gcn(), random_graph()
    monitor = Monitor(model, every=3)
    for loss in (5.0, 1.0, 9.0, 2.0, 4.0):
        loss_of(model, data).backward()
        monitor.step(torch.tensor(loss))
    table = at_step(monitor.observations, 3)
    values = [
        table.value(n, run="training") for n in ("loss", "loss.mean", "loss.peak")
    ]
    assert values == [2.0, 4.0, 9.0]


def test_every_row_is_one_of_the_stated_measures() -> None:
    model = gcn()
    monitor = Monitor(model, every=2)
    train(model, random_graph(), monitor)
    table = monitor.observations
    assert set(table.names()) == set(MEASURES)
    assert {row.step for row in table} == {0, 2, 4}
    assert table.runs() == ["training"]
    assert all(row.unit == MEASURES[row.name].unit for row in table)
    assert monitor.layers == ("convs.0", "convs.1", "convs.2")


def test_training_is_bit_for_bit_the_same() -> None:
    data, model = random_graph(), GCN(3, WIDTH, 3, 2, dropout=0.5, norm="batch")
    twin = copy.deepcopy(model)
    torch.manual_seed(1)
    with Monitor(model, every=2) as monitor:
        train(model, data, monitor)
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(twin, data).backward()
        optimizer.step()
    pairs = zip(model.state_dict().items(), twin.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_closing_takes_the_hooks_off() -> None:
    model = gcn()
    with Monitor(model) as monitor:
        assert any(module._forward_hooks for module in model.modules())
    for module in model.modules():
        hooks = [v for k, v in vars(module).items() if k.endswith("_hooks") and v]
        assert hooks == []
    assert repr(monitor).endswith("0 steps, 0 measured, closed)")
    with pytest.raises(RuntimeError, match="closed: make a new one"):
        monitor.step(1.0)


def test_gradients_are_unscaled() -> None:
    model, data = gcn(), random_graph()
    twin = copy.deepcopy(model)
    expected = watched(twin, data)
    monitor = Monitor(model)
    (1024 * loss_of(model, data)).backward()
    monitor.step(1.0, scale=1024.0)
    for name in ("gradient.weights", "gradient.output", "error.deviation.constant"):
        found = monitor.observations.series(name, "training")[1]
        assert found == pytest.approx(expected.series(name, "training")[1])
    with Monitor(model) as again:
        model.zero_grad()
        (1024 * loss_of(model, data)).backward()
        for parameter in model.parameters():
            parameter.grad /= 1024
        again.step(1.0, scale=1024.0, unscaled=True)
    found = again.observations.series("gradient.weights", "training")[1]
    assert found == pytest.approx(expected.series("gradient.weights", "training")[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_measured_in_float32(dtype: torch.dtype) -> None:
    model = GraphSAGE(3, WIDTH, 3, 2).to(dtype)
    data = random_graph()
    data.x = (1000 * data.x).to(dtype)
    table = watched(model, data)
    rows = table.select("feature_rms")
    assert {row.dtype for row in rows} == {str(dtype).removeprefix("torch.")}
    assert all(math.isfinite(row.value) and row.value > 1 for row in rows)
    shares = [row.value for row in table.select("deviation.constant")]
    assert all(0 < share <= 1 for share in shares)


def test_numbers_that_are_not_finite_are_recorded() -> None:
    model = gcn()
    model.convs[1].lin.weight.data[0, 0] = math.nan
    table = watched(model, random_graph())
    assert math.isnan(table.value("loss", run="training"))
    shares = table.series("non_finite", "training")[1]
    assert shares[0] == 0 < shares[1] < shares[2] == 1
    assert math.isnan(table.value("feature_rms", "layer:2", "training"))


def test_zeros_are_exact_and_have_no_share() -> None:
    model = gcn()
    for parameter in model.convs[0].parameters():
        parameter.data.zero_()
    table = watched(model, random_graph())
    assert table.value("feature_rms", "layer:1", "training") == -math.inf
    assert math.isnan(table.value("deviation.constant", "layer:1", "training"))
    assert table.value("dead_units", "layer:1", "training") == 1


def test_frozen_layers_have_no_gradient_and_cut_off_ones_have_zero() -> None:
    model = gcn()
    model.convs[1].requires_grad_(False)
    table = watched(model, random_graph())
    assert table.series("gradient.weights", "training")[0] == [1, 3]

    class CutOff(Kept):
        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            x = self.convs[0](x, edge_index).detach()
            return self.convs[2](self.convs[1](x, edge_index), edge_index)

    table = watched(CutOff(), random_graph())
    assert table.value("gradient.weights", "layer:1", "training") == -math.inf
    assert table.get("gradient.output", "layer:1", "training") is None


def test_the_graph_is_prepared_once_while_it_stays_the_same() -> None:
    model, data = gcn(), random_graph()
    monitor = Monitor(model, every=1)
    train(model, data, monitor, steps=1)
    (graph,) = monitor._taps._graphs
    train(model, data, monitor, steps=2)
    assert monitor._taps._graphs == [graph]
    data.edge_index[:, 0] = data.edge_index[:, 1]  # the same tensor, another graph
    train(model, data, monitor, steps=1)
    assert monitor._taps._graphs != [graph]
    place = ("deviation.constant", "layer:1", "training")
    assert monitor.observations.value(*place) <= 1


def test_mini_batches_have_their_own_rows_and_graphs() -> None:
    model = gcn()
    monitor = Monitor(model, every=1)
    for batch, data in enumerate((path_graph(5), random_graph(7), two_components())):
        model.zero_grad()
        loss = loss_of(model, data)
        loss.backward()
        monitor.step(loss, batch=batch)
    rows = monitor.observations.select("deviation.constant", place="layer:1")
    assert [(row.step, row.batch) for row in rows] == [(0, 0), (1, 1), (2, 2)]


def test_a_single_layer_is_a_model() -> None:
    table = watched(GCNConv(3, 2), random_graph())
    assert table.series("deviation.constant", "training")[0] == [1]


def test_layers_may_be_named() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with pytest.raises(NoLayersError, match=r"No message-passing layer.*`layers="):
        Monitor(model)
    with pytest.raises(NoLayersError, match=r"that matches 'convs"):
        Monitor(model, layers="convs.*")
    monitor = Monitor(model, layers="*")
    x = torch.randn(5, 3)
    F.cross_entropy(model(x), torch.zeros(5, dtype=torch.long)).backward()
    monitor.step(1.0)
    assert monitor.layers == ("0", "1", "2")
    assert not len(monitor.observations.select("deviation.constant")), "no graph"


def test_wrappers_are_taken_off() -> None:
    model = gcn()
    compiled = torch.compile(model, backend="eager")
    assert Monitor(compiled).model is model
    assert Monitor(nn.DataParallel(model)).model is model


@pytest.mark.parametrize(
    ("options", "match"),
    [({"every": 0}, "`every` must be >= 1. Got 0"), ({"first_step": -1}, "Got -1")],
)
def test_bad_options(options: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Monitor(gcn(), **options)


def test_bad_calls() -> None:
    model, data = gcn(), random_graph()
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module. Got type"):
        Monitor(GCN)
    monitor = Monitor(model)
    loss = loss_of(model, data)
    with pytest.raises(RuntimeError, match=r"between `loss.backward.*Got none"):
        monitor.step(loss)
    loss.backward()
    with pytest.raises(
        ValueError, match=r"`loss` must be one number. Got shape \(3,\)"
    ):
        monitor.step(torch.ones(3))
    with pytest.raises(ValueError, match=r"`scale` must be positive.*Got 0"):
        monitor.step(loss, scale=0.0)


def test_a_long_training_keeps_every_other_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("graphfathom.monitoring.loop.KEPT", 100)
    model = gcn()
    monitor = Monitor(model, every=1)
    train(model, random_graph(), monitor, steps=40)
    steps = [row.step for row in monitor.observations.select("loss")]
    assert steps[0] == 0
    assert len(steps) <= 17
    assert steps[-1] >= 32


def test_a_training_that_is_taken_up_counts_on() -> None:
    model = gcn()
    monitor = Monitor(model, every=2, first_step=7)
    train(model, random_graph(), monitor, steps=3)
    assert [row.step for row in monitor.observations.select("loss")] == [7, 9]
    assert repr(monitor) == "Monitor(GCN, 3 layers, every=2, 3 steps, 2 measured)"


def test_a_report_of_a_monitored_run() -> None:
    model, data = gcn(), random_graph()
    monitor = Monitor(model, every=1)
    train(model, data, monitor, steps=6)
    report = monitor.report(data, controls="none")
    assert monitor.observations == report.observations.select(run="training")
    assert report.layers == monitor.layers
    assert report.observations.value("loss") < report.observations.value(
        "loss", run="training"
    ), "after the last step"
