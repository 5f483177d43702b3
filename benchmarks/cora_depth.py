"""Cora, public split, width 64: test accuracy of deep networks, 2 to 1,000 layers.

Command: ``python benchmarks/cora_depth.py [--workers 1 --threads 1]``. Stop it whenever
you like: finished runs lie in ``runs/cora_depth/`` and are skipped, several commands
share the work, ``--table`` prints what there is.

Protocol, the same for every row. Features are divided by their sum. Adam, full batch,
at most 400 epochs, every second one looked at; stopped after 80 epochs without a better
validation accuracy, ties broken by validation loss; the test accuracy is the one at
that best epoch. A run whose training loss has not fallen by one percent below that of
guessing in 100 epochs is stuck and stopped. Grid: learning rate 0.01 or 0.003, weight
decay 0.0005 on all weights or 0.01 on the layers between the first and the last
(GCNII's setting), dropout 0.3 or 0.6; of the eight points the four in which any two
settings meet once. At 2, 16 and 64 layers each row takes the point with the best
validation accuracy of seed 0; 256 and 1,000 layers take over what 64 selected. Five
seeds, at 256 layers three, at 1,000 one. Stuck and diverged runs count with the best
epoch they had; a cell with a run that had none is called diverged. Step, restart and
theta of ours were tuned in about 30 prototype runs on validation accuracy outside of
this grid; no other row had such tuning.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from _claim import RESULTS, cora, publish
from _rows import ROWS, same_as_zoo
from _runs import Config, Queue, digest, write
from _training import EVERY, Task, execute, network

import graphfathom as gf
from graphfathom.calibration import measure_both

GRID = tuple(
    {"lr": lr, "weight_decay": 5e-4, "weight_decay_between": between, "dropout": drop}
    for lr, between, drop in (
        (0.01, 0.01, 0.6),
        (0.01, 5e-4, 0.3),
        (0.003, 5e-4, 0.6),
        (0.003, 0.01, 0.3),
    )
)
EPOCHS, PATIENCE = 400, 80
SEEDS = {2: 5, 16: 5, 64: 5, 256: 3, 1000: 1}
SELECTED_AT = {2: 2, 16: 16, 64: 64, 256: 64, 1000: 64}
"""Depth whose grid decides."""
ORDER = (
    (("gcn",), (2,)),
    (("ours", "gcnii"), (64, 16, 2)),
    (tuple(ROWS), (64,)),
    (("ours", "gcnii"), (256,)),
    (("ours",), (1000,)),
    (tuple(ROWS), (2, 16, 256, 1000)),
)
"""Rows and depths, the cheap and the important first."""


class Plan:
    """The runs of the table, each once, in the order in which they are wanted.

    Args:
        queue: Where results are found.
        rows: Names of rows.
        depths: Depths.
        shared: What all configurations say.
        seeds: Number of seeds at each depth.
    """

    def __init__(
        self,
        queue: Queue,
        rows: list[str],
        depths: list[int],
        shared: Config,
        seeds: dict[int, int],
    ) -> None:
        self.queue = queue
        self.shared = shared
        self.seeds = seeds
        cells = [
            (row, depth)
            for some, deep in ORDER
            for depth in deep
            for row in some
            if row in rows and depth in depths
        ]
        self.cells = list(dict.fromkeys(cells))

    def config(self, row: str, depth: int, seed: int, point: Config) -> Config:
        """The resolved configuration of a run."""
        rule = ROWS[row].constants(depth)
        return self.shared | point | {"row": row, "depth": depth, "seed": seed} | rule

    def grid(self, row: str, depth: int) -> list[Config]:
        """The grid's runs that decide for a cell."""
        at = SELECTED_AT[depth]
        return [self.config(row, at, 0, point) for point in GRID]

    def selected(self, row: str, depth: int) -> Config | None:
        """The point with the best validation accuracy, None while some are pending."""
        results = [self.queue.result(config) for config in self.grid(row, depth)]
        if any(result is None for result in results):
            return None
        ranks = [result["rank"] or [-math.inf] for result in results if result]
        return GRID[ranks.index(max(ranks))]

    def runs(self, row: str, depth: int) -> list[Config]:
        """The runs whose mean is the cell, none while the grid is pending."""
        point = self.selected(row, depth)
        if point is None:
            return []
        return [self.config(row, depth, s, point) for s in range(self.seeds[depth])]

    def __call__(self) -> list[Config]:
        """All runs known by now, finished or not."""
        configs = []
        for row, depth in self.cells:
            configs += [*self.grid(row, depth), *self.runs(row, depth)]
        return configs


def cell(plan: Plan, row: str, depth: int) -> dict[str, Any]:
    """Mean, spread and what is missing of a cell."""
    finished = [(c, plan.queue.result(c)) for c in plan.runs(row, depth)]
    results = [(config, result) for config, result in finished if result]
    tests = [result["test"] for _, result in results]
    found: dict[str, Any] = {
        "n": len(results),
        "pending": plan.seeds[depth] - len(results),
        "selected": plan.selected(row, depth),
    }
    if results:
        found["diverged"] = sum(r["diverged"] for _, r in results)
        found["stuck"] = sum(r["stuck"] for _, r in results)
    if results and None not in tests:  # None: diverged before the first look
        found |= {
            "mean": round(statistics.mean(tests), 2),
            "std": round(statistics.stdev(tests), 2) if len(tests) > 1 else None,
            "val": round(statistics.mean(r["val"] for _, r in results), 2),
        }
    return found


def record(plan: Plan) -> list[Config]:
    """Every finished run, one line each."""
    seen = {digest(config): config for config in plan()}
    lines = []
    for name, config in seen.items():
        result = plan.queue.result(config)
        if result:
            names = ("row", "depth", "seed", *GRID[0])
            lines.append({"run": name} | {n: config[n] for n in names} | result)
    return lines


def table(plan: Plan) -> dict[str, dict[str, Any]]:
    """Print the cells; return them by row and depth."""
    cells: dict[str, dict[str, Any]] = {}
    for row, depth in plan.cells:
        cells.setdefault(row, {})[str(depth)] = cell(plan, row, depth)
    depths = sorted({depth for _, depth in plan.cells})
    print(f"{'test accuracy, %':36}" + "".join(f"{d:>16}" for d in depths))
    for row, found in cells.items():
        texts = [_text(found.get(str(depth), {})) for depth in depths]
        print(f"{ROWS[row].title:36}" + "".join(f"{text:>16}" for text in texts))
    return cells


def markdown(cells: dict[str, dict[str, Any]]) -> str:
    """The table of the README."""
    depths = list(SEEDS)
    lines = [f"| layers | {' | '.join(f'{depth:,}' for depth in depths)} |"]
    lines.append("| --- |" + " ---: |" * len(depths))
    for row, found in cells.items():
        texts = [_text(found.get(str(depth), {})) for depth in depths]
        texts = [text.partition(" (")[0].replace("...", "–") for text in texts]
        lines.append(f"| {ROWS[row].title} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def _text(found: dict[str, Any]) -> str:
    if "mean" not in found:
        return "diverged" if found.get("diverged") else "..."
    spread = "" if found["std"] is None else f" ± {found['std']:.1f}"
    return f"{found['mean']:.1f}{spread} ({found['n']})"


def criteria(rows: list[str], depths: list[int]) -> dict[str, Any]:
    """What calibration looks at, of the state-space rows before training, eval mode.

    The eigenvalues of the state transition are all the same, ``radius``.
    """
    task, found = Task.load(), {}
    for row in (name for name in ("ours", "forgetting", "calibrated") if name in rows):
        for depth in depths:
            config = {"row": row, "width": 64, "depth": depth, "dropout": 0.6}
            torch.manual_seed(0)
            model = network(task, config)
            model.checkpoint = "sqrt"
            problem = gf.Problem(model, task.data())
            values = asdict(measure_both(problem)[1])
            values["radius"] = float(model.state.eigenvalues().abs().max())
            found.setdefault(row, {})[str(depth)] = {
                name: round(value, 4) if isinstance(value, float) else value
                for name, value in values.items()
            }
    return found


def ratio(cells: dict[str, dict[str, Any]]) -> float | None:
    """Ours at its best deep cell, by validation, minus two layers of GCN."""
    ours = cells.get("ours", {})
    deep = [c for d, c in ours.items() if int(d) >= 64 and "mean" in c]
    shallow = cells.get("gcn", {}).get("2", {})
    if not deep or "mean" not in shallow:
        return None
    best = max(deep, key=lambda found: found["val"])
    return round(best["mean"] - shallow["mean"], 2)


def _work(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    task, plan = Task.load(), _plan(options)
    say = partial(print, flush=True)
    plan.queue.work(plan, lambda config, folder: execute(task, config, folder), say)


def _share(options: argparse.Namespace) -> bool:
    """Work here, or in several processes; whether all went well."""
    if options.workers == 1:
        _work(options)
        return True
    context = get_context("spawn")
    workers = [
        context.Process(target=_work, args=(options,)) for _ in range(options.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return not any(worker.exitcode for worker in workers)


def _plan(options: argparse.Namespace) -> Plan:
    quick = {"epochs": 3, "patience": 3} if options.quick else {}
    shared = {"claim": "cora_depth", "data": cora()[1], "width": 64}
    shared |= {"epochs": EPOCHS, "patience": PATIENCE, "every": EVERY} | quick
    seeds = dict.fromkeys(SEEDS, 1) if options.quick else SEEDS
    rows, depths = options.rows or list(ROWS), options.depths or list(SEEDS)
    return Plan(Queue(options.runs), rows, depths, shared, seeds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="2 and 16 layers, 3 epochs"
    )
    parser.add_argument("--table", action="store_true", help="only print and publish")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS))
    parser.add_argument("--depths", nargs="+", type=int, choices=list(SEEDS))
    parser.add_argument("--runs", type=Path, default=Path("runs/cora_depth"))
    options = parser.parse_args()
    if options.quick:
        options.depths = options.depths or [2, 16]
        options.runs = Path(tempfile.mkdtemp())
    return options


def main() -> int:
    """Work, print, publish."""
    options = _options()
    plan = _plan(options)
    if not same_as_zoo():
        print("the row GCNII is not graphfathom.nn.zoo.GCNII")
        return 1
    if not options.table and not _share(options):
        return 1
    cells = table(plan)
    if not (options.quick or options.rows or options.depths):
        lines = "".join(json.dumps(line) + "\n" for line in record(plan))
        write(RESULTS / "cora_depth.jsonl", lines)
        write(RESULTS / "cora_depth.md", markdown(cells))
    else:
        options.quick = True  # A part of the table is printed, not published.
    publish(
        {
            "claim": "cora_depth",
            "ratio": ratio(cells),
            "unit": "points of test accuracy above two layers of GCN",
            "protocol": (__doc__ or "").partition("Protocol")[2],
            "grid": GRID,
            "pending": sum(
                c["pending"] for row in cells.values() for c in row.values()
            ),
            "cells": cells,
            "criteria": criteria(
                list(cells), sorted({depth for _, depth in plan.cells})
            ),
            "rows": {
                name: [row.title, {d: row.constants(d) for d in SEEDS}]
                for name, row in ROWS.items()
            },
        },
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
