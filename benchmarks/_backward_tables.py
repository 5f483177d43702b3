"""The tables of ``backward_smoothing``, from finished runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

import _backward_instance as instance
import _backward_plan as plan
from _backward_runs import FINDING
from _runs import Config, Queue

Row = dict[str, Any]
PEER = "vanishing-gradients"
"""The finding about the gradients of the network as it is."""
NAMES = {"gnn": "GNN", "mlp": "MLP", "stabilized": "GNN, stabilized"}
GRAPHS = {"fast": "CSBM, fast", "slow": "CSBM, slow", "cora": "Cora"}


def finished(queue: Queue, configs: Iterable[Config]) -> list[Row]:
    """Results of those runs that are finished."""
    return [found for c in configs if (found := queue.result(c)) is not None]


def middle(values: Iterable[float | None]) -> float | None:
    """The median of what is known."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def title(cell: plan.Cell) -> str:
    """A network in words."""
    graph, network, layers, scale = cell
    weights = "" if scale is not None else ", torch's weights"
    where = "" if network == "mlp" else f" on {GRAPHS[graph]}"
    return f"{NAMES[network]}, {layers} layers{weights}{where}"


def section_9(seeds: int) -> list[Row]:
    """Item 8: ours, the median over the weights' seeds, beside the specification."""
    rows = []
    for rate, published in instance.PUBLISHED.items():
        for layers, expected in published.items():
            found = [instance.item_8(float(rate), layers, s) for s in range(seeds)]
            mlp = [
                instance.item_8(float(rate), layers, s, mlp=True) for s in range(seeds)
            ]
            spread = (max(m.gradients) - min(m.gradients) for m in found)
            rows.append(
                {
                    "rate": instance.graph(float(rate))[0].smoothing.rate,
                    "layers": layers,
                    "gradient": _median_power(max(m.gradients) for m in found),
                    "published": expected,
                    "spread": _median_power(spread),
                    "bound": _median_power(m.bound or math.nan for m in found),
                    "loss": statistics.median(m.loss for m in found),
                    "constant": found[0].constant,
                    "mlp": _median_power(max(m.gradients) for m in mlp),
                }
            )
    return rows


def counter_example() -> list[Row]:
    """Item 9: the gradient of the first weights."""
    return [
        {
            "layers": layers,
            "mlp": 10 ** instance.item_9(0.44, layers, mlp=True).gradients[0],
            "published_mlp": expected,
            "gnn": 10 ** instance.item_9(0.44, layers, mlp=False).gradients[0],
            "published_gnn": instance.PUBLISHED_EXAMPLE["gnn"][layers],
        }
        for layers, expected in instance.PUBLISHED_EXAMPLE["mlp"].items()
    ]


def _median_power(logs: Iterable[float]) -> float:
    return 10 ** statistics.median(logs)


def rates(queue: Queue) -> list[Row]:
    """The operators on Cora."""
    found = queue.result(plan.rates()) or {}
    return [{"operator": name} | smoothing for name, smoothing in found.items()]


def trained(queue: Queue) -> list[Row]:
    """Every network at its start and at the end of its training."""
    rows = []
    for cell in (*plan.TRAINED, *plan.CORA):
        configs = [plan.trained(cell, seed) for seed in plan.trained_seeds(cell)]
        found = finished(queue, configs)
        if found:
            rows.append({"cell": cell, "title": title(cell)} | summary(found))
    return rows


def summary(found: list[Row]) -> Row:
    """What the runs of one network have in common."""
    rates = [r["smoothing"]["rate"] for r in found]
    tests = [r["test"] for r in found]
    fitted = [r["start"]["fitted"] for r in found]
    return {
        "seeds": len(found),
        "rate": [round(min(rates), 4), round(max(rates), 4)],
        "components": found[0]["smoothing"]["multiplicity"],
        "fitted_gradient": middle(max(f["gradients"]) for f in fitted),
        "fitted_share": middle(f["loss"] / f["constant"] for f in fitted),
        "random_gradient": middle(
            max(r["start"]["random"]["gradients"]) for r in found
        ),
        "bound": middle(f["bound"] for f in fitted),
        "kept": middle(f["kept"] for f in fitted),
        "loss": middle(r["loss"] for r in found),
        "constant": middle(r["constant"] for r in found),
        "gradient": middle(math.log10(max(r["gradients"][:-1])) for r in found),
        "norm_before": middle(max(r["start"]["norms"][:-1]) for r in found),
        "norm": middle(max(r["norms"][:-1]) for r in found),
        "train": statistics.mean(r["train"] for r in found),
        "test": statistics.mean(tests),
        "test_std": statistics.stdev(tests) if len(tests) > 1 else None,
        "diverged": sum(r["diverged"] for r in found),
    }


def scales(queue: Queue) -> list[Row]:
    """The deep GNN with weights of each norm."""
    rows = []
    for scale in plan.SCALES:
        configs = [plan.scaled(scale, seed) for seed in range(plan.FEW)]
        found = finished(queue, configs)
        if found:
            rows.append({"scale": scale} | summary(found))
    return rows


def grid(queue: Queue) -> list[Row]:
    """The deep GNN in state-space form."""
    rows = []
    for radius in plan.RADII:
        for strength in plan.STRENGTHS:
            found = finished(queue, [plan.state_space(radius, strength)])
            if found:
                point = {"radius": radius, "strength": strength}
                judged = queue.result(plan.state_space(radius, strength, "diagnose"))
                flag = None if judged is None else FINDING in judged["findings"]
                rows.append(point | summary(found) | {"flagged": flag})
    return rows


def judged(
    queue: Queue, cells: Iterable[tuple[plan.Cell, bool | None]] = plan.JUDGED
) -> list[Row]:
    """What the detector says, beside what it should."""
    rows = []
    for cell, expected in cells:
        runs = [plan.diagnosed(cell, seed) for seed in plan.judged_seeds(cell)]
        found = finished(queue, runs)
        if found:
            wanted = [r["stationary"] if expected is None else expected for r in found]
            rows.append(
                {"title": title(cell), "expected": expected} | _votes(found, wanted)
            )
    return rows


def _votes(found: list[Row], wanted: list[bool]) -> Row:
    """How often a finding and its peer are what is wanted."""
    flags = [FINDING in r["findings"] for r in found]
    peers = [PEER in r["findings"] for r in found]
    return {
        "seeds": len(found),
        "flagged": sum(flags),
        "wanted": sum(wanted),
        "right": sum(a == b for a, b in zip(flags, wanted, strict=True)),
        "peer_right": sum(a == b for a, b in zip(peers, wanted, strict=True)),
        "contraction": sum("contraction" in (r["title"] or "") for r in found),
        "stationary": sum(r["stationary"] for r in found),
        "refit": middle(r["refit"] for r in found),
        "constant": middle(r["constant"] for r in found),
        "refit_gradient": middle(r["refit_gradient"] for r in found),
        "moved": middle(r["moved"] for r in found),
        "titles": sorted({r["title"] for r in found if r["title"]}),
    }
