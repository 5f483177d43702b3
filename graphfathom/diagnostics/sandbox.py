"""Run a caller's model without leaving a trace on it."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from graphfathom.problem import Problem
from graphfathom.validation import map_tensors

__all__ = [
    "ModelState",
    "Sandbox",
    "copy_model",
    "dtype_name",
    "judged_mode",
    "random_state",
    "running_norms",
]

CONTAINERS = (dict, OrderedDict, set, list)
"""Attributes of these types are restored by content."""


class ModelState:
    """Everything a forward or backward pass may change in a module.

    Args:
        model: The module; its tensors are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._modules = [(m, _attributes(m)) for m in model.modules()]
        attributes = (v for m in model.modules() for v in vars(m).values())
        tensors = [t for t in attributes if isinstance(t, Tensor)]
        tensors += [*model.parameters(), *model.buffers()]
        tensors = [t for t in tensors if not is_lazy(t)]
        self._tensors = [(t, t.detach().clone()) for t in tensors]
        self._grads = [(p, p.grad, _copy(p.grad)) for p in model.parameters()]

    @torch.no_grad()
    def restore(self) -> None:
        """Undo every change since the state was taken."""
        for module, attributes in self._modules:
            for name, (value, content) in attributes.items():
                if isinstance(content, dict | set):
                    value.clear()
                    value.update(content)
                elif isinstance(content, list):
                    value[:] = content
                module.__dict__[name] = value
            for name in module.__dict__.keys() - attributes.keys():
                del module.__dict__[name]
        for tensor, value in self._tensors:
            tensor.data.copy_(value)
        for parameter, grad, value in self._grads:
            parameter.grad = grad
            if grad is not None and value is not None:
                grad.data.copy_(value)


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Each attribute with a copy of its content if it is a container."""
    return {
        name: (value, copy.copy(value) if type(value) in CONTAINERS else None)
        for name, value in module.__dict__.items()
    }


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().clone()


@contextmanager
def random_state() -> Iterator[None]:
    """Give torch, NumPy and Python their random states back at the end."""
    states = (random.getstate(), np.random.get_state())
    devices = list(range(torch.cuda.device_count())) if _cuda_is_used() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _cuda_is_used() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_initialized()


def copy_model(model: nn.Module) -> nn.Module:
    """A deep copy that draws nothing from the caller's random state."""
    with random_state():
        # PyG's Sequential keeps its code under a name drawn from Python's generator
        # whenever it is built or copied. A name drawn twice runs the code of another
        # model, and given back, the caller's state would draw it again.
        random.seed()
        return copy.deepcopy(model)


def running_norms(model: nn.Module) -> list[nn.Module]:
    """Normalisation layers that keep running statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(getattr(module, "running_mean", None), Tensor)
    ]


def judged_mode(problem: Problem) -> str:
    """``"init"`` or ``"eval"``: the mode a problem is judged in."""
    if problem.mode != "auto":
        return problem.mode
    norms = running_norms(problem.model)
    seen = [int(getattr(norm, "num_batches_tracked", None) or 0) for norm in norms]
    return "init" if norms and min(seen) == 0 else "eval"


def _set_mode(model: nn.Module, mode: str) -> None:
    model.eval()
    if mode == "init":
        for norm in running_norms(model):
            norm.training = True


def _cast_attributes(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the float tensors that modules keep as plain attributes (caches)."""

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    skip = {"_parameters", "_buffers", "_modules"}
    for module in model.modules():
        for name, value in list(module.__dict__.items()):
            if name not in skip and isinstance(value, Tensor | list | tuple | dict):
                module.__dict__[name] = map_tensors(value, cast)


class Sandbox:
    """A problem that may be run freely: the caller's model is not touched.

    Args:
        problem: The caller's problem.
        mode: ``"init"`` or ``"eval"``.
        dtype: Precision to run in. Default: the caller's, with its autocast.

    The problem holds a copy of the model and the data. Where the model cannot be
    copied it holds the model itself, in its own precision, and every run restores it.
    """

    def __init__(
        self, problem: Problem, mode: str, dtype: torch.dtype | None = None
    ) -> None:
        self.notes: list[str] = []
        self.mode = mode
        own = next((p.dtype for p in problem.model.parameters()), torch.float32)
        self.dtype = dtype or own
        self._original: ModelState | None = None
        try:
            model = copy_model(problem.model)
        except Exception as error:
            model, self.dtype = problem.model, own
            self._original = ModelState(model)
            self.notes.append(
                f"The model cannot be copied ({type(error).__name__}: {error}): "
                f"measured in {str(own).removeprefix('torch.')} on the model itself, "
                "which was restored after each run."
            )
        self._autocast = dtype is None or dtype == own
        cast = self.dtype if dtype is not None else None
        if self._original is None and cast is not None:
            model.to(cast)
            _cast_attributes(model, cast)
        self.problem = problem.replace(model, _copy_data(problem.data, cast))
        if self._original is None:
            _set_mode(model, mode)
            self._start = ModelState(model)

    @contextmanager
    def running(self) -> Iterator[Problem]:
        """Make the problem ready to run: same caches, buffers and random state."""
        if self._original is not None:
            _set_mode(self.problem.model, self.mode)
        else:
            self._start.restore()
        try:
            with random_state(), _precision(self.problem.data, self._autocast):
                yield self.problem
        finally:
            if self._original is not None:
                self._original.restore()


def _copy_data(data: Any, dtype: torch.dtype | None) -> Any:
    def cast(tensor: Tensor) -> Tensor:
        tensor = tensor.detach().clone()
        is_cast = dtype is not None and tensor.is_floating_point()
        return tensor.to(dtype) if is_cast else tensor

    return map_tensors(data, cast)


@contextmanager
def _precision(data: Any, autocast: bool) -> Iterator[None]:
    """Plain kernels, and the caller's autocast only where it is asked for."""
    kinds: set[str] = set()
    map_tensors(data, lambda tensor: (kinds.add(tensor.device.type), tensor)[1])
    device = next(iter(kinds), "cpu")
    enabled = torch.is_autocast_enabled(device) and autocast
    with (
        torch.compiler.set_stance("force_eager"),
        # Fused attention kernels have no second derivative.
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        torch.autocast(device, enabled=enabled),
    ):
        yield


def dtype_name(dtype: torch.dtype) -> str:
    """``"float32"`` and not ``"torch.float32"``."""
    return str(dtype).removeprefix("torch.")
