"""A network that ignores the edges: the control that tells what the graph is worth."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch_geometric.nn import Linear

from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import check_rates
from graphfathom.nn.zoo.choices import Norm, build_norm, name_of
from graphfathom.nn.zoo.mpnn import MPNNLayer

__all__ = ["MLP", "NodeLinear"]


class NodeLinear(Linear):
    """PyG's linear layer in the place of a convolution.

    Args:
        in_channels: Width of the input.
        out_channels: Width of the output.
    """

    def forward(self, x: Tensor, edge_index: Any = None) -> Tensor:
        """Node features to node features, each node on its own."""
        return super().forward(x)


class MLP(GraphNetwork):
    r"""Linear layers on each node alone, in the frame of the other networks.

    .. math:: H^+ = [H +]\; \mathrm{dropout}\bigl(\sigma(\mathrm{norm}(H W^\top + b))
        \bigr)

    :class:`~graphfathom.nn.zoo.mpnn.MPNN` without its messages.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        norm: As MPNN has it.
        residual: As MPNN has it.
        layer_dropout: As MPNN has it.
        act: The activation :math:`\sigma`.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        TypeError: If ``norm`` is neither a name nor a function.
        ValueError: If a number or a choice is not as described.

    Example:
        >>> MLP(1433, 64, 7, num_layers=2)
        MLP(1433, 64, 7, num_layers=2)

    References:
        | Learning representations by back-propagating errors
        | (Rumelhart et al., 1986), https://doi.org/10.1038/323533a0

    Differs from the paper:
        Nothing in the equation. A diagnosis refuses it: without messages it has no
        layers that it would find.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        *,
        norm: Norm = None,
        residual: bool = False,
        layer_dropout: float = 0.0,
        act: str | Act | None = "relu",
        **kwargs: Any,
    ) -> None:
        check_rates(layer_dropout=layer_dropout)

        def layer(k: int, act: Act) -> nn.Module:
            return MPNNLayer(
                NodeLinear(hidden_channels, hidden_channels),
                build_norm(norm, hidden_channels),
                act,
                residual=residual,
                layer_dropout=layer_dropout,
            )

        chosen = {
            "norm": name_of(norm),
            "residual": residual,
            "layer_dropout": layer_dropout,
        }
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            options={name: value for name, value in chosen.items() if value},
            **kwargs,
        )
