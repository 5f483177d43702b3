"""Criteria (a)-(d) at 64, 256 and 1,000 layers, before and after ``stabilize``.

Command: ``python benchmarks/calibrated_depth.py``. Stop it whenever you like: finished
cells lie in ``runs/calibrated_depth/`` and are skipped; ``--table`` prints what there
is.

A cell is one of PyG's GCN, GAT, GIN, GraphSAGE, width 64, dropout 0.5, with tanh, ReLU
or GELU, on Cora (row-normalised features) or on a 20 x 20 grid (4 neighbours, features
and labels drawn at random). At 64 layers the strength is searched; 256 and 1,000 layers
take over that strength and only balance r, unless it does not hold there: then it is
searched again. A cell counts if every criterion holds in train and in eval mode.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _claim import cora, publish
from _runs import Config, Queue
from torch_geometric.data import Data
from torch_geometric.utils import to_undirected

from graphfathom.calibration import CalibrationError
from graphfathom.nn.zoo import build
from graphfathom.verbs import stabilize

CONVS = ("gcn", "sage", "gin", "gat")
ACTS = ("tanh", "relu", "gelu")
GRAPHS = ("grid", "cora")
DEPTHS = (64, 256, 1000)
WIDTH, DROPOUT, SEED = 64, 0.5, 0


def load(graph: str) -> Data:
    """The data of a cell."""
    if graph == "cora":
        data, _ = cora()
        data.x = data.x / data.x.sum(1, keepdim=True).clamp(min=1)
        return data
    side = 20
    node = torch.arange(side * side).view(side, side)
    pairs = [(node[:-1], node[1:]), (node[:, :-1], node[:, 1:])]
    edges = torch.cat([torch.stack([a.flatten(), b.flatten()]) for a, b in pairs], 1)
    draw = torch.Generator().manual_seed(SEED)
    return Data(
        x=torch.randn(side * side, 32, generator=draw),
        y=torch.randint(7, (side * side,), generator=draw),
        edge_index=to_undirected(edges),
    )


def cells(depths: tuple[int, ...]) -> list[Config]:
    """All cells, the quick ones first."""
    return [
        {"conv": conv, "act": act, "graph": graph, "layers": layers}
        for layers, graph, conv, act in itertools.product(depths, GRAPHS, CONVS, ACTS)
    ]


def execute(queue: Queue, config: Config, say: Any = None) -> dict[str, Any]:
    """Stabilize one network."""
    data = load(config["graph"])
    torch.manual_seed(SEED)
    network = build(
        config["conv"],
        data.num_features,
        int(data.y.max()) + 1,
        config["layers"],
        WIDTH,
        dropout=DROPOUT,
        act=config["act"],
    )
    shallow = queue.result({**config, "layers": DEPTHS[0]})
    known = shallow["strength"] if shallow and "strength" in shallow else None
    start = time.perf_counter()
    try:
        try:
            deep: Any = stabilize(network, data, strength=known, progress=say)
            searched = known is None
        except CalibrationError:
            if known is None:
                raise
            deep, searched = stabilize(network, data, progress=say), True
    except CalibrationError as error:
        return {"holds": False, "why": str(error)}
    found = deep.calibration.to_dict()
    return {
        "holds": not any(c.failures() for c in deep.calibration.after),
        "held_before": not any(c.failures() for c in deep.calibration.before),
        "searched": searched,
        "strength": found["strength"],
        "radius": found["radius"],
        "before": finite(found["before"]),
        "after": finite(found["after"]),
        "seconds": round(time.perf_counter() - start, 1),
    }


def finite(runs: Any) -> Any:
    """Numbers that JSON knows; None for NaN and infinity."""
    return json.loads(json.dumps(runs), parse_constant=lambda _: None)


def table(queue: Queue, depths: tuple[int, ...]) -> list[dict[str, Any]]:
    """Every finished cell; prints a line for each."""
    rows = []
    for config in cells(depths):
        result = queue.result(config)
        if result is None:
            continue
        rows.append(config | result)
        name = " ".join(str(value) for value in config.values())
        if "after" not in result:
            print(f"{name:26} fails: {result['why']}")
            continue
        train = result["after"][0]
        keys = ("feature_ratio", "gradient_ratio", "gain_mean", "rank_ratio")
        numbers = " ".join(f"{key} {train[key]:.2f}" for key in keys)
        print(
            f"{name:26} c {result['strength']:.2f} r {result['radius']:.5f} {numbers} "
            f"message_share {train['message_share']:.2f} holds {result['holds']}"
        )
    return rows


def main() -> None:
    """Fill the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="8 layers on the grid")
    parser.add_argument("--table", action="store_true", help="print what there is")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    depths = DEPTHS
    root = Path("runs/calibrated_depth")
    with tempfile.TemporaryDirectory() as scratch:
        queue = Queue(Path(scratch) if options.quick else root)
        planned = cells(depths)
        if options.quick:
            planned = [c | {"layers": 8} for c in cells((8,)) if c["graph"] == "grid"]
            depths = (8,)
        if not options.table:
            queue.work(lambda: planned, lambda config, _: execute(queue, config))
        rows = table(queue, depths)
    if options.table and not rows:
        return
    held = sum(row["holds"] for row in rows) / len(rows)
    before = sum(row.get("held_before", False) for row in rows) / len(rows)
    result = {
        "claim": "calibrated_depth",
        "ours": held,
        "peer": before,
        "ratio": held - before,
        "unit": "share of networks that meet criteria (a)-(d) in train and eval mode",
        "size": f"{len(rows)} of {len(planned)} networks, PyG before and after",
        "rounds": 1,
        "cells": rows,
    }
    publish(result, options)


if __name__ == "__main__":
    main()
