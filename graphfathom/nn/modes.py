"""Who looks on while a network runs."""

from __future__ import annotations

import torch
from torch.utils._device import DeviceContext

__all__ = ["is_observed"]


def is_observed() -> bool:
    """Whether a mode sees every call of torch, as ``graphfathom.diagnose`` does.

    It has to see the calls of the modules one by one, and not what only saves time or
    memory. The mode that sets a default device is none of these.
    """
    modes = torch.overrides._get_current_function_mode_stack()
    return any(not isinstance(mode, DeviceContext) for mode in modes)
