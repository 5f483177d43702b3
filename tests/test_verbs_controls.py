"""The controls of a diagnosis: is it the depth?"""

from __future__ import annotations

import pytest
import torch
from graphs import random_graph
from problems import CATALOGUE
from snapshots import differences, snapshot
from stubborn import gcn
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphfathom import Problem, diagnose, verbs
from graphfathom.diagnostics.gradients import gradient_observations
from graphfathom.diagnostics.trace import capture
from graphfathom.verbs import controls


@pytest.fixture
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls are trained for three steps, where it does not matter how far."""
    monkeypatch.setattr(verbs.comparison, "TRAINING_EPOCHS", 3)


def square(num_layers: int = 4) -> tuple[GCN, Data]:
    """A network of one width throughout, so that its first layer can stand alone."""
    data = random_graph()
    data.x = torch.randn(data.num_nodes, 4)
    return GCN(4, 4, num_layers=num_layers, out_channels=4, act="tanh"), data


def test_a_disease_of_one_layer_is_no_problem_of_depth() -> None:
    model, data = square()
    for parameter in model.parameters():
        parameter.data.zero_()
    report = diagnose(model, data)
    assert report.settings["controls"]["shallow"] == "1 layers"
    assert report.verdict.name == "not-a-depth-problem"
    assert "exactly-zero" in [finding.name for finding in report.findings]


def test_a_disease_of_a_control_with_two_layers_is_no_problem_of_depth() -> None:
    model = gcn(4)
    for parameter in model.parameters():
        parameter.data.zero_()
    report = diagnose(model, random_graph())
    assert report.settings["controls"]["shallow"] == "2 layers"
    assert report.verdict.name == "not-a-depth-problem"


def test_a_disease_of_many_layers_is_one() -> None:
    model, data = square(12)
    with torch.no_grad():
        for conv in model.convs:
            conv.lin.weight.mul_(0.1)
    assert diagnose(model, data).verdict.name == "vanishing-gradients"


@pytest.mark.usefixtures("short_training")
def test_a_control_that_guesses_after_training_is_no_better() -> None:
    model, data = square(12)
    data.y = torch.arange(8) % 2
    data.train_mask = data.test_mask = torch.ones(8, dtype=torch.bool)
    data.x = torch.ones(8, 4)
    data.edge_index = torch.stack([torch.arange(8), (torch.arange(8) + 1) % 8])
    with torch.no_grad():
        for conv in model.convs:
            conv.lin.weight.mul_(0.1)
    report = diagnose(model, data, controls="trained")
    # Nodes of a ring with equal features are the same node.
    assert report.observations.value("accuracy.test", run="shallow") == 0.5
    assert report.verdict.name == "not-a-depth-problem"


def test_training_improves_the_loss() -> None:
    model, data = square(2)
    data.train_mask = torch.ones(8, dtype=torch.bool)
    table = diagnose(model, data, controls="trained").observations
    after = table.value("loss", run="model (short training)")
    assert after < 0.5 * table.value("loss")
    assert table.value("accuracy.train", run="mlp") > table.value("accuracy.majority")


def test_controls_are_problems_on_copies() -> None:
    model, data = square()
    before = snapshot(model, data)
    problem = Problem(model, data)
    built = controls(problem)
    assert list(built) == ["shallow", "mlp", "stabilized"]
    assert capture(built["shallow"]).num_layers == 1
    assert built["mlp"].run().shape == (8, 4)
    assert differences(before, snapshot(model, data)) == []


def test_trained_controls_have_a_smaller_loss() -> None:
    model, data = square()
    before = snapshot(model, data)
    problem = Problem(model, data)
    fresh, fitted = controls(problem, seed=1), controls(problem, trained=True, seed=1)
    for name in ("shallow", "mlp", "stabilized"):
        losses = [c[name].loss_of(c[name].run()).item() for c in (fresh, fitted)]
        assert losses[1] < losses[0]
    assert differences(before, snapshot(model, data)) == []


def test_the_stabilized_control_is_the_form_of_strength_one() -> None:
    model, data = square(11)
    form = controls(Problem(model, data))["stabilized"]
    x = data.x
    with torch.no_grad():
        for k, conv in enumerate(model.convs):
            h = conv(x, data.edge_index)
            h = h if k == 10 else h.tanh()  # PyG has none behind the last layer
            x = x + (h - h.mean(dim=1, keepdim=True)) / 11**0.5
    torch.testing.assert_close(form.run().detach(), x)


def test_layers_that_add_to_their_input_take_a_smaller_step() -> None:
    case = next(e for e in CATALOGUE if e.name == "DeepGCN res").case()
    form = controls(case.problem())["stabilized"]
    x = case.model.encoder(case.data.x)
    for step in case.maps:
        x = x + (step(x)[0] - x) / 3**0.5
    torch.testing.assert_close(form.run(), case.model.readout(x))


def test_the_stabilized_control_is_measured_beside_the_network() -> None:
    model, data = square(12)
    with torch.no_grad():
        for conv in model.convs:
            conv.lin.weight.mul_(0.1)
    report = diagnose(model, data)
    table = report.observations
    assert report.settings["controls"]["stabilized"] == "12 layers"
    form = controls(Problem(model, data))["stabilized"]
    expected = {
        row.place: row.value
        for row in gradient_observations(capture(form))
        if row.name == "gradient.state"
    }
    index, found = table.series("gradient.state", "stabilized")
    assert found == pytest.approx([expected[f"state:{k}"] for k in index])
    name = "gradient.state.relative"
    assert table.value(name, "state:1") < -3
    assert abs(table.value(name, "state:1", "stabilized")) < 0.5
    assert table.series("gain_to_output", "stabilized")[0] == list(range(13))
    assert table.get("loss", run="stabilized") is not None


def test_names_of_layers_hold_for_the_stabilized_control() -> None:
    model, data = gcn(6), random_graph()
    report = diagnose(model, data, layers="convs.[1-4]")
    assert report.layers == tuple(f"convs.{k}" for k in range(1, 5))
    assert report.settings["controls"]["stabilized"] == "4 layers"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("GCNII", "GCNII already carries a state: behind `convs.0` it needs 2 tensors"),
        ("APPNP", "already carries a state: it propagates several times inside one"),
    ],
)
def test_a_network_without_state_space_form_lacks_this_control(
    name: str, reason: str
) -> None:
    entry = next(entry for entry in CATALOGUE if entry.name == name)
    report = diagnose(entry.case().problem())
    assert "stabilized" not in report.observations.runs()
    (note,) = (n for n in report.notes if n.startswith("No control in state-space"))
    assert reason in note
    assert note.count(". ") == 0  # one sentence
    assert note.endswith(".")


def test_a_stabilized_network_is_its_own_control() -> None:
    model, data = gcn(6), random_graph()
    form = controls(Problem(model, data))["stabilized"].model
    report = diagnose(form, data)
    assert "stabilized" not in report.observations.runs()
    assert any("already carries a state (StateSpaceModel)." in n for n in report.notes)


def test_a_network_of_one_layer_has_no_controls() -> None:
    report = diagnose(gcn(1), random_graph())
    assert report.observations.runs() == ["model", "refit"]


def test_a_missing_shallow_control_is_mentioned() -> None:
    entry = next(entry for entry in CATALOGUE if entry.name == "PyG Sequential")
    report = diagnose(entry.case().problem())
    assert "shallow" not in report.observations.runs()
    assert any(note.startswith("No control at depth 1") for note in report.notes)


def test_trained_controls_need_labels() -> None:
    data = random_graph()
    del data.y
    with pytest.raises(ValueError, match="Trained controls need labels"):
        diagnose(gcn(), data, controls="trained")


def test_unknown_controls_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`controls` must be one of none, untrained"):
        diagnose(gcn(), random_graph(), controls="all")


@pytest.mark.usefixtures("short_training")
def test_frozen_weights_cost_only_the_training() -> None:
    model = gcn(4)
    model.requires_grad_(False)
    report = diagnose(model, random_graph(), controls="trained")
    assert any(note.startswith("Not trained: `shallow`") for note in report.notes)
    assert len(report.observations.select("loss", "mlp")) == 2  # before and after
    assert len(report.observations.select("loss", "shallow")) == 1
