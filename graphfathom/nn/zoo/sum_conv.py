"""The plain sum of what neighbours send, a message of several compared models."""

from __future__ import annotations

from torch import Tensor
from torch_geometric.nn import Linear, MessagePassing
from torch_geometric.typing import OptTensor

__all__ = ["SumConv"]


class SumConv(MessagePassing):
    r"""The sum :math:`x_i' = \sum_{j \in N(i)} w_{ji} V x_j`.

    Args:
        channels: Width of the features.
        out_channels: Width of the messages. Default: the same.
        bias: Whether to add a trained vector.

    Shapes:
        - **input:** node features :math:`(N, F)`, edge indices :math:`(2, E)`, edge
          weights :math:`(E)` *(optional)*
        - **output:** node features :math:`(N, F')`
    """

    def __init__(
        self, channels: int, out_channels: int | None = None, bias: bool = False
    ) -> None:
        super().__init__(aggr="add")
        self.lin = Linear(channels, out_channels or channels, bias=bias)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        super().reset_parameters()
        self.lin.reset_parameters()

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_weight: OptTensor = None
    ) -> Tensor:
        """Node features to node features."""
        # propagate_type: (x: Tensor, edge_weight: OptTensor)
        return self.propagate(edge_index, x=self.lin(x), edge_weight=edge_weight)

    def message(self, x_j: Tensor, edge_weight: OptTensor) -> Tensor:
        """What goes along an edge."""
        return x_j if edge_weight is None else edge_weight.view(-1, 1) * x_j
