"""Networks to compare with, built from the network itself."""

from __future__ import annotations

import pytest
import torch
from graphs import hetero_graph, random_graph
from problems import CATALOGUE, Entry
from snapshots import differences, frozen, snapshot
from stubborn import Drawing, Embedded, Locked, gcn
from torch import Tensor, nn
from torch_geometric.nn import GCN, GCNConv

from graphfathom.diagnostics.controls import copy_of, mlp, output_of, shallow
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem


def find(name: str) -> Entry:
    """An entry of the catalogue."""
    return next(entry for entry in CATALOGUE if entry.name == name)


def shortened(problem: Problem) -> Problem | None:
    """The shallow control of a problem."""
    return shallow(problem, capture(problem))


def test_a_gcn_keeps_its_first_and_last_layer() -> None:
    model, data = gcn(6), random_graph()
    before = snapshot(model, data)
    control = shortened(Problem(model, data))
    assert control is not None
    convs = control.model.convs
    assert len(convs) == 2
    assert torch.equal(convs[0].lin.weight, model.convs[0].lin.weight)
    assert torch.equal(convs[1].lin.weight, model.convs[5].lin.weight)
    x = model.convs[0](data.x, data.edge_index).tanh()
    expected = model.convs[5](x, data.edge_index)
    assert torch.allclose(control.model.eval()(data.x, data.edge_index), expected)
    assert capture(control).num_layers == 2
    assert differences(before, snapshot(model, data)) == []


def test_a_gcn_of_one_width_keeps_its_first_layer() -> None:
    data = random_graph()
    model = GCN(3, 3, num_layers=5, out_channels=3)
    control = shortened(Problem(model, data))
    assert control is not None
    assert len(control.model.convs) == control.model.num_layers == 1
    expected = model.convs[0](data.x, data.edge_index)
    assert torch.allclose(output_of(control), expected)


def test_a_residual_network_keeps_its_first_layer() -> None:
    case = find("DeepGCN res+").case()
    control = shortened(case.problem())
    assert control is not None
    assert len(control.model.layers) == 1
    x = case.model.encoder(case.data.x)
    (x,) = case.maps[0](x)
    assert torch.allclose(output_of(control), case.model.readout(x))


@pytest.mark.parametrize(
    "name", ["GCNII", "x = x + h", "feed-forward", "shared conv", "HeteroConv"]
)
def test_one_layer_is_kept_where_the_widths_allow(name: str) -> None:
    problem = find(name).case().problem()
    control = shortened(problem)
    assert control is not None
    assert capture(control).num_layers == 1
    assert output_of(control).shape == output_of(problem).shape


@pytest.mark.parametrize(
    "name", ["PyG Sequential", "GCN jk=cat", "DeepGCN dense", "APPNP"]
)
def test_what_cannot_be_shortened_has_no_control(name: str) -> None:
    assert shortened(find(name).case().problem()) is None


def test_a_network_of_one_layer_is_its_own_control() -> None:
    assert shortened(Problem(gcn(1), random_graph())) is None


def test_a_network_of_two_widths_has_no_smaller_one() -> None:
    # Its first layer alone has another width, and two layers are all there are.
    assert shortened(Problem(gcn(2), random_graph())) is None


def test_a_model_without_copy_has_no_shallow_control() -> None:
    model, data = gcn(kind=Locked), random_graph()
    before = snapshot(model, data)
    assert shortened(Problem(model, data)) is None
    assert differences(before, snapshot(model, data)) == []


def test_a_perceptron_on_the_features() -> None:
    problem = Problem(gcn(), random_graph())
    trace = capture(problem)
    control = mlp(problem, trace, seed=3)
    assert control is not None
    widths = [tuple(lin.weight.shape) for lin in control.model.lins]
    assert widths == [(4, 3), (2, 4)]
    lins, x = control.model.lins, problem.data.x
    assert torch.allclose(control.run(), lins[1](lins[0](x).relu()))
    assert control.loss_of(control.run()) is not None
    again, other = mlp(problem, trace, seed=3), mlp(problem, trace, seed=4)
    assert again is not None
    assert other is not None
    assert torch.equal(again.run(), control.run())
    assert not torch.equal(other.run(), control.run())


def test_a_perceptron_never_sees_the_graph() -> None:
    problem = Problem(gcn(), random_graph())
    control = mlp(problem, capture(problem), seed=0)
    assert control is not None
    jacobian = torch.autograd.functional.jacobian(control.model, problem.data.x)
    blocks = jacobian.abs().sum(dim=(1, 3))
    assert torch.equal(blocks, blocks.diag().diag())


def test_a_perceptron_has_the_problems_labels_loss_and_precision() -> None:
    data = random_graph()
    data.x = data.x.float()
    mask = torch.arange(8) < 3
    problem = Problem(gcn().float(), data, loss=lambda out, y: out.sum(), mask=mask)
    state = torch.get_rng_state()
    control = mlp(problem, capture(problem), seed=0)
    assert control is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert control.loss is problem.loss
    assert torch.equal(control.mask, mask)
    assert control.run().dtype == torch.float32


def pooled(model: nn.Module, data: object) -> Tensor:
    """One row for the whole graph."""
    return model(data.x, data.edge_index).sum(dim=0, keepdim=True)


def test_a_perceptron_needs_float_features_and_a_row_per_node() -> None:
    data = random_graph()
    problems = [
        Problem(gcn(), data, pooled, target=torch.tensor([1])),
        Problem(gcn(), ((data.x, data.edge_index), {}), target=data.y),
        find("HeteroConv").case().problem(),
    ]
    categories = random_graph()
    categories.x = torch.arange(8) % 5
    problems.append(Problem(Embedded(), categories))
    for problem in problems:
        assert mlp(problem, capture(problem), seed=0) is None


def test_a_copy_may_be_changed() -> None:
    model, data = gcn(kind=Drawing), random_graph()
    before = snapshot(model, data)
    copied = copy_of(Problem(model, data))
    for parameter in copied.model.parameters():
        parameter.data.zero_()
    copied.data.x.zero_()
    copied.data.edge_index.zero_()
    assert differences(before, snapshot(model, data)) == []
    assert copied.target is data.y


def test_the_output_is_that_of_eval_mode() -> None:
    model, data = gcn(norm="batch_norm", dropout=0.5).train(), random_graph()
    problem = Problem(model, data, mode="init")
    found = output_of(problem)
    assert model.training
    assert torch.equal(found, model.eval()(data.x, data.edge_index).detach())
    assert not found.requires_grad


def test_kinds_of_nodes_are_copied() -> None:
    data = hetero_graph()
    held = frozen(data.to_dict())
    model = nn.ModuleDict({"conv": GCNConv(3, 2)})
    problem = Problem(
        model,
        data,
        lambda m, d: m["conv"](d["paper"].x, d["paper", "cites", "paper"].edge_index),
        target=data["paper"].y,
    )
    copied = copy_of(problem)
    copied.data["paper"].x.zero_()
    assert frozen(data.to_dict()) == held
    assert not copied.run().any()
