"""A thousand layers train in the memory that a few dozen take without checkpoints.

Command: ``python benchmarks/memory_depth.py`` (about five minutes on two cores, 4 GB).
Expected: under 500 MB with ``checkpoint="sqrt"`` at 1,000 layers of width 64 on Cora.
Each setting runs in a process of its own, and its memory is what a training step adds
to the resident memory at its highest: what the backward pass keeps and computes again,
and the gradients. The peer is the same network without checkpoints. All three must have
the same gradients under dropout, or the script fails.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from _claim import cora, parse, publish
from torch_geometric.data import Data

from graphfathom.nn import GNNSSM

SETTINGS = ("none", "every", "sqrt")
WIDTH = 64
MEGABYTE = 1e6


@dataclass(frozen=True)
class Cost:
    """What one training step took."""

    megabytes: float
    seconds: float
    gradients: torch.Tensor


def resident(field: str) -> int:
    """Bytes of this process: ``VmRSS`` now, ``VmHWM`` at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: this script needs Linux.")


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
    before = resident("VmRSS")
    step(model, data)
    added = resident("VmHWM") - before
    start = time.perf_counter()
    step(model, data)
    seconds = time.perf_counter() - start
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    return Cost(added / MEGABYTE, seconds, gradients)


def measure_apart(setting: str, num_layers: int, threads: int) -> Cost:
    """The same in a new process, whose memory was never used for anything else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (setting, num_layers, threads))


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    num_layers, rounds = (100, 1) if options.quick else (1000, 3)
    costs: dict[str, list[Cost]] = {setting: [] for setting in SETTINGS}
    for _ in range(rounds):
        for setting in SETTINGS:
            cost = measure_apart(setting, num_layers, options.threads)
            costs[setting].append(cost)
    expected = costs["none"][0].gradients
    for setting in SETTINGS:
        found = costs[setting][0].gradients
        error = float((found - expected).norm() / expected.norm())
        if not error < 1e-5:
            print(f"{setting}: the gradients differ by {error:.1e} of their norm")
            return 1
    memory = {s: statistics.median(c.megabytes for c in costs[s]) for s in SETTINGS}
    seconds = {s: statistics.median(c.seconds for c in costs[s]) for s in SETTINGS}
    for setting in SETTINGS:
        print(
            f"{setting:>6}: {memory[setting]:7.0f} MB, {seconds[setting]:6.2f} s a step"
        )
    publish(
        {
            "claim": "memory_depth",
            "ours": round(memory["sqrt"]),
            "peer": round(memory["none"]),
            "ratio": round(memory["none"] / memory["sqrt"], 2),
            "unit": "MB that a training step adds; peer: no checkpoints",
            "size": f"GNNSSM, {num_layers} layers of width {WIDTH}, {cora()[1]}",
            "every": round(memory["every"]),
            "seconds": {setting: round(seconds[setting], 2) for setting in SETTINGS},
            "rounds": rounds,
        },
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
