"""PH-DGN, whose layers are steps of a port-Hamiltonian system."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphfathom.nn.abstract_transition import finite
from graphfathom.nn.adjacency import Adjacency, gcn_adjacency
from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import (
    check_choice,
    check_positive,
    reset_parameters,
)
from graphfathom.nn.propagation import propagate

__all__ = ["PHDGN", "Damping", "Force", "HalfEnergy", "PHDGNConv"]

AGGREGATORS = ("sum", "gcn")
DAMPINGS = ("param", "param+", "mlp", "dgn")
FORCES = ("mlp", "dgn")

ANTIDERIVATIVES: dict[type, Callable[[Tensor], Tensor]] = {
    nn.Tanh: lambda u: torch.logaddexp(u, -u) - math.log(2),
    nn.Sigmoid: lambda u: torch.logaddexp(u, torch.zeros_like(u)),
    nn.ReLU: lambda u: u.relu().square() / 2,
    nn.Identity: lambda u: u.square() / 2,
}


class HalfEnergy(nn.Module):
    r"""The energy of the momenta or of the positions, and its gradient.

    .. math:: H(z) = \sum_i \mathbf{1}^\top \Lambda(u_i), \qquad
        u_i = W z_i + \sum_j S_{ij} V z_j + b, \qquad
        (\nabla H)_i = W^\top \sigma(u_i) + \sum_j S_{ji} V^\top \sigma(u_j)

    with an antiderivative :math:`\Lambda` of the activation :math:`\sigma` and the
    adjacency :math:`S`.

    Args:
        channels: Width of :math:`z`.
        act: The activation :math:`\sigma`.
    """

    def __init__(self, channels: int, act: Act) -> None:
        super().__init__()
        self.act = act
        self.W = nn.Parameter(torch.empty(channels, channels))
        self.V = nn.Parameter(torch.empty(channels, channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        bound = 1 / math.sqrt(len(self.bias))
        nn.init.uniform_(self.W, -bound, bound)
        nn.init.xavier_uniform_(self.V)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, z: Tensor, adjacency: Adjacency) -> Tensor:
        """The gradient, of the shape (N, F) of ``z``."""
        force = self.act(self._inner(z, adjacency))
        return force @ self.W + propagate(adjacency.t(), force @ self.V)

    def energy(self, z: Tensor, adjacency: Adjacency) -> Tensor:
        """The energy of all nodes together, a scalar."""
        antiderivative = ANTIDERIVATIVES.get(type(self.act))
        if antiderivative is None:
            known = ", ".join(kind.__name__ for kind in ANTIDERIVATIVES)
            raise ValueError(
                f"`act` must be one of {known} for the energy, which needs its "
                f"antiderivative. Got {self.act}: build the network with act='tanh'."
            )
        return antiderivative(self._inner(z, adjacency)).sum()

    def _inner(self, z: Tensor, adjacency: Adjacency) -> Tensor:
        return F.linear(z, self.W, self.bias) + propagate(adjacency, z @ self.V.T)


class Damping(nn.Module):
    r"""The diagonal of :math:`D(q)`.

    Args:
        channels: Width of :math:`q`.
        kind: As :class:`PHDGN` has it.
    """

    def __init__(self, channels: int, kind: str) -> None:
        super().__init__()
        check_choice("damping", kind, DAMPINGS)
        self.kind = kind
        if kind == "mlp":
            biases = (True, True, True, False)
            lins = [nn.Linear(channels, channels, bias=bias) for bias in biases]
            self.lins = nn.ModuleList(lins)
        else:
            rows = channels if kind == "dgn" else 1
            self.weight = nn.Parameter(torch.empty(rows, channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        if self.kind == "mlp":
            reset_parameters(self)
        elif self.kind == "dgn":
            nn.init.xavier_uniform_(self.weight)
        else:
            nn.init.kaiming_normal_(self.weight)
            if self.kind == "param+":
                with torch.no_grad():
                    self.weight.abs_()  # where it is negative, ReLU has no slope

    def forward(self, q: Tensor, adjacency: Adjacency) -> Tensor:
        """Factors of shape (N, F), or (1, F) where they do not depend on the node."""
        if self.kind == "param":
            return self.weight
        if self.kind == "param+":
            return self.weight.relu()
        if self.kind == "dgn":
            return propagate(adjacency, q @ self.weight.T).relu()
        for lin in self.lins:
            q = lin(q).relu()
        return q


class Force(nn.Module):
    r"""What drives the system from outside, :math:`F(q, t)`.

    Args:
        channels: Width of :math:`q`.
        kind: As :class:`PHDGN` has it.
        act: The activation :math:`\sigma`.
    """

    def __init__(self, channels: int, kind: str, act: Act) -> None:
        super().__init__()
        check_choice("force", kind, FORCES)
        self.kind, self.act = kind, act
        hidden = channels + 1
        inner = [nn.Linear(hidden, hidden) for _ in range(3 if kind == "mlp" else 0)]
        self.lins = nn.ModuleList([*inner, nn.Linear(hidden, channels, bias=False)])

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        reset_parameters(self)

    def forward(self, q: Tensor, adjacency: Adjacency, time: float) -> Tensor:
        """The force on every node, of shape (N, F)."""
        state = torch.cat([q, q.new_full((len(q), 1), time)], dim=1)
        *inner, last = self.lins
        for lin in inner:
            state = lin(state).sin()
        state = last(state)
        return self.act(propagate(adjacency, state)) if self.kind == "dgn" else state


class PHDGNConv(nn.Module):
    """One step of :class:`PHDGN`.

    Args:
        channels: Width of the state, momenta and positions together.
        aggregator: As the network has it.
        epsilon: Step size.
        alpha: Strength of the damping.
        beta: Strength of the force.
        damping: Kind of the damping.
        force: Kind of the force.
        act: The activation.

    Shapes:
        - **input:** momenta and positions side by side :math:`(N, F)`, an adjacency of
          :math:`N` nodes or edge indices :math:`(2, E)`, edge weights :math:`(E)`
          *(optional, with edge indices only)*
        - **output:** momenta and positions :math:`(N, F)`
    """

    def __init__(
        self,
        channels: int,
        aggregator: str = "sum",
        epsilon: float = 0.1,
        alpha: float = 0.0,
        beta: float = 0.0,
        damping: str = "param+",
        force: str = "dgn",
        act: Act | None = None,
    ) -> None:
        super().__init__()
        check_choice("aggregator", aggregator, AGGREGATORS)
        check_choice("damping", damping, DAMPINGS)
        check_choice("force", force, FORCES)
        check_positive(epsilon=epsilon)
        finite("alpha", alpha)
        finite("beta", beta)
        if channels % 2:
            raise ValueError(
                "The width of the state must be even, half for momenta and half for "
                f"positions. Got {channels}: take {channels + 1}."
            )
        self.aggregator = aggregator
        self.epsilon, self.alpha, self.beta = epsilon, alpha, beta
        half, act = channels // 2, act or nn.Tanh()
        self.kinetic, self.potential = HalfEnergy(half, act), HalfEnergy(half, act)
        self.damping = Damping(half, damping) if alpha else None
        self.force = Force(half, force, act) if beta else None

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        reset_parameters(self)

    def adjacency(
        self, edge_index: Any, edge_weight: Tensor | None, h: Tensor
    ) -> Adjacency:
        """The matrix :math:`S` of a graph; one that was made before as it is."""
        if isinstance(edge_index, Adjacency):
            return edge_index
        return gcn_adjacency(
            edge_index,
            edge_weight,
            len(h),
            normalize=self.aggregator == "gcn",
            dtype=h.dtype,
        )

    def energy(
        self, h: Tensor, edge_index: Any, edge_weight: Tensor | None = None
    ) -> Tensor:
        """The energy H of a state, a scalar: the sum over all nodes.

        Raises:
            ValueError: If the activation is none of tanh, sigmoid, ReLU and identity.
        """
        adjacency = self.adjacency(edge_index, edge_weight, h)
        p, q = h.chunk(2, dim=1)
        return self.kinetic.energy(p, adjacency) + self.potential.energy(q, adjacency)

    def forward(
        self,
        h: Tensor,
        edge_index: Any,
        edge_weight: Tensor | None = None,
        step: int = 1,
    ) -> Tensor:
        """Momenta and positions to those one step later."""
        adjacency = self.adjacency(edge_index, edge_weight, h)
        p, q = h.chunk(2, dim=1)
        velocity = self.kinetic(p, adjacency)
        q = q + self.epsilon * velocity
        rate = -self.potential(q, adjacency)
        if self.damping is not None:
            rate = rate - self.alpha * self.damping(q, adjacency) * velocity
        if self.force is not None:
            time = self.epsilon * (step - 1)
            rate = rate + self.beta * self.force(q, adjacency, time)
        return torch.cat([p + self.epsilon * rate, q], dim=1)


class PHDGN(GraphNetwork):
    r"""Port-Hamiltonian Deep Graph Network.

    .. math::
        q^+ &= q + \epsilon\, \nabla_p H(p) \\
        p^+ &= p - \epsilon\, \nabla_q H(q^+)
            - \epsilon \alpha\, D(q^+) \odot \nabla_p H(p)
            + \epsilon \beta\, F(q^+, t)

    The momenta :math:`p` are the first half of the state, the positions :math:`q` the
    second, and :math:`t = \epsilon (k - 1)` in layer k. The energy is
    :math:`H(p, q) = H_p(p) + H_q(q)`, each half with weights of its own,

    .. math:: H_z(z) = \sum_i \mathbf{1}^\top \Lambda\Bigl(
        W_z z_i + \sum_j S_{ij} V_z z_j + b_z\Bigr), \qquad \Lambda' = \sigma

    with :math:`S` the adjacency or what GCN makes of it. A step is symplectic Euler:
    for :math:`\alpha = \beta = 0` it is a symplectic map on any graph, and with shared
    weights :math:`H`, which :meth:`PHDGNConv.energy` returns, swings by
    :math:`O(\epsilon)` and does not drift, if the steps are small.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it, for :math:`p` and :math:`q` together.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        aggregator: :math:`S`: ``"sum"`` or ``"gcn"``.
        epsilon: Step size :math:`\epsilon`.
        alpha: Strength :math:`\alpha` of the damping. Without it if 0.
        beta: Strength :math:`\beta` of the force. Without it if 0.
        damping: :math:`D`: a trained vector (``"param"``), its positive part
            (``"param+"``), ReLU of four layers (``"mlp"``) or of
            :math:`S q D^\top` (``"dgn"``). The first may drive where it is negative.
        force: :math:`F`: four layers with sines in between (``"mlp"``) or
            :math:`\sigma(S [q, t] F^\top)` (``"dgn"``).
        act: The activation :math:`\sigma`.
        share_weights: Whether all steps have the same weights.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        ValueError: If a number or a choice is not as described, or
            ``hidden_channels`` is odd.

    Example:
        >>> PHDGN(2, 30, 1, num_layers=20)
        PHDGN(2, 30, 1, num_layers=20, aggregator=sum, epsilon=0.1, alpha=0.0, beta=0.0,
        share_weights=True)

    References:
        | Port-Hamiltonian Architectural Bias for Long-Range Propagation in Deep Graph
          Networks (Heilig et al., 2025)
        | https://arxiv.org/abs/2405.17163

    Differs from the paper:
        Nothing in the equation. The official code multiplies with :math:`S` in the
        place of :math:`S^\top`, which is a gradient only if the graph has no
        directions. It keeps :math:`t = 0` in layers that share no weights, leaves the
        weights of a ``"dgn"`` force as the memory was, and starts ``"param+"`` with
        half of its entries at 0, where they stay. Its ``"dgn"`` kinds always sum, also
        beside GCN. It can also take another :math:`S` for :math:`p` than for :math:`q`,
        start with :math:`p = q`, and read out one half alone.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        aggregator: str = "sum",
        *,
        epsilon: float = 0.1,
        alpha: float = 0.0,
        beta: float = 0.0,
        damping: str = "param+",
        force: str = "dgn",
        act: str | Act | None = "tanh",
        share_weights: bool = True,
        **kwargs: Any,
    ) -> None:
        options = {
            "aggregator": aggregator,
            "epsilon": epsilon,
            "alpha": alpha,
            "beta": beta,
        }
        kinds = {"damping": damping} if alpha else {}
        kinds |= {"force": force} if beta else {}

        def layer(k: int, act: Act) -> nn.Module:
            return PHDGNConv(
                hidden_channels, **options, damping=damping, force=force, act=act
            )

        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            share_weights=share_weights,
            options=options | kinds,
            **kwargs,
        )

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The matrix that all layers multiply with, made once."""
        layer: Any = self.layers[0]
        made = layer.adjacency(edge_index, given["edge_weight"], x)
        return made, given | {"edge_weight": None}
