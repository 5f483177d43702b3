"""What a monitored training says of its learning rate and of numbers that break.

These rules read the rows of ``run="training"``, which a monitor has recorded, and speak
of the network itself only, not of its controls.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import get_args

from graphfathom.diagnostics.observations import TRAINING, Observation, Observations
from graphfathom.diagnostics.report import Finding
from graphfathom.diagnostics.rules import EXPLODING, SMOOTH, Facts, Rule
from graphfathom.diagnostics.squashing import over_squashing
from graphfathom.diagnostics.structure import Kind

__all__ = ["learning_rate", "non_finite_training", "trajectory_rows"]

ENOUGH = 5
"""Measured steps below which a loss has no course: start, rise and a settled end."""
RISE = 1.5
"""Peak of the loss over its start. In 352 trainings of eight small networks, half of
them on labels of which half were redrawn, the rule speaks in none of 128 with moderate
rates (Adam up to 0.01, SGD up to 0.1); where it speaks, accuracy is that of guessing.
"""
UNDONE = 0.5
"""Share of what the last layer alone would gain, refitted before training, that jumps
have left undone."""
LEARNT = 0.9
"""Share of the starting loss below which a training has learnt something."""
SAME_SCALE = 10.0
"""Starting loss over that of the best constant, beyond which they are not compared: the
training may have summed what the diagnosis averages."""


def trajectory_rows(table: Observations | None) -> tuple[Observation, ...]:
    """The rows of a monitored training, to be judged with those of a diagnosis.

    Raises:
        TypeError: If ``table`` is no table.
        ValueError: If it has rows of another run.
    """
    if table is None:
        return ()
    if not isinstance(table, Observations):
        raise TypeError(
            "`trajectory` must be a table of observations. Got "
            f"{type(table).__name__}: pass `monitor.observations`, or what "
            "`read_json_lines` returns."
        )
    if others := set(table.runs()) - {TRAINING}:
        raise ValueError(
            f"`trajectory` must hold rows of run {TRAINING!r}. Got "
            f"{', '.join(sorted(others))}: pass `monitor.observations`."
        )
    return tuple(table)


def learning_rate(facts: Facts, rule: Rule) -> Finding | None:
    """Whether the loss jumped up at the beginning and nothing was learnt after."""
    if facts.run != "model" or not _healthy_start(facts) or _is_squashed(facts, rule):
        return None
    losses = _values(facts, "loss.mean")
    start, *later = losses
    peaks = _values(facts, "loss.peak")
    peak = max((value for value in peaks[1:] if not math.isnan(value)), default=start)
    broken = not all(map(math.isfinite, later))
    if not peak > RISE * start or not (broken or len(losses) >= ENOUGH):
        return None
    end = statistics.median(losses[-max(len(losses) // 4, 1) :])
    if not (broken or _has_learnt_little(facts, start, end)):
        return None
    steps = sorted({row.step for row in facts.table.select("loss", TRAINING)})
    result = "it is not finite any more" if broken else f"it ends at {end:.3g}"
    evidence = [
        f"The training loss begins at {start:.3g}, rises to {peak:.3g}, and {result} "
        f"(step {steps[-1]}).",
        "At the first step the gradients of all layers were finite and within a factor "
        f"of {10**EXPLODING:.0f} of each other, and features told nodes apart: the "
        "network could have been trained.",
    ]
    changes = _values(facts, "update.relative")
    largest = max((v for v in changes if not math.isnan(v)), default=-math.inf)
    if largest > 0:
        evidence.append(
            f"Between two measured steps weights changed by {10**largest:.3g} times "
            "their own norm."
        )
    return rule.finding(
        "The learning rate is too high: the loss jumped up and was never recovered",
        "critical",
        "training",
        evidence,
        [
            "Divide the learning rate by 10 and train again from the start, until the "
            "loss no longer jumps.",
            "Or let it rise from 0 over the first hundred steps, and clip gradients.",
        ],
    )


def non_finite_training(facts: Facts, rule: Rule) -> Finding | None:
    """When and where numbers broke, if they have not recovered since."""
    if facts.run != "model":
        return None
    names = ("loss.mean", "non_finite", "gradient_non_finite")
    rows = [row for name in names for row in facts.table.select(name, TRAINING)]
    steps = sorted({row.step for row in rows})
    bad = [
        step for step in steps if any(_breaks(row) for row in rows if row.step == step)
    ]
    # A step that a gradient scaler has skipped is no harm.
    if not bad or bad[-1] != steps[-1]:
        return None
    first = bad[0]
    before = [step for step in steps if step < first]
    broken = [row for row in rows if row.step == first and _breaks(row)]
    layer, evidence = _first_layer(facts, broken)
    when = f"between steps {before[-1]} and {first}" if before else f"at step {first}"
    return rule.finding(
        f"Training broke {when}: numbers are not finite, {layer} first",
        "critical",
        layer,
        evidence,
        [
            "Look at the first bad layer and its input at that step: divisions, roots, "
            "logarithms, overflow of half precision.",
            "Clip gradients, or lower the learning rate.",
        ],
    )


def _healthy_start(facts: Facts) -> bool:
    """Whether at first gradients were of comparable size and features not smooth."""
    losses = facts.table.select("loss", TRAINING)
    first = next(iter(losses), None)
    if first is None or not 0 < first.value < math.inf:
        return False
    gradients = [
        row.value
        for row in facts.table.select("gradient.weights", TRAINING)
        if row.step == first.step
    ]
    finite = bool(gradients) and all(map(math.isfinite, gradients))
    told_apart = [
        row.value
        for kind in get_args(Kind)
        for row in facts.table.select(f"deviation.{kind}", TRAINING)
        if row.step == first.step and not math.isnan(row.value)
    ]
    is_smooth = min(told_apart, default=1.0) < SMOOTH
    return finite and max(gradients) - min(gradients) <= EXPLODING and not is_smooth


def _is_squashed(facts: Facts, rule: Rule) -> bool:
    """Whether no learning rate brings over what the graph does not."""
    finding = over_squashing(facts, rule)
    return finding is not None and finding.severity == "warning"


def _has_learnt_little(facts: Facts, start: float, end: float) -> bool:
    """Whether a training ends where it began, or far above what is easily reached."""
    if end >= LEARNT * _nothing_learnt(facts, start):
        return True
    constant, refit = facts.value("loss.constant"), facts.value("loss.refit")
    # What the training has summed cannot be compared with what the diagnosis averages.
    comparable = start <= SAME_SCALE * constant
    return comparable and end - refit > max(UNDONE * (constant - refit), 0.0)


def _nothing_learnt(facts: Facts, start: float) -> float:
    """The loss of a network that has learnt nothing."""
    constant = facts.value("loss.constant")
    if not start <= SAME_SCALE * constant:  # or there is none
        return start
    # What begins far below a constant is trained already.
    return constant if start < constant / 2 else min(start, constant)


def _values(facts: Facts, name: str) -> list[float]:
    return [row.value for row in facts.table.select(name, TRAINING)]


def _breaks(row: Observation) -> bool:
    is_share = row.name.endswith("non_finite")
    return row.value > 0 if is_share else not math.isfinite(row.value)


def _first_layer(facts: Facts, broken: Iterable[Observation]) -> tuple[str, list[str]]:
    """Where a step broke first: forward from the input, else backward from the loss."""
    places = {
        name: sorted({row.index for row in broken if row.name == name and row.index})
        for name in ("non_finite", "gradient_non_finite")
    }
    forward, backward = places["non_finite"], places["gradient_non_finite"]
    count = len(facts.table.select("non_finite", TRAINING, "layer:1"))
    if forward:
        evidence = f"The features of {len(forward)} layers are not finite, from layer "
        return f"layer {forward[0]}", [evidence + f"{forward[0]} on."]
    if backward:
        k = backward[-1]
        evidence = (
            f"Features are finite, gradients are not, in layers {backward[0]}-{k}."
        )
        return f"layer {k}", [evidence]
    what = "Features and gradients of all layers are finite" if count else "No features"
    return "the loss", [f"{what} at that step: the loss broke behind the layers."]
