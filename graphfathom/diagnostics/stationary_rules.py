"""Findings about the last layer: one that cannot help, and one that does not move."""

from __future__ import annotations

import math
import statistics
from typing import get_args

from graphfathom.diagnostics.data_rules import LOST, trial
from graphfathom.diagnostics.observations import TRAINING
from graphfathom.diagnostics.report import Finding
from graphfathom.diagnostics.rules import (
    DEPTH_ADVICE,
    MUCH_LOWER,
    Facts,
    Rule,
    power,
)
from graphfathom.diagnostics.structure import Kind

__all__ = ["spurious_stationary_point", "stuck_head"]

STATIONARY = -3.0
"""log10 of the relative change of the loss per relative change of a layer's weights: a
step that changes all weights of a layer by a tenth gains less than 0.01 % of the loss.
A layer that learns has about 0.1 to 1."""
OUT_OF_REACH = -10.0
"""log10 of the largest gradient below which Adam does not leave either: its steps keep
their size until the entries of a gradient come near its epsilon, 1e-8. State-space
networks with 1e-9 learnt, others with 1e-10 did not
(`benchmarks/backward_smoothing.py`)."""
NO_BETTER = 0.95
"""Share of the best constant's loss from which the last layer is no better than it."""
LEFT = 0.25
"""Share of what the last layer alone would gain that training has left undone. Healthy
networks leave nothing: they train all their layers."""
MIN_STEPS = 4
"""Recorded losses of which the last quarter has at least one."""
STEADY = 0.25
"""Largest spread of the later losses over their mean: too long steps make them jump,
and then it is not the last layer that is stuck."""
EXPLAINED = 0.5
"""Share of the features' decay, in logarithms, that the graph alone must explain."""
SMALLEST = 1e-16
"""What a graph without a second eigenvalue is taken to leave: rounding."""


def spurious_stationary_point(facts: Facts, rule: Rule) -> Finding | None:
    """No gradient below a refitted last layer, which is no better than a constant."""
    head = facts.value("refit.layer")
    layers = facts.table.series("stationarity", "refit")
    below = [value for k, value in zip(*layers, strict=True) if k < head]
    known = {
        "the best constant's": facts.value("loss.constant"),
        "that of the best constants of components": facts.value(
            "loss.constant.component"
        ),
    }
    if facts.value("data.components") == facts.value("data.nodes"):
        # Without edges the constant of a component is a label of its own.
        known.popitem()
    known = {name: value for name, value in known.items() if not math.isnan(value)}
    loss, refit = facts.value("loss"), facts.value("loss.refit")
    least = min(known.values(), default=math.nan)
    high = least > 0 and refit >= NO_BETTER * least
    if not (high and facts.value("refit.converged") and below):
        return None
    if not all(value < STATIONARY for value in below):
        return None
    constants = ", ".join(f"{name} {value:.4g}" for name, value in known.items())
    evidence = [
        f"The loss is {loss:.4g}, {constants}; with the last layer refitted alone it "
        f"is {refit:.4g}.",
        f"There, doubling the weights of the layer that matters most would change the "
        f"loss by {power(max(below))} of itself.",
    ]
    lines, largest = _gradients(facts, head)
    name, reason = _cause(facts)
    stuck = largest < OUT_OF_REACH
    title = "Spurious stationary point: with its last layer trained, no other learns"
    if not stuck:
        title = "Near a spurious stationary point: only Adam could train lower layers"
    return rule.finding(
        title + (f" ({name})" if name else ""),
        "critical" if stuck else "note",
        f"layers 1-{min(facts.depth, int(head) - 1)} of {facts.depth}",
        [*evidence, *lines, reason],
        DEPTH_ADVICE,
    )


def _gradients(facts: Facts, head: float) -> tuple[list[str], float]:
    """The largest gradient of the layers below the head, also in words."""
    layers = facts.table.series("gradient.weights", "refit")
    below = [value for k, value in zip(*layers, strict=True) if k < head]
    largest = max(below, default=math.nan)
    lines = [f"The largest gradient of a layer's weights there is {power(largest)}."]
    mean = facts.table.value("error.output.mean", run="refit")
    if not math.isnan(mean):
        lines.append(f"The mean error of the output there is {power(mean)}.")
    return lines, largest


def _cause(facts: Facts) -> tuple[str, str]:
    """Whether the graph or the weights make differences between nodes vanish."""
    contraction, smoothing = "contraction of the weights", "smoothing"
    heard = facts.series("gradient.to_neighbours").values()
    no_edges = facts.value("data.components") == facts.value("data.nodes")
    if no_edges or (heard and max(heard) == 0):
        return contraction, (
            "Nothing passes between nodes: it is the weights that shrink differences."
        )
    graph, both = _rates(facts)
    if not (0 <= graph <= 1 and 0 < both < 1):
        return "", "Whether the graph or the weights are the cause is not known."
    kept = math.log10(max(graph, SMALLEST))
    reason = (
        f"Differences between nodes shrink by a factor {both:.3g} per layer, where the "
        f"graph alone leaves {graph:.3g} of them: {power(facts.depth * kept)} over "
        f"{facts.depth} layers."
    )
    return (smoothing if kept < EXPLAINED * math.log10(both) else contraction), reason


def _rates(facts: Facts) -> tuple[float, float]:
    """Factors per layer of the propagation alone, and of features as measured."""
    forward = {kind: facts.value(f"rate.forward.{kind}") for kind in get_args(Kind)}
    for kind, both in forward.items():
        own = facts.value(f"rate.propagation.{kind}")
        if not math.isnan(own):
            return own, both
    # The kernel of an unknown propagation is the one that features come nearest to.
    known = (both for both in forward.values() if not math.isnan(both))
    return facts.value("rate.graph"), min(known, default=math.nan)


def _is_steady(losses: list[float]) -> bool:
    later = losses[len(losses) // 2 :]
    return max(later) - min(later) <= STEADY * statistics.fmean(later)


def stuck_head(facts: Facts, rule: Rule) -> Finding | None:
    """A loss that training leaves high, and the last layer alone makes low."""
    evidence = _left_undone(facts) or _gained_by_unfreezing(facts)
    if not evidence:
        return None
    frozen, gradient = facts.value("head.frozen"), facts.value("head.gradient")
    advice = "Check that the optimiser holds the parameters of the last layer."
    state = (
        f"None of its parameters is frozen, and their gradient is {power(gradient)}."
    )
    if frozen > 0:
        state = f"{frozen:.0%} of its parameters are frozen."
        advice = (
            "Let it train: `requires_grad_(True)`, and start it anew with "
            "`reset_parameters()`."
        )
    elif gradient == -math.inf:
        advice = "Look for a `detach` or a zero in front of the loss."
    return rule.finding(
        "Stuck last layer: it alone could lower the loss, and training did not",
        "critical",
        "last layer",
        [evidence, state],
        [advice, "Or raise its learning rate."],
    )


def _left_undone(facts: Facts) -> str:
    """What a training has left of what the last layer alone would gain, in words."""
    rows = facts.table.select("loss", TRAINING, "model")
    losses = [row.value for row in sorted(rows, key=lambda row: row.step)]
    if len(losses) < MIN_STEPS or not all(map(math.isfinite, losses)):
        return ""
    constant, refit = facts.value("loss.constant"), facts.value("loss.refit")
    end = statistics.fmean(losses[-(len(losses) // 4) :])
    if not (refit < MUCH_LOWER * constant and _is_steady(losses)):
        return ""
    if not end - refit > LEFT * (constant - refit):
        return ""
    return (
        f"Training ends at a loss of {end:.4g}; the best constant has {constant:.4g}, "
        f"and refitting the last layer alone gives {refit:.4g}."
    )


def _gained_by_unfreezing(facts: Facts) -> str:
    """What a frozen last layer costs, in words, if it was tried."""
    tried = trial(facts, "unfrozen")
    if facts.run != "model" or tried is None or not facts.value("head.frozen") > 0:
        return ""
    if not tried[1] - tried[0] > LOST:
        return ""
    return (
        f"Trained for a short time, the network reaches an accuracy of {tried[0]:.0%}; "
        f"with all its weights, {tried[1]:.0%}."
    )
