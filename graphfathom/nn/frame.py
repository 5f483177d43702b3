"""The frame that all compared networks share: encoder, layers, read-out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch_geometric.nn import Linear

from graphfathom.nn.dropout import dropout as drop
from graphfathom.nn.khop import Shells, khop_adjacency
from graphfathom.nn.model_parts import (
    build_activation,
    check_choice,
    check_rates,
    check_sizes,
    reset_parameters,
    takes,
)
from graphfathom.nn.readout import Head, build_head, pool
from graphfathom.nn.recompute import CHECKPOINTS, State, run_layers

__all__ = ["GraphNetwork"]

Act = Callable[[Tensor], Tensor]
EXTRAS = ("edge_weight", "batch", "edge_attr", "shell_index", "shell_hop", "step")
"""What only those layers receive that name it."""


class GraphNetwork(nn.Module):
    r"""Encoder, layers and read-out around any layer.

    .. math::
        S_0 = \mathrm{start}(X W_\mathrm{in}^\top + b_\mathrm{in}), \qquad
        S_k = \mathrm{layer}_k(S_{k-1}, G), \qquad
        Y = \mathrm{head}(\mathrm{pool}(\mathrm{finish}(S_L)))

    The state :math:`S_k` is one tensor of node features or several: features and
    velocities, features and edge states, the last layers' features. A layer is called
    as ``layer(*state, edge_index, **extras)`` and returns the next state, a tensor or a
    tuple. Of the other arguments of :meth:`forward` it receives those that its own
    ``forward`` names, and the number of the layer, 1 to L, if it names ``step``.

    A network of :mod:`graphfathom.nn.zoo` is this frame around its layer, and takes
    these options too.

    Args:
        in_channels: Width of the input features, or -1 to take it from the first batch.
        hidden_channels: Width :math:`d` of the state.
        out_channels: Width of the output.
        num_layers: Number of layers :math:`L`.
        layer: ``layer(k, act)`` returns layer k, counted from 1.
        act: The activation: a function, or a name that PyG's resolver knows. None for
            the identity.
        dropout: Probability of dropping an entry of :math:`X` and of what the head
            sees. The states in between are not touched by it.
        encoder_act: Whether the activation also acts on the encoded features.
        share_weights: Whether one layer runs L times.
        readout: ``"node"``, or how nodes are pooled: ``"mean"``, ``"sum"``, ``"max"``,
            or ``"all"`` of them side by side.
        head: ``"linear"``, ``"mlp"`` (one hidden layer of half the width, LeakyReLU),
            or ``head(in_channels, out_channels)`` returns a module.
        checkpoint: What is kept for the backward pass: all (``"none"``), the state of
            every layer (``"every"``), or of every :math:`\sqrt{L}`-th (``"sqrt"``); the
            rest is computed again. Under ``torch.compile`` the compiler decides.
        options: What ``repr`` shows besides the sizes.

    Shapes:
        - **input:** node features :math:`(N, F_\mathrm{in})`, edge indices
          :math:`(2, E)`, edge weights :math:`(E)` *(optional)*, graph of each node
          :math:`(N)` *(optional)*, edge features :math:`(E, D)` *(optional)*, shells as
          :class:`~graphfathom.transforms.KHopShells` makes them *(optional)*
        - **output:** :math:`(N, F_\mathrm{out})`, or :math:`(G, F_\mathrm{out})` with
          pooling

    Raises:
        TypeError: If ``layer`` does not return modules.
        ValueError: If a number or a choice is not as described.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        layer: Callable[[int, Act], nn.Module],
        *,
        act: str | Act | None = "relu",
        dropout: float = 0.0,
        encoder_act: bool = False,
        share_weights: bool = False,
        readout: str = "node",
        head: Head = "linear",
        checkpoint: str = "none",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_sizes(
            in_channels,
            hidden_channels=hidden_channels,
            out_channels=out_channels,
            num_layers=num_layers,
        )
        check_choice("checkpoint", checkpoint, CHECKPOINTS)
        check_rates(dropout=dropout)
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.out_channels = out_channels
        self.num_layers = num_layers
        self.dropout = dropout
        self.encoder_act = encoder_act
        self.share_weights = share_weights
        self.readout = readout
        self.checkpoint = checkpoint
        self.options = dict(options or {})
        self.act = build_activation(act)
        self.encoder = Linear(in_channels, hidden_channels)
        count = 1 if share_weights else num_layers
        layers: list[Any] = [layer(k, self.act) for k in range(1, count + 1)]
        if not isinstance(layers[0], nn.Module):
            raise TypeError(
                "`layer` must return a torch.nn.Module. Got "
                f"{type(layers[0]).__name__} from layer(1, act)."
            )
        self.layers = nn.ModuleList(layers)
        self._taken = [name for name in EXTRAS if takes(self.layers[0], name)]
        self.head = build_head(head, readout, self.width(), out_channels)

    def width(self) -> int:
        """Width of what :meth:`finish` returns."""
        return self.hidden_channels

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """What all layers see of the graph, made once in a forward pass.

        Args:
            x: The encoded features.
            edge_index: As :meth:`forward` was given it.
            given: The other arguments of :meth:`forward` by name, None if absent.

        Returns:
            What is passed to layers in the place of ``edge_index``, and by name.
        """
        return edge_index, given

    def shells(
        self, x: Tensor, given: dict[str, Any], num_hops: int, **options: Any
    ) -> Shells:
        """What :meth:`graph` returns in a network that reads shells and no edges.

        Args:
            x: The encoded features.
            given: As :meth:`graph` has it.
            num_hops: Number of shells.
            options: Of :func:`~graphfathom.nn.khop.khop_adjacency`.

        Raises:
            ValueError: If the data has no shells.
        """
        pairs = given["shell_index"], given["shell_hop"]
        return khop_adjacency(*pairs, x.size(0), num_hops, dtype=x.dtype, **options)

    def start(self, x: Tensor, graph: Any, given: dict[str, Any]) -> State:
        """The first state, from encoded features and what :meth:`graph` returned."""
        return (x,)

    def finish(self, state: State) -> Tensor:
        """Node features of the last state, of shape (N, ``width()``)."""
        return state[0]

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        reset_parameters(self)

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
        given = {
            "edge_weight": edge_weight,
            "batch": batch,
            "edge_attr": edge_attr,
            "shell_index": shell_index,
            "shell_hop": shell_hop,
        }
        h = self.encoder(drop(x, self.dropout, self.training))
        if self.encoder_act:
            h = self.act(h)
        graph, given = self.graph(h, edge_index, given)
        state = self.start(h, graph, given)

        def run(state: State, layers: range) -> State:
            for k in layers:
                state = self._step(k, state, graph, given)
            return state

        state = run_layers(
            run, state, self.num_layers, self.checkpoint, training=self.training
        )
        h = pool(self.readout, self.finish(state), batch, batch_size)
        return self.head(drop(h, self.dropout, self.training))

    def _step(self, k: int, state: State, graph: Any, given: dict[str, Any]) -> State:
        layer = self.layers[0 if self.share_weights else k]
        given = given | {"step": k + 1}
        extras = {name: given[name] for name in self._taken if given[name] is not None}
        out = layer(*state, graph, **extras)
        return (out,) if isinstance(out, Tensor) else tuple(out)

    def __repr__(self) -> str:
        parts = [f"num_layers={self.num_layers}"]
        parts += [f"{name}={value}" for name, value in self.options.items()]
        parts += ["share_weights=True"] if self.share_weights else []
        sizes = f"{self.in_channels}, {self.hidden_channels}, {self.out_channels}"
        return f"{type(self).__name__}({sizes}, {', '.join(parts)})"
