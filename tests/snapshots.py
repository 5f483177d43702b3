"""Everything that a diagnosis must leave as it was, to the bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["differences", "snapshot"]


def snapshot(model: nn.Module, data: Any) -> dict[str, Any]:
    """Weights, buffers, gradients, hooks, modes, attributes, data and random states."""
    held = {
        f"data {key}": frozen(value)
        for key, value in (data.to_dict() if hasattr(data, "to_dict") else {}).items()
    }
    for name, parameter in model.named_parameters():
        held[f"parameter {name}"] = frozen(parameter)
        held[f"gradient {name}"] = frozen(parameter.grad)
    for name, module in model.named_modules():
        # Buffers, hooks and training flags are attributes too.
        for key, value in vars(module).items():
            held[f"attribute {name}.{key}"] = frozen(value)
    generator = np.random.get_state()
    return held | {
        "random torch": torch.get_rng_state().numpy().tobytes(),
        "random numpy": (generator[1].tobytes(), generator[2:]),
        "random python": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not the same in two snapshots."""
    names = before.keys() | after.keys()
    return sorted(name for name in names if before.get(name) != after.get(name))


def frozen(value: Any) -> Any:
    """A copy that compares by value, and by identity where there is no value."""
    if isinstance(value, Tensor):
        return (id(value), value.requires_grad, value.device, *_content(value))
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [frozen(item) for item in value]
    if isinstance(value, int | float | str | bytes | None):
        return value
    return id(value)


def _content(tensor: Tensor) -> tuple[Any, ...]:
    if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
        return (tensor.dtype,)
    if tensor.layout == torch.sparse_csr:
        parts = (tensor.crow_indices(), tensor.col_indices(), tensor.values())
        return tuple(bits for part in parts for bits in _content(part))
    if tensor.is_meta:
        return tensor.dtype, tuple(tensor.shape)
    flat = tensor.detach().reshape(-1).contiguous()
    shape, stride = tuple(tensor.shape), tensor.stride()
    return tensor.dtype, shape, stride, flat.view(torch.uint8).numpy().tobytes()
