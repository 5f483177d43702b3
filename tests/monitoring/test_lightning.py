"""The callback, with a stand-in for the library: it is no dependency of the tests."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from graphs import random_graph
from torch import nn
from torch_geometric.nn import GCN

from graphfathom import monitoring
from graphfathom.monitoring import JsonLines
from graphfathom.monitoring.lightning import PACKAGES


class Callback:
    """What the library's callbacks derive from."""


@pytest.fixture(params=PACKAGES)
def library(request: pytest.FixtureRequest) -> Iterator[None]:
    parts = request.param.split(".")
    with pytest.MonkeyPatch.context() as patch:
        for name in PACKAGES:
            patch.setitem(sys.modules, name, None)
        for end in range(1, len(parts) + 1):
            module = ModuleType(".".join(parts[:end]))
            module.__path__ = []
            module.Callback = Callback
            patch.setitem(sys.modules, module.__name__, module)
        yield


class Trainer:
    """Calls the hooks in the order of the library."""

    is_global_zero, global_step, accumulate_grad_batches = True, 4, 2
    precision_plugin = SimpleNamespace(scaler=None)

    def fit(self, module: nn.Module, callback: object) -> None:
        data = random_graph()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        callback.on_train_start(self, module)
        for batch in range(3):
            callback.on_train_batch_start(self, module, data, batch)
            optimizer.zero_grad()
            loss = F.cross_entropy(module.net(data.x, data.edge_index), data.y) / 2
            callback.on_before_backward(self, module, loss)
            loss.backward()
            callback.on_before_optimizer_step(self, module, optimizer)
            optimizer.step()
        callback.on_train_end(self, module)


class Network(nn.Module):
    """Calls an inner network, as the training step of a LightningModule does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = GCN(3, 4, 2, 2)


def test_a_training_is_recorded(library: None, tmp_path: object) -> None:
    callback = monitoring.LightningMonitor(
        every=2, writers=[JsonLines(tmp_path / "run.jsonl")]
    )
    assert isinstance(callback, Callback)
    network, data = Network(), random_graph()
    output = network.net(data.x, data.edge_index).detach()
    start = float(F.cross_entropy(output, data.y))
    Trainer().fit(network, callback)
    rows = list(callback.observations.select("loss"))
    assert [(row.step, row.batch) for row in rows] == [(4, 0), (6, 2)]
    assert rows[0].value == pytest.approx(start), "not what was divided to accumulate"
    assert callback.monitor.layers == ("net.convs.0", "net.convs.1")
    table = monitoring.read_json_lines(tmp_path / "run.jsonl")
    assert table == callback.observations
    assert not network.net.convs[0]._forward_hooks
    report = callback.report(
        data, forward_fn=lambda m, d: m.net(d.x, d.edge_index), controls="none"
    )
    assert report.observations.select(run="training") == callback.observations


def test_only_the_first_process_writes(library: None, tmp_path: object) -> None:
    path = tmp_path / "run.jsonl"
    callback = monitoring.LightningMonitor(writers=[JsonLines(path)])
    trainer = Trainer()
    trainer.is_global_zero = False
    trainer.fit(Network(), callback)
    assert len(callback.observations)
    assert not path.exists()


def test_an_exception_takes_the_hooks_off(library: None) -> None:
    callback, network = monitoring.LightningMonitor(), Network()
    callback.on_exception(Trainer(), network, KeyboardInterrupt())
    callback.on_train_start(Trainer(), network)
    callback.on_exception(Trainer(), network, KeyboardInterrupt())
    assert not network.net.convs[0]._forward_hooks


def test_before_a_training_there_is_nothing_to_show(library: None) -> None:
    with pytest.raises(RuntimeError, match="No training was monitored yet"):
        _ = monitoring.LightningMonitor().observations


def test_the_class_is_made_once_and_found_by_its_name(library: None) -> None:
    found = pickle.loads(pickle.dumps(monitoring.LightningMonitor))
    assert found is monitoring.LightningMonitor
    assert "every: Distance" in found.__doc__


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"Lightning is not installed.*`Monitor`"):
        _ = monitoring.LightningMonitor
