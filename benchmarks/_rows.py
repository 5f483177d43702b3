"""The networks that ``cora_depth`` compares, all on one shared adjacency."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch_geometric.nn
from torch import Tensor, nn

from graphfathom.nn.dropout import dropout as drop
from graphfathom.nn.models import GNNSSM, MAX_STEP, REACH
from graphfathom.nn.propagation import Adjacency, gcn_adjacency, propagate, shared
from graphfathom.nn.zoo import GCNII

RESTART = 0.1
"""Ours: the share of the first state in what replaces a state, GCNII's alpha."""
THETA = 0.25
"""Ours: strength of the identity mapping."""


def step(num_layers: int, reach: float) -> float:
    """Ours: the share of a state that one layer replaces, at most a half."""
    return min(MAX_STEP, reach / num_layers)


def constants(reach: float) -> Callable[[int], dict[str, float]]:
    """What decides the numbers of our rows at a depth."""

    def at(num_layers: int) -> dict[str, float]:
        return {
            "step": step(num_layers, reach),
            "restart": RESTART,
            "theta": THETA,
        }

    return at


class PlainGCN(nn.Module):
    r"""GCN as published: :math:`H_{\ell+1} = \mathrm{ReLU}(\hat{A} H_\ell W_\ell)`.

    Args:
        in_channels: Width of the input.
        hidden_channels: Width of all hidden states.
        out_channels: Number of classes.
        num_layers: Number of convolutions, the first and the last included.
        dropout: On the input of every convolution.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        widths = [in_channels, *[hidden_channels] * (num_layers - 1), out_channels]
        self.convs = nn.ModuleList(
            shared(torch_geometric.nn.GCNConv(*pair)) for pair in pairwise(widths)
        )
        self.dropout = dropout

    def ends(self) -> list[nn.Module]:
        """What maps the input to the states and the states to the classes."""
        return [self.convs[0], self.convs[-1]]

    def forward(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        """Node features to logits."""
        for conv in self.convs[:-1]:
            x = torch.relu(conv(self._drop(x), adjacency))
        return self.convs[-1](self._drop(x), adjacency)

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training)

    @torch.no_grad()
    def correct_gain(self, x: Tensor, adjacency: Adjacency) -> None:
        """Scale each weight so that no layer changes the mean square of the features.

        The first hidden state gets mean square 1, every other the one before it. The
        layer to the classes is left alone. Dropout is off: it keeps the mean.
        """
        for number, conv in enumerate(self.convs[:-1]):
            target = 1.0 if number == 0 else float(x.square().mean())
            found = float(torch.relu(conv(x, adjacency)).square().mean())
            if found > 0:
                conv.lin.weight.mul_(math.sqrt(target / found))
            x = torch.relu(conv(x, adjacency))


class ResidualGCN(nn.Module):
    r"""GCN with residuals, :math:`H_{\ell+1} = H_\ell + s \, \mathrm{ReLU}(\hat{A}
    \, \mathrm{norm}(H_\ell) W_\ell)`, between two linear maps.

    Args:
        in_channels: Width of the input.
        hidden_channels: Width of all hidden states.
        out_channels: Number of classes.
        num_layers: Number of convolutions.
        dropout: On the input, the input of every convolution, and the last state.
        scale: The factor s.
        norm: LayerNorm before every convolution and the read-out.
    """  # noqa: D205

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        dropout: float,
        *,
        scale: float = 1.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = nn.Linear(in_channels, hidden_channels)
        self.convs = nn.ModuleList(
            shared(torch_geometric.nn.GCNConv(hidden_channels, hidden_channels))
            for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(hidden_channels) if norm else nn.Identity()
            for _ in range(num_layers + 1)
        )
        self.decoder = nn.Linear(hidden_channels, out_channels)
        self.dropout = dropout
        self.scale = scale

    def ends(self) -> list[nn.Module]:
        """What maps the input to the states and the states to the classes."""
        return [self.encoder, self.decoder]

    def forward(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        """Node features to logits."""
        x = torch.relu(self.encoder(self._drop(x)))
        for conv, norm in zip(self.convs, self.norms[:-1], strict=True):
            message = torch.relu(conv(self._drop(norm(x)), adjacency))
            x = torch.add(x, message, alpha=self.scale)
        return self.decoder(self._drop(self.norms[-1](x)))

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training)


class SharedGCNII(GCNII):
    """:class:`GCNII`, equal to it, on the shared adjacency."""

    def ends(self) -> list[nn.Module]:
        """What maps the input to the states and the states to the classes."""
        return [self.encoder, self.head]

    def forward(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        """Node features to logits."""
        x = x_0 = torch.relu(self.encoder(self._drop(x)))
        for conv in (layer.conv for layer in self.layers):
            x = (1 - self.alpha) * propagate(adjacency, self._drop(x))
            x = torch.add(x, x_0, alpha=self.alpha)
            beta = conv.beta
            x = torch.addmm(x, x, conv.weight1, beta=1 - beta, alpha=beta).relu()
        return self.head(self._drop(x))

    def _drop(self, x: Tensor) -> Tensor:
        return drop(x, self.dropout, self.training)


def ours(
    widths: tuple[int, int, int], num_layers: int, dropout: float, reach: float, **more
) -> GNNSSM:
    """A convex step with GCNII's encoder and messages, which have no bias."""
    options = {"step": step(num_layers, reach), "theta": THETA, "bias": False}
    return GNNSSM.convex(*widths, num_layers, dropout=dropout, **options, **more)


REACH_FORGETTING = 8.0
"""Ours without persistent input: the sum of the steps of a deep network; with it REACH.

Without it the state forgets its start in that many units of time, and a short one is
best; with it the linear part has come to rest after about 1 / RESTART = 10.
"""


def persistent(i: int, h: int, o: int, num_layers: int, dropout: float) -> GNNSSM:
    """Ours: the message is mixed with the first state."""
    return ours((i, h, o), num_layers, dropout, REACH, restart=RESTART)


def forgetting(i: int, h: int, o: int, num_layers: int, dropout: float) -> GNNSSM:
    """Ours without the persistent input."""
    return ours((i, h, o), num_layers, dropout, REACH_FORGETTING, restart=0.0)


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    title: str
    build: Callable[[int, int, int, int, float], nn.Module]
    """Widths of input, states and output, depth, dropout -> network."""
    constants: Callable[[int], dict[str, float]] = lambda _: {}
    """Depth -> what else decides its numbers, a part of the name of its runs."""


ROWS = {
    "gcn": Row("GCN", PlainGCN),
    "ours": Row("GNNSSM.convex (ours)", persistent, constants(REACH)),
    "gcnii": Row(
        "GCNII", lambda i, h, o, depth, p: SharedGCNII(i, h, o, depth, dropout=p)
    ),
    "residual": Row("GCN, residual", ResidualGCN),
    "residual_scaled": Row(
        "GCN, residual scaled by 1/L",
        lambda i, h, o, depth, p: ResidualGCN(i, h, o, depth, p, scale=1 / depth),
    ),
    "residual_norm": Row(
        "GCN, residual + LayerNorm",
        lambda i, h, o, depth, p: ResidualGCN(i, h, o, depth, p, norm=True),
    ),
    "gain": Row("GCN, gain-corrected initialisation", PlainGCN),
    "paper": Row(
        "GNN-SSM of the paper",
        lambda i, h, o, depth, p: GNNSSM.paper(i, h, o, depth, dropout=p),
    ),
    "calibrated": Row(
        "GCN, stabilized (ours)",
        lambda i, h, o, depth, p: GNNSSM(i, h, o, depth, dropout=p),
    ),
    "forgetting": Row(
        "GNNSSM.convex without H_0 (ours)", forgetting, constants(REACH_FORGETTING)
    ),
}


def same_as_zoo() -> bool:
    """Whether the row GCNII computes what PyG's layers do."""
    cycle = torch.stack([torch.arange(9), torch.arange(1, 10) % 9])
    x, fast = torch.randn(9, 5), SharedGCNII(5, 8, 3, 4).eval()
    slow = GCNII(5, 8, 3, 4)
    slow.load_state_dict(fast.state_dict())
    return torch.allclose(fast(x, gcn_adjacency(cycle)), slow(x, cycle), atol=1e-6)
