"""Networks of the verdict suite, as their users write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import (
    GAT,
    GCN,
    GIN,
    GATConv,
    GATv2Conv,
    GCNConv,
    GraphConv,
    GraphSAGE,
    MessagePassing,
    ResGatedGraphConv,
    SAGEConv,
    TAGConv,
    TransformerConv,
)

from graphfathom.nn.zoo import build

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "DenseLayer",
    "Squashed",
    "Stack",
    "head",
    "layers",
]

WIDTH = 32
Build = Callable[[int, int, int], nn.Module]
"""From widths of input and output and the depth to a network."""


class Stack(nn.Module):
    """Encoder, layers, head: what most people write first.

    Args:
        conv: Constructor of a layer from two widths.
        widths: Of input, hidden states and output.
        depth: Number of layers.
        residual: Whether each layer adds to what it reads.
        act: The activation behind each layer.
    """

    def __init__(
        self,
        conv: Callable[[int, int], nn.Module],
        widths: tuple[int, int, int],
        depth: int,
        residual: bool = False,
        act: Callable[[Tensor], Tensor] = torch.relu,
    ) -> None:
        super().__init__()
        self.encoder = nn.Linear(widths[0], widths[1])
        self.convs = nn.ModuleList(conv(widths[1], widths[1]) for _ in range(depth))
        self.head = nn.Linear(widths[1], widths[2])
        self.residual = residual
        self.act = act

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Logits of all nodes."""
        x = self.encoder(x)
        for conv in self.convs:
            h = self.act(conv(x, edge_index))
            x = x + h if self.residual else h
        return self.head(x)


class DenseLayer(nn.Module):
    """Message passing by hand: the mean over a dense adjacency matrix, and oneself."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lin = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """The next state."""
        adjacency = torch.eye(len(x), dtype=x.dtype, device=x.device)
        adjacency[edge_index[1], edge_index[0]] = 1.0
        return self.lin(adjacency @ x / adjacency.sum(1, keepdim=True))


class Squashed(nn.Module):
    """A network whose author put an activation behind its logits."""

    def __init__(self, net: nn.Module, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = net
        self.act = act

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """What is left of the logits."""
        return self.act(self.net(x, edge_index))


@dataclass(frozen=True)
class Architecture:
    """A way of building networks, and what can befall it."""

    build: Build
    healthy: tuple[int, ...]
    """Depths at which it usually trains."""
    kind: str = "plain"
    """``"plain"``: nothing passes a layer by; ``"skip"``: the state does; ``"deep"``:
    made for depth; ``"sum"``: plain, and sums what it hears; ``"norm"``: plain, and
    normalises."""
    averages: bool = False
    """Whether a layer returns nothing but means over neighbours and the node itself."""
    attention: bool = False
    unseen: bool = False
    """Never looked at while thresholds are chosen."""


def _stack(
    conv: Callable[..., nn.Module],
    residual: bool = False,
    act: Callable[[Tensor], Tensor] = torch.relu,
    **options: Any,
) -> Build:
    def layer(in_channels: int, out_channels: int) -> nn.Module:
        return conv(in_channels, out_channels, **options)

    def made(inputs: int, outputs: int, depth: int) -> nn.Module:
        return Stack(layer, (inputs, WIDTH, outputs), depth, residual, act)

    return made


def _basic(model: Callable[..., nn.Module], **options: Any) -> Build:
    def made(inputs: int, outputs: int, depth: int) -> nn.Module:
        return model(inputs, WIDTH, depth, outputs, **options)

    return made


def _zoo(name: str) -> Build:
    def made(inputs: int, outputs: int, depth: int) -> nn.Module:
        return build(name, inputs, outputs, depth, WIDTH)

    return made


SHALLOW, DEEP = (2, 3), (2, 4, 8, 16, 24)

ARCHITECTURES = {
    "gcn": Architecture(_basic(GCN), SHALLOW),
    "sage": Architecture(_basic(GraphSAGE), SHALLOW),
    "gat": Architecture(_basic(GAT), SHALLOW, attention=True),
    "gin": Architecture(_basic(GIN), (2, 3), "sum"),
    "gcn-batch": Architecture(_basic(GCN, norm="batch_norm"), SHALLOW, "norm"),
    "sage-layer": Architecture(_basic(GraphSAGE, norm="layer_norm"), SHALLOW, "norm"),
    "mean": Architecture(_stack(SAGEConv, root_weight=False), SHALLOW, averages=True),
    "gat-stack": Architecture(_stack(GATConv), SHALLOW, averages=True, attention=True),
    "gcn-residual": Architecture(_stack(GCNConv, True), (2, 4, 8), "skip"),
    "sage-residual": Architecture(_stack(SAGEConv, True), (2, 4, 8), "skip"),
    "gcnii": Architecture(_zoo("gcnii"), DEEP, "deep"),
    "res+": Architecture(_zoo("res+"), DEEP, "deep"),
    "gatv2": Architecture(
        _stack(GATv2Conv), SHALLOW, averages=True, attention=True, unseen=True
    ),
    "transformer": Architecture(
        _stack(TransformerConv), SHALLOW, attention=True, unseen=True
    ),
    "dense": Architecture(_stack(DenseLayer), SHALLOW, averages=True, unseen=True),
    "graph-conv": Architecture(_stack(GraphConv), (2, 3), "sum", unseen=True),
    "tag": Architecture(_stack(TAGConv), SHALLOW, unseen=True),
    "gated-residual": Architecture(
        _stack(ResGatedGraphConv, True), (2, 4), "skip", unseen=True
    ),
    "transformer-residual": Architecture(
        _stack(TransformerConv, True), (2, 4, 8), "skip", attention=True, unseen=True
    ),
}


def layers(model: nn.Module) -> list[nn.Module]:
    """The message-passing layers, in order."""
    kinds = (MessagePassing, DenseLayer)
    return [module for module in model.modules() if isinstance(module, kinds)]


def head(model: nn.Module) -> nn.Module:
    """The module that writes the output."""
    for name in ("head", "readout"):
        module = getattr(model, name, None)
        if isinstance(module, nn.Module):
            return module
    return layers(model)[-1]
