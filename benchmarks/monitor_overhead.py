"""What a monitor costs: training steps with one, against the same steps without.

Command: ``python benchmarks/monitor_overhead.py`` (about five minutes on two cores).
The aim is less than 5 % of the time of training.

A round is 20 steps of forward, loss, backward and Adam on Cora at width 64, of which
the monitor measures one, with every row written as JSON lines. Both networks begin with
the same weights, and must have the same at the end bit for bit, or the script fails:
monitoring changes nothing. ``ours`` and ``peer`` are milliseconds per step with and
without a monitor and ``ratio`` is the share of time that the monitor adds, of the worst
network; the others are in ``by_network``.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _claim import cora, interleaved, parse, publish
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GCN

from graphfathom.datasets import csbm
from graphfathom.monitoring import JsonLines, Monitor

WIDTH, STEPS = 64, 20
NETWORKS = {
    "GCN, 2 layers": (GCN, 2),
    "GCN, 16 layers": (GCN, 16),
    "GAT, 2 layers": (GAT, 2),
    "GAT, 8 layers": (GAT, 8),
}


def small() -> tuple[Data, str]:
    """For a quick run."""
    data = csbm(500, 7, avg_degree=4, homophily=0.8, num_features=64, seed=0)
    return data, "block model of 500 nodes"


def training(
    model: nn.Module, data: Data, monitor: Monitor | None
) -> Callable[[], None]:
    """Twenty steps, as a function."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

    def run() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad()
            output = model(data.x, data.edge_index)[data.train_mask]
            loss = F.cross_entropy(output, data.y[data.train_mask])
            loss.backward()
            if monitor is not None:
                monitor.step(loss)
            optimizer.step()

    return run


def measure(
    kind: type[nn.Module], depth: int, data: Data, rounds: int, folder: Path
) -> dict[str, float] | None:
    """Milliseconds per step of one network; None if the weights come to differ."""
    torch.manual_seed(0)
    plain = kind(data.num_features, WIDTH, depth, int(data.y.max()) + 1)
    watched = copy.deepcopy(plain)
    writer = JsonLines(folder / f"{kind.__name__}{depth}.jsonl")
    with Monitor(watched, every=STEPS, writers=[writer]) as monitor:
        ours, peer = training(watched, data, monitor), training(plain, data, None)
        ours()
        peer()
        times = interleaved(ours, peer, rounds)
    pairs = zip(plain.parameters(), watched.parameters(), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        print(f"{kind.__name__}, {depth} layers: monitoring changed the training")
        return None
    return {
        "ours": round(1e3 * times[0] / STEPS, 3),
        "peer": round(1e3 * times[1] / STEPS, 3),
        "ratio": round(times[0] / times[1] - 1, 4),
    }


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    rounds = 3 if options.quick else 31
    data, name = small() if options.quick else cora()
    names = list(NETWORKS)[:2] if options.quick else list(NETWORKS)
    with tempfile.TemporaryDirectory() as folder:
        rows = {
            network: measure(*NETWORKS[network], data, rounds, Path(folder))
            for network in names
        }
    if None in rows.values():
        return 1
    worst = max(rows, key=lambda network: rows[network]["ratio"])
    publish(
        {
            "claim": "monitor_overhead",
            **rows[worst],
            "unit": "milliseconds per training step; ratio: share of time added",
            "size": f"width {WIDTH}, {name}; worst of {len(rows)} networks: {worst}",
            "rounds": rounds,
            "by_network": rows,
        },
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
