"""MP-SSM, a linear recurrence over the graph with a perceptron behind it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch_geometric.nn import Linear

from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import check_sizes
from graphfathom.nn.propagation import GCNConv, share_adjacency
from graphfathom.nn.recompute import State

__all__ = ["MPSSM", "MPSSMLayer"]


class MPSSMLayer(nn.Module):
    r"""One step :math:`X^+ = \hat{A} X W + U B`, with the product :math:`U B` at hand.

    The same step runs all through a block, so the layer also has what stands at the
    ends of the block: :math:`B` in front and the perceptron behind.

    Args:
        channels: Width of the state.
        act: The activation of the perceptron.

    Shapes:
        - **input:** state :math:`(N, F)`, input of the block times :math:`B`
          :math:`(N, F)`, an adjacency or edge indices
        - **output:** the next state, and the second argument again
    """

    def __init__(self, channels: int, act: Act) -> None:
        super().__init__()
        self.act = act
        self.conv = GCNConv(channels, channels, bias=False)
        self.lin_input = Linear(channels, channels, bias=False)
        self.lin_hidden = Linear(channels, channels)
        self.lin_output = Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        for lin in (self.lin_input, self.lin_hidden, self.lin_output):
            lin.reset_parameters()
        nn.init.orthogonal_(self.conv.lin.weight)

    def begin(self, x: Tensor) -> State:
        """The first state of a block with input ``x``, and what every step adds."""
        source = self.lin_input(x)
        return source, source

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        edge_index: Any,
        edge_weight: Tensor | None = None,
    ) -> State:
        """The next state within the block."""
        return self.conv(x, edge_index, edge_weight) + source, source

    def end(self, x: Tensor) -> Tensor:
        """The output of a block with last state ``x``."""
        return self.lin_output(self.act(self.lin_hidden(x)))


class MPSSM(GraphNetwork):
    r"""Message-Passing State-Space Model, for graphs that do not change.

    .. math:: X_{t+1} = \hat{A} X_t W + U B, \qquad X_1 = U B, \qquad
        Y = \mathrm{MLP}(X_{T+1})

    for :math:`t = 1, \dots, T`, with :math:`\hat{A}` the propagation of GCN. Nothing
    in a block of :math:`T` layers is nonlinear but the perceptron at its end: before it
    stands :math:`\sum_{s=0}^{T} \hat{A}^s U B W^s`. With :math:`U` held, the Jacobian
    of :math:`T` layers is :math:`(W^\top)^T \otimes \hat{A}^T` of
    :math:`\mathrm{vec}\, X`. The output :math:`Y` of a block is the input :math:`U` of
    the next one.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it: the propagations in all blocks together.
        block_size: Layers :math:`T` of a block, which have one set of weights; the last
            block may have less. None: all layers are one block.
        act: The activation between the two linear maps of the perceptron.
        share_weights: Whether all blocks have the same weights.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        ValueError: If a number or a choice is not as described.

    Example:
        >>> MPSSM(2, 30, 1, num_layers=20, block_size=10)
        MPSSM(2, 30, 1, num_layers=20, block_size=10)

    References:
        | Message-Passing State-Space Models: Improving Graph Learning with Modern
          Sequence Modeling
        | (Ceni et al., 2025), https://arxiv.org/abs/2505.18728

    Differs from the paper:
        Nothing in the equation. The paper starts at :math:`X_0 = 0`; its first step
        makes :math:`U B` of it without a message, and is not counted as a layer. Here
        :math:`W` starts orthogonal, so that its powers neither grow nor vanish. The
        paper also has features that change with time, for which :math:`U` depends on
        :math:`t`.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        block_size: int | None = None,
        *,
        act: str | Act | None = "relu",
        **kwargs: Any,
    ) -> None:
        block_size = num_layers if block_size is None else block_size
        check_sizes(in_channels, num_layers=num_layers, block_size=block_size)
        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            -(-num_layers // block_size),  # The frame builds one layer for each block.
            lambda k, act: MPSSMLayer(hidden_channels, act),
            act=act,
            options={"block_size": block_size},
            **kwargs,
        )
        self.num_layers = num_layers
        self.block_size = block_size

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The adjacency of GCN, which all layers share."""
        convs: list[Any] = [layer.conv for layer in self.layers]
        return share_adjacency(convs, x, edge_index, given)

    def start(self, x: Tensor, graph: Any, given: dict[str, Any]) -> State:
        """The state before the first layer of the first block."""
        return self._block(0).begin(x)

    def _step(self, k: int, state: State, graph: Any, given: dict[str, Any]) -> State:
        """One layer, and the way into the next block if it ends one."""
        block = k // self.block_size
        state = super()._step(block, state, graph, given)
        is_last = k + 1 == self.num_layers
        if (k + 1) % self.block_size and not is_last:
            return state
        x = self._block(block).end(state[0])
        return (x,) if is_last else self._block(block + 1).begin(x)

    def _block(self, block: int) -> MPSSMLayer:
        layer = self.layers[0 if self.share_weights else block]
        assert isinstance(layer, MPSSMLayer)
        return layer
