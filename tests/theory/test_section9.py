"""Items 8 and 9 of section 9 of the mathematics, by the project's own functions.

The instance is random, so numbers agree in size and in rate, not in their digits; those
of the specification are in ``benchmarks/_backward_instance.py``.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import _backward_instance as spec
from _backward_networks import Network, measured, stochastic_graph

from graphfathom.datasets import csbm
from graphfathom.theory.stochastic import sinkhorn

CASES = [
    (float(rate), layers, expected)
    for rate, found in spec.PUBLISHED.items()
    for layers, expected in found.items()
]


def dense_twin(rate: float, layers: int, seed: int) -> tuple[float, list[float]]:
    """Loss and norms of the gradients, by matrices and plain autograd."""
    graph, y = spec.graph(rate)
    matrix, x = graph.adjacency.to_dense(), graph.data.x
    torch.manual_seed(seed)
    network = Network((spec.FEATURES, spec.FEATURES, spec.TARGETS), layers)
    weights = [conv.lin.weight.detach().mT.requires_grad_() for conv in network.convs]
    h = x
    for w in weights:
        h = (matrix @ h @ w).tanh()
    seen = matrix @ h
    # The ridge as further rows of a least-squares problem.
    f = (seen - seen.mean(0)).detach() / math.sqrt(len(x))
    more = math.sqrt(spec.RIDGE) * torch.eye(spec.FEATURES)
    zeros = torch.zeros(spec.FEATURES, spec.TARGETS)
    target = torch.cat([(y - y.mean(0)) / math.sqrt(len(x)), zeros])
    head = torch.linalg.lstsq(torch.cat([f, more]), target).solution
    out = (seen - seen.mean(0).detach()) @ head + y.mean(0)
    loss = (out - y).square().mean()
    return float(loss.detach()), [
        float(g.norm()) for g in torch.autograd.grad(loss, weights)
    ]


@pytest.mark.parametrize(("rate", "layers"), [(0.44, 4), (0.44, 12), (0.87, 10)])
def test_the_instance_against_dense_matrices(rate: float, layers: int) -> None:
    found, (loss, norms) = spec.item_8(rate, layers, 3), dense_twin(rate, layers, 3)
    assert found.loss == pytest.approx(loss, rel=1e-10)
    # The mean error is zero up to rounding, and the smallest gradients feel it.
    assert [10**g for g in found.gradients] == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize("rate", [0.44, 0.87])
def test_the_graphs_have_the_rates_of_the_specification(rate: float) -> None:
    graph, _ = spec.graph(rate)
    assert graph.smoothing.rate == pytest.approx(rate, abs=0.005)
    assert graph.smoothing.multiplicity == 1


@pytest.mark.parametrize(("rate", "layers", "expected"), CASES)
def test_gradients_at_a_fitted_head(rate: float, layers: int, expected: float) -> None:
    """Item 8: the same size, nearly equal over the layers, below the bound."""
    found = spec.item_8(rate, layers, 0)
    assert max(found.gradients) == pytest.approx(math.log10(expected), abs=0.4)
    assert max(found.gradients) - min(found.gradients) < math.log10(1.3)
    assert found.bound is not None
    assert max(found.gradients) <= found.bound


def test_gradients_vanish_and_the_loss_stays() -> None:
    """Item 8: as lambda to the power 2 L, where the loss is that of a constant."""
    shallow, deep = (spec.item_8(0.44, layers, 0) for layers in (16, 32))
    rate = spec.graph(0.44)[0].smoothing.rate
    slope = (max(deep.gradients) - max(shallow.gradients)) / 16
    assert slope == pytest.approx(2 * math.log10(rate), abs=0.03)
    for found in (shallow, deep):
        assert found.loss == pytest.approx(spec.PUBLISHED_LOSS, abs=1e-4)
        assert found.loss == pytest.approx(found.constant, rel=1e-9)


@pytest.mark.parametrize("layers", [4, 16, 40])
def test_the_same_weights_without_a_graph_learn(layers: int) -> None:
    found = spec.item_8(0.44, layers, 0, mlp=True)
    low, high = spec.PUBLISHED_MLP
    assert 0.75 * low < 10 ** max(found.gradients) < 1.25 * high
    assert found.loss < 0.8 * found.constant


def test_errors_smooth_in_the_middle_before_the_head_is_trained() -> None:
    """Section 6, "Where B smooths": not at the first layers, where slopes differ."""
    torch.manual_seed(0)
    graph, target = spec.graph(0.44)
    rows = torch.ones(spec.NODES, dtype=torch.bool)
    gradients = []
    for layers in (8, 32):
        network = Network((spec.FEATURES, spec.FEATURES, spec.TARGETS), layers)
        found = measured(network, graph, target, rows)
        gradients.append(max(found.gradients))
    first, middle, last = (found.deviations[k] for k in (1, 16, 32))
    assert middle < 1e-5
    assert first > 100 * middle
    assert last > 0.1
    assert min(gradients) > -1.5


@pytest.mark.parametrize("layers", [3, 10, 30])
def test_counter_example(layers: int) -> None:
    """Item 9: the MLP's gradient does not know its depth; the GNN's vanishes."""
    mlp = spec.item_9(0.44, layers, mlp=True)
    expected = spec.item_9(0.44, 3, mlp=True).gradients[0]
    assert mlp.gradients[0] == pytest.approx(expected, abs=1e-9)
    assert 10**expected == pytest.approx(spec.PUBLISHED_EXAMPLE["mlp"][3], rel=0.5)
    gnn = spec.item_9(0.44, layers, mlp=False)
    assert gnn.gradients[0] < expected - (1 if layers == 3 else 5)


def test_other_graphs_have_no_bound() -> None:
    """Two components: the bound's hypothesis fails, and none is given."""
    data = csbm(40, 2, 6, 1.0, 4, seed=0)
    graph = stochastic_graph(data, sinkhorn(data.edge_index, 40))
    assert graph.smoothing.multiplicity > 1
    target: Tensor = torch.randn(40, 2)
    network = Network((4, 4, 2), 3)
    rows = torch.ones(40, dtype=torch.bool)
    assert measured(network, graph, target, rows).bound is None
