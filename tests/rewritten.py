"""Small networks of each state-space form, shared by the tests of rewriting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from graphs import random_graph
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn import (
    GCN,
    DeepGCNLayer,
    GCNConv,
)

from graphfathom.nn.transition import Scalar
from graphfathom.problem import Problem
from graphfathom.rewrite import (
    to_state_space,
)

WIDTH = 6


class Frame(nn.Module):
    """Hand-written network whose layers can be called in unusual ways."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, WIDTH)
        self.convs = nn.ModuleList(GCNConv(WIDTH, WIDTH) for _ in range(3))
        self.readout = nn.Linear(WIDTH, 2)
        self.habit = ""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        convs = list(self.convs)
        if self.habit == "reversed":
            convs = convs[::-1]
        if self.habit == "early":
            convs = convs[:2]
        for conv in convs:
            if self.habit == "checkpoint" and conv is not convs[0]:
                x = checkpoint(conv, x, edge_index, use_reentrant=False)
            else:
                x = conv(x, edge_index)
            x = x.relu()
            if self.habit == "recursive":
                self.habit = ""
                self(torch.ones(8, 3), edge_index)
            if self.habit == "fails":
                raise RuntimeError("on purpose")
        return x if self.habit == "early" else self.readout(x)


class Blocks(nn.Module):
    """DeepGCN, whose blocks map a state to the next one."""

    def __init__(self, *, checkpointed: bool = False) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, WIDTH)
        self.blocks = nn.ModuleList(
            DeepGCNLayer(GCNConv(WIDTH, WIDTH), act=nn.ReLU(), block="plain")
            for _ in range(3)
        )
        self.readout = nn.Linear(WIDTH, 2)
        self.checkpointed = checkpointed

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        for block in self.blocks:
            if self.checkpointed:
                x = checkpoint(block, x, edge_index, use_reentrant=False)
            else:
                x = block(x, edge_index)
        return self.readout(x)


def gcn() -> nn.Module:
    return GCN(3, WIDTH, num_layers=5, out_channels=2, norm="batch_norm", dropout=0.1)


FORMS: dict[str, Callable[[], nn.Module]] = {
    "structural": gcn,
    "block": Blocks,
    "boundary": Frame,
}


def rewrite(model: nn.Module, state: Any = None, message: Any = None) -> Any:
    problem = Problem(model, random_graph())
    return to_state_space(
        model,
        problem,
        state=state or Scalar(0.9),
        input=message or Scalar(0.3),
    )


def call(form: nn.Module) -> Tensor:
    data = random_graph()
    return form(data.x.to(next(form.parameters()).dtype), data.edge_index)
