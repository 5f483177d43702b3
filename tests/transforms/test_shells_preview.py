"""What shells are said to take, and the refusal of what takes too much."""

from __future__ import annotations

import math
from typing import Any

import graphs
import numpy as np
import pytest
import torch
from chains import complete_graph
from shells import hop_distances
from torch_geometric.data import Data

from graphfathom.transforms import (
    KHopShells,
    ShellPreview,
    shell_preview,
    shell_search,
    shells,
)

SIZE = 120


def uneven_graph() -> Data:
    """Hubs, chains, what leads one way only, and nodes without edges."""
    rng = np.random.default_rng(0)
    ends = rng.integers(0, SIZE - 20, (2, SIZE)) ** 2 // (SIZE - 20)
    return Data(edge_index=torch.from_numpy(ends), num_nodes=SIZE)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small graphs are sampled as large ones are."""
    monkeypatch.setattr(shell_search, "DENSE", 0)


def true_pairs(data: Data, k: int) -> list[int]:
    distance = hop_distances(data)
    return [int((distance == hop).sum()) for hop in range(1, k + 1)]


@pytest.mark.parametrize("make", graphs.GRAPHS.values(), ids=graphs.GRAPHS)
def test_small_graphs_are_counted(make: Any) -> None:
    data = make()
    found = KHopShells(12).preview(data)
    expected = [number for number in true_pairs(data, 12) if number]
    assert list(found.pairs) == expected
    assert found.is_exact
    assert found.stderr == (0.0,) * len(expected)
    assert found.total == sum(expected) == KHopShells(12)(data).shell_hop.numel()
    assert found.num_bytes == 24 * found.total
    assert found.times_edges == found.total / max(data.num_edges, 1)


def test_bytes_are_those_of_the_tensors() -> None:
    data = KHopShells(4)(graphs.random_graph())
    names = ("shell_index", "shell_hop")
    expected = sum(data[name].nbytes for name in names)
    assert KHopShells(4).preview(data).num_bytes == expected


@pytest.mark.usefixtures("sampled")
def test_the_estimate_is_unbiased_and_knows_its_error() -> None:
    """Over 400 samples: mean and spread as the formulas say, within four errors."""
    data, rounds = uneven_graph(), 400
    transform = KHopShells(4)
    generator = torch.Generator().manual_seed(1)
    found = [
        transform.preview(data, num_sources=40, generator=generator)
        for _ in range(rounds)
    ]
    truth = [*true_pairs(data, 4), sum(true_pairs(data, 4))]
    values = np.array([[*p.pairs, p.total] for p in found])
    errors = np.array([[*p.stderr, p.total_stderr] for p in found])
    spread = values.std(axis=0, ddof=1)
    assert (np.abs(values.mean(0) - truth) < 4 * spread / math.sqrt(rounds)).all()
    claimed = np.sqrt((errors**2).mean(axis=0))
    # The spread of 400 numbers is known to 3.5 %.
    assert np.allclose(claimed, spread, rtol=4 * 0.035)
    # Two errors cover 93 to 97 % of what is near normal.
    covered = (np.abs(values - truth) < 2 * errors).mean(axis=0)
    assert (covered > 0.9).all()


@pytest.mark.usefixtures("sampled")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_error_of_three_sources(seed: int) -> None:
    """Four nodes with 0 to 3 edges each, of which the same three are drawn here."""
    edges = [(u, v) for u in range(4) for v in range(u)]
    drawn = torch.randperm(4, generator=torch.Generator().manual_seed(seed))[:3]
    found = KHopShells(1).preview(
        graphs.make_graph(4, edges),
        num_sources=3,
        generator=torch.Generator().manual_seed(seed),
    )
    degrees = drawn.double()  # node u sends to u others
    assert found.total == pytest.approx(4 * float(degrees.mean()))
    expected = 4 * float(degrees.std()) * math.sqrt((1 - 3 / 4) / 3)
    assert found.total_stderr == pytest.approx(expected)


@pytest.mark.usefixtures("sampled")
@pytest.mark.parametrize("num_sources", [SIZE, SIZE + 1, 10**6])
def test_all_sources_are_exact(num_sources: int) -> None:
    data = uneven_graph()
    found = KHopShells(4).preview(data, num_sources=num_sources)
    assert found.is_exact
    assert list(found.pairs) == true_pairs(data, 4)
    assert found.total_stderr == 0


@pytest.mark.usefixtures("sampled")
def test_sources_with_very_many_pairs_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_preview, "ENOUGH", 1000)
    found = KHopShells(1).preview(complete_graph(100), num_sources=40)
    assert found.num_sources == 11  # have 1,089 pairs
    assert (found.total, found.total_stderr) == (9900, 0)
    monkeypatch.setattr(shell_preview, "ENOUGH", 1)
    assert KHopShells(1).preview(complete_graph(100)).num_sources == 8


@pytest.mark.usefixtures("sampled")
def test_the_sample_has_a_seed_of_its_own() -> None:
    data, transform = uneven_graph(), KHopShells(3)
    first = transform.preview(data, num_sources=20)
    torch.manual_seed(5)
    assert transform.preview(data, num_sources=20) == first
    other = torch.Generator().manual_seed(7)
    assert transform.preview(data, num_sources=20, generator=other) != first


def test_the_largest_k_that_fits() -> None:
    found = KHopShells(9).preview(graphs.path_graph(5))  # 8, 6, 4, 2 pairs
    limits = (7, 8, 13, 14, 19, 20, 100)
    assert [found.largest_k(limit) for limit in limits] == [0, 1, 1, 2, 3, 9, 9]


def test_a_preview_that_is_exact_reads_well() -> None:
    assert repr(KHopShells(4).preview(complete_graph(4))).splitlines() == [
        "ShellPreview(k=4): 4 nodes, 12 edges, searched from 4 nodes",
        "  hop 1: 12",
        "  in all: 12 pairs, 0.000288 MB, 1 times the edges",
        "  No pair is farther apart than hop 1.",
    ]


def test_an_estimate_reads_as_one() -> None:
    found = ShellPreview(
        k=3,
        num_nodes=5000,
        num_edges=10_000,
        num_sources=64,
        pairs=(10_012.5, 80_000.0),
        stderr=(100.0, 2000.0),
        total=90_012.5,
        total_stderr=2050.0,
    )
    assert repr(found).splitlines() == [
        "ShellPreview(k=3): 5,000 nodes, 10,000 edges, searched from 64 nodes",
        "  hop 1: about 10,012 ± 100",
        "  hop 2: about 80,000 ± 2,000",
        "  in all: about 90,012 ± 2,050 pairs, 2.16 MB, 9 times the edges",
        "  No pair of the sample is farther apart than hop 2.",
    ]


def test_a_graph_that_just_fits_is_not_refused() -> None:
    data = graphs.path_graph(5)
    assert KHopShells(2, max_pairs=14)(data).shell_hop.numel() == 14


def test_a_graph_that_takes_too_much_is_refused_with_its_cost() -> None:
    data = graphs.path_graph(5)
    message = (
        r"up to hop 3 must have at most 17 pairs \(`max_pairs`\)\. Got 18 pairs, "
        r"0\.000432 MB, 2\.25 times the edges: choose `k` <= 2 or a larger `max_pairs`"
    )
    with pytest.raises(ValueError, match=message):
        KHopShells(3, max_pairs=17)(data)


def test_a_graph_whose_edges_alone_are_too_many() -> None:
    with pytest.raises(ValueError, match=r"choose another graph \(no `k` is small"):
        KHopShells(1, max_pairs=11)(complete_graph(4))


def test_what_cannot_be_too_much_is_not_previewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(shells, "preview_shells")
    assert KHopShells(3, max_pairs=20)(graphs.path_graph(5)).shell_hop.numel() == 18


@pytest.mark.usefixtures("sampled")
def test_a_refusal_comes_before_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(shells, "search")
    data = complete_graph(100)
    with pytest.raises(ValueError, match=r"Got about 9,900 ± 0 pairs"):
        KHopShells(2, max_pairs=5000)(data)


@pytest.mark.usefixtures("sampled")
def test_the_search_stops_where_a_sample_was_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few nodes have all pairs, and no sample of this seed has any of them."""
    size, clique = 1000, torch.arange(10)
    edge_index = torch.cartesian_prod(clique, clique).T
    data = Data(edge_index=edge_index, num_nodes=size)
    assert KHopShells(1).preview(data).total == 0
    found: list[int] = []

    def counted(*arguments: Any) -> Any:
        for hop, pairs in shell_search.search(*arguments):
            found.append(len(pairs))
            yield hop, pairs

    monkeypatch.setattr(shells, "search", counted)
    monkeypatch.setattr(shell_search, "BYTES", size)  # one source at a time
    message = r"at most 30 pairs .* Got more, where the search was stopped: choose"
    with pytest.raises(ValueError, match=message):
        KHopShells(1, max_pairs=30)(data)
    assert found == [9] * 4


@pytest.mark.parametrize("value", [1, 0, 2.5, True])
def test_a_sample_needs_two_sources(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"`num_sources` must be an integer >= 2\. Got"
    ):
        KHopShells(2).preview(graphs.path_graph(), num_sources=value)
