"""A-DGN, whose layers are steps of a stable and non-dissipative equation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch_geometric.nn import AntiSymmetricConv

from graphfathom.nn.abstract_transition import finite
from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import check_choice, check_positive
from graphfathom.nn.propagation import GCNConv, share_adjacency
from graphfathom.nn.zoo.sum_conv import SumConv

__all__ = ["ADGN", "ADGNLayer"]

AGGREGATORS: dict[str, Callable[[int], nn.Module]] = {
    "gcn": lambda channels: GCNConv(channels, channels, bias=False),
    "sum": lambda channels: SumConv(channels),
}


class ADGNLayer(AntiSymmetricConv):
    """PyG's layer, one step long, with edge weights by name.

    Args:
        channels: Width of the state.
        aggregator: ``"gcn"`` or ``"sum"``.
        epsilon: Step size.
        gamma: Strength of the diffusion that steadies the steps.
        act: The activation.
    """

    def __init__(
        self,
        channels: int,
        aggregator: str = "gcn",
        epsilon: float = 0.1,
        gamma: float = 0.1,
        act: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        check_choice("aggregator", aggregator, tuple(AGGREGATORS))
        check_positive(epsilon=epsilon)
        finite("gamma", gamma)
        phi: Any = AGGREGATORS[aggregator](channels)
        super().__init__(channels, phi, 1, epsilon, gamma, act)

    def forward(
        self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None
    ) -> Tensor:
        """Node features to node features of the same width."""
        weight = () if edge_weight is None else (edge_weight,)
        return super().forward(x, edge_index, *weight)


class ADGN(GraphNetwork):
    r"""Anti-Symmetric Deep Graph Network, on PyG's layer.

    .. math:: x_i^+ = x_i + \epsilon\, \sigma\Bigl((W - W^\top - \gamma I) x_i
        + \Phi(X, N(i)) + b\Bigr)

    with :math:`\Phi` the propagation :math:`\hat{A} X V` of GCN or the sum
    :math:`\sum_{j \in N(i)} V x_j`. The eigenvalues of :math:`W - W^\top - \gamma I`
    have the real part :math:`-\gamma`: without messages and for a slope of 1 those of
    a step's Jacobian are :math:`1 - \epsilon \gamma + i \epsilon \omega`, near the
    unit circle.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        aggregator: :math:`\Phi`: ``"gcn"`` or ``"sum"``.
        epsilon: Step size :math:`\epsilon`.
        gamma: Diffusion :math:`\gamma`.
        act: The activation :math:`\sigma`.
        share_weights: Whether all steps have the same weights, as in the paper.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        ValueError: If a number or a choice is not as described.

    Example:
        >>> ADGN(2, 30, 1, num_layers=20)
        ADGN(2, 30, 1, num_layers=20, aggregator=gcn, epsilon=0.1, gamma=0.1,
        share_weights=True)

    References:
        | Anti-Symmetric DGN: a stable architecture for Deep Graph Networks
        | (Gravina et al., 2023), https://arxiv.org/abs/2210.09789

    Differs from the paper:
        Nothing in the equation. The official code's sum has a bias of its own beside
        :math:`b`; one of the two is enough.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        aggregator: str = "gcn",
        *,
        epsilon: float = 0.1,
        gamma: float = 0.1,
        act: str | Act | None = "tanh",
        share_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        def layer(k: int, act: Act) -> nn.Module:
            return ADGNLayer(hidden_channels, aggregator, epsilon, gamma, act)

        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            share_weights=share_weights,
            options={"aggregator": aggregator, "epsilon": epsilon, "gamma": gamma},
            **kwargs,
        )

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """With GCN the one adjacency that all layers multiply with."""
        convs: list[Any] = [layer.phi for layer in self.layers]
        return share_adjacency(convs, x, edge_index, given)
