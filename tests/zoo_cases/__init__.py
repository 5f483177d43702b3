"""Every compared model, as the tests that hold for all of them build it.

Each module here has a dictionary ``CASES``; they are put together.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import torch
from graphs import random_graph, undirected
from shells import with_shells
from torch_geometric.data import Batch, Data

from zoo_cases.case import Case

__all__ = ["ALL", "Case", "call", "graphs", "inputs", "load"]

HOPS = 4


def load() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for module in pkgutil.iter_modules(__path__):
        cases = getattr(
            importlib.import_module(f"zoo_cases.{module.name}"), "CASES", {}
        )
        assert not found.keys() & cases.keys()
        found |= cases
    return found


ALL = load()


def graphs() -> list[Data]:
    """Three graphs with all that a model may need; one has an isolated node."""
    paths = [(0, 1), (1, 2), (2, 3), (3, 4), (1, 4)]
    made = [
        random_graph(),
        undirected(6, paths, seed=1),
        undirected(3, [(0, 1)], seed=2),
    ]
    generator = torch.Generator().manual_seed(0)
    for data in made:
        data.edge_attr = torch.rand(data.num_edges, 2, generator=generator)
    return [with_shells(data, HOPS) for data in made]


def inputs(case: Case, data: Data) -> dict[str, Any]:
    """The arguments that a model takes from a graph or a batch."""
    names = ["x", "edge_index", *case.inputs]
    found = {name: data[name] for name in names}
    if isinstance(data, Batch):
        found["batch"] = data.batch
    return found


def call(model: torch.nn.Module, case: Case, data: Data) -> torch.Tensor:
    return model(**inputs(case, data))
