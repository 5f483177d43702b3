"""Modes of a diffusion against all eigenvectors of the dense Laplacian."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array, kron

from graphfathom.transforms.slow_modes import DENSE, slow_modes


def path(size: int) -> csr_array:
    return csr_array(np.eye(size, k=1) + np.eye(size, k=-1))


def grid(height: int, width: int) -> csr_array:
    loops = csr_array(np.eye(height)), csr_array(np.eye(width))
    return csr_array(kron(path(height), loops[1]) + kron(loops[0], path(width)))


def random_graph(size: int) -> csr_array:
    """A path and twice as many chords."""
    chords = np.random.default_rng(0).integers(size, size=(2, 2 * size))
    chords = chords[:, chords[0] != chords[1]]
    dense = path(size).toarray()
    dense[chords[0], chords[1]] = dense[chords[1], chords[0]] = 1
    return csr_array(dense)


def laplacian(adjacency: csr_array) -> np.ndarray:
    dense = adjacency.toarray()
    return np.diag(dense.sum(1)) - dense


GRAPHS = {
    "path": path(DENSE + 50),
    "grid": grid(18, 35),
    "random": random_graph(DENSE + 50),
}


def check_galerkin(adjacency: csr_array, values: np.ndarray, modes: np.ndarray) -> None:
    """The modes are orthonormal, and the Laplacian is diagonal on them."""
    inside = modes.T @ laplacian(adjacency) @ modes
    np.testing.assert_allclose(inside, np.diag(values), atol=1e-10)
    np.testing.assert_allclose(modes.T @ modes, np.eye(len(values)), atol=1e-10)
    np.testing.assert_allclose(modes.sum(0), 0, atol=1e-10)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_few_modes_of_a_large_graph(name: str) -> None:
    adjacency = GRAPHS[name]
    values, modes = slow_modes(adjacency, rank=12)
    exact = np.linalg.eigvalsh(laplacian(adjacency))[1:13]
    check_galerkin(adjacency, values, modes)
    assert (values >= exact * (1 - 1e-9)).all()
    np.testing.assert_allclose(values[:8], exact[:8], rtol=0.01)


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_small_graphs_are_exact(rank: int) -> None:
    adjacency = grid(3, 5)
    values, modes = slow_modes(adjacency, rank)
    exact = np.linalg.eigvalsh(laplacian(adjacency))[1:]
    np.testing.assert_allclose(values, exact[:rank], rtol=1e-10)
    check_galerkin(adjacency, values, modes)


def test_many_modes_of_a_large_graph_are_exact() -> None:
    adjacency = GRAPHS["path"]
    number = (DENSE + 50) // 5
    values, _ = slow_modes(adjacency, number)
    angle = np.arange(1, number + 1) * np.pi / (DENSE + 50)
    np.testing.assert_allclose(values, 2 - 2 * np.cos(angle), rtol=1e-8)
