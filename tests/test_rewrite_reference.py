"""Rewritten networks against the same networks written by hand in state-space form."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import random_graph
from torch import Tensor, nn
from torch_geometric.nn import (
    GAT,
    GCN,
    GIN,
    DeepGCNLayer,
    GCNConv,
    GraphSAGE,
    LayerNorm,
    SAGEConv,
    Sequential,
)

from graphfathom.diagnostics.trace import capture
from graphfathom.nn.transition import Centered, Dense, Rotation, Scalar, Transition
from graphfathom.problem import Problem
from graphfathom.rewrite import StateSpaceModel, to_state_space

WIDTH = 6
PAIRS: tuple[Callable[[], tuple[Transition, Transition]], ...] = (
    lambda: (Scalar(0.9), Scalar(0.3)),
    lambda: (Scalar(1.0), Centered(0.5)),
    lambda: (Rotation(0.9, seed=1), Dense(seed=2)),
)


class ByHand(nn.Module):
    """Activation, norm and dropout as functions in the forward."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.encoder = nn.Linear(3, WIDTH)
        self.convs = nn.ModuleList(SAGEConv(WIDTH, WIDTH) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.readout = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.elu(self.encoder(x))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.dropout(norm(conv(x, edge_index)).relu(), self.dropout, self.training)
        return F.log_softmax(self.readout(x), dim=-1)


class Pooled(ByHand):
    """A read-out that begins with a function, and a last layer as a module."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = F.elu(self.encoder(x))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x, edge_index).relu())
        return self.readout(x.mean(dim=0, keepdim=True))


def basic(kind: Any, **options: Any) -> nn.Module:
    return kind(3, WIDTH, num_layers=5, out_channels=2, **options)


def basic_reference(model: Any, x: Tensor, edge_index: Tensor, pair: Any) -> Tensor:
    """Layer by layer, with PyG's own layers and the matrices written out."""
    keep, take = (part.matrix() for part in pair)
    last = len(model.convs) - 1
    taps = []
    for i, (conv, norm) in enumerate(zip(model.convs, model.norms, strict=True)):
        h = conv(x, edge_index)
        if i < last or model.jk_mode:
            h = norm(model.act(h)) if model.act_first else model.act(norm(h))
        equal = h.shape == x.shape
        x = x @ keep.T + h @ take.T if equal else h
        taps.append(x)
    if model.jk_mode == "cat":
        x = torch.cat(taps, dim=-1)
    elif model.jk_mode == "max":
        x = torch.stack(taps).amax(dim=0)
    return model.lin(x) if model.jk_mode else x


def hand_reference(model: Any, x: Tensor, edge_index: Tensor, pair: Any) -> Tensor:
    keep, take = (part.matrix() for part in pair)
    x = F.elu(model.encoder(x))
    for conv, norm in zip(model.convs, model.norms, strict=True):
        x = x @ keep.T + norm(conv(x, edge_index)).relu() @ take.T
    return F.log_softmax(model.readout(x), dim=-1)


def pooled_reference(model: Any, x: Tensor, edge_index: Tensor, pair: Any) -> Tensor:
    keep, take = (part.matrix() for part in pair)
    x = F.elu(model.encoder(x))
    for conv, norm in zip(model.convs, model.norms, strict=True):
        x = x @ keep.T + norm(conv(x, edge_index).relu()) @ take.T
    return model.readout(x.mean(dim=0, keepdim=True))


CASES: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "GCN": (lambda: basic(GCN), basic_reference, "structural"),
    "GCN improved": (lambda: basic(GCN, improved=True), basic_reference, "structural"),
    "GCN act first": (
        lambda: basic(GCN, norm="layer_norm", act_first=True, act="elu"),
        basic_reference,
        "structural",
    ),
    "GCN jk=cat": (lambda: basic(GCN, jk="cat"), basic_reference, "structural"),
    "GIN jk=max": (lambda: basic(GIN, jk="max"), basic_reference, "structural"),
    "GAT": (lambda: basic(GAT, heads=2), basic_reference, "structural"),
    "GIN": (lambda: basic(GIN, norm="batch_norm"), basic_reference, "structural"),
    "SAGE": (lambda: basic(GraphSAGE), basic_reference, "structural"),
    "by hand": (ByHand, hand_reference, "boundary"),
    "pooled": (Pooled, pooled_reference, "boundary"),
}


def problem_of(model: nn.Module) -> Problem:
    data = random_graph()
    target = torch.zeros(1, 2) if isinstance(model, Pooled) else None
    return Problem(model, data, target=target, mode="eval")


def rewrite(model: nn.Module, state: Any, message: Any) -> StateSpaceModel:
    return to_state_space(model, problem_of(model), state=state, input=message)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str, pair: Any) -> None:
    build, reference, kind = CASES[name]
    model, (state, message) = build(), pair()
    form = rewrite(model, state, message)
    assert form.form == kind
    data = random_graph()
    found = form(data.x, data.edge_index)
    expected = reference(model, data.x, data.edge_index, (state, message))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    weight = torch.randn_like(found)
    ours = torch.autograd.grad((found * weight).sum(), list(form.parameters()))
    theirs = torch.autograd.grad((expected * weight).sum(), list(model.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_dropout_never_touches_the_state() -> None:
    form = rewrite(ByHand(dropout=0.5), Scalar(1.0), Scalar(0.25)).train()
    data = random_graph()
    with form.watch() as states:
        form(data.x, data.edge_index)
    for before, after in itertools.pairwise(states):
        dropped = (after - before) == 0
        assert 0.3 < dropped.double().mean() < 0.9  # ReLU and dropout


@pytest.mark.parametrize("block", ["res+", "res", "plain"])
def test_the_step_of_a_block_is_scaled(block: str) -> None:
    gamma = 0.3
    blocks = [
        DeepGCNLayer(GCNConv(WIDTH, WIDTH), LayerNorm(WIDTH), nn.ReLU(), block=block)
        for _ in range(3)
    ]
    children = [(one, "x, edge_index -> x") for one in blocks]
    # PyG names the code of a Sequential by a random draw, and finds it by that name.
    random.seed(f"block {block}")
    model = Sequential("x, edge_index", [(nn.Linear(3, WIDTH), "x -> x"), *children])
    data = random_graph()
    form = rewrite(model, Scalar(1 - gamma), Scalar(gamma))
    assert form.form == "block"
    assert form.carries == (block != "plain")
    x = model[0](data.x)
    for one in blocks:
        h = one(x, data.edge_index)
        x = x + gamma * (h - x)
    torch.testing.assert_close(form(data.x, data.edge_index), x)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c[2] == "structural"])
def test_the_trace_of_the_form_has_its_states(name: str) -> None:
    model = CASES[name][0]()
    form = rewrite(model, Scalar(0.9), Scalar(0.3)).eval()
    problem = problem_of(model).replace(form, random_graph())
    trace = capture(problem, mode="eval")
    with form.watch() as states:
        problem.run()
    mains = [state.main for state in trace.states]
    for state in states:
        close = [
            main.shape == state.shape and torch.allclose(main, state, atol=1e-12)
            for main in mains
        ]
        assert any(close)


def test_segments_give_products_of_jacobians() -> None:
    model = basic(GCN, act="tanh")
    form = rewrite(model, Scalar(0.9), Scalar(0.3))
    problem = problem_of(model).replace(form, random_graph())
    with form.watch() as states:
        problem.run()
    whole = form.segment(0, form.num_steps, problem.run)
    start = states[0].detach()
    v, w = torch.randn_like(start), torch.randn_like(start)
    out, jvp = torch.func.jvp(whole, (start,), (v,))
    _, pull = torch.func.vjp(whole, start)
    torch.testing.assert_close(out, states[-1].detach())
    torch.testing.assert_close((jvp * w).sum(), (v * pull(w)[0]).sum())
    (through,) = torch.autograd.grad(states[-1], states[0], w)
    torch.testing.assert_close(through, pull(w)[0])


def test_the_whole_product_of_a_linear_chain() -> None:
    """Of layers without activation the product of the Jacobians is known."""
    model = GCN(3, WIDTH, num_layers=4, out_channels=2, act=None, bias=False)
    form = rewrite(model, Scalar(0.9), Scalar(0.3))
    data = random_graph()
    problem = problem_of(model).replace(form, data)
    dense = torch.zeros(8, 8)
    dense[data.edge_index[1], data.edge_index[0]] = 1.0
    dense += torch.eye(8)
    root = dense.sum(dim=1).pow(-0.5)
    dense = root[:, None] * dense * root
    x = torch.randn(8, WIDTH)
    expected = x
    for conv in model.convs[1:3]:
        expected = 0.9 * expected + 0.3 * dense @ expected @ conv.lin.weight.T
    torch.testing.assert_close(form.segment(0, 2, problem.run)(x), expected)
