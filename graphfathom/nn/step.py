"""One step of a state-space layer, and the gates that it may have."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfathom.nn.abstract_transition import Transition

__all__ = ["Gates", "advance", "carry"]

OPEN_STATE = 8.0
"""Bias of the state gate: sigmoid(8)^1000 = 0.71 of the state are left after 1,000
layers."""
OPEN_INPUT = 2.0
"""Bias of the input gate: sigmoid(2) = 0.88, where the sigmoid still has a slope."""


def advance(
    x: Tensor,
    message: Tensor,
    state: Transition,
    input: Transition,
    source: Tensor | None = None,
    gates: Gates | None = None,
) -> Tensor:
    r"""One step of the state.

    .. math:: H^+ = H \Lambda^\top + M B^\top + S

    Under autocast the state keeps its dtype: :math:`\Lambda` acts outside of it, and
    the sum has the wider dtype of its terms.

    Args:
        x: State :math:`H`.
        message: What the layer computed, :math:`M`.
        state: The matrix :math:`\Lambda`.
        input: The matrix :math:`B`.
        source: The persistent input :math:`S = H_0 E^\top`.
        gates: Gates on the first two terms.

    Example:
        >>> from graphfathom.nn import Scalar
        >>> h, m = torch.ones(1, 2), torch.ones(1, 2)
        >>> advance(h, m, Scalar(0.5), Scalar(0.25))
        tensor([[0.7500, 0.7500]])
    """
    if gates is not None:
        keep, take = gates(x)
        gated = keep * carry(x, state) + take * input(message)
        return gated if source is None else gated + source
    if source is not None:
        carried = torch.add(source, carry(x, state, 1.0), alpha=state.scale)
    else:
        carried = carry(x, state)
    return torch.add(carried, input.unscaled(message), alpha=input.scale)


def carry(x: Tensor, state: Transition, scale: float | None = None) -> Tensor:
    """State times Lambda, in the dtype of the state."""
    device = x.device.type
    if state.needs_width and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            x = state.unscaled(x)
    else:
        x = state.unscaled(x)
    scale = state.scale if scale is None else scale
    return x if scale == 1 else x * scale


class Gates(nn.Module):
    r"""Sigmoid gates of a state-space layer, functions of the state.

    .. math:: g_\Lambda = \sigma(H W_\Lambda^\top + b_\Lambda), \qquad
        g_B = \sigma(H W_B^\top + b_B)

    The weights start at 0 and the biases where the gates are nearly open.

    Args:
        channels: Width :math:`d`.

    Shapes:
        - **input:** state :math:`(N, d)`
        - **output:** gates of state and of message, :math:`(N, d)` each
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.state = nn.Linear(channels, channels)
        self.input = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Open both gates."""
        for gate, bias in ((self.state, OPEN_STATE), (self.input, OPEN_INPUT)):
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates of state and message."""
        return self.state(x).sigmoid(), self.input(x).sigmoid()
