"""Cost of the matrix-free measures against the size of the graph.

Command: ``python benchmarks/jacobian_scaling.py`` (about ten minutes on two cores,
12 GB). Random graphs of mean degree 6 with 1e3 to 1e6 nodes, a ReLU GCN layer of 16
channels, float64. Measured are one gain (two probes of the squared Frobenius norm) and
ten Golub-Kahan steps. ``ratio`` is the slope of the seconds in log-log from 1e4 nodes
on: 1 is linear. Every number is also drawn, in results/jacobian_scaling.svg. The gain
must agree with that of the assembled matrix on the smallest graph, or the script fails.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from _claim import RESULTS, parse, publish
from _jacobians import Layer
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv

import graphfathom as gf
from graphfathom.linalg import golub_kahan, squared_frobenius
from graphfathom.linalg.vector import gaussian_vector

CHANNELS, MEAN_DEGREE, STEPS = 16, 6, 10


def graph(num_nodes: int) -> Data:
    """A random graph of three edges per node, in both directions."""
    generator = torch.Generator().manual_seed(0)
    count = num_nodes * MEAN_DEGREE // 2
    ends = torch.randint(num_nodes, (2, count), generator=generator)
    x = torch.randn(num_nodes, CHANNELS, dtype=torch.float64, generator=generator)
    edges = torch.cat([ends, ends.flip(0)], dim=1)
    return Data(x, edges, y=torch.zeros(num_nodes, dtype=torch.long))


def timed(run: Any, rounds: int) -> float:
    """Median seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(num_nodes: int, rounds: int) -> dict[str, float] | None:
    """Seconds at one size; None if the gain is wrong."""
    torch.manual_seed(0)
    model = Layer(GCNConv(CHANNELS, CHANNELS)).double()
    trace = gf.capture(gf.Problem(model, graph(num_nodes)))
    jacobian = trace.jacobian(0, 1)
    generator = torch.Generator().manual_seed(0)
    start = gaussian_vector(
        jacobian.shape[1], jacobian.dtype, jacobian.device, generator=generator
    )
    if num_nodes <= 1000:
        blocks = gf.diagnostics.sparse_jacobian(trace, 1).matrix.blocks
        found = squared_frobenius(jacobian, 100, generator=generator)
        if not abs(found.value - float(blocks.square().sum())) <= 4 * found.stderr:
            return None
    return {
        "gain": timed(lambda: squared_frobenius(jacobian, 2), rounds),
        "golub_kahan": timed(lambda: golub_kahan(jacobian, STEPS, start), rounds),
    }


def draw(sizes: list[int], seconds: dict[str, list[float]]) -> None:
    """The plot beside the result."""
    from matplotlib.figure import Figure

    from graphfathom.plotting import BLUE, ORANGE, to_svg

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    ax = figure.add_subplot()
    labels = {"gain": "one gain, two probes", "golub_kahan": "ten Golub-Kahan steps"}
    for (name, values), colour in zip(seconds.items(), (BLUE, ORANGE), strict=True):
        marker = {"gain": "o", "golub_kahan": "s"}[name]
        slope = fit(sizes, values)
        label = f"{labels[name]}: slope {slope:.2f}"
        ax.loglog(sizes, values, color=colour, marker=marker, label=label)
    ax.set(xlabel="nodes (mean degree 6, 16 channels)", ylabel="seconds")
    ax.legend(frameon=False)
    path = RESULTS / "jacobian_scaling.svg"
    path.write_text(to_svg(figure), encoding="utf-8")


def fit(sizes: list[int], seconds: list[float]) -> float:
    """Slope in log-log over the larger sizes, where overheads are small."""
    pairs = [(n, s) for n, s in zip(sizes, seconds, strict=True) if n >= 10_000]
    if len(pairs) < 2:
        pairs = list(zip(sizes, seconds, strict=True))
    x, y = np.log10(np.array(pairs)).T
    return float(np.polyfit(x, y, 1)[0])


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    sizes = [10**3, 10**4] if options.quick else [10**3, 10**4, 10**5, 3 * 10**5, 10**6]
    seconds: dict[str, list[float]] = {"gain": [], "golub_kahan": []}
    for size in sizes:
        found = measure(size, 1 if options.quick else 3)
        if found is None:
            print(f"{size} nodes: the gain is not that of the assembled matrix")
            return 1
        for name, value in found.items():
            seconds[name].append(round(value, 4))
        print(size, found, flush=True)
    if not options.quick:
        draw(sizes, seconds)
    slopes = {name: round(fit(sizes, values), 2) for name, values in seconds.items()}
    result = {
        "claim": "jacobian_scaling",
        "ours": seconds,
        "peer": None,
        "ratio": max(slopes.values()),
        "unit": "slope of seconds over nodes, log-log",
        "slopes": slopes,
        "size": sizes,
        "rounds": 1 if options.quick else 3,
    }
    publish(result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
