"""A thousand layers train in the memory that a few dozen take without checkpoints.

Command: ``python benchmarks/memory_depth.py`` (about ten minutes on two cores, 6 GB).
The aim is under 500 MB of activations with ``checkpoint="sqrt"`` at 1,000 layers of
width 64 on Cora. ``memory`` is what tensors hold at most during a training step beyond
what they held before it: what the backward pass keeps and computes again, and the
gradients; read from every allocation that torch's profiler reports. The peer is the
same network without checkpoints. ``resident`` is how far the process grows: C's
allocator keeps much of what is freed. All three settings must have the same gradients
under dropout, or the script fails.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from _claim import cora, parse, publish
from _memory import grown, peak
from torch_geometric.data import Data

from graphfathom.nn import GNNSSM

SETTINGS = ("none", "every", "sqrt")
WIDTH = 64
MEGABYTE = 1e6


@dataclass(frozen=True)
class Cost:
    """What one training step took."""

    megabytes: float
    resident: float
    seconds: float
    gradients: torch.Tensor


def network(num_layers: int, checkpoint: str, data: Data) -> GNNSSM:
    """The same weights for all settings."""
    torch.manual_seed(0)
    classes = int(data.y.max()) + 1
    return GNNSSM(
        data.num_features,
        WIDTH,
        classes,
        num_layers,
        dropout=0.5,
        checkpoint=checkpoint,
    )


def step(model: GNNSSM, data: Data) -> None:
    """Loss and gradients of one training step."""
    torch.manual_seed(1)
    model.zero_grad()
    output = model(data.x, data.edge_index)
    F.cross_entropy(output[data.train_mask], data.y[data.train_mask]).backward()


def measure(setting: str, num_layers: int, threads: int) -> Cost:
    """Cost of a setting in this process, which has done nothing else."""
    torch.set_num_threads(threads)
    data, _ = cora()
    step(network(2, setting, data), data)  # loads what torch loads at the first use
    model = network(num_layers, setting, data)
    larger = grown(lambda: step(model, data))
    start = time.perf_counter()
    step(model, data)
    seconds = time.perf_counter() - start
    model.zero_grad()
    held = peak(lambda: step(model, data))
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    return Cost(held / MEGABYTE, larger / MEGABYTE, seconds, gradients)


def measure_apart(setting: str, num_layers: int, threads: int) -> Cost:
    """The same in a new process, whose memory was never used for anything else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (setting, num_layers, threads))


def differing(costs: dict[str, Cost]) -> str:
    """The first setting whose gradients are not those of no checkpoints, or ""."""
    expected = costs["none"].gradients
    for setting, cost in costs.items():
        error = float((cost.gradients - expected).norm() / expected.norm())
        if not error < 1e-5:
            return f"{setting}: the gradients differ by {error:.1e} of their norm"
    return ""


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    num_layers, rounds = (100, 1) if options.quick else (1000, 3)
    costs: dict[str, list[Cost]] = {setting: [] for setting in SETTINGS}
    for _ in range(rounds):
        for setting in SETTINGS:
            cost = measure_apart(setting, num_layers, options.threads)
            costs[setting].append(cost)
    if problem := differing({s: costs[s][0] for s in SETTINGS}):
        print(problem)
        return 1

    def median(name: str) -> dict[str, float]:
        return {
            s: statistics.median(getattr(cost, name) for cost in costs[s])
            for s in SETTINGS
        }

    memory, held, seconds = map(median, ("megabytes", "resident", "seconds"))
    for s in SETTINGS:
        print(f"{s:>6}: {memory[s]:5.0f} MB, {seconds[s]:5.2f} s a step")
    publish(
        {
            "claim": "memory_depth",
            "ours": round(memory["sqrt"]),
            "peer": round(memory["none"]),
            "ratio": round(memory["none"] / memory["sqrt"], 2),
            "unit": "MB that tensors hold more in a step; peer: no checkpoints",
            "size": f"GNNSSM, {num_layers} layers of width {WIDTH}, {cora()[1]}",
            "memory": {s: round(memory[s]) for s in SETTINGS},
            "resident": {s: round(held[s]) for s in SETTINGS},
            "seconds": {s: round(seconds[s], 2) for s in SETTINGS},
            "rounds": rounds,
        },
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
