"""What has no state-space form is refused with a reason and a next step."""

from __future__ import annotations

import itertools
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
    DeepGCNLayer,
    GCNConv,
    JumpingKnowledge,
    SAGEConv,
)

from graphfathom.nn import GNNSSM, StateSpaceConv
from graphfathom.nn.transition import Scalar
from graphfathom.problem import Problem
from graphfathom.rewrite import RewriteError, to_state_space, unwrap

WIDTH = 6


class Hand(nn.Module):
    """A network whose forward is given as a function of itself."""

    def __init__(
        self,
        body: Callable[[Any, Tensor, Tensor], Tensor],
        widths: tuple[int, ...] = (WIDTH,) * 4,
        conv: Callable[[int, int], nn.Module] = GCNConv,
    ) -> None:
        super().__init__()
        self.body = body
        self.encoder = nn.Linear(3, widths[0])
        pairs = itertools.pairwise(widths)
        self.convs = nn.ModuleList(conv(a, b) for a, b in pairs)
        self.jk = JumpingKnowledge("max")
        self.readout = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.body(self, x, edge_index)


class Doubling(GCNConv):
    """A layer that changes its input in place."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return super().forward(x.mul_(2.0), edge_index)


class Block(nn.Module):
    """A layer with something around it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.conv = SAGEConv(WIDTH, WIDTH)
        self.lin = nn.Linear(WIDTH, WIDTH)
        self.form = form

    def forward(self, x: Tensor, edge_index: Tensor) -> Any:
        if self.form == "in place":
            x += 1.0
        h = self.conv(x, edge_index).relu()
        if self.form == "pair":
            return h, edge_index
        return x + self.lin(h) if self.form == "residual" else self.lin(h)


class MixingBlock(nn.Module):
    """Rows are mixed by a product, beside the input or not."""

    def __init__(self, carries: bool) -> None:
        super().__init__()
        self.lin = nn.Linear(WIDTH, WIDTH)
        self.carries = carries

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        h = (adj @ self.lin(x)).relu()
        return x + h if self.carries else h


def plain(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    x = model.encoder(x)
    for conv in model.convs:
        x = conv(x, edge_index).relu()
    return model.readout(x)


def taps(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    xs = [model.encoder(x)]
    for conv in model.convs:
        xs.append(conv(xs[-1], edge_index).relu())
    return model.readout(model.jk(xs))


def pairs(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    x = model.encoder(x)
    for conv in model.convs:
        x = conv((x, x), edge_index).relu()
    return model.readout(x)


def residual(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    x = model.encoder(x)
    for conv in model.convs:
        x = x + conv(x, edge_index).relu()
    return model.readout(x)


def blocks(form: str) -> Hand:
    def body(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
        x = model.encoder(x)
        for block in model.convs:
            x = block(x, edge_index)
            x = x[0] if form == "pair" else x
        return model.readout(x)

    return Hand(body, conv=lambda *_: Block(form))


def rewrite(model: nn.Module, state: float = 0.75, **options: Any) -> Any:
    problem = Problem(model, random_graph())
    parts = {"state": Scalar(state), "input": Scalar(0.25)} | options
    return to_state_space(model, problem, **parts)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Hand(plain, (4, 8, 8, 4, 4, 2)), r"changes its width between steps"),
        (
            lambda: Hand(plain, (4, 8, 8, 4, 4, 2)),
            r"`convs.0` 4 -> 8, `convs.1` 8 -> 8",
        ),
        (lambda: Hand(plain, (4, 8, 2)), r"has no step: .* \(`convs.0` 4 -> 8"),
        (lambda: GCN(3, 4, num_layers=1), r"has no step: .* \(`convs.0` 3 -> 4\)"),
        (lambda: GCN(3, 4, 2, 2), r"`convs.0` 3 -> 4, `convs.1` 4 -> 2"),
        (lambda: Hand(taps), r"the read-out uses earlier states too"),
        (lambda: Hand(pairs, conv=SAGEConv), r"takes a tuple and returns a Tensor"),
        (lambda: Hand(residual), r"already carries a state, .* `x = x \+ step \* h`"),
        (lambda: Hand(plain, conv=Doubling), r"changed in place behind it. Replace"),
    ],
)
def test_networks_without_a_form(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(RewriteError, match=message):
        rewrite(build())


def test_layers_called_from_outside_of_a_module() -> None:
    model = nn.ModuleDict({"a": GCNConv(3, 3), "b": GCNConv(3, 3)})

    def call(model: Any, data: Any) -> Tensor:
        return model["b"](model["a"](data.x, data.edge_index), data.edge_index)

    problem = Problem(model, random_graph(), forward_fn=call)
    with pytest.raises(RewriteError, match="from outside of any module"):
        to_state_space(model, problem, state=Scalar(0.5), input=Scalar(0.5))


def test_networks_of_our_own_carry_a_state() -> None:
    match = "already carries a state .*: to choose its matrices|use calibrate"
    with pytest.raises(RewriteError, match=match):
        rewrite(GNNSSM(3, WIDTH, 2, num_layers=3))
    wrapped = Hand(plain, conv=lambda a, b: StateSpaceConv(GCNConv(a, b)))
    with pytest.raises(RewriteError, match=r"Hand already carries a state \(StateSp"):
        rewrite(wrapped)
    with pytest.raises(RewriteError, match=r"already carries a state \(StateSpaceM"):
        rewrite(rewrite(Hand(plain)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
def test_compiled_by_jit() -> None:
    model = torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3))
    problem = Problem(GCN(3, 4, 3, 2), random_graph())
    with pytest.raises(RewriteError, match=r"is compiled by torch.jit"):
        to_state_space(model, problem, state=Scalar(0.5), input=Scalar(0.5))


def test_lazy_widths_must_be_known() -> None:
    problem = Problem(GCN(3, 4, 3, 2), random_graph())
    lazy = GCN(-1, 4, 3, 2)
    with pytest.raises(ValueError, match="run the model once on the data"):
        to_state_space(lazy, problem, state=Scalar(0.5), input=Scalar(0.5))
    lazy(random_graph().x, random_graph().edge_index)
    rewrite(lazy)


def test_arguments_of_a_wrong_kind() -> None:
    problem = Problem(GCN(3, 4, 3, 2), random_graph())
    options: dict[str, Any] = {"state": Scalar(0.5), "input": Scalar(0.5)}
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module. Got type"):
        to_state_space(GCN, problem, **options)  # pyright: ignore
    with pytest.raises(
        TypeError, match=r"`state` must be a Transition. Got float: pass"
    ):
        to_state_space(problem.model, problem, **{**options, "state": 0.5})
    with pytest.raises(TypeError, match=r"`input` must be a Transition. Got Linear"):
        to_state_space(problem.model, problem, **{**options, "input": nn.Linear(2, 2)})
    with pytest.raises(TypeError, match=r"`problem` must be a Problem. Got Data"):
        to_state_space(problem.model, random_graph(), **options)  # pyright: ignore
    with pytest.raises(
        TypeError, match=r"`model` must be the result of to_state_space"
    ):
        unwrap(problem.model)
    with pytest.raises(ValueError, match=r"made for 5 channels. Got 4"):
        to_state_space(
            problem.model, problem, state=Scalar(0.5, 5), input=options["input"]
        )


def test_layers_by_name() -> None:
    model = Hand(plain, (4, 8, 8, 4, 4, 2))
    form = rewrite(model, layers="convs.[34]")
    assert form.step_names == ("convs.3",)
    with pytest.raises(
        RewriteError, match=r"no message-passing layer that matches 'x'"
    ):
        rewrite(model, layers="x")


def test_layers_that_reduce_their_heads_by_hand() -> None:
    """The width of a state is that of the inputs, whatever the module returns."""

    def body(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
        x = model.encoder(x)
        for conv in model.convs:
            x = conv(x, edge_index).view(len(x), 2, -1).mean(dim=1).tanh()
        return model.readout(x)

    model = Hand(body, conv=lambda a, b: GCNConv(a, 2 * b))
    form = rewrite(model)
    assert (form.form, form.num_steps) == ("boundary", 2)


@pytest.mark.parametrize("form", ["pair", "in place"])
def test_inside_of_blocks(form: str) -> None:
    """Where a block is no map of states, the layer inside of it may be."""
    found = rewrite(blocks(form))
    assert found.step_names[0] == "convs.0.conv"
    assert (found.form, found.num_steps) == ("boundary", 3)


@pytest.mark.parametrize("form", ["residual", "plain"])
def test_blocks_of_one_s_own(form: str) -> None:
    found = rewrite(blocks(form))
    assert (found.form, found.num_steps) == ("block", 3)
    assert found.carries == (form == "residual")


@pytest.mark.parametrize("carries", [True, False])
def test_blocks_that_mix_rows_by_hand(carries: bool) -> None:
    def body(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
        adj = torch.zeros(len(x), len(x))
        adj[edge_index[1], edge_index[0]] = 1.0
        x = model.encoder(x)
        for block in model.convs:
            x = block(x, adj)
        return model.readout(x)

    found = rewrite(Hand(body, conv=lambda *_: MixingBlock(carries)))
    assert found.carries == carries


def test_states_may_be_tapped_behind_blocks() -> None:
    """What the read-out collects are the states, where blocks hand them on."""
    model = Hand(taps, conv=lambda *_: DeepGCNLayer(GCNConv(WIDTH, WIDTH), block="res"))

    def body(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
        xs = [model.encoder(x)]
        for block in model.convs:
            xs.append(block(xs[-1], edge_index))
        return model.readout(torch.cat(xs, dim=-1))

    model.body, model.readout = body, nn.Linear(4 * WIDTH, 2)
    form, data = rewrite(model), random_graph()
    x = model.encoder(data.x)
    xs = [x]
    for block in model.convs:
        x = 0.75 * x + 0.25 * block(x, data.edge_index)
        xs.append(x)
    expected = model.readout(torch.cat(xs, dim=-1))
    torch.testing.assert_close(form(data.x, data.edge_index), expected)


def test_a_model_inside_a_network_is_restructured() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gnn = GAT(3, WIDTH, num_layers=4, jk="cat")
            self.head = nn.Linear(WIDTH, 2)

        def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
            return F.log_softmax(self.head(self.gnn(x, edge_index)), dim=-1)

    form = rewrite(Wrapped())
    assert form.form == "structural"
    assert form.step_names == ("gnn.convs.1", "gnn.convs.2", "gnn.convs.3")
