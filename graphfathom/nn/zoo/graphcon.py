"""GraphCON, a network of coupled oscillators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch_geometric.nn import Linear

from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import build_convs, check_nonnegative, check_positive
from graphfathom.nn.propagation import GCNConv, share_adjacency
from graphfathom.nn.recompute import State
from graphfathom.nn.zoo.choices import edge_names, taken_by

__all__ = ["GraphCON", "GraphCONLayer"]


class GraphCONLayer(nn.Module):
    """One step of the oscillators: first the velocities, then the features.

    Args:
        channels: Width of features and velocities.
        conv: The coupling: ``conv(in_channels, out_channels)`` returns a layer.
        epsilon: Step size.
        alpha: Damping.
        gamma: Stiffness.
        residual: Whether a linear map of the features joins the coupling.
        act: The activation.

    Shapes:
        - **input:** node features and velocities :math:`(N, d)` each, edge indices
          :math:`(2, E)`, edge weights :math:`(E)` *(optional)*
        - **output:** node features and velocities :math:`(N, d)` each
    """

    def __init__(
        self,
        channels: int,
        conv: Callable[..., nn.Module] = GCNConv,
        epsilon: float = 0.1,
        alpha: float = 1.0,
        gamma: float = 1.0,
        residual: bool = False,
        act: Act | None = None,
    ) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.alpha = alpha
        self.gamma = gamma
        self.act = nn.Identity() if act is None else act
        self.conv: Any = build_convs(conv, channels, 1, None, {})[0]
        self.lin = Linear(channels, channels) if residual else None
        self._edges = edge_names(self.conv)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self.conv.reset_parameters()
        if self.lin is not None:
            self.lin.reset_parameters()

    def forward(
        self, x: Tensor, y: Tensor, edge_index: Any, edge_weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Features and velocities to those of the next step."""
        given = taken_by(self._edges, edge_weight=edge_weight)
        force = self.conv(x, edge_index, **given)
        if self.lin is not None:
            force = force + self.lin(x)
        y = y + self.epsilon * (self.act(force) - self.gamma * x - self.alpha * y)
        return x + self.epsilon * y, y


class GraphCON(GraphNetwork):
    r"""Graph-Coupled Oscillator Network around any layer.

    .. math::
        Y^+ = Y + \epsilon \bigl(\sigma(F(X, G)) - \gamma X - \alpha Y\bigr), \qquad
        X^+ = X + \epsilon Y^+

    with features :math:`X`, velocities :math:`Y` and :math:`F` a layer such as GCN or
    GAT. Both start from the encoded features, as in the official code. Without
    :math:`F` and damping, each entry is an oscillator whose step keeps
    :math:`\gamma X^2 + Y^2 - \epsilon \gamma X Y`. With
    :math:`\epsilon = \alpha = \gamma = 1`, the defaults of that code, the step is
    :math:`X^+ = \sigma(F(X, G))`, a network without oscillators.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        conv: :math:`F`: ``conv(in_channels, out_channels)`` returns a layer of PyG's
            kind. Several heads: ``functools.partial(GATConv, heads=4, concat=False)``.
        epsilon: Step size :math:`\epsilon`, in the paper :math:`\Delta t`. Default 0.1:
            as for :class:`~graphfathom.nn.zoo.adgn.ADGN`.
        alpha: Damping :math:`\alpha`, at least 0.
        gamma: Stiffness :math:`\gamma`, at least 0.
        residual: Whether :math:`F(X, G)` is :math:`F(X, G) + R X + r`, as in the
            official code.
        act: The activation :math:`\sigma`.
        share_weights: Whether all steps have the same weights, as in the official
            code.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        TypeError: If ``conv`` is not a function that returns a module.
        ValueError: If a number or a choice is not as described.

    Example:
        >>> GraphCON(1433, 64, 7, num_layers=32)
        GraphCON(1433, 64, 7, num_layers=32, conv=GCNConv, epsilon=0.1, alpha=1.0,
        gamma=1.0, residual=False, share_weights=True)

    References:
        | Graph-Coupled Oscillator Networks (Rusch et al., 2022)
        | https://arxiv.org/abs/2202.02296

    Differs from the paper:
        Nothing in the equation. The official code adds a linear map of the features
        inside the activation, here ``residual``; its variants for heterophilic graphs
        have other signs and apply it behind the weights of :math:`F`. Its heads of GAT
        are activated one by one and then averaged in groups of neighbouring features,
        not over heads; here ``conv`` says how heads join. It drops entries of both
        states in every step.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        conv: Callable[..., nn.Module] = GCNConv,
        *,
        epsilon: float = 0.1,
        alpha: float = 1.0,
        gamma: float = 1.0,
        residual: bool = False,
        act: str | Act | None = "relu",
        share_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        check_positive(epsilon=epsilon)
        check_nonnegative(alpha=alpha, gamma=gamma)
        numbers = {"epsilon": epsilon, "alpha": alpha, "gamma": gamma}

        def layer(k: int, act: Act) -> nn.Module:
            return GraphCONLayer(
                hidden_channels, conv, **numbers, residual=residual, act=act
            )

        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            share_weights=share_weights,
            **kwargs,
        )
        name = type(self.layers[0].conv).__name__
        self.options = {"conv": name} | numbers | {"residual": residual}

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The one adjacency of all layers if they are GCN's, else the edges."""
        convs: list[Any] = [layer.conv for layer in self.layers]
        return share_adjacency(convs, x, edge_index, given)

    def start(self, x: Tensor, graph: Any, given: dict[str, Any]) -> State:
        """Features and velocities, both the encoded features."""
        return x, x
