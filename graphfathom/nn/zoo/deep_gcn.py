"""DeepGCN, a network of PyG's skip-connection layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import DeepGCNLayer, GCNConv

__all__ = ["DeepGCN"]

BLOCKS = ("res+", "res", "dense", "plain")


class DeepGCN(nn.Module):
    r"""The skip-connection network of DeepGCNs, on PyG's layer.

    The layer is :class:`~torch_geometric.nn.models.DeepGCNLayer`. With :math:`N_\ell`
    the normalisation and :math:`C_\ell` the convolution of layer :math:`\ell`, and
    :math:`H_0 = X W_\mathrm{in} + b_\mathrm{in}`,

    .. math::
        H_\ell = \begin{cases}
        H_{\ell-1} + C_\ell(\sigma(N_\ell(H_{\ell-1}))) & \text{res+} \\
        H_{\ell-1} + \sigma(N_\ell(C_\ell(H_{\ell-1}))) & \text{res} \\
        H_{\ell-1} \,\|\, \sigma(N_\ell(C_\ell(H_{\ell-1}))) & \text{dense} \\
        \sigma(N_\ell(C_\ell(H_{\ell-1}))) & \text{plain}
        \end{cases}

    and the output is :math:`\sigma(N(H_L)) W_\mathrm{out} + b_\mathrm{out}`. A dense
    network of :math:`L` layers ends :math:`L + 1` times as wide as it starts.

    Args:
        in_channels: Width of the input features.
        hidden_channels: Width that every convolution returns.
        out_channels: Width of the output.
        num_layers: Number of graph convolutions :math:`L`.
        conv: Called as ``conv(in_channels, out_channels)`` for each layer.
        block: One of ``"res+"``, ``"res"``, ``"dense"``, ``"plain"``.
        norm: Called as ``norm(channels)`` for each layer and the read-out. Default:
            layer normalisation of each node, as in PyG's ``ogbn_proteins_deepgcn.py``.
        act: Called as ``act()`` for each layer and the read-out.
        dropout: Probability of dropping an entry, where DeepGCNLayer does, and before
            the read-out.

    Shapes:
        - **input:** node features :math:`(N, F_\mathrm{in})`, edge indices
          :math:`(2, E)`, edge weights :math:`(E)` *(optional)*
        - **output:** node features :math:`(N, F_\mathrm{out})`

    Raises:
        ValueError: If ``num_layers`` is below 1 or ``block`` unknown.

    Example:
        >>> DeepGCN(1433, 64, 7, num_layers=64)
        DeepGCN(1433, 64, 7, num_layers=64, conv=GCNConv, block=res+)

    References:
        | DeepGCNs: Can GCNs Go as Deep as CNNs? (Li et al., 2019)
        | https://arxiv.org/abs/1904.03751
        | DeeperGCN: All You Need to Train Deeper GCNs (Li et al., 2020)
        | https://arxiv.org/abs/2006.07739

    **Differs from the paper:** the first layer has its own skip connection, and the
    read-out its own normalisation; PyG's example takes the bare convolution of the
    first layer and reuses its normalisation at the end. All layers are alike here, so
    that a measure along depth compares like with like.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        conv: Callable[[int, int], nn.Module] = GCNConv,
        block: str = "res+",
        *,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        act: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"`num_layers` must be >= 1. Got {num_layers}.")
        if block not in BLOCKS:
            raise ValueError(f"`block` must be one of {BLOCKS}. Got {block!r}.")
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.out_channels = out_channels
        self.num_layers = num_layers
        self.block = block
        self.dropout = dropout
        self.encoder = nn.Linear(in_channels, hidden_channels)
        growth = hidden_channels if block == "dense" else 0
        widths = [hidden_channels + growth * layer for layer in range(num_layers + 1)]
        self.layers = nn.ModuleList(
            DeepGCNLayer(
                conv(width, hidden_channels),
                norm(width if block == "res+" else hidden_channels),
                act(),
                block,
                dropout,
            )
            for width in widths[:-1]
        )
        self.norm = norm(widths[-1])
        self.act = act()
        self.readout = nn.Linear(widths[-1], out_channels)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        modules: list[Any] = [self.encoder, *self.layers, self.norm, self.readout]
        for module in modules:
            module.reset_parameters()

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None
    ) -> Tensor:
        """Node features to node outputs."""
        # Not every convolution takes edge weights: they are passed on only if given.
        graph = (edge_index,) if edge_weight is None else (edge_index, edge_weight)
        x = self.encoder(x)
        for layer in self.layers:
            x = layer(x, *graph)
        x = F.dropout(self.act(self.norm(x)), self.dropout, self.training)
        return self.readout(x)

    def __repr__(self) -> str:
        conv = type(self.layers[0].conv).__name__
        return (
            f"{type(self).__name__}({self.in_channels}, {self.hidden_channels}, "
            f"{self.out_channels}, num_layers={self.num_layers}, conv={conv}, "
            f"block={self.block})"
        )
