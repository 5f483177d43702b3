"""The runs of ``backward_smoothing``, by what they show."""

from __future__ import annotations

import functools
import itertools

from _claim import cora
from _runs import Config

DEPTHS = (5, 40)
SEEDS, SOME, FEW = 10, 5, 2
"""Of the claim, of what is trained beside it, and of the sweeps."""
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0)
RADII, STRENGTHS = (0.5, 0.75, 0.9, 1.0), (0.25, 1.0, 4.0, 16.0)
TRAINING = {"epochs": 200, "lr": 1e-3, "decay": 5e-4}

Cell = tuple[str, str, int, float | None]
"""Graph, network, layers, norm of the weights."""
TRAINED: tuple[Cell, ...] = (
    ("fast", "gnn", 40, 1.0),
    ("fast", "mlp", 40, 1.0),
    ("fast", "gnn", 5, 1.0),
    ("fast", "mlp", 5, 1.0),
    ("slow", "gnn", 40, 1.0),
    ("slow", "gnn", 5, 1.0),
    ("fast", "stabilized", 40, 1.0),
)
CORA: tuple[Cell, ...] = (("cora", "gnn", 40, 1.0), ("cora", "gnn", 5, 1.0))
JUDGED: tuple[tuple[Cell, bool | None], ...] = (
    (TRAINED[0], True),
    (TRAINED[2], False),
    (TRAINED[1], False),
    (TRAINED[6], False),
    (("fast", "mlp", 40, None), True),
    (TRAINED[4], None),
    (CORA[0], None),
    (CORA[1], None),
)
"""What the detector has to say; None: the same as the independent measure."""


def run(kind: str, cell: Cell, seed: int, **more: float) -> Config:
    """A configuration."""
    names = ("graph", "network", "layers", "scale")
    config = {"claim": "backward_smoothing", "kind": kind, "seed": seed}
    data = {"data": _source()} if cell[0] == "cora" else {}
    return config | dict(zip(names, cell, strict=True)) | data | more


@functools.cache
def _source() -> str:
    """Cora, or what stands for it: not the same runs."""
    return cora()[1]


def trained(cell: Cell, seed: int) -> Config:
    """A network measured and trained."""
    return run("train", cell, seed, **TRAINING)


def diagnosed(cell: Cell, seed: int) -> Config:
    """A network diagnosed."""
    return run("diagnose", cell, seed)


def rates() -> Config:
    """The operators on Cora."""
    return {"claim": "backward_smoothing", "kind": "rates", "data": _source()}


def scaled(scale: float, seed: int) -> Config:
    """The deep GNN with weights of another norm."""
    return trained(("fast", "gnn", DEPTHS[1], scale), seed)


def state_space(radius: float, strength: float, kind: str = "train") -> Config:
    """The deep GNN in state-space form, trained or diagnosed."""
    cell, training = ("fast", "state", DEPTHS[1], 1.0), TRAINING
    if kind == "diagnose":
        training = {}
    return run(kind, cell, 0, radius=radius, strength=strength, **training)


def trained_seeds(cell: Cell) -> range:
    """How often a network is trained: on Cora only the weights differ."""
    if cell[0] == "cora":
        return range(FEW)
    return range(SOME if cell[0] == "slow" or cell[1] == "stabilized" else SEEDS)


def judged_seeds(cell: Cell) -> range:
    """How often a network is diagnosed."""
    return range(FEW if cell[0] == "cora" else SEEDS)


def everything() -> list[Config]:
    """All runs, the first seed of everything first."""
    cells = (*TRAINED, *CORA)
    every = [(cell, seed) for seed in range(SEEDS) for cell in cells]
    every = [(cell, seed) for cell, seed in every if seed in trained_seeds(cell)]
    return [
        rates(),
        *(trained(cell, seed) for cell, seed in every if seed < 1),
        *(scaled(scale, seed) for seed in range(FEW) for scale in SCALES),
        *(state_space(*point) for point in itertools.product(RADII, STRENGTHS)),
        *(trained(cell, seed) for cell, seed in every if seed >= 1),
        *(diagnosed(cell, n) for cell, _ in JUDGED for n in judged_seeds(cell)),
        *(state_space(*at, "diagnose") for at in itertools.product(RADII, STRENGTHS)),
    ]


QUICK = tuple(
    ((graph, network, layers // 2, scale), expected)
    for (graph, network, layers, scale), expected in JUDGED
    if expected is not None
)
"""The same networks with half of the layers."""


def quick() -> list[Config]:
    """A few runs of the same kinds in less than a minute."""
    training = TRAINING | {"epochs": 20}
    return [
        run("train", QUICK[0][0], 0, **training),
        *(diagnosed(cell, 0) for cell, _ in QUICK),
    ]
