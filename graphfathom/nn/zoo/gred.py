"""GRED, which reads the shells around a node one by one, from the farthest on."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import Linear

from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.khop import Shells, gather_shells
from graphfathom.nn.model_parts import check_positive, check_sizes, reset_parameters

__all__ = ["GRED", "GREDConv", "LinearRecurrence"]


class LinearRecurrence(nn.Module):
    r"""The last output of a linear recurrent unit (LRU) that reads x_K, ..., x_0.

    .. math:: s \leftarrow \Lambda s + \Gamma B x_k, \qquad y = \mathrm{Re}(C s), \qquad
        \Lambda = \mathrm{diag}\, e^{-e^\nu + i e^\theta}, \qquad
        \Gamma = \sqrt{1 - |\Lambda|^2}

    Summed up at once, :math:`s = \sum_k \Lambda^k \Gamma B x_k`, and in real numbers.

    Args:
        channels: Width F of inputs and output.
        state_channels: Width of the state.
        r_min: Smallest modulus of an eigenvalue at the start.
        r_max: Largest modulus of an eigenvalue at the start.
        max_phase: Largest phase of an eigenvalue at the start.

    Shapes:
        - **input:** inputs from near to far :math:`(K + 1, N, F)`
        - **output:** :math:`(N, F)`

    References:
        | Resurrecting Recurrent Neural Networks for Long Sequences
        | (Orvieto et al., 2023), https://arxiv.org/abs/2303.06349
    """

    def __init__(
        self,
        channels: int,
        state_channels: int,
        r_min: float,
        r_max: float,
        max_phase: float,
    ) -> None:
        super().__init__()
        self.radii = r_min, r_max
        self.max_phase = max_phase
        self.nu = nn.Parameter(torch.empty(state_channels))
        self.theta = nn.Parameter(torch.empty(state_channels))
        # Real and imaginary part, side by side.
        self.B = nn.Parameter(torch.empty(channels, 2 * state_channels))
        self.C = nn.Parameter(torch.empty(2 * state_channels, channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw eigenvalues evenly from the ring, and the matrices anew."""
        low, high = (radius**2 for radius in self.radii)
        eps = torch.finfo(self.nu.dtype).eps  # on the rim a slope is infinite
        share = torch.empty_like(self.nu).uniform_(eps, 1 - eps)
        self.nu.copy_((-0.5 * (low + (high - low) * share).log()).log())
        self.theta.uniform_(eps, 1 - eps).mul_(self.max_phase).log_()
        # The two parts of an entry of B share the variance 1 / F.
        self.B.normal_(std=(2 * self.B.size(0)) ** -0.5)
        self.C.normal_(std=(self.C.size(0) // 2) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """A sequence to what the last state says."""
        decay = self.nu.exp()
        hops = torch.arange(x.size(0), device=x.device)[:, None]
        size = torch.exp(-hops * decay) * torch.sqrt(-torch.expm1(-2 * decay))
        angle = hops * self.theta.exp()
        cos, sin = size * angle.cos(), size * angle.sin()
        real, imaginary = (x @ self.B).chunk(2, dim=-1)
        parts = [
            _summed(cos, real) - _summed(sin, imaginary),
            _summed(sin, real) + _summed(cos, imaginary),
        ]
        real_part, imaginary_part = self.C.chunk(2)
        return parts[0] @ real_part - parts[1] @ imaginary_part


class GREDConv(nn.Module):
    """One layer of :class:`GRED`.

    Args:
        channels: Width of the features.
        state_channels: Width of the recurrent state.
        expand: Width of the hidden layer over that of the features.
        norm: Whether to normalise what each of the two parts reads.
        radii: Smallest and largest modulus of an eigenvalue at the start.
        max_phase: Largest phase of an eigenvalue at the start.
        act: The activation.
    """

    def __init__(
        self,
        channels: int,
        state_channels: int,
        expand: int,
        norm: bool,
        radii: tuple[float, float],
        max_phase: float,
        act: Act,
    ) -> None:
        super().__init__()
        self.act = act
        self.norms = nn.ModuleList(
            nn.LayerNorm(channels) if norm else nn.Identity() for _ in range(2)
        )
        self.widen = Linear(channels, expand * channels)
        self.narrow = Linear(expand * channels, channels)
        self.recurrence = LinearRecurrence(
            channels, state_channels, *radii, max_phase=max_phase
        )
        self.glu = Linear(channels, 2 * channels)

    def reset_parameters(self) -> None:
        """Draw all weights anew."""
        reset_parameters(self)

    def forward(self, x: Tensor, shells: Shells) -> Tensor:
        """Node features to node features."""
        x = torch.cat([x[None], gather_shells(shells, x)])  # (K + 1, N, F)
        x = x + self.narrow(self.act(self.widen(self.norms[0](x))))
        read = self.act(self.recurrence(self.norms[1](x)))
        return F.glu(self.glu(read)) + x[0]


class GRED(GraphNetwork):
    r"""Recurrent distance filtering: a linear recurrence over the shells of a node.

    .. math::
        u_k = \sum_{d(v, w) = k} h_w, \qquad
        x_k = u_k + \mathrm{MLP}(\mathrm{norm}(u_k)), \qquad k = 0, \dots, K

    .. math::
        s \leftarrow \Lambda s + \Gamma B\, \mathrm{norm}(x_k)
        \text{ for } k = K, \dots, 0, \qquad
        h_v^+ = \mathrm{GLU}(\sigma(\mathrm{Re}\, C s)) + x_0

    with :math:`\mathrm{MLP}(u) = W_2 \sigma(W_1 u + b_1) + b_2`,
    :math:`\mathrm{GLU}(y) = (W_3 y + b_3) \odot \mathrm{sigmoid}(W_4 y + b_4)` and the
    diagonal complex matrix :math:`\Lambda = e^{-e^\nu + i e^\theta}`,
    :math:`\Gamma = \sqrt{1 - |\Lambda|^2}`. What comes from k hops away is filtered by
    :math:`\Lambda^k`: one layer sees K hops.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        num_hops: Number of hops :math:`K`; the paper chooses it for each data set.
        state_channels: Width of :math:`s`. None: that of the features.
        expand: Width of the hidden layer of the MLP, in widths of the features.
        norm: Whether ``norm`` is a LayerNorm or nothing.
        r_min: Smallest modulus of an eigenvalue at the start.
        r_max: Largest modulus of an eigenvalue at the start.
        max_phase: Largest phase of an eigenvalue at the start.
        act: The activation :math:`\sigma`.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Shapes:
        - **input:** as the frame, with shells
        - **output:** as the frame

    Raises:
        ValueError: If a number or a choice is not as described; when called, if the
            data has no shells.

    Example:
        >>> GRED(2, 30, 1, num_layers=4, num_hops=20)
        GRED(2, 30, 1, num_layers=4, num_hops=20, norm=True)

    References:
        | Recurrent Distance Filtering for Graph Representation Learning
        | (Ding et al., 2024), https://arxiv.org/abs/2312.01538

    Differs from the paper:
        :math:`\Gamma` follows :math:`\Lambda` in training; the official code trains its
        logarithm apart, from the same start. That code also approximates GELU by tanh
        and drops entries inside of a layer; here the frame drops them before and behind
        all layers.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        num_hops: int = 10,
        *,
        state_channels: int | None = None,
        expand: int = 1,
        norm: bool = True,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 2 * math.pi,
        act: str | Act | None = "gelu",
        **kwargs: Any,
    ) -> None:
        width = hidden_channels if state_channels is None else state_channels
        check_sizes(
            in_channels,
            hidden_channels=hidden_channels,
            num_hops=num_hops,
            state_channels=width,
            expand=expand,
        )
        if not 0 <= r_min < r_max <= 1:
            raise ValueError(
                "`r_min` and `r_max` must satisfy 0 <= r_min < r_max <= 1. Got "
                f"{r_min!r} and {r_max!r}."
            )
        check_positive(max_phase=max_phase)

        def layer(k: int, act: Act) -> nn.Module:
            radii = r_min, r_max
            return GREDConv(hidden_channels, width, expand, norm, radii, max_phase, act)

        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            options={"num_hops": num_hops, "norm": norm},
            **kwargs,
        )
        self.num_hops = num_hops

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Shells, dict[str, Any]]:
        """The matrices of the shells, in the place of the edges."""
        options = {"add_self_loops": False, "normalize": False}
        shells = self.shells(x, given, self.num_hops, **options)
        return shells, given


def _summed(factors: Tensor, sequence: Tensor) -> Tensor:
    """The sum over hops of a factor for each state times that state."""
    return torch.einsum("ks,kns->ns", factors, sequence)
