"""A whole network in state-space form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch_geometric.nn
from torch import Tensor, nn
from torch_geometric.nn import Linear

from graphfathom.nn.abstract_state_space import as_part, as_transition
from graphfathom.nn.abstract_transition import finite
from graphfathom.nn.dropout import dropout as drop
from graphfathom.nn.model_parts import (
    build_activation,
    build_convs,
    build_norms,
    check_choice,
    check_rates,
    check_sizes,
    reset_parameters,
    takes,
)
from graphfathom.nn.propagation import adjacency_for, gcn_adjacency
from graphfathom.nn.readout import Head, build_head, pool
from graphfathom.nn.recompute import CHECKPOINTS, State, run_layers
from graphfathom.nn.step import Gates, advance
from graphfathom.nn.transition import (
    Centered,
    Dense,
    Scalar,
    Transition,
    warn_if_growing,
)

__all__ = ["GNNSSM", "default_transitions"]

PLACES = ("output", "input")
MAX_STEP, REACH = 0.5, 32.0
"""Largest step of a convex network, and the sum of the steps of a deep one: chosen by
validation accuracy on Cora at 64 to 1,000 layers, see ``benchmarks/cora_depth.py``."""
OPTIONAL = ("edge_weight", "edge_attr", "batch")
"""Arguments of ``forward`` that only those layers receive that take them."""


def default_transitions(
    num_layers: int, act: Callable[[Tensor], Tensor], strength: float = 1.0
) -> tuple[Transition, Transition]:
    r"""State and input matrix that need no data.

    .. math:: \Lambda = I, \qquad
        B = \frac{c}{\sqrt{L}} \left(I - \tfrac{1}{d} 1 1^\top\right)

    :math:`L` messages of independent sign add up to a size of :math:`c`. The mean over
    the features is taken off because those of an activation such as ReLU have a common
    sign and would add up to :math:`c \sqrt{L}`; for an odd activation such as tanh
    :math:`B = c / \sqrt{L}`.

    Args:
        num_layers: Number of layers :math:`L`.
        act: The activation.
        strength: The integration strength :math:`c`.

    Example:
        >>> default_transitions(100, torch.tanh)
        (Scalar(1), Scalar(0.1))
        >>> default_transitions(100, torch.relu)
        (Scalar(1), Centered(0.1))
    """
    size = strength / math.sqrt(num_layers)
    grid = torch.linspace(0.1, 5.0, 50)
    with torch.no_grad():
        odd = torch.allclose(act(grid), -act(-grid), atol=1e-6)
    return Scalar(1.0), Scalar(size) if odd else Centered(size)


class GNNSSM(nn.Module):
    r"""A deep graph network in state-space form.

    .. math::
        H_0 = X W_\mathrm{in}^\top + b_\mathrm{in}, \qquad
        H_{k+1} = H_k \Lambda^\top + F_k(H_k) B^\top \; (+ \; H_0 E^\top), \qquad
        F_k(H) = \mathrm{dropout}(\sigma(\mathrm{norm}(\mathrm{conv}_k(H))))

    The output is :math:`H_L W_\mathrm{out}^\top + b_\mathrm{out}`, of the nodes or,
    after pooling, of the graphs. Activation, norm and dropout act on the message and
    never on the state; dropout also acts on :math:`X` and on what the read-out sees.
    The matrices are shared by all layers and are not trained.

    With ``identity_mapping`` :math:`\theta` the message is
    :math:`F_k(H) = \sigma((1 - \beta_k) \hat{A} H + \beta_k \mathrm{conv}_k(H))`,
    :math:`\beta_k = \log(\theta / k + 1)`, as in GCNII.

    Layers of PyG's :class:`~torch_geometric.nn.conv.GCNConv` share one normalised
    adjacency, built once in a forward pass.

    Args:
        in_channels: Width of the input features, or -1 to take it from the first batch.
        hidden_channels: Width :math:`d` of the state.
        out_channels: Width of the output.
        num_layers: Number of state-space layers :math:`L`.
        conv: ``conv(d, d, **conv_kwargs)`` returns a layer: a class of PyG or any
            function.
        act: The activation :math:`\sigma`: a function, or a name that PyG's resolver
            knows. None for the identity.
        norm: Name of a normalisation layer of PyG, or a function of the width that
            returns one.
        dropout: Probability of dropping an entry.
        dropout_on: Where dropout acts in a layer: on the ``"output"`` of F, as PyG's
            models have it, or on the ``"input"`` of its convolution, as GCNII has it.
        state: The matrix :math:`\Lambda`. Default: :func:`default_transitions`.
        input: The matrix :math:`B`. Default: :func:`default_transitions`.
        persistent: The matrix :math:`E`. None: no such term.
        encoder_act: Whether the activation also acts on :math:`H_0`.
        identity_mapping: The number :math:`\theta`. None: no identity mapping.
        gates: Whether to train gates on state and message, shared by all layers.
        readout: ``"node"``, or how nodes are pooled: ``"mean"``, ``"sum"``, ``"max"``,
            or ``"all"`` of them side by side.
        head: What maps that to the output: ``"linear"``, ``"mlp"`` (one hidden layer of
            half the width, LeakyReLU), or ``head(in_channels, out_channels)`` returns a
            module.
        checkpoint: What is kept for the backward pass: all (``"none"``), the state of
            every layer (``"every"``), or of every :math:`\sqrt{L}`-th (``"sqrt"``); the
            rest is computed again. Under ``torch.compile`` the compiler decides.
        strength: The integration strength :math:`c` of the default matrices.
        conv_kwargs: Passed to ``conv``.

    Shapes:
        - **input:** node features :math:`(N, F_\mathrm{in})`, edge indices
          :math:`(2, E)`, edge weights :math:`(E)` *(optional)*, graph of each node
          :math:`(N)` *(optional)*, edge features :math:`(E, D)` *(optional)*
        - **output:** :math:`(N, F_\mathrm{out})`, or :math:`(G, F_\mathrm{out})` with
          pooling

    Raises:
        TypeError: If ``conv`` or a matrix is of the wrong kind.
        ValueError: If a number or a choice is not as described.

    Example:
        >>> GNNSSM(1433, 64, 7, num_layers=100)
        GNNSSM(1433, 64, 7, num_layers=100, conv=GCNConv, act=ReLU(), state=Scalar(1,
        channels=64), input=Centered(0.1, channels=64), data-free default)

    References:
        | On Vanishing Gradients, Over-Smoothing, and Over-Squashing in GNNs
        | (Arroyo et al., 2025), https://arxiv.org/abs/2502.10818
        | Simple and Deep Graph Convolutional Networks (Chen et al., 2020)
        | https://arxiv.org/abs/2007.02133

    Differs from the paper:
        The paper's matrices (:math:`\Lambda = I` and a random :math:`B`) let the state
        of a deep network grow; :meth:`paper` has them.
    """

    carries = False
    """The state is added here and not by the layers."""

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        conv: Callable[..., nn.Module] = torch_geometric.nn.GCNConv,
        *,
        act: str | Callable[[Tensor], Tensor] | None = "relu",
        norm: str | Callable[[int], nn.Module] | None = None,
        dropout: float = 0.0,
        dropout_on: str = "output",
        state: Transition | None = None,
        input: Transition | None = None,
        persistent: Transition | None = None,
        encoder_act: bool = False,
        identity_mapping: float | None = None,
        gates: bool = False,
        readout: str = "node",
        head: Head = "linear",
        checkpoint: str = "none",
        strength: float = 1.0,
        **conv_kwargs: Any,
    ) -> None:
        super().__init__()
        check_sizes(
            in_channels,
            hidden_channels=hidden_channels,
            out_channels=out_channels,
            num_layers=num_layers,
        )
        check_choice("checkpoint", checkpoint, CHECKPOINTS)
        check_choice("dropout_on", dropout_on, PLACES)
        check_rates(dropout=dropout)
        finite("strength", strength)
        self.in_channels = in_channels
        self.hidden_channels = hidden_channels
        self.out_channels = out_channels
        self.num_layers = num_layers
        self.dropout = dropout
        self.dropout_on = dropout_on
        self.encoder_act = encoder_act
        self.identity_mapping = identity_mapping
        self.readout = readout
        self.checkpoint = checkpoint
        self.encoder = Linear(in_channels, hidden_channels)
        self.convs = build_convs(
            conv, hidden_channels, num_layers, identity_mapping, conv_kwargs
        )
        self.act = build_activation(act)
        self.norms = build_norms(norm, hidden_channels, num_layers)
        self._norm_takes_batch = bool(self.norms) and takes(self.norms[0], "batch")
        self.decoder = build_head(head, readout, hidden_channels, out_channels)
        default = default_transitions(num_layers, self.act, strength)
        given = state is not None or input is not None
        self.origin = "given" if given else "data-free default"
        self.calibration: Any = None
        self._states: list[Tensor] | None = None
        self.state = as_transition("state", default[0] if state is None else state)
        self.input = as_transition("input", default[1] if input is None else input)
        self.persistent = as_part("persistent", persistent)
        for part in self.transitions().values():
            part.bind(hidden_channels)
        self.gates = Gates(hidden_channels) if gates else None
        first = self.inner_convs()[0]
        self._taken = {name for name in OPTIONAL if takes(first, name)}
        warn_if_growing(self.state, num_layers)

    @property
    def num_steps(self) -> int:
        """Number of state-space steps, one a layer."""
        return self.num_layers

    @contextmanager
    def watch(self) -> Iterator[list[Tensor]]:
        """Collect the states 0 to L of the next run, with their graph."""
        self._states = []
        try:
            yield self._states
        finally:
            self._states = None

    @classmethod
    def paper(cls, *args: Any, seed: int = 0, **kwargs: Any) -> GNNSSM:
        r"""The paper's matrices: :math:`\Lambda = I` and a fixed random :math:`B`.

        Args:
            args: Arguments of the class.
            seed: Seed of :math:`B`.
            kwargs: Keyword arguments of the class.

        Example:
            >>> GNNSSM.paper(3, 8, 2, num_layers=4).input
            Dense(seed=0, scale=1, channels=8)
        """
        return cls(*args, state=Scalar(1.0), input=Dense(seed), **kwargs)

    @classmethod
    def convex(
        cls,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        *args: Any,
        step: float | None = None,
        restart: float = 0.1,
        theta: float = 0.25,
        **kwargs: Any,
    ) -> GNNSSM:
        r"""A convex step towards the message and the first state.

        .. math:: H_{k+1} = (1 - \gamma) H_k
            + \gamma \left((1 - a) F_k(H_k) + a H_0\right), \qquad
            \gamma = \min(1/2, 32 / L)

        With the messages, the encoder and the dropout of GCNII, which has
        :math:`\gamma = 1`. The step shrinks with depth, so that a thousand layers still
        go the way of 64; :math:`1 - \gamma` is the eigenvalue of :math:`\Lambda`.

        Args:
            in_channels: As the class has it.
            hidden_channels: As the class has it.
            out_channels: As the class has it.
            num_layers: Number of state-space layers :math:`L`.
            args: Further arguments of the class.
            step: The step :math:`\gamma`. None: as above.
            restart: The share :math:`a` of the first state.
            theta: The number :math:`\theta` of the identity mapping.
            kwargs: Keyword arguments of the class.

        Raises:
            ValueError: If the step is not in (0, 1] or the share not in [0, 1].

        Example:
            >>> GNNSSM.convex(1433, 64, 7, num_layers=128).state
            Scalar(0.75, channels=64)
        """
        if step is None:
            step = min(MAX_STEP, REACH / max(num_layers, 1))
        if not 0 < step <= 1:
            raise ValueError(f"`step` must be in (0, 1]. Got {step}.")
        if not 0 <= restart <= 1:
            raise ValueError(f"`restart` must be in [0, 1]. Got {restart}.")
        options = {
            "dropout_on": "input",
            "state": Scalar(1 - step),
            "input": Scalar(step * (1 - restart)),
            "persistent": Scalar(step * restart) if restart else None,
            "encoder_act": True,
            "identity_mapping": theta,
        }
        widths = in_channels, hidden_channels, out_channels, num_layers
        return cls(*widths, *args, **(options | kwargs))

    def transitions(self) -> dict[str, Transition]:
        """Name -> matrix."""
        names = ("state", "input", "persistent")
        found = {name: self._modules.get(name) for name in names}
        return {k: v for k, v in found.items() if isinstance(v, Transition)}

    def inner_convs(self) -> list[nn.Module]:
        """The convolutions, without what adds the identity mapping."""
        if self.identity_mapping is None:
            return list(self.convs)
        return [conv.conv for conv in self.convs]  # pyright: ignore[reportReturnType]

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        reset_parameters(self)

    def train(self, mode: bool = True) -> GNNSSM:
        """Switch the mode; warn if training has made the state grow."""
        super().train(mode)
        if self.state.trainable:
            warn_if_growing(self.state, self.num_layers)
        return self

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        edge_weight: Tensor | None = None,
        batch: Tensor | None = None,
        edge_attr: Tensor | None = None,
        *,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Node features to outputs of nodes or graphs."""
        h = self.encoder(drop(x, self.dropout, self.training))
        if self.encoder_act:
            h = self.act(h)
        if torch.is_autocast_enabled(h.device.type):
            h = h.to(self.encoder.weight.dtype)
        given = {"edge_weight": edge_weight, "edge_attr": edge_attr, "batch": batch}
        graph, given = self._graph(h, edge_index, given)
        if self._states is not None and not h.requires_grad:
            h.requires_grad_()
        source = None if self.persistent is None else self.persistent(h)
        h = self._propagate(h, source, graph, given | kwargs)
        h = pool(self.readout, h, batch, batch_size)
        return self.decoder(drop(h, self.dropout, self.training))

    def _graph(
        self, h: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """What every layer is called with."""
        weight, batch = given["edge_weight"], given.get("batch")
        convs = self.inner_convs()
        graph = adjacency_for(convs, edge_index, weight, h.size(0), h.dtype, batch)
        if graph is not None:
            return graph, given | {"edge_weight": None}
        if self.identity_mapping is not None:
            smoothing = gcn_adjacency(edge_index, weight, h.size(0), dtype=h.dtype)
            given = given | {"smoothing": smoothing}
        return edge_index, given

    def _propagate(
        self, h: Tensor, source: Tensor | None, graph: Any, given: dict[str, Any]
    ) -> Tensor:
        """From the first state to the last."""

        def run(state: State, layers: range) -> State:
            (h,) = state
            for k in layers:
                message = self._message(k, h, graph, given)
                h = advance(h, message, self.state, self.input, source, self.gates)
            return (h,)

        (h,) = run_layers(
            run,
            (h,),
            self.num_layers,
            self.checkpoint,
            training=self.training,
            note=None if self._states is None else self._note,
        )
        return h

    def _note(self, state: State) -> None:
        assert self._states is not None
        self._states.append(state[0])

    def _message(self, k: int, h: Tensor, graph: Any, given: dict[str, Any]) -> Tensor:
        """What layer k computes from a state."""
        if self.dropout_on == "input":
            h = drop(h, self.dropout, self.training)
        extras = {
            name: value
            for name, value in given.items()
            if value is not None and (name not in OPTIONAL or name in self._taken)
        }
        message = self.convs[k](h, graph, **extras)
        if message.size(-1) != self.hidden_channels:
            raise ValueError(
                f"{type(self.inner_convs()[k]).__name__} must keep the width "
                f"{self.hidden_channels} of the state. It returns {message.size(-1)}: "
                "pass it a narrower output, or `concat=False` for attention heads."
            )
        if self.norms is not None:
            batch = (given["batch"],) if self._norm_takes_batch else ()
            message = self.norms[k](message, *batch)
        message = self.act(message)
        if self.dropout_on == "output":
            message = drop(message, self.dropout, self.training)
        return message

    def __repr__(self) -> str:
        conv = type(self.inner_convs()[0]).__name__
        parts = [f"conv={conv}", f"act={getattr(self.act, '__name__', self.act)}"]
        parts += [f"{name}={part}" for name, part in self.transitions().items()]
        return (
            f"{type(self).__name__}({self.in_channels}, {self.hidden_channels}, "
            f"{self.out_channels}, num_layers={self.num_layers}, {', '.join(parts)}, "
            f"{'calibrated' if self.calibration else self.origin})"
        )
