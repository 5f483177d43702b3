"""Plain message passing: PyG's convolutions in the common frame, with its controls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import JumpingKnowledge
from torch_geometric.utils import dropout_edge

from graphfathom.nn.adjacency import is_edge_index
from graphfathom.nn.dropout import dropout
from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import check_choice, check_rates, reset_parameters
from graphfathom.nn.propagation import share_adjacency
from graphfathom.nn.recompute import State
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

__all__ = ["MPNN", "MPNNLayer"]

JUMPS = ("last", "cat", "max")


class MPNNLayer(nn.Module):
    """A convolution, its normalisation, activation, dropout and way around.

    Args:
        conv: The convolution.
        norm: The normalisation, or None.
        act: The activation.
        residual: Whether the features are added to what is made of them.
        keep: Whether the state also carries what the earlier layers returned.
        layer_dropout: Probability of dropping an entry behind the activation.
        drop_edge: Probability of leaving out an edge in training.
    """

    def __init__(
        self,
        conv: nn.Module,
        norm: nn.Module | None = None,
        act: Callable[[Tensor], Tensor] = torch.relu,
        *,
        residual: bool = False,
        keep: bool = False,
        layer_dropout: float = 0.0,
        drop_edge: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.act = act
        self.residual = residual
        self.keep = keep
        self.layer_dropout = layer_dropout
        self.drop_edge = drop_edge
        self._edges, self._by_graph = edge_names(conv), is_by_graph(norm)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        reset_parameters(self)

    def forward(
        self,
        x: Tensor,
        *rest: Any,
        edge_weight: Tensor | None = None,
        edge_attr: Tensor | None = None,
        batch: Tensor | None = None,
        step: int = 1,
    ) -> Tensor | State:
        """Node features, what is kept, and the graph to the next state."""
        *kept, graph = rest
        edges = taken_by(self._edges, edge_weight=edge_weight, edge_attr=edge_attr)
        if self.training and self.drop_edge:
            graph, edges = _drop_edges(graph, edges, self.drop_edge)
        h = self.conv(x, graph, **edges)
        h = self.act(normalize(self.norm, h, batch, self._by_graph))
        h = dropout(h, self.layer_dropout, self.training)
        h = x + h if self.residual else h
        if not self.keep:
            return h
        # What the encoder returned is none of the layers' outputs.
        return (h, *kept) if step == 1 else (h, *kept, x)


class MPNN(GraphNetwork):
    r"""Message passing as PyG has it, with the usual controls against over-smoothing.

    .. math:: H^+ = [H +]\; \mathrm{dropout}\bigl(\sigma(\mathrm{norm}(
        \mathrm{conv}(H, \tilde{G})))\bigr)

    The term in brackets is there with ``residual``, and with ``drop_edge`` each layer
    draws its own graph :math:`\tilde{G}` in each step of training.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        conv: ``"gcn"``, ``"gat"``, ``"gatv2"``, ``"gin"`` (one linear map),
            ``"gin_mlp"`` (two), ``"sage"``, or ``conv(in_channels, out_channels)``
            returns a layer.
        norm: ``"pair"`` (PairNorm of each graph), ``"layer"`` (of each node),
            ``"batch"``, ``norm(channels)`` returns a module, or None.
        residual: Whether the features are added to what a layer makes of them.
        jk: What the read-out sees: the ``"last"`` layer, or of all layers the features
            side by side (``"cat"``) or their largest (``"max"``).
        layer_dropout: Probability of dropping an entry of what a layer makes.
        drop_edge: Probability of leaving out an edge. A weight or a feature of the edge
            goes with it, and GCN's degrees are those of the edges that stay.
        act: The activation :math:`\sigma`.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        TypeError: If ``conv`` or ``norm`` is neither a name nor a function that returns
            a module.
        ValueError: If a number or a choice is not as described, or ``drop_edge`` meets
            a graph that is not edge indices.

    Example:
        >>> MPNN(1433, 64, 7, num_layers=16, norm="pair", jk="cat")
        MPNN(1433, 64, 7, num_layers=16, conv=gcn, norm=pair, jk=cat)

    References:
        | Semi-Supervised Classification with Graph Convolutional Networks
        | (Kipf and Welling, 2017), https://arxiv.org/abs/1609.02907
        | Graph Attention Networks
        | (Veličković et al., 2018), https://arxiv.org/abs/1710.10903
        | How Attentive are Graph Attention Networks?
        | (Brody et al., 2022), https://arxiv.org/abs/2105.14491
        | How Powerful are Graph Neural Networks?
        | (Xu et al., 2019), https://arxiv.org/abs/1810.00826
        | Inductive Representation Learning on Large Graphs
        | (Hamilton et al., 2017), https://arxiv.org/abs/1706.02216
        | PairNorm: Tackling Oversmoothing in GNNs
        | (Zhao and Akoglu, 2020), https://arxiv.org/abs/1909.12223
        | DropEdge: Towards Deep Graph Convolutional Networks on Node Classification
        | (Rong et al., 2020), https://arxiv.org/abs/1907.10903
        | Representation Learning on Graphs with Jumping Knowledge Networks
        | (Xu et al., 2018), https://arxiv.org/abs/1806.03536

    Differs from the paper:
        Encoder and head are linear and all layers alike, so that a measure along depth
        compares like with like; PyG's models let the first and last layer change the
        width. DropEdge draws anew in each layer, the layer-wise form of its paper,
        whose experiments draw once per step.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        conv: Conv = "gcn",
        *,
        norm: Norm = None,
        residual: bool = False,
        jk: str = "last",
        layer_dropout: float = 0.0,
        drop_edge: float = 0.0,
        act: str | Act | None = "relu",
        **kwargs: Any,
    ) -> None:
        check_choice("jk", jk, JUMPS)
        check_rates(layer_dropout=layer_dropout, drop_edge=drop_edge)
        self.jk = jk
        self.drop_edge = drop_edge

        def layer(k: int, act: Act) -> nn.Module:
            return MPNNLayer(
                build_conv(conv, hidden_channels),
                build_norm(norm, hidden_channels),
                act,
                residual=residual,
                keep=jk != "last",
                layer_dropout=layer_dropout,
                drop_edge=drop_edge,
            )

        chosen = {
            "norm": name_of(norm),
            "residual": residual,
            "jk": None if jk == "last" else jk,
            "layer_dropout": layer_dropout,
            "drop_edge": drop_edge,
        }
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            options={"conv": name_of(conv)} | {n: v for n, v in chosen.items() if v},
            **kwargs,
        )
        self.jump = None if jk == "last" else JumpingKnowledge(jk)

    def width(self) -> int:
        """Of all layers side by side where the read-out sees them so."""
        return self.hidden_channels * (self.num_layers if self.jk == "cat" else 1)

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """One adjacency for all layers of GCN that see the same graph."""
        if self.training and self.drop_edge:
            return edge_index, given
        convs: list[Any] = [layer.conv for layer in self.layers]
        return share_adjacency(convs, x, edge_index, given)

    def finish(self, state: State) -> Tensor:
        """The last features, or those of all layers together."""
        if self.jump is None:
            return state[0]
        last, *kept = state
        return self.jump([*kept, last])


def _drop_edges(
    edge_index: Any, edges: dict[str, Tensor], rate: float
) -> tuple[Tensor, dict[str, Tensor]]:
    if not is_edge_index(edge_index):
        raise ValueError(
            "`edge_index` must be edge indices of shape (2, E) for `drop_edge`. Got "
            f"{type(edge_index).__name__}: pass the indices, or drop_edge=0."
        )
    edge_index, stays = dropout_edge(edge_index, rate)
    return edge_index, {name: value[stays] for name, value in edges.items()}
