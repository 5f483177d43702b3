"""DGC, which solves the heat equation of a graph by explicit steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphfathom.nn.frame import GraphNetwork
from graphfathom.nn.model_parts import check_positive
from graphfathom.nn.propagation import Adjacency, gcn_adjacency, propagate

__all__ = ["DGC", "DGCConv"]


class DGCConv(nn.Module):
    r"""One step :math:`(1 - \epsilon) X + \epsilon \hat{A} X`, without parameters.

    Args:
        epsilon: Step size :math:`\epsilon`.
    """

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(
        self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None
    ) -> Tensor:
        """Node features to node features, over edges or their adjacency."""
        adjacency = _adjacency(x, edge_index, edge_weight)
        return (1 - self.epsilon) * x + self.epsilon * propagate(adjacency, x)

    def extra_repr(self) -> str:
        """The step size."""
        return f"epsilon={self.epsilon}"


class DGC(GraphNetwork):
    r"""Decoupled Graph Convolution: K steps of diffusion between two linear maps.

    .. math:: H^+ = \Bigl(1 - \frac{T}{K}\Bigr) H + \frac{T}{K} \hat{A} H

    with the adjacency :math:`\hat{A} = \hat{D}^{-1/2} (A + I) \hat{D}^{-1/2}` of GCN.
    For :math:`K \to \infty` the K steps tend to :math:`e^{-T (I - \hat{A})}`, with an
    error of order :math:`1/K`. For :math:`T \le K` no mode grows; longer steps let
    those near the eigenvalue -1 of :math:`\hat{A}` grow.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: Number of steps :math:`K`.
        time: How long the features diffuse, :math:`T`. Default 5.27: the official
            code's for Cora, with 250 steps.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`; ``act`` serves
            ``encoder_act`` alone.

    Raises:
        ValueError: If a number or a choice is not as described.

    Example:
        >>> DGC(1433, 64, 7, num_layers=250)
        DGC(1433, 64, 7, num_layers=250, time=5.27)

    References:
        | Dissecting the Diffusion Process in Linear Graph Convolutional Networks
        | (Wang et al., 2021), https://arxiv.org/abs/2102.10739

    Differs from the paper:
        Nothing in the steps. The paper diffuses the features themselves and has one
        linear map behind; here the frame's encoder stands in front. Without
        ``encoder_act`` the two are one map, whose rank the hidden width bounds. The
        copy of DGC in the A-DGN repository steps by :math:`H - \epsilon \hat{A} H`;
        its sign is not taken over.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        time: float = 5.27,
        **kwargs: Any,
    ) -> None:
        check_positive(time=time)
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            lambda k, act: DGCConv(time / num_layers),
            options={"time": time},
            **kwargs,
        )

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The one adjacency of all steps."""
        adjacency = _adjacency(x, edge_index, given["edge_weight"])
        return adjacency, given | {"edge_weight": None}


def _adjacency(x: Tensor, edge_index: Any, edge_weight: Tensor | None) -> Adjacency:
    if isinstance(edge_index, Adjacency):
        return edge_index
    return gcn_adjacency(edge_index, edge_weight, x.size(0), dtype=x.dtype)
