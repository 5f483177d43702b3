"""Bounds of contraction on random networks, and where they are attained."""

from __future__ import annotations

import math

import graphs
import pytest
import torch
from torch import Tensor

from graphfathom.nn import gcn_adjacency
from graphfathom.theory import log10_energy_bound, log10_norm_bound, norm_at_zero

EDGES = graphs.random_graph(7).edge_index
ADJACENCY = gcn_adjacency(EDGES, num_nodes=7, dtype=torch.float64).to_dense()


def energy(h: Tensor) -> float:
    """Each undirected edge once."""
    source, target = EDGES[:, EDGES[0] < EDGES[1]]
    return float((h[source] - h[target]).square().sum())


@pytest.mark.parametrize("act", [torch.tanh, torch.relu])
@pytest.mark.parametrize("scale", [0.2, 1.0])
def test_propositions_4_2_and_4_3(act, scale: float) -> None:
    weights = scale * (torch.randn(6, 3, 3) + 0.5).double()
    x = h = torch.randn(7, 3).double()
    for weight in weights:
        assert norm_at_zero(lambda h, w=weight: act(ADJACENCY @ h @ w), x) == 0
        h = act(ADJACENCY @ h @ weight)
    lipschitz = torch.linalg.matrix_norm(weights, 2)
    bound = log10_norm_bound(lipschitz, float(x.norm()))
    assert math.log10(float(h.norm())) <= bound
    undirected, degree = EDGES.shape[1] // 2, int(EDGES[0].bincount().max())
    loose = log10_energy_bound(lipschitz, float(x.norm()), undirected)
    sharp = log10_energy_bound(lipschitz, float(x.norm()), undirected, degree)
    assert math.log10(energy(h)) <= sharp < loose
    assert sharp == pytest.approx(2 * bound + math.log10(2 * degree))


def test_the_norm_bound_is_attained() -> None:
    vector = torch.linalg.eigh(ADJACENCY).eigenvectors[:, -1:]  # of the eigenvalue 1
    h = vector
    for _ in range(5):
        h = ADJACENCY @ h * 0.5
    bound = log10_norm_bound(torch.full((5,), 0.5), 1.0)
    assert math.log10(float(h.norm())) == pytest.approx(bound)


def test_the_energy_bound_is_attained_on_one_edge() -> None:
    """Two nodes with opposite features: |a - b|^2 = 4 = 2 (|a|^2 + |b|^2)."""
    assert 10 ** log10_energy_bound(torch.ones(3), math.sqrt(2), 1) == pytest.approx(4)


def test_a_bias_or_a_sigmoid_breaks_lemma_4_1() -> None:
    x = torch.ones(2, 3)
    assert norm_at_zero(torch.sigmoid, x) == pytest.approx(0.5 * math.sqrt(6))
    assert norm_at_zero(torch.nn.Linear(3, 3), x) > 0


def test_ends_of_the_range() -> None:
    assert log10_norm_bound(torch.tensor([1.0, 0.0]), 1.0) == -math.inf
    assert log10_norm_bound(torch.ones(2), 0.0) == -math.inf
    assert log10_energy_bound(torch.ones(2), 1.0, 0) == -math.inf
    thousand = torch.full((10_000,), 0.5).double()
    assert log10_norm_bound(thousand, 1.0) == pytest.approx(1e4 * math.log10(0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.tensor([1.0, -1.0]), 1.0, 3), r"`lipschitz` must hold.*-1.0"),
        ((torch.tensor([math.nan]), 1.0, 3), r"`lipschitz` must hold.*nan"),
        ((torch.ones(2, 2), 1.0, 3), r"`lipschitz` must hold.*\(2, 2\)"),
        ((torch.ones(2), math.nan, 3), r"`norm` must be >= 0. Got nan"),
        ((torch.ones(2), 1.0, -3), r"`num_edges` and `max_degree` .* Got \[-3\]"),
    ],
)
def test_bad_input(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        log10_energy_bound(*arguments)
