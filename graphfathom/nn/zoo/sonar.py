"""SONAR, whose layers are steps of a wave equation on the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import Linear, MessagePassing
from torch_geometric.nn.inits import glorot

from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import check_choice, check_positive

__all__ = ["SONAR", "Resistance", "SONARLayer"]

POSITIVE: dict[str, Callable[[Tensor], Tensor]] = {"abs": torch.abs, "relu": torch.relu}
RESISTANCES = ("fixed", "recomputed")
VELOCITIES = ("linear", "zero")


class Resistance(nn.Module):
    r"""Weights of edges :math:`a_{uv} \ge 0` from the features of their ends.

    .. math:: a_{uv} = \phi\bigl(\tfrac{1}{2} (m(x_u, x_v) + m(x_v, x_u))\bigr), \qquad
        m(x, y) = w^\top \sigma(P [x \Vert y] + p) + c

    The number :math:`c` starts at 1, so that the weights start around 1.

    Args:
        channels: Width of the features, and of the hidden layer.
        act: The activation :math:`\sigma`.
        positive: :math:`\phi`: ``"abs"`` or ``"relu"``.

    Shapes:
        - **input:** node features :math:`(N, F)`, edge indices :math:`(2, E)`
        - **output:** weights :math:`(E)`
    """

    def __init__(self, channels: int, act: Act, positive: str = "abs") -> None:
        super().__init__()
        self.act = act
        self.positive = POSITIVE[positive]
        self.lin_hidden = Linear(2 * channels, channels)
        self.lin_output = Linear(channels, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.lin_hidden.reset_parameters()
        self.lin_output.reset_parameters()
        nn.init.ones_(self.lin_output.bias)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Node features to weights of edges, equal in both directions."""
        source, target = x[edge_index[0]], x[edge_index[1]]
        there = self._score(torch.cat([source, target], dim=-1))
        back = self._score(torch.cat([target, source], dim=-1))
        return self.positive((there + back) / 2).squeeze(-1)

    def _score(self, ends: Tensor) -> Tensor:
        return self.lin_output(self.act(self.lin_hidden(ends)))


class SONARLayer(MessagePassing):
    """Features and velocities to those one step later.

    Args:
        channels: Width of both.
        act: The activation.
        step_size: How long the step is.
        damping: Whether there is friction.
        forcing: Whether there is a force.
        symmetric: Whether the weights are symmetric and positive semidefinite.
        resistance: What makes weights of edges from the features before the step.
            None: they are given, or 1.

    Shapes:
        - **input:** features and velocities, each :math:`(N, F)`, edge indices
          :math:`(2, E)`, edge weights :math:`(E)` *(optional)*
        - **output:** features and velocities, each :math:`(N, F)`
    """

    def __init__(
        self,
        channels: int,
        act: Act,
        step_size: float = 0.1,
        *,
        damping: bool = True,
        forcing: bool = True,
        symmetric: bool = True,
        resistance: Resistance | None = None,
    ) -> None:
        super().__init__(aggr="add")
        self.act = act
        self.step_size = step_size
        self.symmetric = symmetric
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.damping = Linear(channels, channels) if damping else None
        self.forcing = Linear(channels, channels) if forcing else None
        self.resistance = resistance
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        super().reset_parameters()
        glorot(self.weight)
        for module in (self.damping, self.forcing, self.resistance):
            if module is not None:
                module.reset_parameters()

    def forward(
        self,
        x: Tensor,
        v: Tensor,
        edge_index: Tensor,
        edge_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The next state."""
        if self.resistance is not None:
            edge_weight = _times(self.resistance(x, edge_index), edge_weight)
        y = x @ self.weight
        if self.symmetric:
            y = y @ self.weight.t()
        # propagate_type: (x: Tensor, edge_weight: OptTensor)
        change = self.propagate(edge_index, x=y, edge_weight=edge_weight)
        if self.damping is not None:
            change = change + self.damping(x).relu() * v
        if self.forcing is not None:
            change = change - self.act(self.forcing(x))
        v = v - self.step_size * change
        return x + self.step_size * v, v

    def message(self, x_i: Tensor, x_j: Tensor, edge_weight: Tensor | None) -> Tensor:
        """What an edge adds to the product with the Laplacian."""
        change = x_i - x_j
        return change if edge_weight is None else edge_weight.view(-1, 1) * change


class SONAR(GraphNetwork):
    r"""Waves on a graph with learned resistances, friction and force.

    .. math::
        V^+ = V - h \bigl(L_a X W + D_\theta(X) \odot V - F_\theta(X)\bigr), \qquad
        X^+ = X + h V^+

    with :math:`(L_a X)_i = \sum_{j \in N(i)} a_{ij} (x_i - x_j)`, the weights
    :math:`a_{ij} \ge 0` of :class:`Resistance`, :math:`D_\theta(X) =
    \mathrm{ReLU}(X P + p)` and :math:`F_\theta(X) = \sigma(X Q + q)`. The state is
    :math:`(X, V)`.

    For fixed weights, an undirected graph and a symmetric :math:`W`, a step changes

    .. math:: E = \tfrac{1}{2} \lVert V \rVert^2 + \tfrac{1}{2} \langle X - h V,
        L_a X W \rangle

    by :math:`-\tfrac{h}{2} \langle V^+ + V, D_\theta(X) \odot V - F_\theta(X) \rangle`
    exactly. Without friction and force it is kept, and bounds the state if :math:`W` is
    positive semidefinite and :math:`h^2 \lVert L_a \rVert \lVert W \rVert < 4`: a graph
    of large degrees needs small steps. So does friction, which is stable where
    :math:`h D_\theta(X) < 2`.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        step_size: :math:`h`.
        resistance: Whether the weights :math:`a` are ``"fixed"``, made of the encoded
            features once, or ``"recomputed"`` from :math:`X` in every step. Weights
            given with the graph multiply them.
        positive: What makes them positive: ``"abs"`` or ``"relu"``, which can cut an
            edge for good.
        velocity: :math:`V_0`: ``"linear"``, which is :math:`X_0 W_V`, or ``"zero"``.
        damping: Whether there is :math:`D_\theta`.
        forcing: Whether there is :math:`F_\theta`.
        symmetric: Whether :math:`W = M M^\top` with a trained :math:`M`; else
            :math:`W` itself is trained, and waves can grow without bound.
        act: The activation :math:`\sigma`.
        share_weights: Whether all steps have the same weights.
        head: The frame's option.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        ValueError: If a number or a choice is not as described.

    Example:
        >>> SONAR(2, 30, 1, num_layers=20, velocity="zero")
        SONAR(2, 30, 1, num_layers=20, step_size=0.1, resistance=fixed, velocity=zero,
        share_weights=True)

    References:
        | SONAR: Long-Range Graph Propagation Through Information Waves
        | (Trenta et al., 2025), https://openreview.net/forum?id=Hxfjmc95rl

    Differs from the paper:
        :math:`W` is positive semidefinite unless asked otherwise, and :math:`a` is the
        mean over both directions of an edge, without which :math:`E` is not kept. The
        text starts at :math:`V_0 = X_0 W_V`, the official code at 0. The paper stacks
        blocks of steps and perceptrons; this is one block.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        step_size: float = 0.1,
        *,
        resistance: str = "fixed",
        positive: str = "abs",
        velocity: str = "linear",
        damping: bool = True,
        forcing: bool = True,
        symmetric: bool = True,
        act: str | Act | None = "tanh",
        share_weights: bool = True,
        head: Any = "mlp",
        **kwargs: Any,
    ) -> None:
        check_positive(step_size=step_size)
        check_choice("resistance", resistance, RESISTANCES)
        check_choice("positive", positive, tuple(POSITIVE))
        check_choice("velocity", velocity, VELOCITIES)
        d = hidden_channels
        terms = {"damping": damping, "forcing": forcing, "symmetric": symmetric}
        shown = {"resistance": resistance, "velocity": velocity}

        def made(act: Act, when: str) -> Resistance | None:
            return Resistance(d, act, positive) if resistance == when else None

        def layer(k: int, act: Act) -> nn.Module:
            edges = made(act, "recomputed")
            return SONARLayer(d, act, step_size, resistance=edges, **terms)

        super().__init__(
            in_channels,
            d,
            out_channels,
            num_layers,
            layer,
            act=act,
            share_weights=share_weights,
            head=head,
            options={"step_size": step_size} | shown,
            **kwargs,
        )
        self.resistance = made(self.act, "fixed")
        self.velocity = Linear(d, d, bias=False) if velocity == "linear" else None

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The graph with fixed weights, if they are."""
        if self.resistance is None:
            return edge_index, given
        weight = _times(self.resistance(x, edge_index), given["edge_weight"])
        return edge_index, given | {"edge_weight": weight}

    def start(
        self, x: Tensor, graph: Any, given: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Encoded features and the first velocities."""
        return x, torch.zeros_like(x) if self.velocity is None else self.velocity(x)


def _times(weight: Tensor, other: Tensor | None) -> Tensor:
    return weight if other is None else weight * other
