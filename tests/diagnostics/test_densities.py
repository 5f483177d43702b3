"""Densities of single layers and singular values of their product, against dense."""

from __future__ import annotations

import math

import pytest
import torch
from chains import ScaledChain, ring, scaled_chain
from checks import check_estimator
from graphs import directed_graph, isolated_node, one_node, random_graph
from layer_cases import network, traced
from stubborn import gcn
from torch import Tensor
from torch.testing import assert_close
from torch_geometric.nn import GCN

from graphfathom.diagnostics import densities
from graphfathom.diagnostics.densities import (
    GRID,
    density_observations,
    density_products,
    grid_name,
    product_observations,
    product_products,
)
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.segments import Segment
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.linalg import Estimate
from graphfathom.problem import Problem

SMALL = {"directed": directed_graph, "isolated node": isolated_node}
"""Five nodes: a layer of four channels has 20 singular values, as many as steps. Those
that are not 0 are isolated, so that each probe sees all of them."""


def measured(measure, trace: Trace, seed: int = 0) -> Observations:
    return Observations(measure(trace, torch.Generator().manual_seed(seed)))


def singular_values(trace: Trace, k: int) -> Tensor:
    return torch.linalg.svdvals(trace.jacobian(k - 1, k).to_dense())


def dead_network() -> GCN:
    """Its third layer is switched off."""
    model = GCN(3, 4, 4, 2)
    model.convs[2].bias.data.fill_(-1e6)
    return model


@pytest.mark.parametrize("graph", SMALL)
@pytest.mark.parametrize("name", ["linear", "tanh", "relu", "taps"])
def test_small_layers_are_exact(name: str, graph: str) -> None:
    trace = traced(network(name), SMALL[graph]())
    table = measured(density_observations, trace)
    for k in range(1, trace.num_layers + 1):
        shape, values = trace.jacobian(k - 1, k).shape, singular_values(trace, k)
        if min(shape) > densities.NUM_MATVECS:
            continue
        chaos = table.get("edge_of_chaos", f"layer:{k}")
        below = table.get("singular_values.below", f"layer:{k}")
        gain = float(values.square().sum()) / shape[1]
        assert chaos.value == pytest.approx(math.log10(gain) / 2)
        assert chaos.stderr == pytest.approx(0, abs=1e-8)
        assert below.value == pytest.approx(float((values <= 0.1).double().mean()))
        assert below.stderr == pytest.approx(0, abs=1e-8)


def test_the_density_is_smoothed() -> None:
    """With all steps: a Gaussian around each value, as wide as they lie apart."""
    trace = traced(network("tanh"), directed_graph())
    table = measured(density_observations, trace)
    values = singular_values(trace, 2).log10()
    width = float(values.max() - values.min()) / 20
    kernels = torch.exp(-(((GRID[:, None] - values) / width) ** 2) / 2)
    expected = kernels.mean(1) / (width * math.sqrt(2 * math.pi))
    found = [table.value(grid_name("density", x), "layer:2") for x in GRID.tolist()]
    assert_close(torch.tensor(found), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("scale", [0.05, 1.0, 5.0])
def test_the_density_integrates_to_one(scale: float) -> None:
    trace = scaled_chain(1, scale, ring(9))
    table = measured(density_observations, trace)
    found = [table.value(grid_name("density", x), "layer:1") for x in GRID.tolist()]
    assert 0.1 * sum(found) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("which", ["edge_of_chaos", "singular_values.below"])
def test_estimates_of_large_layers_are_calibrated(which: str) -> None:
    torch.manual_seed(0)
    trace = traced(GCN(16, 16, 1, act=None), wide_graph())
    values = singular_values(trace, 1)
    truth = {
        "edge_of_chaos": float(values.square().mean().log10()) / 2,
        "singular_values.below": float((values <= 0.1).double().mean()),
    }[which]

    def estimate(seed: int) -> Estimate:
        row = measured(density_observations, trace, seed).get(which, "layer:1")
        return Estimate(row.value, row.stderr)

    if which == "edge_of_chaos":
        check_estimator(lambda g: estimate(g.initial_seed()), truth, num_seeds=40)
        return
    # Its standard error is that of bounds, wider than its spread.
    errors = [estimate(seed) for seed in range(10)]
    assert all(abs(one.value - truth) <= 2 * one.stderr for one in errors)
    assert all(abs(one.value - truth) < 0.1 for one in errors)


def wide_graph():
    data = random_graph(8)
    data.x = torch.randn(8, 16)
    return data


def test_at_most_four_layers_are_taken() -> None:
    table = measured(density_observations, scaled_chain(10, 1.0, ring(5)))
    assert table.series("edge_of_chaos")[0] == [1, 4, 7, 10]


def test_names_have_no_negative_zero() -> None:
    assert grid_name("density", -0.0) == "density.log10=0.0"
    assert grid_name("density", -0.04) == "density.log10=0.0"
    assert len({grid_name("density", x) for x in GRID.tolist()}) == len(GRID) == 41


@pytest.mark.parametrize("name", ["relu", "linear", "taps", "convex", "stabilized"])
@pytest.mark.parametrize("data", [random_graph(6), directed_graph(), one_node()])
def test_products_are_those_of_the_dense_product(name: str, data) -> None:
    trace = traced(network(name), data)
    table = measured(product_observations, trace)
    dense = trace.jacobian(0, trace.num_layers).to_dense()
    values = torch.linalg.svdvals(dense)[:2].log10()
    for i, value in enumerate(values.tolist(), start=1):
        row = table.value(f"product_singular_value.{i}")
        residual = table.value(f"product_singular_value.{i}.residual")
        if value < -12:  # zero but for rounding
            assert row < -12
        elif residual <= 1e-2:
            assert row == pytest.approx(value, abs=1e-2)
        assert row <= value + 1e-9 or value < -12, "estimates only grow"
    assert table.value("product_singular_value.1.residual") <= 0.2


def test_volumes_grow_no_faster_than_singular_values() -> None:
    trace = traced(network("tanh"), random_graph())
    values = torch.linalg.svdvals(trace.jacobian(0, 4).to_dense())[:2].log()
    for seed in range(5):
        table = measured(product_observations, trace, seed)
        first, second = (table.value(f"lyapunov_exponent.{i}") for i in (1, 2))
        assert first <= float(values[0]) / 4 + 1e-12
        assert first + second <= float(values.sum()) / 4 + 1e-12


def test_long_products_leave_the_range_of_floats() -> None:
    """The largest eigenvalue of a GCN's matrix is 1, twice over two channels."""
    table = measured(product_observations, scaled_chain(170, 0.01, ring(5)))
    for i in (1, 2):
        assert table.value(f"product_singular_value.{i}") == pytest.approx(-340)
        exponent = table.value(f"lyapunov_exponent.{i}")
        assert exponent == pytest.approx(math.log(0.01), abs=0.05)


def test_a_dead_layer_is_an_exact_zero() -> None:
    trace = traced(dead_network(), random_graph())
    densities_, products = (
        measured(measure, trace)
        for measure in (density_observations, product_observations)
    )
    assert densities_.value("edge_of_chaos", "layer:3") == -math.inf
    assert densities_.value("singular_values.below", "layer:3") == 1
    assert math.isnan(densities_.value("density.log10=0.0", "layer:3"))
    assert products.value("product_singular_value.1") == -math.inf
    assert products.value("lyapunov_exponent.1") == -math.inf


def test_a_network_that_is_not_finite_has_no_numbers() -> None:
    model = gcn()
    model.convs[1].lin.weight.data[0, 0] = math.nan
    trace = traced(model, random_graph())
    assert math.isnan(measured(density_observations, trace).value("edge_of_chaos"))
    products = measured(product_observations, trace)
    assert math.isnan(products.value("product_singular_value.1"))


def test_one_entry_has_one_singular_value() -> None:
    data = one_node()
    data.x = data.x[:, :1]
    table = measured(product_observations, traced(GCN(1, 1, 3, act=None), data))
    assert "product_singular_value.1" in table.names()
    assert "product_singular_value.2" not in table.names()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_products_in_half_precision_are_refused(dtype: torch.dtype) -> None:
    data = ring(5)
    data.x, data.y = data.x.to(dtype), None
    problem = Problem(ScaledChain(2, 3, 1.0).to(dtype), data)
    trace = capture(problem, dtype=None)
    with pytest.raises(ValueError, match=r"too large below float32\. Got torch"):
        measured(product_observations, trace)


@pytest.mark.parametrize("name", ["tanh", "stabilized"])
def test_prices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, taken = traced(network(name), random_graph(12)), []
    for kind in ("vjp", "jvp"):
        product = getattr(Segment, kind)
        monkeypatch.setattr(
            Segment, kind, lambda *a, f=product: [taken.append(1), f(*a)][1]
        )
    measured(density_observations, trace)
    assert 0.9 * density_products(trace) <= len(taken) <= density_products(trace)
    taken.clear()
    measured(product_observations, trace)
    assert len(taken) <= product_products(trace)


def test_one_layer_at_a_time_holds_its_second_graph() -> None:
    trace = traced(network("tanh"), random_graph())
    for measure in (density_observations, product_observations):
        measured(measure, trace)
        alive = [trace.segment(k)._forward is not None for k in range(1, 5)]
        assert sum(alive) <= 1


def test_one_seed_one_table() -> None:
    trace = traced(network("tanh"), random_graph(12))
    for measure in (density_observations, product_observations):
        first, second = (measured(measure, trace, 3).to_csv() for _ in range(2))
        assert first == second
