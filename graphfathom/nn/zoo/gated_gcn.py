"""GatedGCN, whose messages pass gates that depend on a state of the edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import BatchNorm, Linear, MessagePassing

from graphfathom.nn.frame import Act, GraphNetwork

__all__ = ["GatedGCN", "GatedGCNLayer"]

EPSILON = 1e-6
"""What keeps the sum of the gates from 0, as in GraphGPS."""


class GatedGCNLayer(MessagePassing):
    """Node features and edge states to the next ones.

    Args:
        channels: Width of both.
        act: The activation.
        norm: ``"batch"`` or None.
        last: Whether no later layer reads the edge states; they are then not updated.

    Shapes:
        - **input:** node features :math:`(N, F)`, edge states :math:`(E, F)`, edge
          indices :math:`(2, E)`
        - **output:** node features and edge states, or the former alone if ``last``
    """

    def __init__(
        self, channels: int, act: Act, norm: str | None = "batch", last: bool = False
    ) -> None:
        super().__init__(aggr="add")
        self.act = act
        self.last = last
        self.lin_self = Linear(channels, channels)
        self.lin_message = Linear(channels, channels)
        self.lin_edge = Linear(channels, channels)
        self.lin_target = Linear(channels, channels)
        self.lin_source = Linear(channels, channels)
        self.norm = _norm(norm, channels)
        self.edge_norm = nn.Identity() if last else _norm(norm, channels)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        super().reset_parameters()
        for module in self.children():
            reset: Any = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()

    def forward(
        self, x: Tensor, e: Tensor, edge_index: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The next state."""
        source, target = edge_index
        gate = (
            self.lin_edge(e)
            + self.lin_target(x).index_select(0, target)
            + self.lin_source(x).index_select(0, source)
        )
        # propagate_type: (x: Tensor, gate: Tensor)
        sums = self.propagate(edge_index, x=self.lin_message(x), gate=gate.sigmoid())
        message, total = sums.chunk(2, dim=-1)
        update = self.lin_self(x) + message / (total + EPSILON)
        x = x + self.act(self.norm(update))
        return x if self.last else (x, e + self.act(self.edge_norm(gate)))

    def message(self, x_j: Tensor, gate: Tensor) -> Tensor:
        """What goes along an edge: the gated features, and the gate to divide by."""
        return torch.cat([gate * x_j, gate], dim=-1)


class GatedGCN(GraphNetwork):
    r"""Gated graph network with a state on the edges.

    .. math::
        \hat{e}_{ij} = C e_{ij} + D h_i + E h_j, \qquad
        \eta_{ij} = \frac{\sigma(\hat{e}_{ij})}
        {\sum_{j' \in N(i)} \sigma(\hat{e}_{ij'}) + \epsilon},

        h_i^+ = h_i + \mathrm{ReLU}\Bigl(\mathrm{BN}\bigl(A h_i
        + \textstyle\sum_{j \in N(i)} \eta_{ij} \odot B h_j\bigr)\Bigr), \qquad
        e_{ij}^+ = e_{ij} + \mathrm{ReLU}\bigl(\mathrm{BN}(\hat{e}_{ij})\bigr)

    with :math:`\sigma` the logistic function; :math:`A` to :math:`E` have biases. The
    state is :math:`(h, e)`. The last layer leaves :math:`e` as it is, because nothing
    reads it.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it; edge states have the same width.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        edge_dim: Width of the edge features. None: they are not used, and all edge
            states start from one trained vector.
        norm: ``"batch"``, or None for no normalisation.
        act: The activation in the place of ReLU.
        share_weights: Whether one layer runs L times.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        ValueError: If a number or a choice is not as described, or edge features are
            missing or of another width.

    Example:
        >>> GatedGCN(9, 70, 10, num_layers=16, edge_dim=3)
        GatedGCN(9, 70, 10, num_layers=16, edge_dim=3, norm=batch)

    References:
        | Residual Gated Graph ConvNets (Bresson and Laurent, 2017)
        | https://arxiv.org/abs/1711.07553
        | Recipe for a General, Powerful, Scalable Graph Transformer
        | (Rampášek et al., 2022), https://arxiv.org/abs/2205.12454

    Differs from the paper:
        Nothing in the equation, which is that of GraphGPS: the first reference has no
        sum below the gate. The official code also drops entries of :math:`h` and
        :math:`e` in every layer, and updates :math:`e` in the last one.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        edge_dim: int | None = None,
        *,
        norm: str | None = "batch",
        act: str | Act | None = "relu",
        share_weights: bool = False,
        **kwargs: Any,
    ) -> None:
        _check(edge_dim, norm)

        def layer(k: int, act: Act) -> nn.Module:
            last = k == num_layers and not (share_weights and num_layers > 1)
            return GatedGCNLayer(hidden_channels, act, norm, last)

        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            share_weights=share_weights,
            options={"edge_dim": edge_dim, "norm": norm},
            **kwargs,
        )
        self.edge_dim = edge_dim
        self.edge_encoder: Any = (
            nn.Embedding(1, hidden_channels)
            if edge_dim is None
            else Linear(edge_dim, hidden_channels)
        )

    def start(
        self, x: Tensor, graph: Tensor, given: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Encoded features of nodes and edges."""
        num_edges, edge_attr = graph.size(1), given["edge_attr"]
        if self.edge_dim is None:
            return x, self.edge_encoder.weight.expand(num_edges, -1)
        if edge_attr is None:
            raise ValueError(
                "`edge_attr` must be given to a GatedGCN with `edge_dim`. Got None: "
                "pass edge features, or build it with edge_dim=None."
            )
        if edge_attr.shape != (num_edges, self.edge_dim):
            raise ValueError(
                f"`edge_attr` must have shape ({num_edges}, {self.edge_dim}), one row "
                f"for each edge. Got {tuple(edge_attr.shape)}."
            )
        return x, self.edge_encoder(edge_attr)


def _norm(norm: str | None, channels: int) -> nn.Module:
    if norm is None:
        return nn.Identity()
    # A single edge has no variance: then the running statistics are taken.
    return BatchNorm(channels, allow_single_element=True)


def _check(edge_dim: int | None, norm: str | None) -> None:
    whole = isinstance(edge_dim, int) and not isinstance(edge_dim, bool)
    if edge_dim is not None and not (whole and edge_dim > 0):
        raise ValueError(
            f"`edge_dim` must be an integer >= 1 or None. Got {edge_dim!r}."
        )
    if norm not in ("batch", None):
        raise ValueError(f"`norm` must be 'batch' or None. Got {norm!r}.")
