"""Over-squashing on dumbbells: what the diagnosis says, and what training makes of it.

Command: ``python benchmarks/over_squashing.py`` (about six minutes on two cores).

Two cliques, a bridge of 4 edges; the class is known on the right and asked for on the
left. Four cells: the graph as it is or with 4 edges by ``Rewire``, PyG's GCN as it is
or in state-space form by ``stabilize``.

*Diagnosis* (``diagnosis``): model and topology term at the farthest distance that half
of the layers reach, in decades, and the finding, for cliques of 20 nodes and 16 layers
of width 16. The run fails if the findings are not those of the table in the docs.

*Training* (``training``): the share of 200 test graphs, cliques of 10 nodes, whose left
clique is classified rightly by the mean of its outputs; a constant is right once in
five times. 400 training graphs in batches of 50, Adam, learning rate 0.003, 20 epochs,
width 32, the weights of the last step. ``ratio`` is the difference of both remedies to
none at 8 layers, the mean over seeds; the other depths are there because they say more:
the fewer layers the more it is the graph, the more layers the more it is the network.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from _claim import parse, publish
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import GCN

import graphfathom as gf

BRIDGE, EDGES, CLASSES = 4, 4, 5
CELLS = tuple(itertools.product((False, True), repeat=2))
"""Rewired, stabilized."""
CAUSES = {
    (False, False): "the graph and the layers",
    (True, False): "the layers",
    (False, True): "the graph",
    (True, True): "none",
}
DEPTHS = (8, 16, 32)
LEFT, BATCH, RATE = 10, 50, 3e-3
TEST_SEEDS = range(10_000, 10_200)


def network(layers: int, width: int, seed: int) -> GCN:
    """A GCN as its constructor leaves it."""
    torch.manual_seed(seed)
    return GCN(CLASSES, width, layers, CLASSES)


def dumbbell(size: int, seed: int, rewired: bool) -> Any:
    """A graph of a cell."""
    data = gf.datasets.dumbbell(size, BRIDGE, CLASSES, seed=seed)
    return gf.transforms.Rewire(EDGES)(data) if rewired else data


def batches(seeds: range, rewired: bool) -> Iterator[Any]:
    """Graphs of some seeds, :data:`BATCH` at a time."""
    for begin in range(0, len(seeds), BATCH):
        part = seeds[begin : begin + BATCH]
        yield Batch.from_data_list([dumbbell(LEFT, seed, rewired) for seed in part])


def diagnosis(rewired: bool, stabilized: bool, seed: int) -> dict[str, Any]:
    """What a deep diagnosis says of a cell."""
    data = dumbbell(20, seed, rewired)
    model: nn.Module = network(16, 16, seed)
    if stabilized:
        model = gf.stabilize(model, data)
    report = gf.diagnose(model, data, controls="none", deep=True, seed=seed)
    found = [f.title for f in report.findings if f.name == "over-squashing"]
    hops = max(report.observations.series("sensitivity.pairs")[0])
    terms = {
        term: round(
            report.observations.value(f"sensitivity.{term}", f"distance:{hops}"), 2
        )
        for term in ("model", "topology")
    }
    causes = found[0].partition(" by ")[2].partition(":")[0] if found else "none"
    return {"hops": hops, **terms, "causes": causes}


def accuracy(model: nn.Module, graphs: list[Any]) -> float:
    """Share of graphs whose left clique is classified rightly."""
    right = []
    for batch in graphs:
        left = batch.train_mask
        with torch.no_grad():
            output = model(batch.x, batch.edge_index)[left].softmax(1)
        votes = output.view(-1, LEFT, CLASSES).mean(1).argmax(1)
        right.append(votes == batch.y[left].view(-1, LEFT)[:, 0])
    return float(torch.cat(right).double().mean())


def training(
    data: tuple[list[Any], list[Any]], cell: dict[str, Any], epochs: int
) -> dict[str, float]:
    """Accuracy of a cell after training."""
    train, test = data
    model: nn.Module = network(cell["layers"], 32, cell["seed"])
    if cell["stabilized"]:
        model = gf.stabilize(model, train[0])
    upcoming = itertools.cycle(train)

    def loss(model: nn.Module) -> Tensor:
        batch = next(upcoming)
        left = batch.train_mask
        return F.cross_entropy(model(batch.x, batch.edge_index)[left], batch.y[left])

    torch.manual_seed(cell["seed"])
    history = gf.training.fit(
        model, loss, epochs=epochs * len(train), lr=RATE, weight_decay=0.0
    )
    model.eval()
    last = statistics.mean(history.losses[-len(train) :])
    return {"accuracy": accuracy(model, test), "loss": round(last, 4)}


def trained(
    depths: tuple[int, ...], seeds: range, count: int, epochs: int
) -> list[dict[str, Any]]:
    """Every cell at every depth; prints the accuracies of its seeds."""
    rows = []
    for rewired in (False, True):
        data = list(batches(range(count), rewired)), list(batches(TEST_SEEDS, rewired))
        for layers, stabilized in itertools.product(depths, (False, True)):
            cells = [
                {
                    "layers": layers,
                    "rewired": rewired,
                    "stabilized": stabilized,
                    "seed": seed,
                }
                for seed in seeds
            ]
            found = [cell | training(data, cell, epochs) for cell in cells]
            rows += found
            shown = " ".join(f"{row['accuracy']:.2f}" for row in found)
            print(f"{layers:2} layers {name(rewired, stabilized):22} {shown}")
    return rows


def name(rewired: bool, stabilized: bool) -> str:
    """A cell in words."""
    graph = "rewired" if rewired else "1-hop"
    return f"{graph}, {'state space' if stabilized else 'plain'}"


def mean(rows: list[dict[str, Any]], layers: int, cell: tuple[bool, bool]) -> float:
    """Accuracy over the seeds."""
    return statistics.mean(
        row["accuracy"]
        for row in rows
        if (row["layers"], row["rewired"], row["stabilized"]) == (layers, *cell)
    )


def main() -> None:
    """Print both tables and publish them."""
    options = parse(__doc__ or "")
    seeds, depths, count, epochs = range(3), DEPTHS, 400, 20
    if options.quick:
        seeds, depths, count, epochs = range(1), DEPTHS[:1], 200, 5
    diagnosed, wrong = [], []
    for cell, seed in itertools.product(CELLS, seeds):
        row = diagnosis(*cell, seed)
        diagnosed.append({"cell": name(*cell), "seed": seed} | row)
        print(
            f"seed {seed} {name(*cell):22} {row['hops']} hops: model "
            f"{row['model']:5.2f} topology {row['topology']:5.2f} by {row['causes']}"
        )
        if row["causes"] != CAUSES[cell]:
            wrong.append(f"seed {seed}, {name(*cell)}: {row['causes']}")
    rows = trained(depths, seeds, count, epochs)
    ours, peer = (mean(rows, DEPTHS[0], cell) for cell in (CELLS[-1], CELLS[0]))
    result = {
        "claim": "over_squashing",
        "ours": ours,
        "peer": peer,
        "ratio": ours - peer,
        "unit": "accuracy on test graphs, rewired and stabilized against neither",
        "size": f"{count} training graphs, {DEPTHS[0]} layers, {epochs} epochs",
        "rounds": len(seeds),
        "means": [
            {
                "layers": layers,
                "cell": name(*cell),
                "accuracy": mean(rows, layers, cell),
            }
            for layers, cell in itertools.product(depths, CELLS)
        ],
        "diagnosis": diagnosed,
        "training": rows,
    }
    publish(result, options)
    if wrong:
        sys.exit("Findings differ from the table: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
