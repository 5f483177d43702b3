"""GPS, whose layers add global attention to message passing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import GPSConv

from graphfathom.nn.dropout import dropout
from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import check_rates
from graphfathom.nn.propagation import share_adjacency
from graphfathom.nn.zoo.choices import (
    Conv,
    Norm,
    build_conv,
    build_norm,
    edge_names,
    is_by_graph,
    name_of,
    normalize,
    taken_by,
)

__all__ = ["GPS", "GPSLayer"]


class _Apply(nn.Module):
    """A function as a module, which PyG's layer asks for."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class GPSLayer(GPSConv):
    """PyG's layer, with a forward that compiles and takes nodes in any order.

    PyG's own cuts the padding off by a mask of booleans, which ``torch.compile`` cannot
    follow, and takes for granted that the nodes of a graph lie side by side.

    Args:
        channels: Width of the state.
        conv: The convolution.
        heads: Number of heads of the attention.
        norm: ``norm(channels)`` returns a normalisation, or None.
        act: The activation of the feed-forward part.
        layer_dropout: Probability of dropping an entry inside of the layer.
    """

    def __init__(
        self,
        channels: int,
        conv: Any,
        heads: int = 1,
        norm: Callable[[int], nn.Module | None] = nn.LayerNorm,
        act: Callable[[Tensor], Tensor] = torch.relu,
        layer_dropout: float = 0.0,
    ) -> None:
        between: Any = act if isinstance(act, nn.Module) else _Apply(act)
        super().__init__(channels, conv, heads, layer_dropout, between, norm=None)
        self.norm1, self.norm2, self.norm3 = (norm(channels) for _ in range(3))
        self._edges, self._by_graph = edge_names(conv), is_by_graph(self.norm1)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        # PyG's leaves out what torch's attention does: the map behind the heads.
        attention: Any = self.attn
        attention.out_proj.reset_parameters()
        super().reset_parameters()

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        batch: Tensor | None = None,
        edge_weight: Tensor | None = None,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        """Node features to node features of the same width."""
        conv: Any = self.conv
        edges = taken_by(self._edges, edge_weight=edge_weight, edge_attr=edge_attr)
        parts = []
        for norm, h in (
            (self.norm1, conv(x, edge_index, **edges)),
            (self.norm2, self._attend(x, batch)),
        ):
            h = dropout(h, self.dropout, self.training)
            parts.append(normalize(norm, h + x, batch, self._by_graph))
        out = parts[0] + parts[1]
        out = out + self.mlp(out)
        return normalize(self.norm3, out, batch, self._by_graph)

    def _attend(self, x: Tensor, batch: Tensor | None) -> Tensor:
        """Attention of each node to all nodes of its graph."""
        if batch is None:
            x = x.unsqueeze(0)
            return self.attn(x, x, x, need_weights=False)[0].squeeze(0)
        graph, place, counts = _places(batch)
        size = (len(counts), int(counts.max()) if len(counts) else 0)
        dense = x.new_zeros(*size, x.size(1)).index_put((graph, place), x)
        rows = torch.arange(size[1], device=x.device)
        padding = rows >= counts.unsqueeze(1)
        dense, _ = self.attn(
            dense, dense, dense, key_padding_mask=padding, need_weights=False
        )
        return dense[graph, place]


class GPS(GraphNetwork):
    r"""A graph transformer: messages and global attention side by side.

    .. math::
        \bar{H} = \mathrm{norm}(H + \mathrm{conv}(H, G))
            + \mathrm{norm}(H + \mathrm{attention}(H)), \qquad
        H^+ = \mathrm{norm}\bigl(\bar{H} + W_2\, \sigma(W_1 \bar{H})\bigr)

    Every node attends to all nodes of its graph. Positional encodings are left to the
    data: PyG's transforms ``AddLaplacianEigenvectorPE`` and ``AddRandomWalkPE`` append
    them to the features.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        conv: As :class:`~graphfathom.nn.zoo.mpnn.MPNN` has it.
        heads: Number of heads, a divisor of ``hidden_channels``.
        norm: As MPNN has it.
        layer_dropout: Probability of dropping an entry of what the convolution, the
            attention and the two maps behind them return.
        act: The activation :math:`\sigma`.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        TypeError: If ``conv`` or ``norm`` is neither a name nor a function that returns
            a module.
        ValueError: If a number or a choice is not as described.

    Example:
        >>> GPS(9, 64, 1, num_layers=10)
        GPS(9, 64, 1, num_layers=10, conv=gcn, heads=4, norm=batch)

    References:
        | Recipe for a General, Powerful, Scalable Graph Transformer
        | (Rampášek et al., 2022), https://arxiv.org/abs/2205.12454

    Differs from the paper:
        The convolution is GCN's, which needs no edge features; that of the paper is
        GatedGCN. The official code encodes positions by networks of their own; here
        they are features like others.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        conv: Conv = "gcn",
        *,
        heads: int = 4,
        norm: Norm = "batch",
        layer_dropout: float = 0.0,
        act: str | Act | None = "relu",
        **kwargs: Any,
    ) -> None:
        check_rates(layer_dropout=layer_dropout)

        def layer(k: int, act: Act) -> nn.Module:
            if heads < 1 or hidden_channels % heads:
                raise ValueError(
                    f"`heads` must divide `hidden_channels`, {hidden_channels}. Got "
                    f"{heads}: each head takes an equal part of the width."
                )
            return GPSLayer(
                hidden_channels,
                build_conv(conv, hidden_channels),
                heads,
                lambda channels: build_norm(norm, channels),
                act,
                layer_dropout,
            )

        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            options={"conv": name_of(conv), "heads": heads, "norm": name_of(norm)},
            **kwargs,
        )

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """One adjacency for all layers, if they are GCN's."""
        convs: list[Any] = [layer.conv for layer in self.layers]
        return share_adjacency(convs, x, edge_index, given)


def _places(batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Graph of each node, its number in there, and the number of nodes of a graph."""
    # Numbered anew: a graph without nodes would have nothing to attend to.
    _, graph, counts = batch.unique(return_inverse=True, return_counts=True)
    order = graph.argsort(stable=True)
    first = counts.cumsum(0) - counts
    ranks = torch.arange(len(batch), device=batch.device)
    place = torch.empty_like(graph)
    place[order] = ranks - first[graph[order]]
    return graph, place, counts
