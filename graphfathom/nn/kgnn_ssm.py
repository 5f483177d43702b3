"""A network in state-space form whose layer k reads the nodes at exactly k hops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch_geometric.nn
from torch import Tensor, nn

from graphfathom.nn.khop import khop_adjacency
from graphfathom.nn.models import GNNSSM
from graphfathom.nn.propagation import adjacency_for

__all__ = ["kGNNSSM"]


class kGNNSSM(GNNSSM):
    r"""A deep graph network in state-space form over the shells of a graph.

    .. math::
        H_k = H_{k-1} \Lambda^\top
        + \sigma(\hat{A}_k H_{k-1} W_k + b_k) B^\top, \qquad
        (A_k)_{uv} = 1 \iff d(u, v) = k

    Layer k passes messages between nodes that are exactly k hops apart, along the
    shells of :class:`~graphfathom.transforms.KHopShells`, and not along the edges.
    After it, information has gone at most :math:`1 + 2 + \dots + k` hops. A shell that
    the data does not have is empty: beyond the largest distance, or beyond the number
    of hops that the transform was asked for, GCN's layer sees the node itself alone.

    :math:`\hat{A}_k` is that of :class:`~torch_geometric.nn.conv.GCNConv`, with its own
    self-loops and the degrees in the shell. Any other layer runs on the pairs of shell
    k as its edges; under ``torch.compile`` the graph then breaks, because their number
    depends on the data.

    Args:
        in_channels: As :class:`GNNSSM` has it.
        hidden_channels: As :class:`GNNSSM` has it.
        out_channels: As :class:`GNNSSM` has it.
        num_layers: Number of layers and of shells.
        conv: As :class:`GNNSSM` has it.
        kwargs: Options of :class:`GNNSSM`.

    Shapes:
        - **input:** as :class:`GNNSSM`, with pairs of source and target :math:`(2, S)`
          and hops between them :math:`(S)`, without weights or features of edges
        - **output:** as :class:`GNNSSM`

    Raises:
        TypeError: As :class:`GNNSSM`.
        ValueError: As :class:`GNNSSM`; when called, if the data has no shells, or
            weights or features of edges, which shells do not have.

    Example:
        >>> kGNNSSM(3, 8, 2, num_layers=16, act="tanh")
        kGNNSSM(3, 8, 2, num_layers=16, conv=GCNConv, act=Tanh(), state=Scalar(1,
        channels=8), input=Scalar(0.25, channels=8), data-free default)

    References:
        | On Vanishing Gradients, Over-Smoothing, and Over-Squashing in GNNs
        | (Arroyo et al., 2025), https://arxiv.org/abs/2502.10818

    Differs from the paper:
        As :class:`GNNSSM`, in the default matrices; :meth:`paper` has the paper's.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        conv: Callable[..., nn.Module] = torch_geometric.nn.GCNConv,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            in_channels, hidden_channels, out_channels, num_layers, conv, **kwargs
        )
        nothing = torch.empty(2, 0, dtype=torch.long)
        self._by_matrix = adjacency_for(self.inner_convs(), nothing) is not None

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        edge_attr: Tensor | None = None,
        shell_index: Tensor | None = None,
        shell_hop: Tensor | None = None,
        *,
        batch_size: int | None = None,
    ) -> Tensor:
        """Node features to outputs of nodes or graphs."""
        self._check_no_edge_values(edge_weight, edge_attr)
        shells = shell_index, shell_hop
        return super().forward(x, shells, None, batch, batch_size=batch_size)

    def _graph(
        self, h: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The matrix or the edges of every layer."""
        index, hop = edge_index
        hops = range(1, self.num_layers + 1)
        if not self._by_matrix and index is not None and hop is not None:
            return tuple(index[:, hop == k] for k in hops), given
        first: Any = self.inner_convs()[0]
        if index is not None and first.flow == "target_to_source":
            index = index.flip(0)
        shells = khop_adjacency(
            index,
            hop,
            h.size(0),
            self.num_layers,
            add_self_loops=first.add_self_loops,
            normalize=first.normalize,
            dtype=h.dtype,
        )
        return tuple(shells[k] for k in hops), given

    def _message(self, k: int, h: Tensor, graph: Any, given: dict[str, Any]) -> Tensor:
        """What layer k computes from a state."""
        return super()._message(k, h, graph[k], given)

    def _check_no_edge_values(
        self, edge_weight: Tensor | None, edge_attr: Tensor | None
    ) -> None:
        if edge_weight is not None:
            raise ValueError(
                "`edge_weight` must be None: the shells, which kGNNSSM reads, have no "
                "weights. Got a tensor: remove it from the data, or build a GNNSSM."
            )
        if edge_attr is not None and "edge_attr" in self._taken:
            raise ValueError(
                "`edge_attr` must be None for layers that would read it: pairs of "
                "nodes in a shell have no features. Got a tensor: build the layers "
                "without an `edge_dim`, or build a GNNSSM."
            )
