"""Rates of smoothing, against exact decays and dense spectra."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from error_cases import dense_propagation, labelled, structure_of
from graphs import (
    isolated_node,
    make_graph,
    no_edges,
    one_node,
    path_graph,
    random_graph,
    ring_graph,
    two_components,
)
from scipy.sparse import csr_array
from scipy.stats import linregress
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphfathom.diagnostics import rates
from graphfathom.diagnostics.energy import energy_observations
from graphfathom.diagnostics.gradients import gradient_observations
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.rates import (
    deflated_modulus,
    kept_directions,
    rate_observations,
)
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem
from graphfathom.theory.stochastic import laplacian_walk, smoothing_rate

GRAPHS: dict[str, Callable[[], Data]] = {
    "random": random_graph,
    "ring": ring_graph,
    "two components": two_components,
    "isolated node": isolated_node,
}


def measured(model: nn.Module, data: Data) -> Observations:
    structure, trace = structure_of(data), capture(Problem(model, data))
    table = energy_observations([s.main for s in trace.states], structure)
    table += gradient_observations(trace, structure)
    found = Observations(rate_observations(trace, Observations(table), structure))
    return Observations([*table, *found])


def orthogonal(depth: int, scale: float = 1.0, act: str | None = None) -> GCN:
    torch.manual_seed(0)
    model = GCN(3, 3, depth, 3, act=act, bias=False)
    for conv in model.convs:
        nn.init.orthogonal_(conv.lin.weight, scale)
    return model


def modulus(data: Data) -> float:
    """Largest modulus beside the one eigenvalue 1 of each component, densely."""
    values = torch.linalg.eigvalsh(dense_propagation(data)).abs().sort().values
    return float(values[: -structure_of(data).num_components].max())


@pytest.mark.parametrize("graph", GRAPHS)
def test_rate_of_the_graph_against_all_eigenvalues(graph: str) -> None:
    data = labelled(GRAPHS[graph]())
    found = measured(orthogonal(3), data).value("rate.graph")
    assert found == pytest.approx(modulus(data), abs=1e-12)
    mean = dense_propagation(data) > 0
    values = torch.linalg.eigvals(mean / mean.sum(1, keepdim=True)).abs().sort().values
    others = values[: -structure_of(data).num_components]
    assert found == pytest.approx(float(others.max())), "a stochastic mean has it too"


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.2])
def test_a_linear_network_smooths_by_both_factors(scale: float) -> None:
    r"""Deep behind, only the second eigenvalue is left: the factor is lambda s."""
    table = measured(orthogonal(24, scale), labelled(random_graph()))
    expected = table.value("rate.graph") * scale
    assert table.value("rate.weights") == pytest.approx(scale)
    for name in ("rate.forward.degree", "rate.backward.degree"):
        row = table.get(name)
        assert row is not None
        assert row.stderr is not None
        assert row.value == pytest.approx(expected, rel=0.05)
        assert row.stderr < 0.02


def test_the_fit_is_that_of_ordinary_least_squares() -> None:
    data = labelled(random_graph())
    table = measured(orthogonal(6, act="tanh"), data)
    for name, norms, order in (
        ("forward", "feature_norm", 1),
        ("backward", "error.deviation_norm.constant", -1),
    ):
        states, logs = table.series(norms)
        if name == "forward":
            shares = table.series("deviation.constant")[1]
            logs = [v + math.log10(s) for v, s in zip(logs, shares, strict=True)]
        line = linregress(np.array(states[1:]) * order, logs[1:])
        row = table.get(f"rate.{name}.constant")
        assert row is not None
        assert row.value == pytest.approx(10**line.slope)
        expected = row.value * math.log(10) * line.stderr
        assert row.stderr == pytest.approx(expected)


def test_what_is_rounding_is_not_fitted() -> None:
    """On a complete graph one layer smooths all; on a ring of 3 they are the same."""
    data = labelled(ring_graph(3))
    names = measured(orthogonal(8), data).names()
    assert not [name for name in names if name.startswith(("rate.f", "rate.b"))]
    table = measured(orthogonal(60, 1.0), labelled(random_graph()))
    shares = table.series("deviation.degree")[1]
    assert min(shares[1:]) < 1e-13
    assert table.value("rate.forward.degree") == pytest.approx(
        table.value("rate.graph"), rel=0.05
    )


@pytest.mark.parametrize("make", [no_edges, one_node])
def test_without_edges_the_graph_has_no_rate(make: Callable[[], Data]) -> None:
    table = measured(orthogonal(4), labelled(make()))
    assert math.isnan(table.value("rate.graph"))
    assert table.value("rate.weights") == pytest.approx(1)


def test_two_layers_have_no_slope_and_no_labels_no_errors() -> None:
    data = labelled(random_graph())
    names = measured(orthogonal(2), data).names()
    assert not [name for name in names if name.startswith(("rate.f", "rate.b"))]
    del data.y
    names = measured(orthogonal(4), data).names()
    assert {"rate.forward.degree", "rate.graph"} <= set(names)
    assert "rate.backward.degree" not in names


def large(edges: list[tuple[int, int]], num_nodes: int = 400) -> Data:
    return make_graph(num_nodes, edges)


PATH = [(i, i + 1) for i in range(399)]
LARGE = {
    "path": large(PATH),
    "pairs": large(PATH[::2]),
    "cut": large(PATH[:150] + PATH[200:]),
    "tree": large([(i // 3, i) for i in range(1, 400)]),
    "complete": large([(i, j) for i in range(400) for j in range(i)]),
}


@pytest.mark.parametrize("graph", LARGE)
def test_large_graphs_are_searched(graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = LARGE[graph]
    structure = structure_of(data)
    found = rates._graph_rate(structure)
    data.edge_index = torch.cat([data.edge_index, data.edge_index.flip(0)], 1)
    assert found == pytest.approx(modulus(data), rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("size", [20, 400])
def test_a_directed_mean_and_a_stochastic_walk(size: int) -> None:
    """A matrix that is not symmetric, and one of the theory's own."""
    data = random_graph(20) if size == 20 else LARGE["tree"]
    data = Data(edge_index=data.edge_index, num_nodes=size)
    data.edge_index = torch.cat([data.edge_index, data.edge_index.flip(0)], 1)
    kept = kept_directions(structure_of(data), "constant")
    mean = (dense_propagation(data) > 0).double()
    generator = torch.Generator().manual_seed(0)
    mean *= torch.rand(mean.shape, generator=generator, dtype=mean.dtype)
    mean /= mean.sum(1, keepdim=True)
    values = torch.linalg.eigvals(mean).abs().sort(descending=True).values
    found = deflated_modulus(csr_array(mean.numpy()), kept)
    assert found == pytest.approx(float(values[1]), rel=1e-3)
    walk = laplacian_walk(data.edge_index, size)
    found = deflated_modulus(walk, kept)
    assert found == pytest.approx(smoothing_rate(walk).rate, rel=1e-4)


def test_a_search_that_does_not_end_finds_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    structure = structure_of(LARGE["path"])
    monkeypatch.setattr(rates, "TOLERANCE", 1e-15)
    monkeypatch.setattr(rates, "MAX_RESTARTS", 1)
    assert math.isnan(rates._graph_rate(structure))
    monkeypatch.setattr(rates, "MAX_EDGES", 3)
    assert math.isnan(rates._graph_rate(structure_of(path_graph())))


def test_units_and_randomness() -> None:
    before = np.random.get_state()[1].tobytes(), torch.get_rng_state()
    rates._graph_rate(structure_of(LARGE["tree"]))
    assert np.random.get_state()[1].tobytes() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    table = measured(orthogonal(5), labelled(random_graph()))
    found = [row for row in table if row.name.startswith("rate.")]
    assert {(row.place, row.unit, row.dtype) for row in found} == {
        ("model", "1", "float64")
    }
    assert len(found) == 6
