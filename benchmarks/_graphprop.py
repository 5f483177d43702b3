"""The small graphs of GraphProp, for the benchmarks of batches and of shells."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import Data

from graphfathom.datasets import data_folder

__all__ = ["graphprop"]


def graphprop(number: int) -> tuple[list[Data], str]:
    """The first graphs of the training split, and what they are.

    They are read from ``graphprop/*.npz`` in the data folder; without it they are
    random graphs of their size.
    """
    folder = data_folder()
    file = next(
        iter(sorted(folder.glob("graphprop/*.npz"))) if folder else iter(()), None
    )
    if file is None:
        rng = np.random.default_rng(0)
        sizes = rng.integers(25, 35, number).tolist()
        # GraphProp has 3.5 edges for each node.
        pairs = [np.triu(rng.random((n, n)) < 7 / n, 1).nonzero() for n in sizes]
        edges, name = [np.array(ends) for ends in pairs], "random"
    else:
        stored = np.load(file)
        sizes = stored["train_num_nodes"][:number].tolist()
        ends = stored["train_num_edges"].cumsum()[:number]
        edges = np.split(stored["train_edges"].astype(np.int64), ends, axis=1)
        name = "GraphProp"
    both = [torch.from_numpy(np.concatenate([e, e[::-1]], axis=1)) for e in edges]
    found = [Data(edge_index=e, num_nodes=n) for e, n in zip(both, sizes, strict=False)]
    return found, name
