"""Networks that are trained for a few steps while a monitor watches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphfathom.diagnostics.observations import Observations
from graphfathom.monitoring import Monitor

__all__ = ["WIDTH", "at_step", "gcn", "loss_of", "train", "watched"]

WIDTH = 4


def loss_of(model: nn.Module, data: Data) -> Tensor:
    return F.cross_entropy(model(data.x, data.edge_index), data.y)


def train(
    model: nn.Module,
    data: Data,
    monitor: Monitor,
    steps: int = 5,
    between: Callable[[], object] = lambda: None,
) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, data)
        loss.backward()
        monitor.step(loss)
        optimizer.step()
        between()


def gcn(depth: int = 3) -> GCN:
    return GCN(3, WIDTH, depth, 2)


def at_step(table: Observations, step: int) -> Observations:
    return Observations(row for row in table if row.step == step)


def watched(model: nn.Module, data: Data, **options: object) -> Observations:
    """The rows of one step."""
    with Monitor(model, **options) as monitor:
        train(model, data, monitor, steps=1)
    return monitor.observations
