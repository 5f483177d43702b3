r"""What the last layer can do alone: its parameters are refitted on a copy.

The *head* is what comes last and has parameters: the read-out, or the last convolution.
Where the output is affine in them, refitting it is a small problem without the network:

.. math:: \min_\delta \; \mathcal{L}(Y_0 + J \delta) + \tfrac{\gamma}{2} \|W(\delta)\|^2

with the output :math:`Y_0` and its derivative :math:`J` in the head's parameters, which
takes products with the last segments only, and the norm of the parameters that are
matrices.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor, nn

from graphfathom.diagnostics.affine_head import Head, RefitError, agrees, find_head
from graphfathom.diagnostics.sandbox import copy_model
from graphfathom.diagnostics.trace import CaptureError, ForwardError, Trace, capture
from graphfathom.problem import Problem

__all__ = ["Refit", "RefitError", "refit_head"]

WEIGHT_DECAY = 5e-4
"""Section 5.2 of the GCN paper, and the default of ``graphfathom.training.fit``."""
CONVERGED = 1e-4
"""Change of the objective per relative change of the head at its end: a tenth of what
counts as stationary for the layers below. Less than this share of the first objective
counts as none."""
MEMORY = 20
"""Pairs that L-BFGS keeps: heads are ill-conditioned, and short."""

Capture = Callable[[Problem], Trace]
Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Refit:
    """A network whose last layer was refitted, and what it took."""

    problem: Problem
    """The problem on a copy of the model, which holds the refitted parameters."""
    layer: int
    """Segment of the head: L + 1 for a read-out, L for the last convolution."""
    names: tuple[str, ...]
    """Names of the refitted parameters."""
    frozen: float
    """Share of their entries that the caller has frozen."""
    loss: float
    """Loss behind the refitted head, without the penalty."""
    start: float
    """Norm of the gradient of the loss in the head's parameters before."""
    gradient: float
    """Norm of the gradient of loss and penalty in them at the end."""
    converged: bool
    """Whether this gradient is as good as zero; else the loss is an upper bound."""
    iterations: int
    """Iterations of L-BFGS."""


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is refused
def refit_head(
    trace: Trace,
    *,
    weight_decay: float = WEIGHT_DECAY,
    max_iterations: int = 1000,
    max_seconds: float = 10.0,
    recapture: Capture = capture,
) -> Refit:
    r"""Refit the last layer of a network on a copy, all others as they are.

    Frozen parameters are refitted nevertheless. Log-probabilities are refitted through
    the centred rows of the output, which are affine where the logits are. A loss that
    is not convex may have a lower minimum.

    Args:
        trace: The network; neither it nor the caller's model is changed.
        weight_decay: The number :math:`\gamma`. Biases have no penalty.
        max_iterations: Most iterations.
        max_seconds: Longest that they may take.
        recapture: Records a copy of the problem as the trace was recorded; it matters
            where the layers were named, or some are frozen.

    Raises:
        RefitError: If there are no labels or no parameters, the output is not affine in
            those of the last layer or not finite, other layers share them, or the model
            cannot be copied.

    Example:
        >>> from torch_geometric.nn import GCN
        >>> data = graphfathom.datasets.csbm(60, 3, avg_degree=4, homophily=0.8, seed=0)
        >>> gcn = GCN(data.num_features, 16, num_layers=4, out_channels=3)
        >>> refit = refit_head(capture(graphfathom.Problem(gcn, data)))
        >>> refit.layer, refit.converged
        (4, True)
        >>> refit.names
        ('convs.3.bias', 'convs.3.lin.weight')
    """
    if trace.problem.target is None:
        raise RefitError("There are no labels to refit the last layer to.")
    if trace.dtype not in (torch.float32, torch.float64):
        raise RefitError(f"Measured in {trace.precision}, which is too coarse.")
    if not bool(trace.output.isfinite().all()):
        raise RefitError("The output is not finite.")
    frozen = _frozen(trace.problem.model)
    if frozen:
        trace = _thawed(trace, recapture)
    head = find_head(trace)
    try:
        fit = _Fit(head, trace, weight_decay)
        found = fit.solve(max_iterations, max_seconds)
        if not agrees(head, trace, fit.steps(found.x)):
            raise RefitError("The output is not affine as far as the last layer went.")
    except RuntimeError as error:  # a function without a second derivative
        raise RefitError(f"The last layer has no derivative: {error}") from error
    finally:
        head.release()
    values = fit.values(found.x)
    problem = _with_parameters(trace, values, frozen)
    sizes = {name: value.numel() for name, value in values.items()}
    held = sum(size for name, size in sizes.items() if name in frozen)
    return Refit(
        problem=problem,
        layer=head.layer,
        names=head.names,
        frozen=held / sum(sizes.values()),
        loss=fit.loss(found.x),
        start=fit.start,
        gradient=float(np.linalg.norm(found.jac)),
        converged=fit.is_done(found.x, float(found.fun), found.jac),
        iterations=int(found.nit),
    )


class _Fit:
    """The objective on one long vector, steps of all parameters from where they are."""

    def __init__(self, head: Head, trace: Trace, weight_decay: float) -> None:
        self.head, self.problem, self.decay = head, trace.problem, weight_decay
        self.here = [parameter.detach() for parameter in head.parameters]
        self.start = float(np.linalg.norm(self._loss(self._zero())[1]))
        self.first = self.objective(self._zero())[0]

    def solve(self, max_iterations: int, max_seconds: float) -> OptimizeResult:
        """Minimise, until it no longer improves or the budget is spent."""
        deadline = time.perf_counter() + max_seconds

        def stop(_: Array) -> None:
            if time.perf_counter() > deadline:
                raise StopIteration

        options = {"maxiter": max_iterations, "maxcor": MEMORY}
        # Until float64 is exhausted: what is left of the gradient reaches every layer.
        options |= {"maxfun": 2 * max_iterations, "ftol": 0.0, "gtol": 0.0}
        found = minimize(
            self.objective,
            self._zero(),
            jac=True,
            method="L-BFGS-B",
            callback=stop,
            options=options,
        )
        if not math.isfinite(found.fun) or not np.isfinite(found.jac).all():
            raise RefitError("The loss behind the refitted last layer is not finite.")
        return found

    def objective(self, x: Array) -> tuple[float, Array]:
        """Loss and penalty, with their gradient."""
        loss, gradient = self._loss(x)
        penalised = [
            value if value.dim() > 1 else torch.zeros_like(value)
            for value in self.values(x).values()
        ]
        decayed = _flat(penalised)
        penalty = self.decay / 2 * float(decayed @ decayed)
        return loss + penalty, gradient + self.decay * decayed

    def loss(self, x: Array) -> float:
        """The loss alone."""
        return self._loss(x)[0]

    def values(self, x: Array) -> dict[str, Tensor]:
        """Name to value of each parameter behind the steps."""
        steps = self.steps(x)
        moved = (p + step for p, step in zip(self.here, steps, strict=True))
        return dict(zip(self.head.names, moved, strict=True))

    def is_done(self, x: Array, objective: float, gradient: Array) -> bool:
        """Whether no small change of the head lowers the objective any more."""
        size = float(np.linalg.norm(_flat(list(self.values(x).values()))))
        change = float(np.linalg.norm(gradient)) * max(size, 1.0)
        return change <= CONVERGED * max(abs(objective), CONVERGED * abs(self.first))

    def _loss(self, x: Array) -> tuple[float, Array]:
        base = self.head.base + self.head.push(self.steps(x))
        base = base.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.problem.loss_of(self.head.output(base))
        assert loss is not None  # refused before
        gradient = torch.zeros_like(base)
        if loss.requires_grad:
            gradient = torch.autograd.grad(loss, base)[0]
        return float(loss.detach()), _flat(list(self.head.pull(gradient)))

    def steps(self, x: Array) -> tuple[Tensor, ...]:
        parts = torch.from_numpy(x.copy()).split([p.numel() for p in self.here])
        pairs = zip(parts, self.here, strict=True)
        return tuple(part.view_as(p).to(p) for part, p in pairs)

    def _zero(self) -> Array:
        return np.zeros(sum(p.numel() for p in self.here))


def _thawed(trace: Trace, recapture: Capture) -> Trace:
    """The trace of a copy in which every parameter has a gradient."""
    problem = _copied(trace)
    for parameter in problem.model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        thawed = recapture(problem)
    except (CaptureError, ForwardError) as error:
        raise RefitError(f"Without its frozen parameters: {error}") from error
    if thawed.layers != trace.layers:
        raise RefitError("Without its frozen parameters it has other layers.")
    return thawed


@torch.no_grad()
def _with_parameters(
    trace: Trace, values: dict[str, Tensor], frozen: frozenset[str]
) -> Problem:
    """A copy with new values of the head, all else as frozen as the caller has it."""
    problem = _copied(trace)
    for name, parameter in problem.model.named_parameters():
        if name in values:
            parameter.copy_(values[name])
        elif name in frozen:
            parameter.requires_grad_(False)
    return problem


def _copied(trace: Trace) -> Problem:
    try:
        with trace.running() as problem:
            return problem.replace(copy_model(problem.model), problem.data)
    except Exception as error:  # whatever a stranger's model raises when copied
        raise RefitError(f"The model cannot be copied: {error}") from error


def _frozen(model: nn.Module) -> frozenset[str]:
    return frozenset(n for n, p in model.named_parameters() if not p.requires_grad)


def _flat(tensors: list[Tensor]) -> Array:
    parts = [tensor.detach().double().cpu().reshape(-1) for tensor in tensors]
    return torch.cat(parts).numpy()
