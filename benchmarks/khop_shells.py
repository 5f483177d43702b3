"""The shells up to 10 hops of 5,120 small graphs and of Cora.

Command: ``python benchmarks/khop_shells.py`` (about two minutes on two cores, 1 GB).
The small graphs are the training split of GraphProp, read from ``graphprop/*.npz`` in
the folder that ``GRAPHFATHOM_DATA`` names, else random graphs of their size. The peer
takes the shells from SciPy's all-pairs shortest paths; both must give equal tensors, or
the script fails. ``ratio`` is the smaller of the two speed-ups.

Memory is what a process of its own grows by, shells included. ``disk`` is a file of the
shells alone, written by ``torch.save``. ``searches`` are the seconds of the two
searches between which the number of nodes decides, without checks and tensors.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _claim import cora, interleaved, parse, publish
from _graphprop import graphprop
from _memory import grown
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path
from torch import Tensor
from torch_geometric.data import Data

from graphfathom.transforms import KHopShells
from graphfathom.transforms.shell_search import frontier_search, packed_search

HOPS = 10
TRANSFORM = KHopShells(HOPS)
Shells = tuple[Tensor, Tensor]


def small_graphs(number: int) -> tuple[list[Data], str]:
    """The first graphs of GraphProp."""
    found, name = graphprop(number)
    return found, f"{len(found):,} graphs ({name})"


def cora_alone(_: int) -> tuple[list[Data], str]:
    """Cora's graph without features."""
    data, name = cora()
    return [Data(edge_index=data.edge_index, num_nodes=data.num_nodes)], name


GRAPHS = {"small graphs": small_graphs, "Cora": cora_alone}


def ours(data: Data) -> Shells:
    """Shells by the transform."""
    found = TRANSFORM(data)
    return found.shell_index, found.shell_hop


def peer(data: Data) -> Shells:
    """The same from the distances of all pairs."""
    edge_index, size = data.edge_index.numpy(), data.num_nodes
    ones = np.ones(edge_index.shape[1])
    matrix = csr_array((ones, edge_index), shape=(size, size))
    distance = shortest_path(matrix, unweighted=True)
    source, target = ((distance > 0) & (distance <= HOPS)).nonzero()
    hop = distance[source, target].astype(np.int64)
    order = np.argsort(hop, kind="stable")
    index = np.stack([source[order], target[order]])
    return torch.from_numpy(index), torch.from_numpy(hop[order])


def all_shells(way: Callable[[Data], Shells], graphs: list[Data]) -> list[Shells]:
    """Shells of every graph."""
    return [way(data) for data in graphs]


def memory(task: str, way: Callable[[Data], Shells], number: int, threads: int) -> int:
    """Bytes by which this process grows."""
    torch.set_num_threads(threads)
    way(graphprop(1)[0][0])  # loads what the first call loads
    graphs, _ = GRAPHS[task](number)
    return grown(lambda: all_shells(way, graphs))


def memory_apart(*arguments: Any) -> float:
    """The same in a new process, in megabytes."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return round(pool.apply(memory, arguments) / 1e6, 1)


def disk(shells: list[Shells]) -> float:
    """Megabytes of a file of the shells."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "shells.pt")
        torch.save(shells, file)
        return round(file.stat().st_size / 1e6, 1)


def seconds_of_searches(graphs: list[Data], rounds: int) -> dict[str, float]:
    """Packed bits and frontiers, in turns."""
    found = [(data.edge_index.numpy(), data.num_nodes) for data in graphs]

    def run(search: Callable[..., Any]) -> None:
        for edge_index, size in found:
            for _ in search(edge_index, size, HOPS):
                pass

    both = interleaved(lambda: run(packed_search), lambda: run(frontier_search), rounds)
    return dict(zip(("packed", "frontier"), (round(t, 3) for t in both), strict=True))


def measure(task: str, number: int, rounds: int, threads: int) -> dict[str, Any]:
    """All numbers of one set of graphs; no numbers if both do not agree."""
    graphs, name = GRAPHS[task](number)
    shells = all_shells(ours, graphs)
    for one, other in zip(shells, all_shells(peer, graphs), strict=True):
        if not all(map(torch.equal, one, other)):
            return {}
    pairs = sum(len(hop) for _, hop in shells)
    edges = sum(data.num_edges for data in graphs)
    megabytes_on_disk = disk(shells)
    del shells
    seconds = interleaved(
        lambda: all_shells(ours, graphs), lambda: all_shells(peer, graphs), rounds
    )
    used = [memory_apart(task, way, number, threads) for way in (ours, peer)]
    return {
        "ours": round(seconds[0], 4),
        "peer": round(seconds[1], 4),
        "megabytes": dict(zip(("ours", "peer"), used, strict=True)),
        "disk": megabytes_on_disk,
        "pairs": pairs,
        "times_edges": round(pairs / edges, 1),
        "searches": seconds_of_searches(graphs, rounds),
        "size": f"{name}, {HOPS} hops",
    }


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    number, rounds = (200, 1) if options.quick else (5120, 5)
    found: dict[str, dict[str, Any]] = {}
    for task in GRAPHS:
        found[task] = measure(task, number, rounds, options.threads)
        if not found[task]:
            print(f"the two do not have the same shells: {task}")
            return 1
    by_number = {
        name: {task: each[name] for task, each in found.items()}
        for name in next(iter(found.values()))
    }
    result = {
        "claim": "khop_shells",
        **by_number,
        "ratio": round(min(one["peer"] / one["ours"] for one in found.values()), 2),
        "unit": "s; peer: SciPy's shortest_path",
        "rounds": rounds,
    }
    publish(result, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
