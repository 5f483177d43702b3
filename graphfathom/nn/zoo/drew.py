"""DRew, whose layers reach one hop further each, with or without delay."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn.inits import glorot

from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.khop import Shells, propagate_linear_shells

__all__ = ["DRew", "DRewConv"]


class DRewConv(nn.Module):
    """One layer of :class:`DRew`.

    Args:
        channels: Width of the state.
        num_hops: Number of shells that it has weights for.
        nu: Hops from which on messages are delayed.
        memory: How many of the last layers' features to hand on.
        l2_norm: Whether to scale the features of each node to length 1.
        act: The activation.

    Shapes:
        - **input:** features of the last layers, the newest first, each
          :math:`(N, F)`, then the shells
        - **output:** the same, one layer on
    """

    def __init__(
        self,
        channels: int,
        num_hops: int,
        nu: float,
        memory: int,
        l2_norm: bool,
        act: Act,
    ) -> None:
        super().__init__()
        self.delays = [max(0, k - nu) for k in range(1, num_hops + 1)]
        self.memory = memory
        self.l2_norm = l2_norm
        self.act = act
        self.weight = nn.Parameter(torch.empty(num_hops, channels, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        glorot(self.weight)

    def forward(
        self, x: Tensor, *past_and_shells: Any, step: int
    ) -> Tensor | tuple[Tensor, ...]:
        """The last layers' features to those one layer on."""
        *past, shells = past_and_shells
        past = [x, *past]
        sent = [past[int(delay)] for delay in self.delays[:step]]
        message = propagate_linear_shells(shells, sent, self.weight[:step])
        x = x + self.act(message)
        if self.l2_norm:
            x = F.normalize(x, dim=-1)
        return x if self.memory == 1 else (x, *past)[: self.memory]


class DRew(GraphNetwork):
    r"""Dynamically rewired message passing with delay, on the messages of GCN.

    .. math:: h_i^{l+1} = h_i^l + \sigma\Bigl(\sum_{k=1}^{l+1} \sum_{j \in N_k(i)}
        \frac{1}{\sqrt{d_i^k d_j^k}} W_k^l h_j^{l - \tau(k)}\Bigr), \qquad
        \tau(k) = \max(0, k - \nu)

    :math:`N_k(i)` are the :math:`d_i^k` nodes at exactly k hops, which layer l reads
    from :math:`l = k - 1` on. Without delay, :math:`\nu = \infty`, L layers reach
    :math:`L (L + 1) / 2` hops; with :math:`\nu = 1` a message from k hops away has been
    under way for k layers, and they reach L hops.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        nu: The number :math:`\nu`: an integer from 1 on, or infinity for no delay.
        num_hops: Largest k. None: the number of layers, as in the paper.
        self_loops: Whether each shell also has the node itself, as in the official
            code.
        l2_norm: Whether the features of each node are scaled to length 1 behind each
            layer, as in the official code.
        act: The activation :math:`\sigma`.
        share_weights: Whether :math:`W_k` is the same in all layers.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Shapes:
        - **input:** as the frame, with shells
        - **output:** as the frame

    Raises:
        ValueError: If a number or a choice is not as described; when called, if the
            data has no shells.

    Example:
        >>> DRew(2, 30, 1, num_layers=10, nu=1)
        DRew(2, 30, 1, num_layers=10, nu=1, num_hops=10)

    References:
        | DRew: Dynamically Rewired Message Passing with Delay
        | (Gutteridge et al., 2023), https://arxiv.org/abs/2305.08018

    Differs from the paper:
        Nothing in the equation. The official code has PyG's GCNConv for each
        :math:`W_k^l`, with a bias and, even where the shell of a node is empty, with
        its own self-loops, and leaves out shells that a whole batch lacks.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        nu: float = math.inf,
        *,
        num_hops: int | None = None,
        self_loops: bool = False,
        l2_norm: bool = False,
        act: str | Act | None = "relu",
        share_weights: bool = False,
        **kwargs: Any,
    ) -> None:
        if not (nu >= 1 and (nu == math.inf or nu == int(nu))):
            raise ValueError(
                f"`nu` must be an integer >= 1, or math.inf for no delay. Got {nu!r}."
            )
        if num_hops is not None and num_hops < 1:
            raise ValueError(
                f"`num_hops` must be >= 1, or None for one a layer. Got {num_hops!r}."
            )
        hops = num_layers if num_hops is None else min(num_hops, num_layers)
        memory = 1 + int(max(0, hops - nu))

        def layer(k: int, act: Act) -> nn.Module:
            known = hops if share_weights else min(k, hops)
            return DRewConv(hidden_channels, known, nu, memory, l2_norm, act)

        options: dict[str, Any] = {"nu": nu, "num_hops": hops}
        options |= {"self_loops": True} if self_loops else {}
        options |= {"l2_norm": True} if l2_norm else {}
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            share_weights=share_weights,
            options=options,
            **kwargs,
        )
        self.num_hops = hops
        self.self_loops = self_loops

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Shells, dict[str, Any]]:
        """The matrices of the shells, in the place of the edges."""
        shells = self.shells(x, given, self.num_hops, add_self_loops=self.self_loops)
        return shells, given
