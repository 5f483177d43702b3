"""SWAN, antisymmetric in the weights and in space."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from graphfathom.nn.abstract_transition import finite
from graphfathom.nn.adjacency import Adjacency, gcn_adjacency
from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import check_choice, check_positive
from graphfathom.nn.propagation import propagate

__all__ = ["SWAN", "EdgeScore", "SWANConv", "Space", "space"]

AGGREGATORS = ("antisymmetric", "normalized", "sum", "gcn")


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    r"""The matrices :math:`P` and :math:`\tilde{A} - \tilde{A}^\top` of a graph."""

    phi: Adjacency
    psi: Adjacency


def space(
    edge_index: Tensor,
    edge_weight: Tensor | None,
    x: Tensor,
    aggregator: str,
    score: nn.Module | None = None,
) -> Space:
    """Both matrices that :class:`SWAN` multiplies with, from the edges of a graph.

    Args:
        edge_index: Edges, of shape (2, E).
        edge_weight: Weights, of shape (E,). All 1 if None.
        x: Node features, of shape (N, F), for which there is a score.
        aggregator: As :class:`SWAN` has it.
        score: Maps the features of both ends of the edges to factors of the weights.
    """
    num_nodes = len(x)
    plain = {"normalize": False, "dtype": x.dtype}
    graph = gcn_adjacency(edge_index, edge_weight, num_nodes, **plain)
    source, target, weight = graph.col, graph.row, graph.value
    if not graph.symmetric:
        source, target = torch.cat([source, target]), torch.cat([target, source])
        weight = torch.cat([weight, weight]) / 2
    weight = torch.where(source == target, 0, weight)
    if score is not None:
        weight = weight * score(x[source], x[target])
    degree = weight.new_zeros(num_nodes).index_add(0, target, weight)
    edges, inverse = torch.stack([source, target]), _power(degree, -1.0)
    difference = weight * (inverse[target] - inverse[source])
    psi = gcn_adjacency(edges, difference, num_nodes, **plain)
    if aggregator == "gcn":
        return Space(gcn_adjacency(edges, weight, num_nodes), psi)
    if aggregator != "sum":
        root = _power(degree, -0.5)
        weight = root[target] * weight * root[source]
    return Space(gcn_adjacency(edges, weight, num_nodes, **plain), psi)


def _power(degree: Tensor, exponent: float) -> Tensor:
    """A negative power that is 0, with the slope 0, at a node without neighbours."""
    return torch.where(degree == 0, torch.inf, degree).pow(exponent)


class EdgeScore(nn.Module):
    r"""A trained factor of an edge's weight, the same in both directions.

    .. math:: s_{ij} = s_{ji} = \mathrm{sigmoid}\bigl(
        u^\top \mathrm{LeakyReLU}(U (x_i + x_j) + c) + c'\bigr)

    Args:
        channels: Width of the node features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(channels, channels)
        self.lin2 = nn.Linear(channels, 1)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()

    def forward(self, x_i: Tensor, x_j: Tensor) -> Tensor:
        """Features of the two ends, of shape (E, F), to factors of shape (E,)."""
        hidden = nn.functional.leaky_relu(self.lin1(x_i + x_j), 0.2)
        return self.lin2(hidden).squeeze(-1).sigmoid()


class SWANConv(nn.Module):
    """One step of :class:`SWAN`.

    Args:
        channels: Width of the state.
        aggregator: As the network has it.
        epsilon: Step size.
        gamma: Strength of the diffusion that steadies the steps.
        beta: Weight of the messages that are antisymmetric in space.
        learned: Whether edge weights are multiplied by trained factors.
        act: The activation.

    Shapes:
        - **input:** node features :math:`(N, F)`, edge indices :math:`(2, E)` or a
          :class:`Space`, edge weights :math:`(E)` *(optional, beside edge indices)*
        - **output:** node features :math:`(N, F)`
    """

    def __init__(
        self,
        channels: int,
        aggregator: str = "antisymmetric",
        epsilon: float = 0.1,
        gamma: float = 0.1,
        beta: float = 0.1,
        learned: bool = False,
        act: Act = torch.tanh,
    ) -> None:
        super().__init__()
        check_choice("aggregator", aggregator, AGGREGATORS)
        check_positive(epsilon=epsilon)
        finite("gamma", gamma)
        finite("beta", beta)
        self.aggregator = aggregator
        self.epsilon, self.gamma, self.beta = epsilon, gamma, beta
        self.act = act
        self.W = nn.Parameter(torch.empty(channels, channels))
        self.V = nn.Parameter(torch.empty(channels, channels))
        self.Z = nn.Parameter(torch.empty(channels, channels)) if beta else None
        self.bias = nn.Parameter(torch.empty(channels))
        self.score = EdgeScore(channels) if learned else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        bound = 1 / math.sqrt(len(self.bias))
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)
        if self.score is not None:
            self.score.reset_parameters()

    def space(self, edge_index: Any, edge_weight: Tensor | None, x: Tensor) -> Space:
        """The matrices of a graph; those that were made before as they are."""
        if isinstance(edge_index, Space):
            return edge_index
        return space(edge_index, edge_weight, x, self.aggregator, self.score)

    def forward(
        self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None
    ) -> Tensor:
        """Node features to node features of the same width."""
        graph = self.space(edge_index, edge_weight, x)
        V = self.V - self.V.T if self.aggregator == "antisymmetric" else self.V
        h = x @ (self.W - self.W.T).T - self.gamma * x
        h = h + propagate(graph.phi, x @ V.T) + self.bias
        if self.Z is not None:
            h = h + self.beta * propagate(graph.psi, x @ (self.Z + self.Z.T))
        return x + self.epsilon * self.act(h)


class SWAN(GraphNetwork):
    r"""Space-Weight Antisymmetric Deep Graph Network.

    .. math:: x_i^+ = x_i + \epsilon\, \sigma\Bigl((W - W^\top - \gamma I) x_i
        + \sum_j P_{ij} M x_j
        + \beta \sum_j (\tilde{A} - \tilde{A}^\top)_{ij} (Z + Z^\top) x_j + b\Bigr)

    The graph has no directions: with the adjacency :math:`A` without self-loops,
    :math:`B = \tfrac{1}{2} (A + A^\top)` and :math:`D = \mathrm{diag}(B \mathbf{1})` it
    is :math:`\tilde{A} = D^{-1} B`. The variants are

    =================  =======================================  ================
    ``aggregator``     :math:`P`                                :math:`M`
    =================  =======================================  ================
    ``antisymmetric``  :math:`D^{-1/2} B D^{-1/2}`              :math:`V-V^\top`
    ``normalized``     :math:`D^{-1/2} B D^{-1/2}`              :math:`V`
    ``sum``            :math:`B`                                :math:`V`
    ``gcn``            :math:`(D+I)^{-1/2} (B+I) (D+I)^{-1/2}`  :math:`V`
    =================  =======================================  ================

    In the first, for a slope of 1, the right-hand side has an antisymmetric Jacobian
    but for :math:`-\gamma I`, over all nodes and channels at once: its eigenvalues have
    the real part :math:`-\gamma`. For an increasing activation and
    :math:`\gamma = 0` they stay imaginary. In the other three their real parts lie
    within :math:`-\gamma \pm \lVert P \rVert \lVert V \rVert`.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        aggregator: The variant, a row of the table.
        epsilon: Step size :math:`\epsilon`.
        gamma: Diffusion :math:`\gamma`.
        beta: Weight :math:`\beta`. Without the term and its weights if 0.
        learned: Whether each layer multiplies the edge weights in :math:`B` by factors
            that it learns from its input, of :class:`EdgeScore`. Then
            :math:`x^\top f(x) = -\gamma \lVert x \rVert^2` is what remains of the
            antisymmetry in the first variant, for a slope of 1 and :math:`b = 0`.
        act: The activation :math:`\sigma`.
        share_weights: Whether all steps have the same weights.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        ValueError: If a number or a choice is not as described.

    Example:
        >>> SWAN(2, 30, 1, num_layers=20)
        SWAN(2, 30, 1, num_layers=20, aggregator=antisymmetric, epsilon=0.1, gamma=0.1,
        beta=0.1, learned=False, share_weights=True)

    References:
        | On Oversquashing in Graph Neural Networks Through the Lens of Dynamical
          Systems (Gravina et al., 2025)
        | https://arxiv.org/abs/2405.01009

    Differs from the paper:
        Nothing in the equation. The official code (commit c054a6e) differs from both:
        it reads the weight of an edge at the number of its node, it stops at weights
        that are no features and in its variant with GCN, and an edge that is given in
        one direction counts as much as one in both, where here it counts half. There
        the sum runs along the edges as given. Its learned edges are features that are
        added to the messages, not weights; a batch norm of them joins the graphs of a
        batch, and with shared layers they are those of the first step.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        aggregator: str = "antisymmetric",
        *,
        epsilon: float = 0.1,
        gamma: float = 0.1,
        beta: float = 0.1,
        learned: bool = False,
        act: str | Act | None = "tanh",
        share_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        options = {
            "aggregator": aggregator,
            "epsilon": epsilon,
            "gamma": gamma,
            "beta": beta,
            "learned": learned,
        }
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            lambda k, act: SWANConv(hidden_channels, **options, act=act),
            act=act,
            share_weights=share_weights,
            options=options,
            **kwargs,
        )

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The matrices, made once unless each layer learns its own."""
        layer: Any = self.layers[0]
        if layer.score is not None:
            return edge_index, given
        made = layer.space(edge_index, given["edge_weight"], x)
        return made, given | {"edge_weight": None}
