"""Resistances against closed forms, pseudo-inverses and hitting times."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import graphs
import pytest
import torch
from chains import complete_graph, ring
from torch import Tensor
from torch.testing import assert_close
from torch_geometric.data import Data

from graphfathom.theory import resistance
from graphfathom.theory.resistance import (
    commute_time,
    effective_resistance,
    total_effective_resistance,
)

BY_GRAPH = pytest.mark.parametrize("make", graphs.GRAPHS.values(), ids=graphs.GRAPHS)


def dense_adjacency(data: Data, weight: Tensor | None = None) -> Tensor:
    """Sum of each direction, mean of the directions stored, no self-loops."""
    size = int(data.num_nodes or 0)
    one_way = torch.zeros(size, size).double()
    values = torch.ones(data.num_edges) if weight is None else weight
    one_way.index_put_(tuple(data.edge_index), values.double(), accumulate=True)
    one_way.fill_diagonal_(0)
    directions = (one_way > 0).double() + (one_way.T > 0).double()
    return (one_way + one_way.T) / directions.clamp(min=1)


def reachable(adjacency: Tensor) -> Tensor:
    walks = torch.eye(len(adjacency)).double() + adjacency.sign()
    return torch.linalg.matrix_power(walks, len(adjacency)) > 0


def dense_resistance(adjacency: Tensor) -> Tensor:
    """By the pseudo-inverse, inf between components."""
    inverse = torch.linalg.pinv(
        adjacency.sum(1).diag() - adjacency, hermitian=True, rtol=1e-12
    )
    diagonal = inverse.diagonal()
    found = diagonal[:, None] + diagonal - 2 * inverse
    return torch.where(reachable(adjacency), found, math.inf)


def all_from_roots(
    measure: Callable[..., Tensor], data: Data, **options: Any
) -> Tensor:
    size = int(data.num_nodes or 0)
    rows = [measure(data.edge_index, size, root=u, **options) for u in range(size)]
    return torch.stack(rows)


def random_weight(data: Data) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(data.num_edges, generator=generator).double() * 5 + 0.1


@BY_GRAPH
@pytest.mark.parametrize("weighted", [False, True])
def test_the_pseudo_inverse_gives_the_same(
    make: Callable[[], Data], weighted: bool
) -> None:
    data = make()
    weight = random_weight(data) if weighted else None
    expected = dense_resistance(dense_adjacency(data, weight))
    size = len(expected)
    found = all_from_roots(effective_resistance, data, edge_weight=weight)
    assert found.dtype == torch.float64
    assert_close(found, expected, rtol=1e-10, atol=1e-12)
    pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size)).T
    by_pairs = effective_resistance(
        data.edge_index, size, pairs=pairs, edge_weight=weight
    )
    assert_close(by_pairs.view(size, size), expected, rtol=1e-10, atol=1e-12)
    total = total_effective_resistance(data.edge_index, size, weight)
    assert total == pytest.approx(float(expected.triu(1).sum()), rel=1e-10)


def test_a_path_has_the_distance() -> None:
    found = all_from_roots(effective_resistance, graphs.path_graph(7))
    i = torch.arange(7).double()
    assert_close(found, (i[:, None] - i).abs())


def test_a_cycle_has_two_ways_round() -> None:
    d = torch.arange(9).double()
    assert_close(effective_resistance(ring(9).edge_index, 9, root=0), d * (9 - d) / 9)
    # n (n^2 - 1) / 12 pairs' worth.
    total = total_effective_resistance(ring(9).edge_index, 9)
    assert total == pytest.approx(9 * 80 / 12)


def test_a_complete_graph_has_two_over_n() -> None:
    found = effective_resistance(complete_graph(8).edge_index, 8, root=3)
    expected = torch.full((8,), 2 / 8).double()
    expected[3] = 0
    assert_close(found, expected)


def test_resistances_in_series_add_and_in_parallel_their_inverses_do() -> None:
    weight = torch.tensor([2.0, 4.0, 1.0])
    found = effective_resistance(
        torch.tensor([[0, 1, 0], [1, 2, 2]]), 3, root=0, edge_weight=weight
    )
    series = 1 / 2 + 1 / 4
    assert float(found[2]) == pytest.approx(1 / (1 / series + 1))
    parallel = effective_resistance(
        torch.tensor([[0, 0], [1, 1]]), 2, root=0, edge_weight=torch.tensor([2.0, 3.0])
    )
    assert float(parallel[1]) == pytest.approx(1 / 5)


@BY_GRAPH
def test_foster(make: Callable[[], Data]) -> None:
    """Conductance times resistance, over all edges, is nodes less components."""
    data = make()
    adjacency = dense_adjacency(data, random_weight(data))
    pairs = adjacency.triu(1).nonzero().T
    found = effective_resistance(
        data.edge_index, len(adjacency), pairs=pairs, edge_weight=random_weight(data)
    )
    components = len({tuple(row) for row in reachable(adjacency).tolist()})
    total = float((found * adjacency[tuple(pairs)]).sum())
    assert total == pytest.approx(len(adjacency) - components)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_metric_that_no_new_edge_increases(seed: int) -> None:
    data = graphs.random_graph(9, seed)
    found = all_from_roots(effective_resistance, data)
    assert_close(found, found.T)
    longest = found[:, :, None] + found[None]  # u over w to v
    assert bool((found[:, None] <= longest.transpose(1, 2) + 1e-12).all())
    u, v = divmod(int(found.argmax()), 9)
    more = torch.cat([data.edge_index, torch.tensor([[u, v], [v, u]])], dim=1)
    data.edge_index = more
    assert bool((all_from_roots(effective_resistance, data) <= found + 1e-12).all())


def test_conductances_scale_and_nodes_have_no_order() -> None:
    data = graphs.random_graph(9)
    weight = random_weight(data)
    found = all_from_roots(effective_resistance, data, edge_weight=weight)
    scaled = all_from_roots(effective_resistance, data, edge_weight=4 * weight)
    assert_close(scaled, found / 4)
    order = torch.randperm(9)
    moved = Data(edge_index=order[data.edge_index], num_nodes=9)
    again = all_from_roots(effective_resistance, moved, edge_weight=weight)
    assert_close(again[order][:, order], found)


@pytest.mark.parametrize("make", [graphs.random_graph, graphs.directed_graph])
def test_commute_times_by_hitting_times(make: Callable[[], Data]) -> None:
    """Solve h = 1 + P h with h = 0 at the target, for each target."""
    data = make()
    weight = random_weight(data)
    adjacency = dense_adjacency(data, weight)
    step = adjacency / adjacency.sum(1, keepdim=True)
    size = len(adjacency)
    hitting = torch.zeros(size, size).double()
    for v in range(size):
        rest = torch.arange(size) != v
        system = (torch.eye(size).double() - step)[rest][:, rest]
        hitting[rest, v] = torch.linalg.solve(system, torch.ones(size - 1).double())
    found = all_from_roots(commute_time, data, edge_weight=weight)
    assert_close(found, hitting + hitting.T)


def test_the_volume_is_that_of_the_component() -> None:
    data = graphs.two_components()
    found = commute_time(data.edge_index, 6, root=4)
    assert found.tolist() == [math.inf] * 3 + [4, 0, 4]
    pairs = torch.tensor([[0, 3, 3], [1, 5, 0]])
    times = commute_time(data.edge_index, 6, pairs=pairs)
    assert_close(times, torch.tensor([6 * 2 / 3, 8, math.inf]).double())
    assert commute_time(torch.empty(2, 0).long(), 2, root=0).tolist() == [0, math.inf]


def test_loops_and_edges_of_weight_zero_carry_nothing() -> None:
    path = torch.tensor([[0, 0, 1, 0], [0, 1, 2, 2]])
    weight = torch.tensor([7.0, 1.0, 1.0, 0.0])
    options = {"root": 0, "edge_weight": weight}
    assert effective_resistance(path, 3, **options).tolist() == [0, 1, 2]
    assert commute_time(path, 3, **options).tolist() == [0, 4, 8]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.int32])
def test_precisions_of_the_weights(dtype: torch.dtype) -> None:
    path = torch.tensor([[0, 1], [1, 2]])
    weight = torch.tensor([2, 4]).to(dtype)
    found = effective_resistance(path.int(), 3, root=0, edge_weight=weight)
    assert found.tolist() == pytest.approx([0, 0.5, 0.75], rel=1e-15)


def test_no_pairs_and_a_pair_of_one_node() -> None:
    path = torch.tensor([[0, 1], [1, 2]])
    none = effective_resistance(path, 3, pairs=torch.empty(2, 0).long())
    assert none.shape == (0,)
    same = effective_resistance(path, 3, pairs=torch.tensor([[1], [1]]))
    assert same.tolist() == [0]


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = graphs.random_graph(9)
    whole = effective_resistance(data.edge_index, 9, root=2)
    total = total_effective_resistance(data.edge_index, 9)
    monkeypatch.setattr(resistance, "BLOCK", 27)
    assert_close(effective_resistance(data.edge_index, 9, root=2), whole)
    assert total_effective_resistance(data.edge_index, 9) == pytest.approx(total)


def test_a_long_path_needs_no_square_matrix() -> None:
    nodes = torch.arange(99_999)
    ends = torch.tensor([[0, 30_000], [99_999, 60_000]])
    path = torch.stack([nodes, nodes + 1])
    found = effective_resistance(path, 100_000, pairs=ends)
    assert found.tolist() == pytest.approx([99_999, 30_000], rel=1e-8)


@pytest.mark.parametrize("spread", [1, 3, 5, 8])
def test_a_right_number_or_a_refusal(spread: int) -> None:
    """Resistors in series, of which some are far larger than the others."""
    generator = torch.Generator().manual_seed(spread)
    nodes, refused = torch.arange(20), 0
    for _ in range(20):
        exponent = torch.rand(20, generator=generator, dtype=torch.float64) * 2 - 1
        weight = 10 ** (spread * exponent)
        path = torch.stack([nodes, nodes + 1])
        ends = torch.randint(21, (2, 9), generator=generator).sort(0).values
        expected = torch.stack([(1 / weight[u:v]).sum() for u, v in ends.T])
        try:
            found = effective_resistance(path, 21, pairs=ends, edge_weight=weight)
        except ValueError:
            refused += 1
        else:
            assert_close(found, expected, rtol=2e-6, atol=0)
    assert (refused > 0) is (spread == 8)


@pytest.mark.parametrize("weight", [1e12, 1e20])
def test_weights_that_rounding_would_decide_are_refused(weight: float) -> None:
    weights = torch.tensor([weight, 1.0], dtype=torch.float64)
    path = torch.tensor([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match=r"not differ so much .* from 1 to 1e\+"):
        effective_resistance(path, 3, root=2, edge_weight=weights)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ValueError, r"Exactly one of `root` and `pairs` .* Got neither"),
        ({"root": 0, "pairs": torch.zeros(2, 1)}, ValueError, r"Got both"),
        ({"root": 3}, ValueError, r"`root` must be a node, 0 to 2. Got 3"),
        ({"root": -1}, ValueError, r"`root` must be a node, 0 to 2. Got -1"),
        ({"pairs": torch.zeros(2, 1)}, TypeError, r"`pairs` must hold integers"),
        ({"pairs": torch.zeros(3).long()}, ValueError, r"`pairs` must have shape"),
        (
            {"pairs": torch.tensor([[0], [3]])},
            ValueError,
            r"`pairs` must lie in \[0, 2\], the nodes. Got values in \[0, 3\]",
        ),
        ({"root": 0, "num_nodes": 0}, ValueError, r"`num_nodes` must be at least 1"),
        (
            {"root": 0, "num_nodes": 2},
            ValueError,
            r"`edge_index` must lie in \[0, 1\], the nodes",
        ),
        (
            {"root": 0, "edge_index": torch.rand(2, 2)},
            TypeError,
            r"`edge_index` must hold integers",
        ),
        (
            {"root": 0, "edge_weight": torch.ones(3)},
            ValueError,
            r"`edge_weight` must have shape \(2,\)",
        ),
        (
            {"root": 0, "edge_weight": torch.tensor([1.0, math.nan])},
            ValueError,
            r"`edge_weight` must be finite and >= 0",
        ),
        (
            {"root": 0, "edge_weight": torch.tensor([1.0, -1.0])},
            ValueError,
            r"`edge_weight` must be finite .* Got values in \[-1.0, 1.0\]",
        ),
    ],
)
@pytest.mark.parametrize("measure", [effective_resistance, commute_time])
def test_bad_input(
    measure: Callable[..., Tensor],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    usual = {"edge_index": torch.tensor([[0, 1], [1, 2]]), "num_nodes": 3}
    with pytest.raises(error, match=message):
        measure(**(usual | options))
