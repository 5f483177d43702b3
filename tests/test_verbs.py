"""What a diagnosis leaves alone, what it repeats and what it says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from graphs import random_graph
from problems import CATALOGUE, Entry
from snapshots import differences, snapshot
from stubborn import Drawing, Generating, Locked, SinglePrecision, gcn
from torch import nn
from torch_geometric.nn import GCN

from graphfathom import Problem, diagnose, verbs
from graphfathom.diagnostics.report import Report
from graphfathom.diagnostics.trace import CaptureError

# torch's and PyG's own remarks on sparse matrices.
pytestmark = pytest.mark.filterwarnings("ignore:.*[Ss]parse")

every = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    """The group of the DistributedDataParallel entry ends with this file."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls are trained for three steps, where it does not matter how far."""
    monkeypatch.setattr(verbs.comparison, "TRAINING_EPOCHS", 3)


def find(name: str) -> Entry:
    """An entry of the catalogue."""
    return next(entry for entry in CATALOGUE if entry.name == name)


def used(model: nn.Module, training: bool) -> nn.Module:
    """A model in the middle of its life: some gradients, mixed modes, a frozen part."""
    model.train(training)
    parameters = list(model.parameters())
    for parameter in parameters[::2]:
        parameter.grad = torch.randn_like(parameter)
    if len(parameters) > 2:
        parameters[1].requires_grad_(False)
    for module in list(model.modules())[1::3]:
        module.train(not training)
    return model


# Where a catalogue entry is refused: it returns no tensor, or has no layer.
REFUSALS = (TypeError, CaptureError)


@every
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_everything_is_bit_identical_afterwards(entry: Entry, training: bool) -> None:
    case = entry.case()
    model = used(case.model, training)
    before = snapshot(model, case.data)
    with contextlib.suppress(*(REFUSALS if entry.match else ())):
        diagnose(case.problem())
    assert differences(before, snapshot(model, case.data)) == []


@pytest.mark.parametrize(
    "name", ["GCN batch norm", "GCN jk=cat dropout", "GPS no norm"]
)
@pytest.mark.usefixtures("short_training")
def test_trained_controls_leave_everything_bit_identical(name: str) -> None:
    case = find(name).case()
    model = used(case.model, True)
    before = snapshot(model, case.data)
    report = diagnose(case.problem(), controls="trained")
    assert differences(before, snapshot(model, case.data)) == []
    assert {"mlp", "model (short training)"} <= set(report.observations.runs())


@pytest.mark.parametrize("asked", ["untrained", "trained"])
@pytest.mark.usefixtures("short_training")
def test_generators_of_python_and_numpy_are_restored(asked: str) -> None:
    model, data = gcn(kind=Drawing), random_graph()
    before = snapshot(model, data)
    diagnose(model, data, controls=asked)
    assert differences(before, snapshot(model, data)) == []


@pytest.mark.parametrize("asked", ["untrained", "trained"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", [Locked, Generating])
@pytest.mark.usefixtures("short_training")
def test_a_model_without_copy_is_restored(
    kind: type[GCN], training: bool, asked: str
) -> None:
    model = used(gcn(kind=kind, norm="batch_norm", dropout=0.5), training)
    data = random_graph()
    before = snapshot(model, data)
    report = diagnose(model, data, controls=asked)
    assert differences(before, snapshot(model, data)) == []
    (lost,) = (note for note in report.notes if "measured in" in note)
    assert "The model cannot be copied (TypeError" in lost
    assert "measured in float64 on the model itself" in lost
    untrained = [note for note in report.notes if "not trained" in note]
    assert len(untrained) == (asked == "trained")


def test_a_model_without_copy_gives_the_numbers_of_one_with_a_copy() -> None:
    data = random_graph()
    locked, free = gcn(kind=Locked), gcn()
    free.load_state_dict(locked.state_dict())
    found, expected = (diagnose(m, data, controls="none") for m in (locked, free))
    rows, others = set(found.observations), set(expected.observations)
    # The last layer is refitted on a copy, which there is not.
    names = {row.name.partition(".")[0] for row in others - rows if row.run == "model"}
    assert rows < others
    assert names <= {"loss", "refit", "head"}
    assert any("last layer was not refitted" in note for note in found.notes)


def test_a_model_that_cannot_be_cast_is_measured_in_its_precision() -> None:
    model, data = SinglePrecision(), random_graph()
    data.x = data.x.float()
    before = snapshot(model, data)
    report = diagnose(model, data)
    assert differences(before, snapshot(model, data)) == []
    (lost,) = (note for note in report.notes if "Measured in" in note)
    assert lost.startswith("Measured in float32: The forward pass of SinglePrecision")
    assert "`convs.0.lin`" in lost
    measured = report.observations.select("gradient.state", run="model")
    assert {row.dtype for row in measured} == {"float32"}


@pytest.mark.parametrize("asked", ["untrained", "trained"])
@pytest.mark.usefixtures("short_training")
def test_one_seed_gives_one_table(asked: str) -> None:
    model, data = gcn(norm="batch_norm", dropout=0.5), random_graph()
    first = diagnose(model, data, seed=3, controls=asked)
    torch.manual_seed(99)
    second = diagnose(model, data, seed=3, controls=asked)
    assert first.observations == second.observations
    assert first.findings == second.findings


def test_the_seed_moves_only_what_is_estimated() -> None:
    model, data = gcn(), random_graph()
    pairs = zip(
        diagnose(model, data, seed=0, controls="none").observations,
        diagnose(model, data, seed=1, controls="none").observations,
        strict=True,
    )
    moved = {a.name for a, b in pairs if a != b}
    assert moved >= {"gain_to_output"}
    assert not moved & {"gradient.state", "feature_rms", "loss", "exact_zeros"}


@pytest.mark.parametrize("asked", ["untrained", "trained"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.usefixtures("short_training")
def test_callers_without_gradients_get_the_same_report(
    context: Callable[[], Any], asked: str
) -> None:
    model, data = gcn(), random_graph()
    expected = diagnose(model, data, controls=asked)
    with context():
        found = diagnose(model, data, controls=asked)
    assert found.observations == expected.observations


def test_autocast_holds_in_the_callers_precision_only() -> None:
    model, data = gcn().float(), random_graph()
    data.x = data.x.float()
    plain = diagnose(model, data, controls="none")
    with torch.autocast("cpu", torch.bfloat16):
        mixed = diagnose(model, data, controls="none")
        assert torch.is_autocast_enabled("cpu")
    assert dtypes(plain, "exact_zeros") == {"float32"}
    # The convolution adds a float32 bias to its bfloat16 product; its gradient and
    # the states behind it are computed with eight bits of mantissa.
    assert plain.observations.value("loss") != mixed.observations.value("loss")
    exact = ("gradient.state", "feature_rms", "gain_to_output")
    for name in exact:
        assert dtypes(mixed, name) == {"float64"}
        assert mixed.observations.select(name) == plain.observations.select(name)


def dtypes(report: Report, name: str) -> set[str]:
    """The precisions in which something was measured."""
    return {row.dtype for row in report.observations.select(name)}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_model_is_diagnosed(dtype: torch.dtype) -> None:
    model, data = gcn().to(dtype), random_graph()
    data.x = data.x.to(dtype)
    report = diagnose(model, data)
    assert dtypes(report, "exact_zeros") == {str(dtype).removeprefix("torch.")}
    assert dtypes(report, "gradient.state") == {"float64"}
    assert report.model["dtype"] == str(dtype).removeprefix("torch.")


def test_a_tiny_byte_budget_gives_the_same_table() -> None:
    model, data = gcn(6, norm="batch_norm"), random_graph()
    whole = diagnose(model, data)
    pieces = diagnose(model, data, byte_budget=1)
    assert whole.observations == pieces.observations


def test_modes_of_an_untrained_network_are_compared() -> None:
    model, data = gcn(8, norm="batch_norm"), random_graph()
    data.x = data.x * 100
    report = diagnose(model, data)
    assert report.settings["mode"] == "init"
    table = report.observations
    other = table.select("gradient.state", run="model (eval)")
    assert [row.place for row in other] == [
        row.place for row in table.select("gradient.state", run="model")
    ]
    assert any("more than twofold in eval mode" in note for note in report.notes)
    asked = diagnose(model, data, mode="eval", controls="none")
    assert asked.settings["mode"] == "eval"
    assert [row.value for row in other] == [
        row.value for row in asked.observations.select("gradient.state", run="model")
    ]


def test_an_unchanged_mode_is_not_mentioned() -> None:
    report = diagnose(gcn(), random_graph())
    runs = ["model", "refit", "shallow", "mlp", "stabilized"]
    assert report.observations.runs() == runs
    assert not any("mode" in note for note in report.notes)


def test_the_report_says_what_was_asked_and_chosen() -> None:
    model, data = gcn(), random_graph()
    stages: list[str] = []
    report = diagnose(
        model, data, seed=7, layers="convs.*", controls="none", progress=stages.append
    )
    assert report.settings == {
        "mode": "eval",
        "loss": "cross-entropy",
        "seed": 7,
        "layers": "convs.*",
        "controls_asked": "none",
    }
    assert stages == list(report.cost)
    assert stages[:4] == ["graph and data", "labels", "own precision", "states"]
    assert report.layers == ("convs.0", "convs.1", "convs.2")
    assert report.states == (("x",),) * 4
    assert report.model == {
        "name": "GCN",
        "layers": 3,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": "float64",
        "device": "cpu",
    }
    expected = {"name": "Data", "nodes": 8, "features": 3, "classes": 2}
    assert expected.items() <= report.data.items()
    assert report.data["edges"] == data.num_edges
    assert report.data["components"] == 1
    assert report.versions["torch"].startswith(torch.__version__.split("+")[0])
    assert "No train_mask: the loss uses all 8 labelled rows." in report.notes


def test_a_problem_and_its_parts_give_the_same_report() -> None:
    model, data = gcn(), random_graph()
    mask = torch.arange(8) < 5
    parts = diagnose(model, data, mask=mask, mode="eval", controls="none")
    whole = diagnose(Problem(model, data, mask=mask, mode="eval"), controls="none")
    assert parts.observations == whole.observations
    assert parts.notes == whole.notes


@pytest.mark.parametrize("name", ["x.add_(h)", "x[:, :2] += h[:, :2]"])
def test_a_network_that_cannot_be_cut_gets_no_verdict(name: str) -> None:
    report = diagnose(find(name).case().problem())
    assert report.verdict.name == "not-enough-evidence"
    (why,) = (note for note in report.notes if note.startswith("No verdict per layer"))
    assert "in place" in why
    assert report.layers == ()
    assert not torch.tensor(report.observations.value("loss")).isnan()


@pytest.mark.parametrize("name", ["custom function once", "custom function detached"])
def test_a_wrong_derivative_costs_the_gains_and_no_more(name: str) -> None:
    report = diagnose(find(name).case().problem(), controls="none")
    (why,) = (n for n in report.notes if n.startswith("No gains of single layers"))
    assert "`convs.0`" in why
    names = set(report.observations.names())
    assert "gradient.state" in names
    assert "mean_squared_gain" not in names


def test_several_kinds_of_nodes_have_no_energies() -> None:
    report = diagnose(find("HeteroConv").case().problem())
    assert any(note.startswith("No energies: they need one") for note in report.notes)
    assert not any("energy" in name for name in report.observations.names())
