"""The exact Jacobian of a ReLU GCN layer, against ``torch.func.jacrev``.

Command: ``python benchmarks/jacobian_exact.py`` (about four minutes on two cores).
800 nodes, 16 channels, float64, on an Erdos-Renyi and a Barabasi-Albert graph of mean
degree 6. Ours starts from the model: it is traced, the closed form solved for, checked
on random vectors and stored by blocks. The peer is ``jacrev`` in chunks of 100 rows, on
parameters that need no gradient. All entries must agree, or the script fails. ``ratio``
is that of the seconds on the slower family, ``memory_ratio`` that of the growth of a
process that does nothing else.
"""

from __future__ import annotations

import multiprocessing
import sys

import torch
from _claim import interleaved, parse, publish
from _jacobians import FAMILIES, Layer, difference, graph, ours, peer
from _memory import grown
from torch_geometric.nn import GCNConv

CHANNELS, CHUNK = 16, 100
MEGABYTE = 1e6


def layer() -> Layer:
    """A GCN layer with ReLU in float64."""
    torch.manual_seed(0)
    return Layer(GCNConv(CHANNELS, CHANNELS)).double().requires_grad_(False)


def memory(who: str, family: str, num_nodes: int, threads: int) -> float:
    """Megabytes by which this process grows."""
    torch.set_num_threads(threads)
    model, small = layer(), graph(family, 50, CHANNELS)
    work = {"ours": ours, "peer": lambda *case: peer(*case, CHUNK)}[who]
    work(model, small)  # loads what the first call loads
    data = graph(family, num_nodes, CHANNELS)
    return grown(lambda: work(model, data)) / MEGABYTE


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    num_nodes, rounds = (200, 1) if options.quick else (800, 3)
    model, sizes = layer(), {}
    for family in FAMILIES:
        data = graph(family, num_nodes, CHANNELS)
        error = difference(ours(model, data), peer(model, data, CHUNK))
        if not error < 1e-12:
            print(f"{family}: entries differ by {error:.1e} of the largest")
            return 1
        times = interleaved(
            lambda data=data: ours(model, data),
            lambda data=data: peer(model, data, CHUNK),
            rounds,
        )
        used = {}
        for who in ("ours", "peer"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                task = (who, family, num_nodes, options.threads)
                used[who] = round(pool.apply(memory, task), 1)
        sizes[family] = {
            "ours": round(1e3 * times[0], 1),
            "peer": round(1e3 * times[1], 1),
            "ratio": round(times[1] / times[0], 1),
            "megabytes": used,
            "memory_ratio": round(used["peer"] / max(used["ours"], 1.0), 1),
        }
        print(family, sizes[family])
    worst = min(sizes.values(), key=lambda size: size["ratio"])
    result = {
        "claim": "jacobian_exact",
        "ours": worst["ours"],
        "peer": worst["peer"],
        "ratio": worst["ratio"],
        "memory_ratio": min(size["memory_ratio"] for size in sizes.values()),
        "unit": "ms",
        "size": {"nodes": num_nodes, "channels": CHANNELS, "families": sizes},
        "rounds": rounds,
    }
    publish(result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
