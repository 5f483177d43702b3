"""Matrices with known singular values, and seeded generators."""

import torch


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator(seed))


def with_spectrum(m: int, n: int, values: list[float], seed: int = 0) -> torch.Tensor:
    """A matrix with these singular values, and zeros if they are too few."""
    U, _ = torch.linalg.qr(gaussian(m, m, seed=seed))
    V, _ = torch.linalg.qr(gaussian(n, n, seed=seed + 1))
    k = len(values)
    return U[:, :k] @ torch.tensor(values, dtype=torch.float64).diag() @ V[:, :k].mT
