"""gLSTM, whose nodes store what they are sent in a matrix, by keys."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import Linear

from graphfathom.nn.adjacency import Adjacency, gcn_adjacency
from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.khop import Shells
from graphfathom.nn.model_parts import check_sizes, reset_parameters
from graphfathom.nn.propagation import propagate
from graphfathom.nn.recompute import State

__all__ = ["GLSTM", "GLSTMConv"]


class GLSTMConv(nn.Module):
    r"""One layer of :class:`GLSTM`.

    The memory is kept as :math:`e^{-m} C` and, as one row more of each matrix,
    :math:`e^{-m} n`, with a level :math:`m` of each node that keeps exponentials of
    gates at most 1. No output depends on it, so no gradient flows through it.

    Args:
        channels: Width of the features.
        num_heads: Number of matrices of a node.
        memory_channels: Rows and columns of a matrix.
        norm: Whether to normalise features before and readings behind the memory.
        act: The activation.

    Shapes:
        - **input:** node features :math:`(N, F)`, memory :math:`(N, H (M + 1) M)`,
          level :math:`(N, H)`, then the matrix of the neighbours, or shells
        - **output:** features, memory and level
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        memory_channels: int,
        norm: bool,
        act: Act,
    ) -> None:
        super().__init__()
        self.heads = num_heads, memory_channels
        self.act = act
        width = num_heads * memory_channels
        self.norm = nn.LayerNorm(channels) if norm else nn.Identity()
        self.head_norm = nn.GroupNorm(num_heads, width) if norm else nn.Identity()
        self.gates = Linear(channels, 2 * num_heads)
        self.key = Linear(channels, width)
        self.value = Linear(channels, width)
        self.query = Linear(2 * channels, width)
        self.out_gate = Linear(channels, width)
        self.out = Linear(width, channels)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        reset_parameters(self)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        level: Tensor,
        graph: Adjacency | Shells,
        step: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features, memory and level to those one layer on."""
        adjacency = graph[step] if isinstance(graph, Shells) else graph
        z = self.norm(x)
        forget, gate = self.gates(z).chunk(2, dim=-1)
        top = _top(gate)
        new_level = torch.maximum(forget.detach() + level, top)
        pairs = self._pairs(z) * (gate - top).exp()[..., None, None]
        # One product for all that neighbours send.
        sent = torch.cat([pairs.flatten(1), z], dim=-1)
        got, near = propagate(adjacency, sent).split([memory.size(1), z.size(1)], -1)
        stored = (got + pairs.flatten(1)).view_as(pairs)
        kept = (forget + level - new_level).exp()[..., None, None]
        stored = stored * (top - new_level).exp()[..., None, None]
        cells = kept * memory.view_as(pairs) + stored
        query = self.query(torch.cat([z, near], dim=-1)).view(-1, *self.heads)
        read = self._read(cells, query, new_level)
        read = self.head_norm(self.out_gate(z).sigmoid() * read)
        return x + self.act(self.out(read)), cells.flatten(1), new_level

    def _pairs(self, z: Tensor) -> Tensor:
        """Products of values, with a 1 below, and keys, of shape (N, H, M + 1, M)."""
        key = self.key(z).view(-1, *self.heads) / math.sqrt(self.heads[1])
        value = self.value(z).view(-1, *self.heads)
        value = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)
        return value[..., :, None] * key[..., None, :]

    @staticmethod
    def _read(cells: Tensor, query: Tensor, level: Tensor) -> Tensor:
        """What a query finds in a memory, of shape (N, H M)."""
        found = torch.einsum("nhvk,nhk->nhv", cells, query)
        one = torch.exp(-level).clamp(min=torch.finfo(level.dtype).tiny)
        size = torch.maximum(found[..., -1].abs(), one)
        return (found[..., :-1] / size[..., None]).flatten(1)


class GLSTM(GraphNetwork):
    r"""A graph network with the associative memory of the xLSTM in each node.

    .. math::
        C_u^+ = f_u C_u + \sum_{v \in N_l(u) \cup u} i_v\, v_v k_v^\top, \qquad
        n_u^+ = f_u n_u + \sum_{v \in N_l(u) \cup u} i_v k_v

    .. math::
        x_u^+ = x_u + \sigma\Bigl(W\, \mathrm{norm}\Bigl(o_u \odot
        \frac{C_u^+ q_u}{\max(|q_u^\top n_u^+|, 1)}\Bigr) + b\Bigr)

    With z the normalised features x of a node: :math:`f = e^{w_f^\top z + b_f}`,
    :math:`i = e^{w_i^\top z + b_i}`, :math:`o = \mathrm{sigmoid}(W_o z + b_o)`,
    values :math:`v = W_v z + b_v`, keys :math:`k = (W_k z + b_k) / \sqrt{M}` and
    queries :math:`q_u = W_q [z_u, \sum_{v \in N_l(u)} z_v] + b_q`. :math:`N_l(u)` are
    the nodes at exactly l hops, or the neighbours in all layers. Before the first
    layer, :math:`C = 0` and :math:`n = 1`.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        khop: Whether layer l reads the nodes at l hops.
        num_heads: Number of memories of a node, each with gates of its own.
        memory_channels: Rows and columns :math:`M` of a memory. 16 as in the official
            configurations.
        norm: Whether z is a LayerNorm of x, and ``norm`` a GroupNorm by heads; else
            both are the identity.
        act: The activation :math:`\sigma`.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Shapes:
        - **input:** as the frame, with shells if ``khop``
        - **output:** as the frame

    Raises:
        ValueError: If a number or a choice is not as described; when called, if the
            data has no shells and ``khop`` is set.

    Example:
        >>> GLSTM(2, 30, 1, num_layers=10, khop=False)
        GLSTM(2, 30, 1, num_layers=10, khop=False, num_heads=1, memory_channels=16)

    References:
        | gLSTM: Mitigating Over-Squashing by Increasing Storage Capacity
        | (Blayney et al., 2025), https://arxiv.org/abs/2510.08450
        | xLSTM: Extended Long Short-Term Memory
        | (Beck et al., 2024), https://arxiv.org/abs/2405.04517

    Differs from the paper:
        Gates, norms and start are those of the official code. Three of its details
        break the equation, and are not here: it scales a message by the level of the
        node that sends it and the memory by that of the node that receives it, it
        compares the scaled size with 1, and it omits the absolute value.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        khop: bool = True,
        *,
        num_heads: int = 1,
        memory_channels: int = 16,
        norm: bool = True,
        act: str | Act | None = "tanh",
        **kwargs: Any,
    ) -> None:
        sizes = {"num_heads": num_heads, "memory_channels": memory_channels}
        check_sizes(in_channels, **sizes)

        def layer(k: int, act: Act) -> nn.Module:
            return GLSTMConv(hidden_channels, num_heads, memory_channels, norm, act)

        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            options={"khop": khop} | sizes,
            **kwargs,
        )
        self.khop = khop
        self.heads = num_heads, memory_channels

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Adjacency | Shells, dict[str, Any]]:
        """Matrices of ones, of the shells or of the edges."""
        size, dtype = x.size(0), x.dtype
        if not self.khop:
            graph = gcn_adjacency(edge_index, None, size, normalize=False, dtype=dtype)
            return graph, given
        options = {"add_self_loops": False, "normalize": False}
        shells = self.shells(x, given, self.num_layers, **options)
        return shells, given

    def start(self, x: Tensor, graph: Any, given: dict[str, Any]) -> State:
        """The features, an empty memory and the level 0."""
        heads, width = self.heads
        empty = x.new_zeros(x.size(0), heads, width, width)
        memory = torch.cat([empty, torch.ones_like(empty[:, :, :1])], dim=2)
        return x, memory.flatten(1), x.new_zeros(x.size(0), heads)


def _top(gate: Tensor) -> Tensor:
    """The largest input gate of any node, and 0 at least: there may be no node."""
    # A NaN must not reach the other graphs of a batch.
    gates = gate.detach().nan_to_num(0.0)
    return torch.cat([gates, gates.new_zeros(1, gates.size(1))]).amax(0)
