"""Networks written by hand: each has one habit that a tracer can trip over."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from layers import DenseLayer, GatedEdgeConv
from torch import Tensor, nn
from torch_geometric.nn import DeepGCNLayer, GCN2Conv, GCNConv


def gcn_convs(channels: int, count: int) -> nn.ModuleList:
    """Graph convolutions of one width."""
    return nn.ModuleList(GCNConv(channels, channels) for _ in range(count))


class Chain(nn.Module):
    """x <- act(conv(x)), then a linear read-out; the plainest frame."""

    def __init__(
        self,
        convs: list[nn.Module],
        encoder: nn.Module,
        readout: nn.Module,
        act: Callable[[Tensor], Tensor] = torch.tanh,
        *,
        keywords: bool = False,
        edge_features: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.convs = nn.ModuleList(convs)
        self.readout = readout
        self.act = act
        self.keywords = keywords
        self.edge_features = edge_features

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None = None
    ) -> Tensor:
        x = self.encoder(x)
        for conv in self.convs:
            x = self.act(self._call(conv, x, edge_index, edge_attr))
        return self.readout(x)

    def _call(
        self, conv: nn.Module, x: Tensor, edge_index: Tensor, edge_attr: Tensor | None
    ) -> Tensor:
        if self.edge_features:
            return conv(x, edge_index, edge_attr=edge_attr)
        if self.keywords:
            return conv(x=x, edge_index=edge_index)
        return conv(x, edge_index)


class DeepGCN(nn.Module):
    """DeepGCNLayers of one block, used as the documentation of PyG shows for res+.

    With ``first_conv`` the convolution of the first layer is called on its own, so
    that its wrapper never runs, and the norm and activation of the first layer close
    the network.
    """

    def __init__(
        self,
        layers: list[DeepGCNLayer],
        encoder: nn.Module,
        readout: nn.Module,
        *,
        first_conv: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = nn.ModuleList(layers)
        self.readout = readout
        self.first_conv = first_conv

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        layers = list(self.layers)
        if self.first_conv:
            x = layers.pop(0).conv(x, edge_index)
        for layer in layers:
            x = layer(x, edge_index)
        if self.first_conv:
            first = self.layers[0]
            x = first.act(first.norm(x))
        return self.readout(x)


class GCNII(nn.Module):
    """Every layer reads the first state: the state is (x, x0)."""

    def __init__(self, channels: int, num_layers: int, readout: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, channels)
        self.convs = nn.ModuleList(
            GCN2Conv(channels, alpha=0.2, theta=0.5, layer=k + 1)
            for k in range(num_layers)
        )
        self.readout = readout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = x0 = self.encoder(x).tanh()
        for conv in self.convs:
            x = conv(x, x0, edge_index).tanh()
        return self.readout(x)


class Opened(nn.Module):
    """One module call with many propagations inside."""

    def __init__(self, conv: nn.Module, encoder: nn.Module, readout: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.conv = conv
        self.readout = readout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.readout(self.conv(self.encoder(x), edge_index))


class DenseNet(nn.Module):
    """Dense layers with tanh between them."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(DenseLayer(a, b) for a, b in pairs)

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x, adj).tanh()
        return self.layers[-1](x, adj)


class InlineDenseNet(nn.Module):
    """The rows are mixed in the forward of the model itself, by no module."""

    def __init__(self, channels: int, num_layers: int) -> None:
        super().__init__()
        self.lins = nn.ModuleList(
            nn.Linear(channels, channels) for _ in range(num_layers)
        )

    def forward(self, x: Tensor, adj: Tensor) -> Tensor:
        for lin in self.lins:
            x = (adj @ lin(x)).tanh()
        return x


class GraphCON(nn.Module):
    """Graph-coupled oscillators: position X and velocity Y are both state."""

    dt, damping, frequency = 0.5, 0.3, 0.7

    def __init__(self, channels: int, num_layers: int, readout: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, channels)
        self.convs = gcn_convs(channels, num_layers)
        self.readout = readout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        position = velocity = self.encoder(x)
        for conv in self.convs:
            force = conv(position, edge_index).tanh() - self.frequency * position
            velocity = velocity + self.dt * (force - self.damping * velocity)
            position = position + self.dt * velocity
        return self.readout(position)


class DelayedNet(nn.Module):
    """DRew with delay 1: nodes two hops away are seen one layer late."""

    def __init__(self, channels: int, num_layers: int, readout: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, channels)
        self.near = gcn_convs(channels, num_layers)
        self.far = gcn_convs(channels, num_layers - 1)
        self.readout = readout

    def forward(self, x: Tensor, edge_index: Tensor, far_edge_index: Tensor) -> Tensor:
        xs = [self.encoder(x)]
        for k, conv in enumerate(self.near):
            out = conv(xs[-1], edge_index)
            if k > 0:
                out = out + self.far[k - 1](xs[-2], far_edge_index)
            xs.append(xs[-1] + out.tanh())
        return self.readout(xs[-1])


class PreActivation(nn.Module):
    """Residual network whose state is changed in one of several Python forms."""

    def __init__(
        self, channels: int, num_layers: int, readout: nn.Module, form: str
    ) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, channels)
        self.convs = gcn_convs(channels, num_layers)
        self.readout = readout
        self.form = form

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        for conv in self.convs:
            h = conv(x.tanh(), edge_index)
            if self.form == "x = x + h":
                x = x + h
            elif self.form == "x += h":
                x += h
            elif self.form == "x.add_(h)":
                x.add_(h)
            else:
                x[:, :2] += h[:, :2]
        return self.readout(x)


class SharedConv(nn.Module):
    """One convolution called again and again."""

    def __init__(self, channels: int, num_layers: int, readout: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, channels)
        self.conv = GCNConv(channels, channels)
        self.num_layers = num_layers
        self.readout = readout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        for _ in range(self.num_layers):
            x = self.conv(x, edge_index).tanh()
        return self.readout(x)


class ParallelConvs(nn.Module):
    """Each layer sums two convolutions of the same state."""

    def __init__(
        self, pairs: list[tuple[nn.Module, nn.Module]], encoder: nn.Module
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.first = nn.ModuleList(a for a, _ in pairs)
        self.second = nn.ModuleList(b for _, b in pairs)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        for a, b in zip(self.first, self.second, strict=True):
            x = (a(x, edge_index) + b(x, edge_index)).tanh()
        return x


class LongSkip(nn.Module):
    """Layer k reads the states k-1 and k-2: x <- tanh(conv(x)) + x_before."""

    def __init__(self, channels: int, num_layers: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, channels)
        self.convs = gcn_convs(channels, num_layers)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = before = self.encoder(x)
        for conv in self.convs:
            x, before = conv(x, edge_index).tanh() + before, x
        return x


class InputInjection(nn.Module):
    """Each layer reads the raw features once more."""

    def __init__(self, channels: int, num_layers: int, readout: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, channels)
        self.convs = gcn_convs(channels, num_layers)
        self.inject = nn.ModuleList(nn.Linear(3, channels) for _ in range(num_layers))
        self.readout = readout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        h = self.encoder(x)
        for conv, inject in zip(self.convs, self.inject, strict=True):
            h = (conv(h, edge_index) + inject(x)).tanh()
        return self.readout(h)


class FeedForward(nn.Module):
    """Residual blocks whose linear map after the convolution is in no wrapper."""

    def __init__(self, channels: int, num_layers: int, readout: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, channels)
        self.convs = gcn_convs(channels, num_layers)
        self.lins = nn.ModuleList(
            nn.Linear(channels, channels) for _ in range(num_layers)
        )
        self.readout = readout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        for conv, lin in zip(self.convs, self.lins, strict=True):
            x = x + lin(conv(x, edge_index).tanh())
        return self.readout(x)


class VirtualNode(nn.Module):
    """A state of the whole graph is read and written by every layer."""

    def __init__(self, channels: int, num_layers: int, readout: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, channels)
        self.convs = gcn_convs(channels, num_layers)
        self.lin = nn.Linear(channels, channels)
        self.first = nn.Parameter(torch.randn(1, channels))
        self.readout = readout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x, everywhere = self.encoder(x), self.first
        for conv in self.convs:
            x = conv(x + everywhere, edge_index).tanh()
            everywhere = everywhere + self.lin(x.mean(dim=0, keepdim=True))
        return self.readout(x)


class WeightedNet(nn.Module):
    """The edge weights of each layer are computed from its state."""

    def __init__(self, channels: int, num_layers: int, readout: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, channels)
        self.convs = gcn_convs(channels, num_layers)
        self.readout = readout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.encoder(x)
        for conv in self.convs:
            weight = (x[edge_index[0]] * x[edge_index[1]]).sum(dim=-1).sigmoid()
            x = conv(x, edge_index, weight).tanh()
        return self.readout(x)


class EdgeStateNet(nn.Module):
    """GatedGCN: node and edge states travel side by side."""

    def __init__(self, channels: int, num_layers: int, readout: nn.Module) -> None:
        super().__init__()
        self.node_encoder = nn.Linear(3, channels)
        self.edge_encoder = nn.Linear(2, channels)
        self.convs = nn.ModuleList(GatedEdgeConv(channels) for _ in range(num_layers))
        self.readout = readout

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        x, e = self.node_encoder(x), self.edge_encoder(edge_attr)
        for conv in self.convs:
            h, g = conv(x, edge_index, e)
            x, e = x + h.tanh(), e + g.tanh()
        return self.readout(x)


class HeteroNet(nn.Module):
    """Heterogeneous layers over dictionaries of node states."""

    def __init__(
        self, encoders: dict[str, nn.Module], convs: list[nn.Module], readout: nn.Module
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.convs = nn.ModuleList(convs)
        self.readout = readout

    def forward(
        self,
        x_dict: dict[str, Tensor],
        edge_index_dict: dict[tuple[str, str, str], Tensor],
    ) -> Tensor:
        xs = {kind: self.encoders[kind](x) for kind, x in x_dict.items()}
        for conv in self.convs:
            xs = {kind: x.tanh() for kind, x in conv(xs, edge_index_dict).items()}
        return self.readout(xs["paper"])


class WrappedOutput(nn.Module):
    """Returns the output of a model inside a tuple or a dictionary."""

    def __init__(self, model: nn.Module, form: str) -> None:
        super().__init__()
        self.model = model
        self.form = form

    def forward(self, x: Tensor, edge_index: Tensor) -> Any:
        out = self.model(x, edge_index)
        return (out, x) if self.form == "tuple" else {"logits": out, "x": x}
