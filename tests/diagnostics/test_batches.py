"""Measures of several mini-batches as those of one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from graphs import path_graph, random_graph
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GCN

from graphfathom.diagnostics.batches import combine_batches
from graphfathom.diagnostics.energy import energy_observations
from graphfathom.diagnostics.gradients import gradient_observations
from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem


def table(*values: float, name: str = "loss", **fields: object) -> Observations:
    return Observations(
        Observation(name, "model", value, batch=b, **fields)
        for b, value in enumerate(values)
    )


def logs(*values: float, **fields: object) -> Observations:
    found = [math.log10(v) if v else -math.inf for v in values]
    return table(*found, unit="log10", **fields)


def combined(rows: Observations, *weights: float) -> Observation:
    (row,) = combine_batches(rows, dict(enumerate(weights)))
    return row


def measured(data: Data, batch: int, model: GCN) -> list[Observation]:
    structure = GraphStructure.from_edge_index(data.edge_index, data.num_nodes)
    trace = capture(Problem(model, data))
    rows = gradient_observations(trace, structure)
    rows += energy_observations([s.main for s in trace.states], structure)
    return [replace(row, batch=batch) for row in rows]


def test_batches_against_their_union() -> None:
    graphs = [random_graph(8), path_graph(5)]
    torch.manual_seed(0)
    model = GCN(3, 4, 3, 2)
    rows = [row for b, g in enumerate(graphs) for row in measured(g, b, model)]
    found = combine_batches(Observations(rows), {0: 8, 1: 5})
    whole = Observations(measured(Batch.from_data_list(graphs), 0, model))
    assert {r.batch for r in found} == {0}
    for k in range(1, 4):
        place = f"layer:{k}"
        exact = whole.value("gradient.weights", place)
        assert found.value("gradient.weights", place) >= exact - 1e-12
    for k in range(4):
        place = f"state:{k}"
        exact = whole.value("gradient.state", place)
        assert found.value("gradient.state", place) >= exact - 1e-12
        # Each energy is a sum over the nodes of its graph.
        name = "dirichlet_energy.combinatorial"
        parts = [10 ** Observations([r]).value(name, place) for r in rows]
        first, second = (part for part in parts if not math.isnan(part))
        mean = math.log10((8 * first + 5 * second) / 13)
        assert found.value(name, place) == pytest.approx(mean)


def test_equal_batches_are_one_of_them() -> None:
    rows = measured(random_graph(), 0, GCN(3, 4, 3, 2))
    both = Observations([*rows, *(replace(row, batch=1) for row in rows)])
    found = combine_batches(both, {0: 1.0, 1: 7.0})
    assert [r.name for r in found] == [r.name for r in rows]
    values = [r.value for r in found]
    assert values == pytest.approx([r.value for r in rows], nan_ok=True)


def test_norms_are_root_mean_squares_and_shares_are_means() -> None:
    assert combined(table(1.0, 4.0), 2, 1).value == 2.0
    root = math.log10(math.sqrt((2 * 1 + 16) / 3))
    assert combined(logs(1.0, 4.0, name="n"), 2, 1).value == pytest.approx(root)
    energy = logs(1.0, 4.0, name="dirichlet_energy.normalized")
    assert combined(energy, 2, 1).value == pytest.approx(math.log10(2))


def test_logarithms_beyond_the_range_of_floats() -> None:
    tiny = table(-4000.0, -4000.0, unit="log10")
    assert combined(tiny, 1, 1).value == pytest.approx(-4000)
    assert combined(logs(0.0, 0.0), 1, 1).value == -math.inf
    assert combined(logs(0.0, 2.0), 1, 1).value == pytest.approx(0.5 * math.log10(2))
    assert combined(table(math.inf, 0.0, unit="log10"), 1, 1).value == math.inf


@pytest.mark.parametrize("unit", ["1", "log10"])
def test_what_is_not_defined_in_one_batch_is_not_defined(unit: str) -> None:
    for values in ((math.nan, 1.0), (1.0, math.nan), (math.inf, math.nan)):
        assert math.isnan(combined(table(*values, unit=unit), 1, 1).value)


def test_standard_errors_of_independent_estimates() -> None:
    assert combined(table(1.0, 2.0, stderr=0.3), 1, 1).stderr == pytest.approx(
        0.3 / math.sqrt(2)
    )
    log10 = combined(logs(1.0, 1.0, stderr=0.3), 1, 1)
    assert log10.stderr == pytest.approx(0.3 / math.sqrt(2))
    # A batch without signal adds nothing to the error either.
    assert combined(logs(1.0, 0.0, stderr=0.3), 1, 1).stderr == pytest.approx(0.3)
    rows = [*table(1.0, 2.0)]
    rows[0] = replace(rows[0], stderr=0.1)
    assert combined(Observations(rows), 1, 1).stderr is None


def test_rows_are_told_apart_and_the_latest_counts() -> None:
    rows = [*table(1.0, 1.0), *table(2.0, 4.0), *table(9.0, 9.0, run="mlp")]
    rows += [*table(5.0, 5.0, step=3), Observation("only", "model", 1.0, batch=1)]
    found = combine_batches(Observations(rows), {0: 1, 1: 1})
    assert [(r.value, r.run, r.step) for r in found] == [
        (3.0, "model", 0),
        (9.0, "mlp", 0),
        (5.0, "model", 3),
    ]


def test_relative_gradients_are_made_from_the_combined_norms() -> None:
    values = {0: (0.0, 1.0), 1: (2.0, -3.0)}
    rows = [
        Observation(name, f"state:{k}", v, None, "log10", batch=b)
        for b, pair in values.items()
        for k, v in enumerate(pair)
        for name in ("gradient.state", "gradient.state.relative")
    ]
    found = combine_batches(Observations(rows), {0: 1, 1: 1})
    first, last = (found.value("gradient.state", f"state:{k}") for k in (0, 1))
    ratios = found.series("gradient.state.relative")[1]
    assert ratios == pytest.approx([first - last, 0.0])
    dead = Observations(replace(row, value=-math.inf) for row in rows)
    ratios = combine_batches(dead, {0: 1, 1: 1}).series("gradient.state.relative")[1]
    assert all(map(math.isnan, ratios))


@pytest.mark.parametrize("weights", [{0: 1.0}, {0: 1.0, 1: 1.0, 2: 1.0}, {}])
def test_weights_that_are_not_those_of_the_batches(weights: dict[int, float]) -> None:
    with pytest.raises(ValueError, match=r"each batch of the table, \[0, 1\]. Got num"):
        combine_batches(table(1.0, 2.0), weights)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_weights_that_are_none(weight: float) -> None:
    with pytest.raises(ValueError, match=r"must be finite and > 0\. Got .*leave out"):
        combine_batches(table(1.0, 2.0), {0: 1.0, 1: weight})
