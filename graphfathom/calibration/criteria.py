"""What is asked of a deep network in state-space form, measured on its data."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graphfathom.diagnostics.energy import effective_rank
from graphfathom.diagnostics.sandbox import random_state
from graphfathom.nn.transition import Transition
from graphfathom.problem import Problem

__all__ = ["LABELS", "Criteria", "StateSpaceNetwork", "measure"]

RATIO = (0.5, 2.0)
MIN_RANK_RATIO = 0.5
MIN_MESSAGE_SHARE = 0.3
MIN_RECALL = 0.5
NUM_PROBES = 5
"""Probes of the product's gain; their median needs an odd number."""
BYTE_BUDGET = 4 * 2**30
"""Saved tensors beyond which states are computed again."""

LABELS = {
    "feature_ratio": "(a) features |H_L|/|H_0|",
    "gradient_ratio": "(a) gradients |dH_0|/|dH_L|",
    "gain_median": "(b) gain, median",
    "gain_mean": "(b) gain, mean",
    "rank_ratio": "(c) effective rank ratio",
    "message_share": "(d) share of messages",
    "recall": "(e) first state kept",
}
"""How tables name the criteria."""


@dataclass(frozen=True)
class Criteria:
    r"""What is asked of a network in state-space form, measured in one mode.

    (a) ``feature_ratio`` :math:`\|H_L\| / \|H_0\|` and ``gradient_ratio``
    :math:`\|\partial\ell/\partial H_0\| / \|\partial\ell/\partial H_L\|` in [0.5, 2];
    (b) ``gain_median`` and ``gain_mean``, those of :math:`\|J^\top w\| / \|w\|` for
    Gaussian :math:`w` and :math:`J = \partial H_L / \partial H_0`, in [0.5, 2];
    (c) ``rank_ratio``, the effective rank of :math:`H_L` over that of :math:`H_0`, at
    least 0.5; (d) ``message_share`` :math:`\|H_L - H_0 (\Lambda^\top)^L\| / \|H_L\|` at
    least 0.3; (e) ``recall`` :math:`\|H_0 (\Lambda^\top)^L\| / \|H_0\|` at least 0.5.

    Without (e) growth by messages makes up for a state that forgets its input: at r =
    0.966 a GCN of 64 layers meets (a) to (d), keeps 12 % of its first state, and
    learns worse than with weaker messages.
    """

    mode: str
    """``"train"`` or ``"eval"``."""
    feature_ratio: float
    gradient_ratio: float | None
    """None if the problem has no labels."""
    gain_median: float
    gain_mean: float
    rank_ratio: float
    message_share: float | None
    """None, as :attr:`recall`, with gates or a persistent input: the state is not what
    alone keeps the first one."""
    recall: float | None

    def failures(self) -> tuple[str, ...]:
        """The criteria that are not met, each with its value and bound."""
        found = []
        for name in ("feature_ratio", "gradient_ratio", "gain_median", "gain_mean"):
            value = getattr(self, name)
            if value is not None and not RATIO[0] <= value <= RATIO[1]:
                found.append(f"{name} {value:.3g} is not in [{RATIO[0]}, {RATIO[1]}]")
        for name, bound in (
            ("rank_ratio", MIN_RANK_RATIO),
            ("message_share", MIN_MESSAGE_SHARE),
            ("recall", MIN_RECALL),
        ):
            value = getattr(self, name)
            if value is not None and not value >= bound:
                found.append(f"{name} {value:.3g} is below {bound}")
        return tuple(f"{text} ({self.mode} mode)" for text in found)

    @property
    def log_growth(self) -> float:
        """Mean of the logs of forward and backward growth over the whole depth."""
        return 0.5 * (_log(self.feature_ratio) + _log(self.gain_mean))

    @property
    def is_finite(self) -> bool:
        """Whether every number is one."""
        values = (v for v in asdict(self).values() if isinstance(v, float))
        return all(math.isfinite(value) for value in values)


class StateSpaceNetwork(Protocol):
    """What can be calibrated: GNNSSM, and what ``to_state_space`` returns."""

    state: Transition
    input: Transition
    persistent: Transition | None
    gates: nn.Module | None
    carries: bool
    """Whether F contains the state, so that only the step can be scaled."""
    checkpoint: str
    """``"none"``, ``"sqrt"`` or ``"every"``; set to fit into memory."""

    @property
    def num_steps(self) -> int:
        """Number of steps L."""
        ...

    def watch(self) -> AbstractContextManager[list[Tensor]]:
        """Collect the states H_0, ..., H_L of the next run, with their graph."""
        ...


def measure(problem: Problem, mode: str, seed: int = 0) -> Criteria:
    """Measure the criteria on a network in state-space form as it is.

    Beyond 4 GB of saved tensors GNNSSM and the models of PyG compute their layers
    again; the forward of any other network cannot be cut, and takes what it takes.

    Args:
        problem: Problem whose model is a :class:`StateSpaceNetwork`; it is run as it
            is and not restored: pass a copy.
        mode: ``"train"`` or ``"eval"``.
        seed: Seed of dropout and of the probes.
    """
    network: Any = problem.model
    network.train(mode == "train")
    with random_state():
        torch.manual_seed(seed)
        first, last, output = _run(problem)
        generator = torch.Generator(first.device).manual_seed(seed)
        gradient_ratio = _gradient_ratio(problem, output, first, last)
        gains = _gains(first, last, generator)
    with torch.no_grad():
        start, end = first.detach(), last.detach()
        shares = (None, None)
        if network.persistent is None and network.gates is None:
            recalled = _recalled(network, start)
            shares = _ratio(end - recalled, end), _ratio(recalled, start)
        return Criteria(
            mode=mode,
            feature_ratio=_ratio(end, start),
            gradient_ratio=gradient_ratio,
            gain_median=float(gains.median()),
            gain_mean=float(gains.mean()),
            rank_ratio=float(effective_rank(end) / effective_rank(start)),
            message_share=shares[0],
            recall=shares[1],
        )


def _recalled(network: StateSpaceNetwork, start: Tensor) -> Tensor:
    """What the first state alone has become behind the last step."""
    if network.carries:  # x + gamma f(x)
        return start
    for _ in range(network.num_steps):
        start = network.state(start)
    return start


def _run(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """First state, last state and output, in one graph."""
    network: Any = problem.model
    budget = _Budget(BYTE_BUDGET if network.checkpoint == "none" else math.inf)
    try:
        # The second attempt has to draw the dropout masks of the first.
        with (
            random_state(),
            torch.autograd.graph.saved_tensors_hooks(budget.pack, lambda t: t),
        ):
            states, output = _watched(problem)
    except _OverBudgetError:
        network.checkpoint = "sqrt"
        try:
            states, output = _watched(problem)
        finally:
            network.checkpoint = "none"
    return states[0], states[-1], output


@dataclass
class _Budget:
    """Stops a forward pass that saves too much."""

    left: float

    def pack(self, tensor: Tensor) -> Tensor:
        self.left -= tensor.numel() * tensor.element_size()
        if self.left < 0:
            raise _OverBudgetError
        return tensor.detach()  # saved itself, an output would keep its graph alive


class _OverBudgetError(Exception):
    pass


def _watched(problem: Problem) -> tuple[list[Tensor], Tensor]:
    network: Any = problem.model
    with network.watch() as states:
        output = problem.run()
    return states, output


def _gradient_ratio(
    problem: Problem, output: Tensor, first: Tensor, last: Tensor
) -> float | None:
    loss = problem.loss_of(output)
    if loss is None:
        return None
    ends = torch.autograd.grad(loss, (first, last), retain_graph=True)
    return _ratio(*ends)


def _gains(first: Tensor, last: Tensor, generator: torch.Generator) -> Tensor:
    gains = []
    for _ in range(NUM_PROBES):
        probe = torch.randn(
            last.shape, generator=generator, dtype=last.dtype, device=last.device
        )
        (arrived,) = torch.autograd.grad(last, first, probe, retain_graph=True)
        gains.append(_ratio(arrived, probe))
    return torch.tensor(gains, dtype=torch.float64)


def _ratio(a: Tensor, b: Tensor) -> float:
    return float(a.double().norm() / b.double().norm())


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
