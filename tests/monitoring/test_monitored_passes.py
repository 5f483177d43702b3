"""Which forward passes a monitor records, and in what they are wrapped."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from graphs import path_graph, random_graph
from monitored import WIDTH, gcn, loss_of, train, watched
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn import GCNConv, GraphSAGE

from graphfathom.monitoring import Monitor


def test_forward_passes_without_gradients_are_not_recorded() -> None:
    model, data = gcn(), random_graph()
    other = path_graph(3)

    def evaluate() -> None:
        with torch.no_grad():
            model(other.x, other.edge_index)

    monitor = Monitor(model, every=1)
    train(model, data, monitor, steps=3, between=evaluate)
    found = monitor.observations.series("feature_rms", "training")[0]
    assert found == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_of_several_passes_the_last_counts() -> None:
    model, data = gcn(), random_graph()
    with Monitor(model) as monitor:
        (loss_of(model, path_graph(3)) + loss_of(model, data)).backward()
        monitor.step(1.0)
    single = copy.deepcopy(model)
    single.zero_grad()
    expected = watched(single, data)
    for name in ("feature_rms", "error.deviation.constant"):
        found = monitor.observations.series(name, "training")
        assert found == expected.series(name, "training")


class Looped(nn.Module):
    """One layer, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(3, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for _ in range(3):
            x = self.conv(x, edge_index)
        return x


def test_a_module_called_three_times_is_three_layers() -> None:
    table = watched(Looped(), random_graph())
    assert table.series("feature_rms", "training")[0] == [1, 2, 3]
    assert table.series("gradient.weights", "training")[0] == [1], "one set of weights"


def test_a_pass_after_an_error_begins_anew() -> None:
    model, data = gcn(), random_graph()
    monitor = Monitor(model)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        model(torch.cat([data.x, data.x], 1), data.edge_index)
    train(model, data, monitor, steps=1)
    assert monitor.observations.series("feature_rms", "training")[0] == [1, 2, 3]


def test_a_copy_and_a_pickle_are_not_monitored() -> None:
    model, data = gcn(), random_graph()
    monitor = Monitor(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    twins = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), loaded)
    for twin in twins:
        loss_of(twin, data).backward()
    assert monitor._taps.calls == []
    train(model, data, monitor, steps=1)
    assert len(monitor.observations.select("feature_rms")) == 3


class Checkpointed(nn.Module):
    """Layers whose activations are computed again in the backward pass."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.convs = nn.ModuleList(GCNConv(2, 2) for _ in range(3))
        self.reentrant = reentrant

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        for conv in self.convs:
            x = checkpoint(conv, x, edge_index, use_reentrant=self.reentrant)
        return x


def test_a_layer_that_is_checkpointed_is_recorded_once() -> None:
    data, model = random_graph(), Checkpointed(reentrant=False)
    plain = copy.deepcopy(model)
    monitor = Monitor(model)
    train(model, data, monitor, steps=1)
    assert monitor.notes == []

    def forward(x: Tensor, edge_index: Tensor) -> Tensor:
        x = plain.encoder(x)
        for conv in plain.convs:
            x = conv(x, edge_index)
        return x

    plain.forward = forward
    expected = watched(plain, data)
    for name in ("feature_rms", "gradient.output", "error.deviation.degree"):
        found = monitor.observations.series(name, "training")
        assert found == expected.series(name, "training")


def test_what_a_reentrant_checkpoint_hides_is_said() -> None:
    model = Checkpointed(reentrant=True)
    monitor = Monitor(model)
    train(model, random_graph(), monitor, steps=1)
    (note,) = monitor.notes
    assert note.startswith("3 of 3 layers, `convs.0` first, were not seen")
    table = monitor.observations
    assert table.series("gradient.weights", "training")[0] == [1, 2, 3]
    assert not len(table.select("feature_rms"))


@pytest.mark.slow
def test_compiled_layers_have_their_weights_measured() -> None:
    model, data = GraphSAGE(3, WIDTH, 2, 2), random_graph()
    compiled = torch.compile(model, backend="aot_eager")
    monitor = Monitor(compiled, every=1)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(compiled, data, monitor, steps=4)
    assert "Compiled code" in monitor.notes[0]
    assert len(monitor.observations.select("gradient.weights")) == 8
