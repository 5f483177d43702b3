"""Models that are hard to copy, to cast, to repeat or to run at all."""

from __future__ import annotations

import itertools
import random
import threading
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GCN, GCNConv, Sequential

__all__ = [
    "Counting",
    "Drawing",
    "Dropping",
    "Embedded",
    "Failing",
    "Generating",
    "Locked",
    "LookupConv",
    "Noisy",
    "SinglePrecision",
    "gcn",
    "sequential",
]


def gcn(num_layers: int = 3, kind: type[GCN] = GCN, **options: Any) -> GCN:
    """A GCN that fits the graphs of ``graphs.py``, or a subclass of it."""
    return kind(3, 4, num_layers=num_layers, out_channels=2, act="tanh", **options)


def sequential(conv: nn.Module, *others: nn.Module) -> Sequential:
    """PyG's Sequential. It takes its code from the module that builds it, by name."""
    steps = [(conv, "x, edge_index -> x"), *((other, "x -> x") for other in others)]
    return Sequential("x, edge_index", steps)


class Locked(GCN):
    """Cannot be copied: a lock has no copy. It remembers its calls as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lock = threading.Lock()
        self.steps = torch.zeros(())
        self.log: list[int] = []

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        with self.lock:
            self.steps += 1
            self.log.append(1)
            self.last = x
            return super().forward(x, edge_index)


class Generating(GCN):
    """Cannot be copied: it holds a running generator."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.ticks = (tick for tick in itertools.count())


class SinglePrecision(nn.Module):
    """Cannot be cast: its forward insists on float32."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(3, 4), GCNConv(4, 4), GCNConv(4, 2)])
        self.float()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x.float(), edge_index).tanh()
        return x


class Noisy(GCN):
    """Another output at every call, whatever the random state."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return super().forward(x * random.SystemRandom().random(), edge_index)


class Dropping(GCN):
    """Dropout that forgets to look at ``training``: it draws from torch's generator."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5), edge_index)


class Drawing(GCN):
    """Draws from the generators of Python and NumPy."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        scale = 1 + random.random() + float(np.random.rand())
        return super().forward(x * scale, edge_index)


class Counting(GCN):
    """Runs differently at the first call, in four kinds of memory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("buffered", torch.zeros(()))
        self.number, self.tensor, self.entries = 0, torch.zeros(()), []

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        scale = 1 + self.number + self.tensor + self.buffered + len(self.entries)
        self.number += 1
        self.tensor += 1
        self.buffered += 1
        self.entries.append(1)
        return super().forward(x * scale, edge_index)


class Embedded(nn.Module):
    """Integer features, embedded before the first layer or inside of it."""

    def __init__(self, num_embeddings: int = 1) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(5, 4) for _ in range(num_embeddings))
        self.convs = nn.ModuleList([GCNConv(4, 4), GCNConv(4, 2)])

    def embed(self, x: Tensor) -> Tensor:
        return sum(table(x) for table in self.tables)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.embed(x)
        for conv in self.convs:
            h = conv(h, edge_index).tanh()
        return h


class LookupConv(GCNConv):
    """Embeds the features by itself, so that no state lies before it."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.table = nn.Embedding(5, 4)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return super().forward(self.table(x), edge_index)


class Failing(nn.Module):
    """The widths of its second convolution do not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([GCNConv(3, 4), GCNConv(5, 2)])

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x, edge_index)
        return x
