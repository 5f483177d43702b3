"""Backward oversmoothing: which deep networks are stuck, and does the diagnosis know.

Command: ``python benchmarks/backward_smoothing.py`` (about an hour on one core). Stop
it whenever you like: finished runs lie in ``runs/backward_smoothing/`` and are skipped;
``--table`` prints and draws what there is.

Graphs: CSBM with 400 nodes in two classes of 200, mean degree 20, 32 features; of the
edges 80 % (``fast``) or 97 % (``slow``) lie inside a class. P is Sinkhorn's symmetric
stochastic matrix. Networks: paper B's, tanh(P X W) with orthogonal weights of width 32
and norm s, a last layer without activation and with a bias; the MLP is the same network
with P = I. Training: 120 nodes, cross-entropy, Adam on all weights, learning rate
0.001, 200 epochs, weight decay 0.0005 on the last layer alone; float64. ``fitted``
numbers: before training, the last layer fitted to one-hot labels by squared loss with
ridge 0.001.

*Judged* (the claim): networks of 40 layers on ``fast`` are to be called stuck; those
of 5 layers, the MLP and the stabilized network are not; 10 seeds each. ``ours`` is the
share judged rightly by the finding ``spurious-stationary-point`` of a diagnosis before
training, ``peer`` the share judged rightly by the gradients of the same untrained
network (``vanishing-gradients``).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import _backward_figures as figures
import _backward_plan as plan
import _backward_tables as tables
import _backward_text as text
import torch
from _backward_networks import DEGREE, HOMOPHILY, NODES
from _backward_runs import execute
from _claim import RESULTS, publish
from _runs import Queue, write

SHOWN = 200
"""Characters of a run that are printed."""


def found_by(queue: Queue) -> dict[str, Any]:
    """All tables, of the runs that are finished."""
    return {
        "judged": tables.judged(queue),
        "networks": tables.trained(queue),
        "rates": tables.rates(queue),
        "scales": tables.scales(queue),
        "state_space": tables.grid(queue),
        "section_9": tables.section_9(seeds=5),
        "counter_example": tables.counter_example(),
    }


def markdown(found: dict[str, Any]) -> dict[str, str]:
    """Each table as Markdown."""
    return {
        "judged": text.table(text.JUDGED, found["judged"]),
        "start": text.table(text.START, found["networks"]),
        "end": text.table(text.END, found["networks"]),
        "rates": text.table(text.RATES, found["rates"]),
        "scales": text.table(text.SCALES, found["scales"]),
        "state_space": text.table(text.GRID, found["state_space"]),
        "section_9": text.table(text.SECTION_9, found["section_9"]),
        "counter_example": text.table(text.COUNTER_EXAMPLE, found["counter_example"]),
    }


def share(judged: list[dict[str, Any]], name: str) -> float | None:
    """Of what must be called stuck or not, how much is called rightly."""
    certain = [row for row in judged if row["expected"] is not None]
    seeds = sum(row["seeds"] for row in certain)
    return sum(row[name] for row in certain) / seeds if seeds else None


def edges() -> dict[str, dict[str, float]]:
    """Probabilities of an edge inside and between the two classes."""
    half = NODES / 2
    return {
        name: {
            "p_in": round(DEGREE * inside / (half - 1), 4),
            "p_out": round(DEGREE * (1 - inside) / half, 4),
        }
        for name, inside in HOMOPHILY.items()
    }


def claim(found: dict[str, Any], pending: int) -> dict[str, Any]:
    """The object of the last line."""
    ours, peer = (share(found["judged"], name) for name in ("right", "peer_right"))
    return {
        "claim": "backward_smoothing",
        "ours": ours,
        "peer": peer,
        "ratio": None if ours is None or peer is None else ours - peer,
        "unit": "share of untrained networks rightly called stuck or not",
        "size": f"{NODES} nodes, {sum(row['seeds'] for row in found['judged'])} runs",
        "rounds": max((row["seeds"] for row in found["judged"]), default=0),
        "pending": pending,
        "edges": edges(),
        "training": plan.TRAINING,
        **found,
    }


def say(line: str) -> None:
    """A run that is finished, without all of its numbers."""
    print(line[:SHOWN], flush=True)


def main() -> int:
    """Work, print, draw, publish."""
    options = _options()
    torch.set_num_threads(options.threads)
    torch.set_default_dtype(torch.float64)
    planned = plan.quick() if options.quick else plan.everything()
    with tempfile.TemporaryDirectory() as scratch:
        queue = Queue(Path(scratch) if options.quick else options.runs)
        if not options.table:
            queue.work(lambda: planned, execute, say)
        if options.quick:
            found = {"judged": tables.judged(queue, plan.QUICK)}
            print(text.table(text.JUDGED, found["judged"]))
        else:
            found = found_by(queue)
            for name, shown in markdown(found).items():
                print(f"{name}\n{shown}")
                write(RESULTS / f"backward_smoothing_{name}.md", shown)
            figures.draw(queue, found["scales"], found["state_space"])
        pending = len(planned) - len(tables.finished(queue, planned))
    publish(claim(found, pending), options)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 layers, one seed")
    parser.add_argument("--table", action="store_true", help="only what there is")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/backward_smoothing"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
