"""Gradients of weights in two parts, against dense products and plain autograd."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from error_cases import dense_propagation, labelled, projection, structure_of
from graphs import isolated_node, random_graph, two_components
from layer_cases import network
from snapshots import differences, snapshot
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN, GIN, GraphSAGE

import graphfathom as gf
from graphfathom.diagnostics.gradients import gradient_observations
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.segments import Segment
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem
from graphfathom.theory.backward import gradient_split

KINDS = ("constant", "degree")
GRAPHS = {
    "connected": random_graph,
    "two components": two_components,
    "isolated node": isolated_node,
}


def measured(model: nn.Module, data: Data, **options: object) -> Observations:
    trace = capture(Problem(model, data, **options))
    return Observations(gradient_observations(trace, structure_of(data)))


def weights_only(model: nn.Module) -> nn.Module:
    """The model with biases that are not trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.endswith("bias"))
    return model


def passes(model: GCN, data: Data) -> list[tuple[Tensor, Tensor]]:
    """What the weights of each layer see, and the errors of their products; densely."""
    x, propagation, found = data.x, dense_propagation(data), []
    for i, conv in enumerate(model.convs):
        product = x @ conv.lin.weight.mT
        product.retain_grad()
        found.append((x, product))
        x = propagation @ product + conv.bias
        x = x.tanh() if i < len(model.convs) - 1 else x
    nn.functional.cross_entropy(x, data.y).backward()
    return [(x.detach(), product.grad) for x, product in found]


def parts(table: Observations, kind: str, k: int) -> list[float]:
    names = [f"gradient.weights.{part}.{kind}" for part in ("kernel", "deviation")]
    return [table.value(name, f"layer:{k}") for name in names]


@pytest.mark.parametrize("graph", GRAPHS)
def test_both_parts_against_dense_products(graph: str) -> None:
    data = labelled(GRAPHS[graph]())
    model = GCN(3, 5, 4, 2, act="tanh")
    table = measured(model, data)
    for k, (features, errors) in enumerate(passes(model, data), 1):
        for kind in KINDS:
            kept = projection(data, kind)
            rest = torch.eye(data.num_nodes) - kept
            expected = [
                float(((p @ features).mT @ (p @ errors)).norm().log10())
                for p in (kept, rest)
            ]
            assert parts(table, kind, k) == pytest.approx(expected, abs=1e-9)
        norm = float(torch.linalg.svdvals(model.convs[k - 1].lin.weight.detach())[0])
        assert table.value("weight_norm", f"layer:{k}") == pytest.approx(norm)


def test_the_parts_are_those_of_equation_6_4() -> None:
    """On a connected graph, and of a symmetric stochastic P also with F = P X."""
    edges = torch.arange(8)
    data = labelled(random_graph())
    data.edge_index = torch.stack([edges, (edges + 1) % 8])
    data.edge_index = torch.cat([data.edge_index, data.edge_index.flip(0)], 1)
    model = GCN(3, 5, 3, 2, act="tanh")
    table, propagation = measured(model, data), dense_propagation(data)
    for k, (features, errors) in enumerate(passes(model, data), 1):
        # The error B of P X W, of which P' B has passed the product.
        behind = torch.linalg.solve(propagation.mT, errors)
        split = gradient_split(propagation @ features, behind)
        expected = [float(p.norm().log10()) for p in (split.mean, split.deviation)]
        assert parts(table, "constant", k) == pytest.approx(expected, abs=1e-8)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gcn": lambda: GCN(3, 4, 3, 2),
    "sage": lambda: GraphSAGE(3, 4, 3, 2),
    "gin": lambda: GIN(3, 4, 3, 2),
    "taps": lambda: network("taps"),
    "gcn2": lambda: network("gcn2"),
    "gcn2, two": lambda: network("gcn2, two"),
    "pre-activation": lambda: network("pre-activation"),
    "ssm": lambda: network("ssm"),
    "stabilized": lambda: network("stabilized"),
}


@pytest.mark.parametrize("name", MODELS)
def test_without_a_kernel_the_rest_is_the_whole_gradient(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second way to the sum of both parts: the gradient that autograd returns."""
    data = labelled(random_graph(12))
    structure = structure_of(data)
    monkeypatch.setattr(
        type(structure), "kernel_part", lambda self, x, kind="constant": 0 * x
    )
    trace = capture(Problem(weights_only(MODELS[name]()), data))
    table = Observations(gradient_observations(trace, structure))
    layers, norms = table.series("gradient.weights")
    assert layers == list(range(1, trace.num_layers + 1))
    for k, norm in zip(layers, norms, strict=True):
        assert parts(table, "constant", k) == [-math.inf, pytest.approx(norm, abs=1e-9)]


def test_one_matrix_has_a_norm_and_two_have_none() -> None:
    data = labelled(random_graph())
    assert measured(GCN(3, 4, 3, 2), data).series("weight_norm")[0] == [1, 2, 3]
    assert not measured(GraphSAGE(3, 4, 3, 2), data).series("weight_norm")[0]


class Weighed(nn.Module):
    """Its weights are used in another way, too, so that no product explains them."""

    def __init__(self, power: int) -> None:
        super().__init__()
        self.body, self.power = GCN(3, 4, 3, 2), power

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        first, *others = self.body.convs
        x = first(x, edge_index) * first.lin.weight.sum() ** self.power
        for conv in others:
            x = conv(x.tanh(), edge_index)
        return x


def test_what_products_do_not_explain_is_left_out() -> None:
    data = labelled(random_graph())
    name = "gradient.weights.kernel.constant"
    assert measured(Weighed(1), data).series(name)[0] == [2, 3]
    assert measured(Weighed(0), data).series(name)[0] == [1, 2, 3]


def test_frozen_layers_and_nan() -> None:
    data, model = labelled(random_graph()), GCN(3, 4, 3, 2)
    model.convs[1].requires_grad_(False)
    name = "gradient.weights.deviation.degree"
    assert measured(model, data).series(name)[0] == [1, 3]
    model.convs[2].lin.weight.data.fill_(math.nan)
    assert measured(model, data).series(name)[0] == []


def test_a_loss_that_ignores_the_output_has_no_part() -> None:
    data = labelled(random_graph())
    table = measured(GCN(3, 4, 3, 2), data, loss=lambda output, target: torch.zeros(()))
    for k in (1, 2, 3):
        assert parts(table, "constant", k) == [-math.inf] * 2


def test_in_single_precision(float32_default: None) -> None:
    data = labelled(random_graph())
    data.x = data.x.float()
    trace = capture(Problem(GCN(3, 4, 3, 2), data), dtype=None)
    table = Observations(gradient_observations(trace, structure_of(data)))
    assert table.series("gradient.weights.kernel.constant")[0] == [1, 2, 3]


def test_everything_comes_from_one_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    data, calls, real = labelled(random_graph()), [], Segment.vjp

    def counted(self: Segment, *args: object, **kwargs: object) -> object:
        calls.append(self)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Segment, "vjp", counted)
    trace = capture(Problem(GCN(3, 4, 5, 2), data))
    plain = gradient_observations(trace)
    assert len(calls) == 6
    rows = gradient_observations(trace, structure_of(data))
    assert len(calls) == 12
    assert [row for row in rows if row in plain] == plain, "to the bit"


def test_nothing_is_left_behind() -> None:
    data, model = labelled(random_graph()), GCN(3, 4, 4, 2)
    model(data.x, data.edge_index).sum().backward()
    before = snapshot(model, data)
    gf.diagnose(model, data, controls="none")
    assert differences(before, snapshot(model, data)) == []
