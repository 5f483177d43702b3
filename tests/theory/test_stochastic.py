"""Symmetric stochastic matrices and their rates, against dense ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from graphs import (
    directed_graph,
    no_edges,
    one_node,
    path_graph,
    random_graph,
    ring_graph,
    two_components,
)
from scipy.sparse import csr_array
from torch_geometric.data import Data

from graphfathom.theory.stochastic import laplacian_walk, sinkhorn, smoothing_rate

GRAPHS = [random_graph(), path_graph(), ring_graph(), two_components(), no_edges()]
MATRICES = pytest.mark.parametrize("build", [laplacian_walk, sinkhorn])


@MATRICES
@pytest.mark.parametrize("data", [*GRAPHS, one_node()])
def test_symmetric_and_stochastic(build, data: Data) -> None:
    matrix = build(data.edge_index, data.num_nodes).toarray()
    assert (matrix >= 0).all()
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-11)
    dense = np.eye(data.num_nodes)
    dense[tuple(data.edge_index.numpy())] = 1
    np.testing.assert_array_equal(matrix > 0, dense > 0)


def test_laplacian_walk_is_what_it_says() -> None:
    data = random_graph()
    dense = np.zeros((8, 8))
    dense[tuple(data.edge_index.numpy())] = 1
    degree = dense.sum(1)
    expected = np.eye(8) - (np.diag(degree) - dense) / (degree.max() + 1)
    found = laplacian_walk(data.edge_index, 8).toarray()
    np.testing.assert_allclose(found, expected, atol=1e-15)


@MATRICES
@pytest.mark.parametrize("data", GRAPHS)
def test_rate_and_multiplicity(build, data: Data) -> None:
    matrix = build(data.edge_index, data.num_nodes)
    values = np.linalg.eigvalsh(matrix.toarray())
    found = smoothing_rate(matrix)
    components = int((values > 1 - 1e-9).sum())
    assert found.multiplicity == components
    rest = np.abs(np.sort(values)[:-components])
    assert found.rate == pytest.approx(rest.max(initial=0.0))
    assert found.alternating == 0  # the diagonal is positive


def test_loops_and_doubles_count_once() -> None:
    data = path_graph()
    more = torch.cat(
        [data.edge_index, data.edge_index[:, :2], torch.tensor([[1], [1]])], 1
    )
    for build in (laplacian_walk, sinkhorn):
        expected = build(data.edge_index, 6).toarray()
        np.testing.assert_array_equal(build(more, 6).toarray(), expected)


def test_alternating_components_are_counted() -> None:
    pair = csr_array(np.array([[0.0, 1.0], [1.0, 0.0]]))
    found = smoothing_rate(pair)
    assert (found.rate, found.multiplicity, found.alternating) == (0.0, 1, 1)


def test_rate_of_a_ring() -> None:
    n = 12
    data = ring_graph(n)
    expected = (1 + 2 * math.cos(2 * math.pi / n)) / 3
    for build in (laplacian_walk, sinkhorn):
        found = smoothing_rate(build(data.edge_index, n))
        assert found.rate == pytest.approx(expected)


def test_bad_input() -> None:
    data = directed_graph()
    for build in (laplacian_walk, sinkhorn):
        with pytest.raises(ValueError, match=r"both directions of each edge. Got"):
            build(data.edge_index, data.num_nodes)
    with pytest.raises(ValueError, match=r"`matrix` must be symmetric"):
        smoothing_rate(csr_array(np.triu(np.ones((3, 3)))))
    with pytest.raises(ValueError, match=r"rows that sum to 1. Got a smallest entry"):
        smoothing_rate(csr_array(np.ones((3, 3))))
