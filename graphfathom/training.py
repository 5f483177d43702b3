"""One training loop: full batch, Adam, the best weights kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["History", "fit"]


@dataclass(frozen=True)
class History:
    """What happened in a training run."""

    losses: tuple[float, ...]
    """Training loss of each epoch, before that epoch's step."""
    metrics: tuple[float, ...]
    """Value of ``evaluate`` after each epoch's step; empty without ``evaluate``."""
    best_epoch: int | None
    """Epoch, counted from 0, whose weights were kept; None if the last were kept."""
    seconds: float
    """Wall-clock time."""
    diverged: bool
    """True if a loss or a gradient that is not finite ended the run."""

    def __repr__(self) -> str:
        last = f"{self.losses[-1]:.4g}" if self.losses else "none"
        return (
            f"History({len(self.losses)} epochs, last loss {last}, "
            f"best_epoch={self.best_epoch}, diverged={self.diverged})"
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain Python values."""
        return asdict(self)


def fit(
    model: nn.Module,
    loss_fn: Callable[[nn.Module], Tensor],
    *,
    epochs: int,
    lr: float = 0.01,
    weight_decay: float = 5e-4,
    evaluate: Callable[[nn.Module], float] | None = None,
    patience: int | None = None,
    progress: Callable[[str], None] | None = None,
    on_step: Callable[[int, nn.Module], None] | None = None,
) -> History:
    """Train a model in place with full-batch Adam.

    Every module is in training mode for ``loss_fn`` and in evaluation mode for
    ``evaluate``; afterwards each has the mode it came with, and gradients are None. A
    loss or gradient that is not finite ends the run before the weights take a step.
    Random numbers (dropout) come from torch's global generator, which is not seeded.

    Args:
        model: The model; its weights change.
        loss_fn: ``loss_fn(model)`` runs the model and returns a scalar loss.
        epochs: Number of steps at most.
        lr: Learning rate. Default 0.01: Section 5.2 of the GCN paper.
        weight_decay: L2 penalty. Default 5e-4: Section 5.2 of the GCN paper, here on
            all weights.
        evaluate: ``evaluate(model)`` returns a number, higher is better, without
            gradients. The weights of the first epoch with the highest value are
            loaded at the end.
        patience: Stop after this many epochs in a row without a new best value.
        progress: Called with a sentence about ten times.
        on_step: ``on_step(epoch, model)``, called between the backward pass and the
            step, when gradients are in place.

    Returns:
        The record of the run.

    Raises:
        ValueError: If a number is out of range, ``patience`` comes without
            ``evaluate``, the model has nothing to train, or the loss is no scalar or
            does not depend on the weights.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> x = torch.ones(4, 1)
        >>> fit(model, lambda model: (model(x) - x).square().mean(), epochs=2)
        History(2 epochs, last loss ..., best_epoch=None, diverged=False)

    References:
        | Semi-Supervised Classification with Graph Convolutional Networks (Kipf and
          Welling, 2017), Section 5.2
        | https://arxiv.org/abs/1609.02907
    """
    parameters = _check(model, epochs, lr, weight_decay, evaluate is not None, patience)
    optimizer = torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay)
    losses: list[float] = []
    metrics: list[float] = []
    best, best_epoch, best_state, diverged = -math.inf, None, None, False
    start = time.perf_counter()
    with _restored_modes(model):
        for epoch in range(epochs):
            model.train()
            optimizer.zero_grad()
            loss = _check_loss(loss_fn(model))
            losses.append(loss.item())
            if math.isfinite(losses[-1]):
                loss.backward()
            diverged = not math.isfinite(losses[-1]) or not _is_finite(parameters)
            if diverged:
                break
            if on_step is not None:
                on_step(epoch, model)
            optimizer.step()
            if progress is not None and (epoch + 1) % max(1, epochs // 10) == 0:
                progress(f"epoch {epoch + 1} of {epochs}: loss {losses[-1]:.4g}")
            if evaluate is None:
                continue
            model.eval()
            with torch.no_grad():
                metrics.append(float(evaluate(model)))
            if metrics[-1] > best:
                best, best_epoch, best_state = metrics[-1], epoch, _snapshot(model)
            # Without a best value yet (all NaN), epoch -1 stands for the start.
            stale = epoch - (-1 if best_epoch is None else best_epoch)
            if patience is not None and stale >= patience:
                break
    if best_state is not None:
        model.load_state_dict(best_state)
    optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return History(tuple(losses), tuple(metrics), best_epoch, seconds, diverged)


def _check(
    model: nn.Module,
    epochs: int,
    lr: float,
    weight_decay: float,
    evaluates: bool,
    patience: int | None,
) -> list[nn.Parameter]:
    """Refuse bad arguments; return the parameters to train."""
    if epochs < 0:
        raise ValueError(f"`epochs` must be >= 0. Got {epochs}.")
    if not 0 < lr < math.inf:
        raise ValueError(f"`lr` must be positive and finite. Got {lr}.")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"`weight_decay` must be >= 0. Got {weight_decay}.")
    if patience is not None and patience < 1:
        raise ValueError(f"`patience` must be >= 1. Got {patience}.")
    if patience is not None and not evaluates:
        raise ValueError("`patience` needs `evaluate`, which says what to wait for.")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            f"`model` must have parameters that require gradients. Got "
            f"{type(model).__name__} with none: unfreeze some."
        )
    return parameters


def _check_loss(loss: Tensor) -> Tensor:
    if loss.dim() != 0:
        shape = tuple(loss.shape)
        raise ValueError(f"`loss_fn` must return a scalar. Got shape {shape}.")
    if not loss.requires_grad:
        raise ValueError(
            "`loss_fn` must return a loss that depends on the weights. Got one without "
            "a gradient: do not detach it."
        )
    return loss


@contextmanager
def _restored_modes(model: nn.Module) -> Iterator[None]:
    """Give every module its training flag back, also after an interruption."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _is_finite(parameters: list[nn.Parameter]) -> bool:
    gradients = [p.grad for p in parameters if p.grad is not None]
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def _snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else value
        for name, value in model.state_dict().items()
    }
