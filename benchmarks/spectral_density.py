"""The density of all singular values of a layer, against products with its matrix.

Command: ``python benchmarks/spectral_density.py`` (about four minutes on two cores).
A ReLU GCN layer on Cora, 64 channels, float64: 30 steps from each of 10 probes, so 600
products, with full orthogonalisation. The peer is nothing but as many products of
SciPy's CSR format with the assembled matrix of 173,312 rows, half of them transposed.
``ours`` takes the closed form of the layer, ``derivative`` the products of autograd,
which any layer has. The mean squared gain must be that of the matrix within four
standard errors, and products must agree, or the script fails.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from _claim import cora, interleaved, parse, publish
from jacobian_cora import problem

import graphfathom as gf
from graphfathom.linalg import spectral_density

PROBES = 10


def density(operator: Any, steps: int) -> gf.linalg.SpectralDensity:
    """What is timed."""
    generator = torch.Generator().manual_seed(0)
    return spectral_density(operator, steps, PROBES, generator=generator)


def products(matrix: Any, steps: int) -> Callable[[], None]:
    """As many products with a SciPy matrix."""
    m, n = matrix.shape
    v, w = torch.randn(n).double().numpy(), torch.randn(m).double().numpy()

    def run() -> None:
        for _ in range(steps * PROBES):
            matrix @ v
            matrix.T @ w

    return run


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    channels, steps, rounds = (8, 10, 1) if options.quick else (64, 30, 3)
    trace = gf.capture(gf.Problem(*problem(channels, torch.relu)))
    found = gf.diagnostics.sparse_jacobian(trace, 1)
    matrix = found.matrix.to_csr()
    chi = density(found.form, steps).mean_squared_gain
    exact = float(found.matrix.blocks.square().sum()) / matrix.shape[1]
    if not abs(chi.value - exact) <= 4 * chi.stderr:
        print(f"mean squared gain {chi}, of the matrix {exact}")
        return 1
    times = interleaved(
        lambda: density(found.form, steps), products(matrix, steps), rounds
    )
    start = time.perf_counter()
    density(trace.jacobian(0, 1), steps)
    derivative = time.perf_counter() - start
    result = {
        "claim": "spectral_density",
        "ours": round(times[0], 2),
        "peer": round(times[1], 2),
        "ratio": round(times[1] / times[0], 2),
        "unit": "s",
        "derivative": round(derivative, 2),
        "size": {"graph": cora()[1], "channels": channels, "rows": matrix.shape[0]},
        "products": 2 * steps * PROBES,
        "rounds": rounds,
    }
    publish(result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
