"""Whether the last operation of a network and its loss fit together.

A loss that applies its own activation wants numbers without bounds. Where the network
has applied one before, part of the numbers cannot be reached, and where that activation
is flat, no gradient comes back.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from graphfathom.diagnostics.controls import copy_of
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.recorder import attach, call_name, sources_of
from graphfathom.diagnostics.sandbox import Sandbox, judged_mode
from graphfathom.problem import Problem

__all__ = [
    "ACTIVATIONS",
    "last_activation",
    "output_observations",
    "without_activation",
]

FLAT = 1e-3
"""Slope below which an entry learns a thousand times slower than without activation."""

PASSED = (
    "View", "UnsafeView", "ReshapeAlias", "Alias", "Clone", "Squeeze", "Unsqueeze",
    "Transpose", "T", "Permute", "Expand", "Select", "Slice", "Index", "IndexSelect",
    "Split", "Unbind", "ToCopy",
)  # fmt: skip
"""Autograd nodes that only move, pick or cast entries."""


@dataclass(frozen=True)
class _Activation:
    low: float
    high: float
    slope: Callable[[Tensor], Tensor]
    """Derivative of an entry by its own input, as a function of the entry."""


ACTIVATIONS = {
    "softmax": _Activation(0.0, 1.0, lambda out: out * (1 - out)),
    "sigmoid": _Activation(0.0, 1.0, lambda out: out * (1 - out)),
    "tanh": _Activation(-1.0, 1.0, lambda out: 1 - out.square()),
    "relu": _Activation(0.0, math.inf, lambda out: (out > 0).to(out)),
}
"""Activations that bound what they return. Those that do not (ELU, leaky ReLU, GELU)
have a slope on both sides, and change no more than the scale of the logits."""

_NODES = {
    "Softmax": "softmax",
    "SafeSoftmax": "softmax",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Relu": "relu",
}

_KINDS: tuple[tuple[str, Any, type[nn.Module]], ...] = (
    ("cross-entropy", F.cross_entropy, nn.CrossEntropyLoss),
    (
        "binary cross-entropy with logits",
        F.binary_cross_entropy_with_logits,
        nn.BCEWithLogitsLoss,
    ),
    ("mean squared error", F.mse_loss, nn.MSELoss),
)


def output_observations(problem: Problem) -> list[Observation]:
    r"""What the network's last activation keeps from its loss.

    Args:
        problem: A network with labels. It is run once, on a copy.

    Returns:
        Nothing if there is no conflict. Else ``output.conflict.`` and the activation,
        1; ``output.blocked``: share of the labels whose entry of the output has a slope
        below :data:`FLAT` on the wrong side, and ``output.blocked.class``, the largest
        of these shares among the classes; ``output.unreachable``: how much of the
        labels' variance the bounds leave out, for a regression; ``output.floor``: the
        smallest loss within the bounds over that of the best constant.
    """
    output = _output(problem)
    if output is None:
        return []
    name = last_activation(output)
    kind = _loss_kind(problem, output)
    if name is None or kind is None or not _confirmed(output.detach(), name):
        return []
    values, target = _selected(problem, output.detach().double())
    if kind == "mean squared error":
        measured = _regression(values, target, ACTIVATIONS[name])
    elif kind == "cross-entropy":
        measured = _classes(values, target, ACTIVATIONS[name])
    else:
        measured = _binary(values, target, ACTIVATIONS[name])
    if not measured:
        return []
    measured = {f"conflict.{name}": 1.0, **measured}
    return [
        Observation(f"output.{key}", "model", value) for key, value in measured.items()
    ]


def without_activation(problem: Problem) -> Problem | None:
    """A copy of the problem whose output is what its last activation is given.

    To be trained beside :func:`~graphfathom.diagnostics.controls.copy_of`, which keeps
    the activation. None if the output does not end in one.
    """
    calls = _Calls()
    with Sandbox(problem, judged_mode(problem)).running() as safe, calls:
        node, _ = _last_node(_traced(safe))
    makers = [i for i, (_, made) in enumerate(calls.made) if made is node]
    if node is None or not makers:
        return None
    name = calls.made[makers[0]][0]
    # Counted among calls of one name: in training others may come and go.
    index = [other for other, _ in calls.made[: makers[0]]].count(name)
    bare = copy_of(problem)
    inner = copy.copy(bare)

    def forward(model: nn.Module, data: Any) -> Any:
        with _Calls(name, index):
            return inner.replace(model, data).call()

    bare.forward_fn = forward
    return bare


class _Calls(TorchFunctionMode):
    """List the calls with the autograd nodes that they made; skip one if asked."""

    def __init__(self, skipped: str = "", index: int = -1) -> None:
        super().__init__()
        self.skipped, self.index = skipped, index
        self.made: list[tuple[str, Any]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = call_name(func)
        if name == self.skipped:
            self.index -= 1
            if self.index == -1:
                return args[0] if args else (kwargs or {})["input"]
        result = func(*args, **(kwargs or {}))
        self.made.append((name, getattr(result, "grad_fn", None)))
        return result


def last_activation(output: Tensor) -> str | None:
    """Name in :data:`ACTIVATIONS` of the operation that made an output, else None.

    Operations that only move, pick or cast entries are looked through.
    """
    return _last_node(output)[1]


def _last_node(output: Tensor) -> tuple[Any, str | None]:
    """The autograd node of an output's last activation, and its name."""
    node = output.grad_fn
    while node is not None:
        name = node.name().removeprefix("torch::autograd::").split("Backward")[0]
        if name in _NODES:
            return node, _NODES[name]
        following = [parent for parent, _ in node.next_functions if parent is not None]
        if name not in PASSED or len(following) != 1:
            break
        node = following[0]
    return None, None


def _output(problem: Problem) -> Tensor | None:
    """The output with its graph, whether or not any parameter is trained."""
    if problem.target is None:
        return None
    with Sandbox(problem, judged_mode(problem)).running() as safe:
        output = _traced(safe)
    return output if output.numel() and bool(output.isfinite().all()) else None


@torch.enable_grad()
def _traced(safe: Problem) -> Tensor:
    sources = sources_of(safe)
    fed = {id(s): s.detach().clone().requires_grad_() for s in sources}
    return attach(safe, sources, fed).run()


def _loss_kind(problem: Problem, output: Tensor) -> str | None:
    """Name of a loss that wants numbers without bounds; None for every other."""
    if problem.loss is None:
        kind = problem.describe_loss(output)
        return kind if any(kind == name for name, *_ in _KINDS) else None
    for name, function, module in _KINDS:
        if problem.loss is function or type(problem.loss) is module:
            return name
    return None


def _confirmed(output: Tensor, name: str) -> bool:
    """Whether the values are what the activation returns."""
    error = torch.finfo(output.dtype).eps ** 0.5
    if name == "softmax":
        sums = [output.sum(dim) for dim in range(output.dim())]
        if not any(bool(((s - 1).abs() < error).all()) for s in sums):
            return False
    low, high = ACTIVATIONS[name].low, ACTIVATIONS[name].high
    return bool(((output >= low) & (output <= high)).all())


def _selected(problem: Problem, output: Tensor) -> tuple[Tensor, Tensor]:
    assert problem.target is not None
    mask = problem.mask
    if mask is None:
        return output, problem.target
    return output[mask], problem.target[mask]


def _classes(
    values: Tensor, target: Tensor, activation: _Activation
) -> dict[str, float]:
    if values.dim() != 2 or target.dim() != 1:
        return {}
    own = values.gather(1, target.view(-1, 1)).flatten()
    blocked = _is_blocked(own, torch.ones_like(own), activation)
    share = [float(blocked[target == c].mean()) for c in target.unique()]
    found = {"blocked": float(blocked.mean()), "blocked.class": max(share)}
    if math.isfinite(activation.high):
        counts = torch.bincount(target).double()
        best = _least_cross_entropy(values, counts, activation)
        constant = float(torch.special.entr(counts / counts.sum()).sum())
        found["floor"] = best / constant if constant > 0 else math.nan
    return found


def _least_cross_entropy(
    values: Tensor, counts: Tensor, activation: _Activation
) -> float:
    """A lower bound of the loss, given how far apart two entries of a row can be."""
    width = torch.full_like(counts, activation.high - activation.low)
    over_rows = bool(((values.sum(1) - 1).abs() < 1e-3).all())
    if activation is ACTIVATIONS["softmax"] and not over_rows:
        width = 1 / counts.clamp_min(1)  # over the nodes: those of a class share 1
    others = values.size(1) - 1
    return float((counts * torch.log1p(others * (-width).exp())).sum() / counts.sum())


def _binary(
    values: Tensor, target: Tensor, activation: _Activation
) -> dict[str, float]:
    target = target.to(values).view_as(values)
    blocked = _is_blocked(values, target, activation)
    share = [float(blocked[target == c].mean()) for c in target.unique()]
    best = [F.softplus(torch.tensor(s)) for s in (activation.low, -activation.high)]
    positive = float(target.mean())
    least = float((1 - positive) * best[0] + positive * best[1])
    odds = torch.tensor([positive, 1 - positive])
    constant = float(torch.special.entr(odds).sum())
    return {
        "blocked": float(blocked.mean()),
        "blocked.class": max(share),
        "floor": least / constant if constant > 0 else math.nan,
    }


def _is_blocked(own: Tensor, wanted: Tensor, activation: _Activation) -> Tensor:
    """Entries that are flat where they ought to rise (label 1) or to fall (0)."""
    high = activation.high if math.isfinite(activation.high) else 0.0
    middle = (activation.low + high) / 2
    wrong = torch.where(wanted > 0.5, own <= middle, own > middle)
    return (wrong & (activation.slope(own) < FLAT)).to(own)


def _regression(
    values: Tensor, target: Tensor, activation: _Activation
) -> dict[str, float]:
    target = target.to(values).reshape(len(target), -1)
    variance = float((target - target.mean(0)).square().sum())
    outside = target - target.clamp(activation.low, activation.high)
    share = float(outside.square().sum()) / variance if variance > 0 else math.nan
    return {"unreachable": share} if share > 0 else {}
