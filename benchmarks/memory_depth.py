"""A thousand layers train in the memory that a few dozen take without checkpoints.

Command: ``python benchmarks/memory_depth.py`` (about five minutes on two cores, 6 GB).
The aim, not yet shown here, is under 500 MB with
``checkpoint="sqrt"`` at 1,000 layers of width 64 on Cora.
The memory is what a training step adds at its highest: what the backward pass keeps and
computes again, and the gradients. The peer is the same network without checkpoints.
Each measurement has a process of its own. For the memory, every tensor there has its
own pages, which go back as soon as it is freed. ``resident`` and ``seconds`` are those
of a process as a user starts it, where C's allocator keeps much of what was freed. All
three must have the same gradients under dropout, or the script fails.
"""

from __future__ import annotations

import multiprocessing
import os
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
# Read by glibc when a process starts: what is larger gets pages of its own.
OWN_PAGES = {"MALLOC_MMAP_THRESHOLD_": "65536"}


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


def measure_apart(
    setting: str, num_layers: int, threads: int, own_pages: bool = False
) -> Cost:
    """The same in a new process, whose memory was never used for anything else."""
    if own_pages:
        os.environ.update(OWN_PAGES)
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(measure, (setting, num_layers, threads))
    finally:
        for name in OWN_PAGES:
            os.environ.pop(name, None)


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
    size = num_layers, options.threads
    exact = {s: measure_apart(s, *size, own_pages=True) for s in SETTINGS}
    if problem := differing(exact):
        print(problem)
        return 1
    usual: dict[str, list[Cost]] = {setting: [] for setting in SETTINGS}
    for _ in range(rounds):
        for setting in SETTINGS:
            usual[setting].append(measure_apart(setting, *size))
    memory = {s: exact[s].megabytes for s in SETTINGS}
    held = {s: statistics.median(c.megabytes for c in usual[s]) for s in SETTINGS}
    seconds = {s: statistics.median(c.seconds for c in usual[s]) for s in SETTINGS}
    for s in SETTINGS:
        print(f"{s:>6}: {memory[s]:5.0f} MB, {seconds[s]:6.2f} s a step")
    publish(
        {
            "claim": "memory_depth",
            "ours": round(memory["sqrt"]),
            "peer": round(memory["none"]),
            "ratio": round(memory["none"] / memory["sqrt"], 2),
            "unit": "MB that a training step adds; peer: no checkpoints",
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
