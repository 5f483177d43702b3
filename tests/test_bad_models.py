"""Each model that cannot be diagnosed as it is: a clear refusal, or what was lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from graphs import random_graph
from snapshots import differences, snapshot
from stubborn import Dropping, Embedded, Failing, LookupConv, Noisy, gcn
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN, MLP

from graphfathom import diagnose
from graphfathom.diagnostics.recorder import ForwardError
from graphfathom.diagnostics.segments import NoLayersError


def graph(**attributes: Any) -> Data:
    """A graph of 8 nodes with some attributes replaced."""
    data = random_graph()
    for name, value in attributes.items():
        data[name] = value
    return data


@pytest.mark.parametrize("model", [GCN, gcn, None])
def test_what_is_no_model_is_refused(model: Any) -> None:
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module. Got "):
        diagnose(model, random_graph())


def test_a_model_on_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match="The model is on meta and the data on cpu"):
        diagnose(gcn().to("meta"), random_graph())


def test_a_model_and_data_without_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="on the device meta, which holds no numbers"):
        diagnose(gcn().to("meta"), random_graph().to("meta"))


def test_a_model_of_another_precision_is_refused() -> None:
    match = "The model is in torch.float32 and the features are torch.float64"
    with pytest.raises(ValueError, match=match):
        diagnose(gcn().float(), random_graph())


def test_a_model_whose_widths_are_not_known_is_refused() -> None:
    model = GCN(-1, 4, num_layers=2, out_channels=2)
    with pytest.raises(ValueError, match=r"`convs.0.lin.weight` has no shape yet"):
        diagnose(model, random_graph())
    model(random_graph().x, random_graph().edge_index)
    assert diagnose(model, random_graph()).layers == ("convs.0", "convs.1")


class Wrapped(nn.Module):
    """Returns something with the output of a GCN inside."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.gcn = gcn()
        self.wrap = wrap

    def forward(self, x: Tensor, edge_index: Tensor) -> Any:
        return self.wrap(self.gcn(x, edge_index))


@pytest.mark.parametrize(
    ("wrap", "match"),
    [
        (lambda x: (x, x), r"Wrapped returned a tuple of 2 items: .*model\(...\)\[0\]"),
        (lambda x: [x], r"Wrapped returned a list of 1 items"),
        (lambda x: {"logits": x}, r"a dict with keys logits: .*model\(...\)\[key\]"),
        (lambda x: None, "Wrapped returned a NoneType: pass `forward_fn="),
    ],
)
def test_a_model_that_returns_no_tensor_is_refused(
    wrap: Callable[[Tensor], Any], match: str
) -> None:
    with pytest.raises(TypeError, match=match):
        diagnose(Wrapped(wrap), random_graph())


def test_the_way_out_that_is_named_works() -> None:
    report = diagnose(
        Wrapped(lambda x: {"logits": x}),
        random_graph(),
        forward_fn=lambda model, data: model(data.x, data.edge_index)["logits"],
    )
    assert report.layers == tuple(f"gcn.convs.{k}" for k in range(3))


def test_an_output_without_entries_is_refused() -> None:
    with pytest.raises(ValueError, match=r"at least one entry. Got shape \(0, 2\)"):
        diagnose(Wrapped(lambda x: x[:0]), random_graph())


def test_a_model_without_messages_is_refused() -> None:
    model, data = MLP([3, 4, 2], norm=None), random_graph()
    with pytest.raises(NoLayersError, match="No message-passing layer was found"):
        diagnose(model, data)


def test_a_failing_forward_keeps_its_own_traceback() -> None:
    model, data = Failing(), random_graph()
    before = snapshot(model, data)
    match = r"forward pass of Failing failed in `convs.1.lin`: RuntimeError: mat1"
    with pytest.raises(ForwardError, match=match) as failure:
        diagnose(model, data)
    cause = failure.value.__cause__
    assert isinstance(cause, RuntimeError)
    frames = []
    traceback = cause.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame.f_code.co_filename)
        traceback = traceback.tb_next
    assert any(name.endswith("stubborn.py") for name in frames)
    assert differences(before, snapshot(model, data)) == []


def test_a_failing_call_names_what_was_called() -> None:
    match = "failed in `GCN`: TypeError: .*edge_index"
    with pytest.raises(ForwardError, match=match):
        diagnose(gcn(), random_graph(), forward_fn=lambda model, data: model(data.x))


@pytest.mark.parametrize("num_embeddings", [1, 2])
def test_integer_features_are_embedded(num_embeddings: int) -> None:
    data = graph(x=torch.arange(8) % 5, pos=torch.randn(8, 2))
    model = Embedded(num_embeddings)
    before = snapshot(model, data)
    report = diagnose(model, data)
    assert differences(before, snapshot(model, data)) == []
    assert report.layers == ("convs.0", "convs.1")
    # The input of the first layer is the sum of the embeddings.
    expected = model.embed(data.x).square().mean().sqrt().log10()
    found = report.observations.value("feature_rms", "state:0")
    assert found == pytest.approx(expected.item(), rel=1e-12)


def test_constant_categories_are_constant_features() -> None:
    report = diagnose(Embedded(), graph(x=torch.zeros(8, dtype=torch.long)))
    assert report.verdict.name == "constant-features"


def test_features_embedded_inside_a_layer_have_no_state() -> None:
    model = Wrapped(lambda x: x)
    model.gcn = LookupConv()
    report = diagnose(model, graph(x=torch.arange(8) % 5))
    assert report.verdict.name == "not-enough-evidence"
    assert any("embedded inside its first layer" in note for note in report.notes)


def test_a_forward_that_does_not_repeat_gets_no_verdict_per_layer() -> None:
    report = diagnose(gcn(kind=Noisy), random_graph())
    assert report.verdict.name == "not-enough-evidence"
    assert any("does not repeat itself" in note for note in report.notes)


def test_dropout_in_eval_mode_is_measured_with_one_draw() -> None:
    model, data = gcn(kind=Dropping), random_graph()
    before = snapshot(model, data)
    first, second = (diagnose(model, data, controls="none") for _ in range(2))
    assert differences(before, snapshot(model, data)) == []
    assert first.layers == ("convs.0", "convs.1", "convs.2")
    assert first.observations == second.observations
