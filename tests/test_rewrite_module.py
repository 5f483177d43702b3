"""A rewritten network as a torch module: copies, precision, compiling, checkpoints."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import random

import pytest
import torch
from graphs import random_graph
from rewritten import FORMS, WIDTH, Blocks, Frame, call, gcn, rewrite
from torch import nn
from torch_geometric.nn import (
    GCN,
    DeepGCNLayer,
    GCNConv,
    Sequential,
)

from graphfathom.nn import propagation
from graphfathom.nn.transition import Centered, Dense, Orthogonal, Scalar
from graphfathom.problem import Problem
from graphfathom.rewrite import (
    RewriteError,
    StateSpaceModel,
    to_state_space,
    unwrap,
)


@pytest.mark.parametrize("name", FORMS)
def test_a_deep_copy_stands_alone(name: str) -> None:
    form = rewrite(FORMS[name](), Orthogonal(0.9, seed=1), Centered(0.5)).eval()
    expected = call(form)
    other = copy.deepcopy(form)
    with torch.no_grad():
        for parameter in form.parameters():
            parameter.zero_()
    form.state.set_scale(0.0)
    assert form.form == name
    assert torch.equal(call(other), expected)
    assert not torch.equal(call(form), expected)


@pytest.mark.parametrize("name", FORMS)
def test_it_can_be_pickled(name: str) -> None:
    form = rewrite(FORMS[name]()).eval()
    other = pickle.loads(pickle.dumps(form))
    assert torch.equal(call(other), call(form))
    assert torch.equal(call(unwrap(other)), call(unwrap(form)))


@pytest.mark.parametrize("name", FORMS)
def test_it_follows_to_and_train(name: str) -> None:
    form = rewrite(FORMS[name](), Dense(seed=3), Dense(seed=4)).eval()
    expected = call(form)
    form.to(torch.float32)
    found = call(form)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    assert all(m.training for m in form.train().modules())


@pytest.mark.parametrize("name", FORMS)
def test_under_autocast_the_state_is_float32(name: str, float32_default: None) -> None:
    form = rewrite_float32(FORMS[name]())
    with torch.autocast("cpu", dtype=torch.bfloat16), form.watch() as states:
        out = call(form)
    assert {state.dtype for state in states} == {torch.float32}
    expected = call(form)
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)


def rewrite_float32(model: nn.Module) -> StateSpaceModel:
    data = random_graph()
    data.x = data.x.float()
    problem = Problem(model, data)
    form = to_state_space(model, problem, state=Scalar(0.9), input=Scalar(0.3))
    return form.eval()


@pytest.mark.parametrize("name", FORMS)
def test_it_compiles_whole(name: str) -> None:
    form = rewrite(FORMS[name]()).eval()
    compiled = torch.compile(form, backend="aot_eager", dynamic=True, fullgraph=True)
    for size in (8, 11):
        data = random_graph(size)
        found = compiled(data.x, data.edge_index)
        torch.testing.assert_close(found, form(data.x, data.edge_index))
    found.sum().backward()


@pytest.mark.parametrize("name", FORMS)
def test_the_call_has_the_signature_of_the_network(name: str) -> None:
    model = FORMS[name]()
    form = rewrite(model)
    expected = inspect.signature(model.forward)
    assert list(inspect.signature(form.forward).parameters) == list(expected.parameters)
    Problem(form, random_graph()).run()


@pytest.mark.parametrize("name", FORMS)
def test_attributes_are_those_of_the_network(name: str) -> None:
    model = FORMS[name]()
    form = rewrite(model)
    assert type(form.layer) is type(model)
    assert isinstance(getattr(form, "readout", form.layer), nn.Module)
    with pytest.raises(AttributeError, match="nothing"):
        _ = form.nothing


@pytest.mark.parametrize("name", FORMS)
def test_matrices_can_be_exchanged(name: str) -> None:
    form = rewrite(FORMS[name]()).eval()
    form.set_transitions(Scalar(0.0), Scalar(1.0))
    torch.testing.assert_close(call(form), call(unwrap(form)))
    form.set_transitions(input=Dense(seed=0))
    assert form.input.channels == WIDTH
    form.state.set_scale(1.0)
    with form.watch() as states:
        call(form)
    assert len(states) == form.num_steps + 1 == 4
    with pytest.raises(TypeError, match="`state` must be a Transition"):
        form.set_transitions(state=nn.Linear(WIDTH, WIDTH))
    with pytest.raises(ValueError, match="made for 3 channels"):
        form.set_transitions(state=Scalar(1.0, channels=3))


@pytest.mark.parametrize("name", FORMS)
def test_checkpoints_travel_both_ways(name: str) -> None:
    model = FORMS[name]()
    form = rewrite(model, Dense(seed=1), Scalar(0.5)).eval()
    file = io.BytesIO()
    torch.save(form.state_dict(), file)
    file.seek(0)
    saved = torch.load(file)
    other = rewrite(FORMS[name](), Dense(seed=2), Scalar(0.1)).eval()
    other.load_state_dict(saved)
    torch.testing.assert_close(call(other), call(form))
    model.load_state_dict(saved)
    torch.testing.assert_close(call(model.eval()), call(unwrap(form)))
    plain = {key: value.clone() for key, value in saved.items()}  # no metadata
    other.load_state_dict(plain)
    torch.testing.assert_close(call(other), call(form))


def test_trained_matrices_are_parameters() -> None:
    form = rewrite(gcn(), Dense(seed=0, trainable=True), Scalar(0.1))
    extra = form.state_dict().keys() - gcn().state_dict().keys()
    assert extra
    assert all(key.startswith("state_space.state.") for key in extra)
    call(form).sum().backward()
    assert all(p.grad is not None for p in form.state.parameters())


def test_layers_share_one_adjacency() -> None:
    model = gcn()
    form = rewrite(model)
    assert all(type(conv) is propagation.GCNConv for conv in form.convs)
    assert all(type(conv) is GCNConv for conv in unwrap(form).convs)
    assert all(type(conv) is GCNConv for conv in model.convs)


def test_a_cached_adjacency_is_kept() -> None:
    model = GCN(3, WIDTH, num_layers=4, out_channels=2, cached=True)
    form = rewrite(model, Scalar(0.0), Scalar(1.0))
    torch.testing.assert_close(call(form), call(model))


def test_edge_weights_reach_the_layers() -> None:
    model, data = gcn().eval(), random_graph()
    weight = torch.rand(data.num_edges)
    form = rewrite(model, Scalar(0.0), Scalar(1.0)).eval()
    expected = model(data.x, data.edge_index, weight)
    found = form(data.x, data.edge_index, edge_weight=weight)
    torch.testing.assert_close(found, expected)


def test_layers_are_trimmed_as_by_pyg() -> None:
    model = GCN(3, WIDTH, num_layers=3, jk=None)
    edges = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 1, 2, 3, 4]])
    x = torch.randn(7, 3)
    hops = {"num_sampled_nodes_per_hop": [1, 2, 2, 2]}
    hops["num_sampled_edges_per_hop"] = [2, 2, 2]
    form = rewrite(model, Scalar(0.0), Scalar(1.0))
    expected = model(x, edges, **hops)
    torch.testing.assert_close(form(x, edges, **hops), expected)
    with pytest.raises(NotImplementedError, match="either `edge_weight` or"):
        form(x, edges, torch.ones(6), torch.ones(6), **hops)


def test_hooks_of_the_caller_stay() -> None:
    model = Frame()
    seen: list[str] = []
    model.convs[1].register_forward_hook(lambda *_: seen.append("hook"))
    form = rewrite(model)
    seen.clear()
    call(form)
    call(unwrap(form))
    assert seen == ["hook", "hook"]


def test_modes_of_single_modules_stay() -> None:
    model = gcn()
    model.norms[1].eval()
    form = rewrite(model)
    assert not form.layer.norms[1].training
    assert form.training
    assert form.layer.norms[0].training


def test_carrying_layers_take_convex_pairs_only() -> None:
    # PyG names the code of a Sequential by a random draw, and finds it by that name.
    random.seed("carrying")
    model = Sequential(
        "x, edge_index",
        [
            (nn.Linear(3, WIDTH), "x -> x"),
            (DeepGCNLayer(GCNConv(WIDTH, WIDTH), block="res"), "x, edge_index -> x"),
            (DeepGCNLayer(GCNConv(WIDTH, WIDTH), block="res"), "x, edge_index -> x"),
            (nn.Linear(WIDTH, 2), "x -> x"),
        ],
    )
    with pytest.raises(RewriteError, match=r"only the step can be scaled. Take `state"):
        rewrite(model, Scalar(1.0), Scalar(0.5))
    form = rewrite(model, Scalar(0.75), Scalar(0.25))
    with pytest.raises(RewriteError, match=r"already carries a state: its layers add"):
        form.set_transitions(Scalar(1.0))
    assert form.state.scale == 0.75
    form.state.set_scale(1.0)
    with pytest.raises(RewriteError, match="Got Scalar"):
        call(form)


def test_messages_of_another_shape_are_refused() -> None:
    form = rewrite(Blocks())
    form.blocks[1].conv = GCNConv(WIDTH, 2 * WIDTH)
    with pytest.raises(
        RewriteError, match=r"must keep the shape of the state, \(8, 6\)"
    ):
        call(form)


def test_repr() -> None:
    first = repr(rewrite(Frame())).splitlines()[:2]
    assert first == ["StateSpaceModel(", "  form=boundary, num_steps=3"]
