r"""Choose the strength of a network in state-space form on the user's own data.

A network :math:`H_{k+1} = r H_k + \beta F_k(H_k) B^\top` has two numbers to choose.
Unit gain alone is trivial, since :math:`\beta = 10^{-6}` ignores the graph. So the
largest strength :math:`c`, :math:`\beta = c / \sqrt L`, is searched for which signal,
gradient and rank keep their size over the whole depth and the first state is not
forgotten; :math:`r` balances growth and decay.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from graphfathom.calibration.criteria import (
    LABELS,
    Criteria,
    StateSpaceNetwork,
    measure,
)
from graphfathom.diagnostics.sandbox import ModelState, copy_model
from graphfathom.problem import Problem
from graphfathom.validation import map_tensors

__all__ = [
    "Calibration",
    "CalibrationError",
    "calibrate",
    "measure_both",
    "set_strength",
]

STRENGTHS = (2.0**-6, 2.0**4)
"""Where strengths are searched."""
BISECTIONS, MAX_BISECTIONS = 2, 6
"""Halvings of the bracket once a strength passes; before that, at most."""
BALANCE = 0.05
"""Remaining log of the growth over the whole depth at which r is balanced."""
MAX_BALANCING = 4


class CalibrationError(ValueError):
    """No strength meets the criteria, or the network cannot be measured."""


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and what it was chosen by."""

    strength: float
    """The strength c."""
    radius: float
    """The scale r of the state transition."""
    input_scale: float
    """The scale of the input matrix."""
    num_steps: int
    """Depth L, in state-space steps."""
    state: str
    """The state transition, in words."""
    input: str
    """The input matrix, in words."""
    before: tuple[Criteria, ...]
    """The network as it was, in train and in eval mode."""
    after: tuple[Criteria, ...]
    """The network as it is now, in train and in eval mode."""
    tried: tuple[tuple[float, float, tuple[str, ...]], ...] = ()
    """Every strength tried with its radius and the criteria that it failed."""
    parameters: tuple[int, int] | None = None
    """Number of trainable parameters before and after the network was rewritten; None
    where the network before is not known."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return json.loads(json.dumps(asdict(self)))  # lists for tuples

    def __str__(self) -> str:
        lines = [
            f"State-space form of {self.num_steps} steps, H+ = state(H) + input(F(H))",
            f"  state     {self.state}",
            f"  input     {self.input}",
            f"  strength  {self.strength:.3g}",
        ]
        if self.parameters is not None:
            before, after = self.parameters
            lines.append(f"  trainable parameters {before:,} before, {after:,} after")
        runs = [*self.before, *self.after]
        if runs:
            names = ["before"] * len(self.before) + ["after"] * len(self.after)
            heads = [f"{n}, {c.mode}" for n, c in zip(names, runs, strict=True)]
            lines += ["", _line("", heads), *_rows(runs)]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def _rows(runs: list[Criteria]) -> Iterator[str]:
    for name, label in LABELS.items():
        values = (getattr(criteria, name) for criteria in runs)
        yield _line(label, ["-" if v is None else f"{v:.3g}" for v in values])


def _line(label: str, cells: list[str]) -> str:
    return f"  {label:<30}" + "".join(f"{cell:>15}" for cell in cells)


def measure_both(problem: Problem, seed: int = 0) -> tuple[Criteria, ...]:
    """The criteria in train and in eval mode, measured on a copy."""
    return _Search(problem, seed).measure()


def calibrate(
    problem: Problem,
    *,
    strength: float | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    r"""Set the scales of a network in state-space form, in place.

    With :math:`\beta = c / \sqrt L` the largest strength c is taken for which
    :class:`Criteria` hold in train and in eval mode at the full depth, up to a factor
    of :math:`2^{1/4}`; r balances the growth of features and gradients,
    :math:`\log(\|H_L\| / \|H_0\|) + \log(\text{gain}) = 0`.

    Args:
        problem: Problem whose model is a :class:`StateSpaceNetwork`. Of the model only
            the scales of ``model.state`` and ``model.input`` change, and
            ``model.calibration`` is set.
        strength: Take this c, and only balance and check. Default: search.
        seed: Seed of dropout and of the probes.
        progress: Called with a sentence per strength tried.

    Returns:
        What was chosen, with every number it was chosen by.

    Raises:
        CalibrationError: If no strength, or not the given one, meets the criteria; if
            the gain is not finite or the messages are zero. The model is unchanged.
        ValueError: If ``strength`` is not positive and finite.
    """
    if strength is not None and not 0 < strength < math.inf:
        raise ValueError(f"`strength` must be positive and finite. Got {strength}.")
    network: Any = problem.model
    if network.persistent is not None or network.gates is not None:
        raise CalibrationError(
            "A network with gates or a persistent input has more than one strength: "
            "set its transitions, and measure them with measure_both of "
            "graphfathom.calibration."
        )
    search = _Search(problem, seed, progress or _silent)
    best = search.at(strength) if strength is not None else search.largest()
    if best.failures:
        raise CalibrationError(search.explain(best, given=strength is not None))
    set_strength(network, best.strength, best.radius)
    network.calibration = Calibration(
        strength=best.strength,
        radius=best.radius,
        input_scale=_input_scale(network, best.strength),
        num_steps=network.num_steps,
        state=repr(network.state),
        input=repr(network.input),
        before=(),
        after=best.criteria,
        tried=tuple((t.strength, t.radius, t.failures) for t in search.tried),
    )
    return network.calibration


def _input_scale(network: StateSpaceNetwork, strength: float) -> float:
    return strength / math.sqrt(network.num_steps)


def set_strength(network: Any, strength: float, radius: float = 1.0) -> None:
    """Set the scales of a network to a strength c and a radius r, unmeasured."""
    scale = _input_scale(network, strength)
    network.input.set_scale(scale)
    network.state.set_scale(radius - scale if network.carries else radius)


@dataclass(frozen=True)
class _Trial:
    strength: float
    radius: float
    criteria: tuple[Criteria, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """What is not met, over both modes."""
        return tuple(text for c in self.criteria for text in c.failures())

    @property
    def is_low(self) -> bool:
        """Whether nothing is wrong, or nothing but too small a share of messages."""
        return all("message_share" in text for text in self.failures)


def _silent(_: str) -> None:
    return None


@dataclass
class _Search:
    """The search for the largest strength, on a copy of the model."""

    problem: Problem
    seed: int
    progress: Callable[[str], None] = _silent
    tried: list[_Trial] = field(default_factory=list)

    def __post_init__(self) -> None:
        model = copy_model(self.problem.model)
        data = map_tensors(self.problem.data, _differentiable)
        self.problem = self.problem.replace(model, data)
        self.network: Any = model
        self.start = ModelState(model)
        self.depends_on_mode = True

    def largest(self) -> _Trial:
        """The largest strength that passes, else the one that fails least."""
        low: _Trial | None = None
        high: _Trial | None = None
        strength = 1.0
        while STRENGTHS[0] <= strength <= STRENGTHS[1] and not (low and high):
            trial = self.at(strength)
            low, high = (trial, high) if trial.is_low else (low, trial)
            strength = trial.strength * (2.0 if trial.is_low else 0.5)
        for bisection in range(MAX_BISECTIONS):
            found = low is not None and not low.failures
            if low and high and (bisection < BISECTIONS or not found):
                trial = self.at(math.sqrt(low.strength * high.strength))
                low, high = (trial, high) if trial.is_low else (low, trial)
        passed = [trial for trial in self.tried if not trial.failures]
        return max(passed, key=lambda t: t.strength, default=low or self.tried[0])

    def at(self, strength: float) -> _Trial:
        """Balance r at a strength and measure."""
        radius = self._guess(strength)
        for attempt in range(MAX_BALANCING):
            found = self.measure(strength, radius)
            growth = sum(c.log_growth for c in found) / len(found)
            if abs(growth) < BALANCE or not math.isfinite(growth):
                break
            if self.network.carries:  # its r is 1
                break
            if attempt < MAX_BALANCING - 1:
                radius *= math.exp(-growth / self.network.num_steps)
        trial = _Trial(strength, radius, found)
        self.tried.append(trial)
        if all(c.message_share == 0 for c in found):
            raise CalibrationError(
                "The messages are zero in every layer, so that no strength helps. "
                "Check that the graph has edges and that the weights are not zero."
            )
        self.progress(
            f"strength {strength:.3g}, r {radius:.6f}: "
            + (trial.failures[0] if trial.failures else "all criteria are met")
        )
        return trial

    def _guess(self, strength: float) -> float:
        """The radius by the nearest trial: 1 - r grows with the square of c."""
        if not self.tried:
            return 1.0
        near = min(self.tried, key=lambda t: abs(math.log(t.strength / strength)))
        return near.radius ** min(4.0, (strength / near.strength) ** 2)

    def measure(
        self, strength: float | None = None, radius: float = 1.0
    ) -> tuple[Criteria, ...]:
        """The criteria in train and eval mode; without a strength as it is."""
        found: list[Criteria] = []
        for mode in ("train", "eval"):
            if found and not self.depends_on_mode:
                found.append(replace(found[0], mode=mode))
                continue
            self.start.restore()
            if strength is not None:
                set_strength(self.network, strength, radius)
            found.append(measure(self.problem, mode, self.seed))
        self.depends_on_mode = replace(found[0], mode="eval") != found[1]
        return tuple(found)

    def explain(self, best: _Trial, given: bool) -> str:
        """Why a strength is refused, and what to do."""
        if not any(c.is_finite for t in self.tried for c in t.criteria):
            return (
                "The states, gains or gradients are not finite at any strength: "
                f"{best.failures[0]}. Weights or features hold NaN or infinity; "
                "graphfathom.diagnose(model, data) names the layer."
            )
        failed = "; ".join(best.failures)
        if given:
            return (
                f"`strength` {best.strength:g} does not meet the criteria: {failed}. "
                "Leave it out to have it chosen."
            )
        return (
            f"No strength between {min(t.strength for t in self.tried):.3g} and "
            f"{max(t.strength for t in self.tried):.3g} meets the criteria. Nearest is "
            f"{best.strength:.3g}: {failed}. Normalise the messages (a norm inside of "
            "each layer), or take fewer layers."
        )


def _differentiable(tensor: Tensor) -> Tensor:
    # Frozen encoders: the first state needs a gradient all the same.
    tensor = tensor.detach().clone()
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor
