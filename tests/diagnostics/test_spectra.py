"""Gains of single layers against closed forms and dense Jacobians."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from chains import ScaledChain, complete_graph, ring
from checks import check_estimator
from hypothesis import given
from hypothesis import strategies as st
from networks import DenseNet
from problems import CATALOGUE, GRAPHS, gcn_matrix, random_graph
from references import float64
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.spectra import (
    MAX_SPECTRA,
    layer_observations,
    sampled_layers,
    spectrum_observations,
)
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.linalg import Estimate
from graphfathom.problem import Problem

NETWORKS = [
    entry
    for entry in CATALOGUE
    if entry.name
    in ("GCN", "GAT jk=cat", "GCNII", "DeepGCN res+", "GraphSAGE", "HeteroConv")
]
each_network = pytest.mark.parametrize("entry", NETWORKS, ids=lambda entry: entry.name)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """That of the measures, whatever the default of the tests."""
    with float64():
        yield


def random_source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gains(trace: Trace, num_samples: int = 3, seed: int = 0) -> Observations:
    return Observations(layer_observations(trace, random_source(seed), num_samples))


def spectra(trace: Trace, num_matvecs: int = 10, num_samples: int = 2) -> Observations:
    rows = spectrum_observations(trace, random_source(), num_matvecs, num_samples)
    return Observations(rows)


def linear_gcn(data: Data, depth: int = 3) -> Trace:
    """Layers H <- A H W of widths 3, 4, ..., 4, 2."""
    return capture(Problem(GCN(3, 4, depth, 2, act=None, bias=False), data))


def relu_gcn(bias: float, data: Data | None = None) -> Trace:
    """A network whose units are the more often dead the lower the bias."""
    model = GCN(3, 8, 4, 2)
    for conv in model.convs:
        conv.bias.data.normal_(mean=bias, std=0.5)
    return capture(Problem(model, data or random_graph()))


def weight(trace: Trace, k: int) -> Tensor:
    return trace.problem.model.convs[k - 1].lin.weight.detach()


def closed_form(trace: Trace, k: int, adjacency: Tensor) -> Tensor:
    r"""Lemma 3.1: squared singular values :math:`\lambda_i^2 \mu_j`, with zeros."""
    squares = torch.linalg.svdvals(adjacency) ** 2
    mu = torch.linalg.svdvals(weight(trace, k)) ** 2
    values = torch.outer(squares, mu).flatten()
    m, n = trace.jacobian(k - 1, k).shape
    missing = min(m, n) - values.numel()
    return torch.cat([values, values.new_zeros(missing)]).sort(descending=True).values


@pytest.mark.parametrize("graph", ["random", "ring", "path", "two components"])
def test_mean_squared_gain_is_lemma_3_1(graph: str) -> None:
    data = GRAPHS[graph]()
    trace = linear_gcn(data)
    table, adjacency = gains(trace, num_samples=400), gcn_matrix(data)
    for k in range(1, trace.num_layers + 1):
        row = table.get("mean_squared_gain", f"layer:{k}")
        inputs = trace.jacobian(k - 1, k).shape[1]
        expected = float(closed_form(trace, k, adjacency).sum()) / inputs
        # Four standard errors: one false alarm in 16,000.
        assert abs(row.value - expected) < 4 * row.stderr
        assert row.stderr < 0.05 * row.value


@pytest.mark.parametrize(
    ("graph", "size", "degree"), [(ring, 12, 2), (complete_graph, 8, 7)]
)
def test_a_regular_graph_divides_the_gain_of_the_mlp(
    graph: Callable[[int, int], Data], size: int, degree: int
) -> None:
    """By r + 1, exactly the mean of the squared eigenvalues."""
    data = graph(size, 3)
    trace = linear_gcn(data)
    squares = torch.linalg.eigvalsh(gcn_matrix(data)) ** 2
    assert float(squares.mean()) == pytest.approx(1 / (degree + 1))
    table = gains(trace, num_samples=400)
    for k in range(1, trace.num_layers + 1):
        row, w = table.get("mean_squared_gain", f"layer:{k}"), weight(trace, k)
        mlp = float(w.square().sum()) / w.size(1)
        assert abs(row.value - mlp / (degree + 1)) < 4 * row.stderr


def test_orthogonal_rows_make_the_gain_exact() -> None:
    """Without edges a layer c I is c times the identity: each probe says c^2."""
    data = ring(5)
    data.edge_index = data.edge_index[:, :0]
    trace = capture(Problem(ScaledChain(2, 3, 0.3), data))
    for row in gains(trace).select("mean_squared_gain"):
        assert row.value == pytest.approx(0.09, rel=1e-12)
        assert row.stderr < 1e-12


@each_network
def test_gain_is_the_mean_square_of_the_dense_jacobian(entry: object) -> None:
    trace = capture(entry.case().problem())
    table = gains(trace, num_samples=200)
    for k in range(1, trace.num_layers + 1):
        dense = trace.jacobian(k - 1, k).to_dense()
        row = table.get("mean_squared_gain", f"layer:{k}")
        expected = float(dense.square().sum()) / dense.size(1)
        assert abs(row.value - expected) <= 4 * row.stderr + 1e-12


def test_standard_error_of_the_gain_is_calibrated() -> None:
    trace = linear_gcn(random_graph(), depth=2)
    dense = trace.jacobian(0, 1).to_dense()

    def estimate(generator: torch.Generator) -> Estimate:
        rows = Observations(layer_observations(trace, generator, num_samples=12))
        row = rows.get("mean_squared_gain", "layer:1")
        return Estimate(row.value, row.stderr)

    check_estimator(estimate, float(dense.square().sum()) / dense.size(1))


def test_more_probes_make_the_standard_error_smaller() -> None:
    trace = linear_gcn(random_graph())
    few, many = gains(trace, num_samples=16), gains(trace, num_samples=1600)
    for one, other in zip(
        few.select("mean_squared_gain"), many.select("mean_squared_gain"), strict=True
    ):
        # The square root of 100, and the spread of a spread of 16 numbers.
        assert 4 < one.stderr / other.stderr < 25


def test_singular_values_of_a_linear_layer_are_lemma_3_1() -> None:
    data = random_graph()
    trace = linear_gcn(data)
    table = spectra(trace, num_matvecs=100)
    for k in range(1, trace.num_layers + 1):
        values = closed_form(trace, k, gcn_matrix(data)).sqrt()
        found = trace.jacobian(k - 1, k).to_dense()
        torch.testing.assert_close(torch.linalg.svdvals(found), values)
        place = f"layer:{k}"
        largest = table.value("largest_singular_value", place)
        assert largest == pytest.approx(float(values[0]), rel=1e-9)
        assert table.value("largest_singular_value.residual", place) < 1e-6


@each_network
def test_largest_singular_value_is_that_of_the_dense_jacobian(entry: object) -> None:
    trace = capture(entry.case().problem())
    table = spectra(trace, num_matvecs=60)
    for k in range(1, trace.num_layers + 1):
        dense = trace.jacobian(k - 1, k).to_dense()
        found = table.value("largest_singular_value", f"layer:{k}")
        expected = float(torch.linalg.matrix_norm(dense, 2))
        assert found == pytest.approx(expected, rel=1e-8)


def test_few_steps_bound_the_largest_singular_value_from_below() -> None:
    trace = relu_gcn(0.5)
    for steps in (1, 2, 4, 8):
        table = spectra(trace, num_matvecs=steps)
        for k in range(1, trace.num_layers + 1):
            dense = trace.jacobian(k - 1, k).to_dense()
            largest = float(torch.linalg.matrix_norm(dense, 2))
            found = table.value("largest_singular_value", f"layer:{k}")
            residual = table.value("largest_singular_value.residual", f"layer:{k}")
            assert found <= largest * (1 + 1e-12)
            # Some singular value lies within the residual of the one found.
            values = torch.linalg.svdvals(dense)
            assert float((values - found).abs().min()) <= residual * found + 1e-12


@pytest.mark.parametrize(("name", "share"), [("50", 0.5), ("10", 0.1)])
def test_quantiles_are_those_of_the_dense_singular_values(
    name: str, share: float
) -> None:
    """All steps taken, distinct singular values are known and their quantiles exact."""
    data = random_graph()
    data.adj = torch.randn(data.num_nodes, data.num_nodes)
    trace = capture(Problem(DenseNet([3, 3, 3, 3]), data))
    table = spectra(trace, num_matvecs=100)
    for k in range(1, trace.num_layers + 1):
        values = torch.linalg.svdvals(trace.jacobian(k - 1, k).to_dense())
        expected = values.sort().values[math.ceil(share * values.numel()) - 1]
        row = table.get(f"gain_quantile.{name}", f"layer:{k}")
        assert row.value == pytest.approx(float(expected), abs=1e-6)


def test_standard_errors_of_quantiles_say_what_few_steps_leave_open() -> None:
    trace = relu_gcn(0.5, random_graph(12))
    table = spectra(trace)
    for k in range(1, trace.num_layers + 1):
        values = torch.linalg.svdvals(trace.jacobian(k - 1, k).to_dense())
        for name, share in (("50", 0.5), ("10", 0.1)):
            expected = float(values.sort().values[math.ceil(share * len(values)) - 1])
            row = table.get(f"gain_quantile.{name}", f"layer:{k}")
            assert abs(row.value - expected) <= 4 * row.stderr + 1e-9


@pytest.mark.parametrize("bias", [-100.0, -0.5, 0.0, 0.5, 100.0])
def test_dead_inputs_and_outputs_are_counted(bias: float) -> None:
    trace = relu_gcn(bias)
    columns, rows = gains(trace), spectra(trace)
    for k in range(1, trace.num_layers + 1):
        dense = trace.jacobian(k - 1, k).to_dense()
        silent = (dense == 0).all(dim=0).double().mean()
        dead = (dense == 0).all(dim=1).double().mean()
        assert columns.value("zero_columns", f"layer:{k}") == float(silent)
        assert rows.value("zero_rows", f"layer:{k}") == float(dead)
        if bias == -100 and k < trace.num_layers:
            assert (float(silent), float(dead)) == (1, 1)


def test_a_dead_layer_has_no_gain() -> None:
    trace = relu_gcn(-100.0)
    table = gains(trace) + spectra(trace)
    for name in ("mean_squared_gain", "largest_singular_value", "gain_quantile.50"):
        assert table.value(name, "layer:2") == 0
    assert table.get("mean_squared_gain", "layer:2").stderr == 0


def test_equal_entries_do_not_pass_for_zeros() -> None:
    """Random signs of a probe cancel where a column has two equal entries."""
    model = ScaledChain(2, 2, 1.0, self_loops=False)
    trace = capture(Problem(model, ring(200)))
    table = gains(trace) + spectra(trace)
    for k in (1, 2):
        assert table.value("zero_columns", f"layer:{k}") == 0
        assert table.value("zero_rows", f"layer:{k}") == 0


def test_a_node_that_nobody_listens_to_is_a_zero_column() -> None:
    """A path towards the first node, without self-loops: the last column is empty."""
    data = random_graph(4)
    data.edge_index = torch.tensor([[1, 2, 3], [0, 1, 2]])
    model = ScaledChain(3, 1, 1.0, self_loops=False)
    data.y = torch.randn(4, 3)
    trace = capture(Problem(model, data))
    dense = trace.jacobian(0, 1).to_dense()
    silent = float((dense == 0).all(dim=0).double().mean())
    assert gains(trace).value("zero_columns", "layer:1") == silent >= 0.25


@given(st.integers(1, 3000), st.integers(2, 64))
def test_sampled_layers_are_spread_evenly(num_layers: int, count: int) -> None:
    layers = sampled_layers(num_layers, count)
    assert layers[0] == 1
    assert layers[-1] == num_layers
    assert len(layers) == min(count, num_layers)
    gaps = [b - a for a, b in itertools.pairwise(layers)]
    assert all(gap >= 1 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_at_most_sixteen_layers_are_sampled() -> None:
    assert MAX_SPECTRA == 16
    assert len(sampled_layers(64)) == 16
    trace = capture(Problem(ScaledChain(2, 40, 1.0), ring(4)))
    measured = spectra(trace, num_matvecs=2).series("largest_singular_value")[0]
    assert measured == sampled_layers(40)
    assert gains(trace).series("mean_squared_gain")[0] == list(range(1, 41))


def test_what_is_written_down() -> None:
    trace = relu_gcn(0.0)
    rows: list[Observation] = [*gains(trace), *spectra(trace)]
    assert {row.dtype for row in rows} == {"float64"}
    assert {row.name for row in rows if row.unit == "share"} == {
        "zero_rows",
        "zero_columns",
    }
    assert {row.name for row in rows if row.stderr is not None} == {
        "mean_squared_gain",
        "gain_quantile.50",
        "gain_quantile.10",
    }
    assert all(row.place.startswith("layer:") for row in rows)


def test_one_seed_gives_one_table_and_no_global_randomness() -> None:
    trace = relu_gcn(0.0)
    before = torch.get_rng_state()
    assert gains(trace) == gains(trace) != gains(trace, seed=1)
    assert spectra(trace) == spectra(trace)
    assert torch.equal(before, torch.get_rng_state())
