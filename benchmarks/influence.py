"""Influence by distance from a root, against PyG's ``total_influence``.

Command: ``python benchmarks/influence.py`` (about five minutes on two cores).
The aims are a factor of 2 for the exact L1 influence and of 5 for the estimate of the
Frobenius norms by distance. PyG's own loop (``vectorize=False``) is quicker than its
default: ours is 1.4 to 1.7 times as fast as it.

The network is ``torch_geometric.nn.GCN`` on Cora's graph, from features of width 64, in
float32. Both sides measure the same random roots; ours begins with ``capture``,
which they share. The peer runs with more hops than layers, where it measures the
network itself, and as it comes, with ``vectorize=True``; ``peer_loop`` is the same with
False. Both must agree in float64, the estimate must lie within two of its standard
errors in 90 of 100 cases and ours must be finite at 512 layers, or the script fails.
``ratio`` is that of the exact influence at the worst depth. ``cut`` is for information:
how many times too large or small the peer is at a hop if it is given two hops.
"""

from __future__ import annotations

import copy
import math
import os
import sys
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # before PyG loads its progress bar

import torch
from _claim import cora, interleaved, parse, publish
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN
from torch_geometric.utils import total_influence
from torch_geometric.utils.influence import jacobian_l1_agg_per_hop

import graphfathom as gf
from graphfathom.diagnostics.by_distance import influence, sensitivity_by_distance
from graphfathom.diagnostics.node_jacobian import NodeJacobian

WIDTH, CLASSES = 64, 7
SAMPLES = 1
"""Probes per root of the estimate: at 16 roots the spread between them tells enough."""


def network(depth: int) -> GCN:
    """A GCN as its constructor leaves it."""
    torch.manual_seed(0)
    return GCN(WIDTH, WIDTH, depth, CLASSES).eval()


def node_jacobian(model: nn.Module, data: Data) -> NodeJacobian:
    """Our set-up, in the precision of the model."""
    return NodeJacobian(gf.capture(gf.Problem(model, data), dtype=None))


def drawn(data: Data, count: int) -> torch.Tensor:
    """The roots that the peer draws from seed 0."""
    return torch.randperm(data.num_nodes, generator=torch.manual_seed(0))[:count]


def double(model: nn.Module, data: Data) -> tuple[nn.Module, Data]:
    """Copies in float64."""
    data = data.clone()
    data.x = data.x.double()
    return copy.deepcopy(model).double(), data


def worst_difference(model: GCN, data: Data, hops: int, root: int) -> float:
    """Of the influence at all hops in float64, relative to each."""
    model, data = double(model, data)
    theirs = jacobian_l1_agg_per_hop(model, data, hops, root, "cpu").log10()
    ours = influence(node_jacobian(model, data), root, max_hops=hops).log10[0]
    if not torch.equal(ours.isneginf(), theirs.isneginf()):
        return math.inf
    kept = ours.isfinite()
    return float((10 ** (ours - theirs)[kept] - 1).abs().max())


def cut(model: GCN, data: Data, roots: torch.Tensor) -> float:
    """Largest factor by which two hops of the peer are off, over roots and hops."""
    model, data = double(model, data)
    ours = influence(node_jacobian(model, data), roots, max_hops=2).log10
    theirs = [
        jacobian_l1_agg_per_hop(model, data, 2, root, "cpu").log10()
        for root in roots.tolist()
    ]
    off = (torch.stack(theirs) - ours).abs()
    return round(10 ** float(off[off.isfinite()].max()), 2)


def coverage(model: GCN, data: Data, roots: torch.Tensor, repeats: int) -> float:
    """Share of estimates within two standard errors of the truth, over all hops."""
    jacobian = node_jacobian(model, data)
    truth = sensitivity_by_distance(jacobian, roots).log10
    known = truth.isfinite()
    hits = []
    for seed in range(repeats):
        generator = torch.Generator().manual_seed(seed)
        found = sensitivity_by_distance(
            jacobian, roots, num_samples=SAMPLES, generator=generator
        )
        hits.append(((found.log10 - truth).abs() <= 2 * found.stderr)[known])
    return round(float(torch.stack(hits).double().mean()), 3)


def measure(depth: int, data: Data, options: dict[str, int]) -> dict[str, Any] | None:
    """Seconds at one depth; None if the two sides disagree."""
    model, hops, count = network(depth), depth + 1, options["roots"]
    roots = drawn(data, count)
    difference = worst_difference(model, data, hops, int(roots[0]))
    if not difference < 1e-9:
        print(f"{depth} layers: influences differ by {difference:.1e} of their size")
        return None
    covered = coverage(model, data, roots, options["repeats"])
    if covered < (0.75 if options["repeats"] < 100 else 0.9):
        print(f"{depth} layers: {covered:.0%} of the estimates cover the truth")
        return None

    def ours() -> None:
        influence(node_jacobian(model, data), roots, max_hops=hops)

    def estimate() -> None:
        jacobian = node_jacobian(model, data)
        sensitivity_by_distance(jacobian, roots, num_samples=SAMPLES)

    def peer(vectorize: bool = True) -> None:
        torch.manual_seed(0)
        total_influence(model, data, hops, count, average=False, vectorize=vectorize)

    exact = interleaved(ours, peer, options["rounds"])
    estimated, loop = interleaved(estimate, lambda: peer(False), options["rounds"])
    return {
        "ours": round(exact[0], 3),
        "peer": round(exact[1], 3),
        "peer_loop": round(loop, 3),
        "ratio": round(exact[1] / exact[0], 2),
        "estimate": round(estimated, 3),
        "estimate_ratio": round(exact[1] / estimated, 2),
        "estimate_coverage": covered,
        "cut": cut(model, data, roots[:4]),
    }


def deep(data: Data) -> dict[str, Any]:
    """Both at 512 layers: log10 of our influence at 0 hops, and whether PyG has one.

    Ours as it comes, in float64: in float32 the features are 0, where ReLU is dead.
    """
    model, root = network(512), int(drawn(data, 1))
    jacobian = NodeJacobian(gf.capture(gf.Problem(model, data)))
    found = influence(jacobian, root, max_hops=2)
    torch.manual_seed(0)
    theirs, _ = total_influence(model, data, 2, 1, vectorize=False)
    return {
        "log10_at_512_layers": round(float(found.log10[0, 0]), 2),
        "finite": bool(found.normalized.isfinite().all()),
        "peer_is_nan": bool(theirs.isnan().any()),
    }


def main() -> int:
    """Measure, check, print."""
    options = parse(__doc__ or "")
    sizes = {"roots": 16, "repeats": 100, "rounds": 7}
    if options.quick:
        sizes = {"roots": 8, "repeats": 20, "rounds": 1}
    data, name = cora()
    data.x = torch.randn(data.num_nodes, WIDTH, generator=torch.manual_seed(0))
    rows = {depth: measure(depth, data, sizes) for depth in (8, 32)}
    if None in rows.values():
        return 1
    limit = deep(data)
    if not limit["finite"]:
        print("512 layers: our influence is not finite")
        return 1
    worst = min(rows, key=lambda depth: rows[depth]["ratio"])
    publish(
        {
            "claim": "influence",
            **rows[worst],
            "unit": f"seconds for {sizes['roots']} roots, set-up included; medians",
            "size": f"GCN, width {WIDTH}, {name}; worst of (8, 32) layers: {worst}",
            "rounds": sizes["rounds"],
            "by_depth": rows,
            **limit,
        },
        options,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
