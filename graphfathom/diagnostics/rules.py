"""What each finding looks for, as functions of the table of one run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.report import Finding

__all__ = ["Facts", "Rule", "power"]

VANISHING = -3.0
"""log10 of the share of the last layer's gradient that reaches the first."""
LOST = -6.0
"""Below it, the first layer's share is less than the resolution of float32."""
EXPLODING = 3.0
"""log10 of the factor by which the gradient grows on its way to the first layer."""
SMOOTH = 1e-2
"""Relative distance to constants: a head must amplify the rest a hundredfold."""
SHRUNK = -3.0
"""log10 of the size of the last features over that of the first layer's."""
MUCH_LOWER = 0.7
"""Share of the best constant's loss below which a network can do much."""
DEAD = 0.5
"""Share of units that are zero on every node."""
SUBNORMAL = 1e-2
"""Share of subnormal numbers from which CPU kernels are visibly slower."""


@dataclass(frozen=True)
class Facts:
    """The table of one run, with the names of the layers."""

    table: Observations
    layers: tuple[str, ...]
    run: str = "model"

    @property
    def depth(self) -> int:
        """Number of layers L."""
        return len(self.layers)

    def value(self, name: str, place: str = "model") -> float:
        """A value of this run, NaN if not measured."""
        return self.table.value(name, place, self.run)

    def series(self, name: str) -> dict[int, float]:
        """Index to value."""
        return dict(zip(*self.table.series(name, self.run), strict=True))

    def layer(self, k: int) -> str:
        """Layer k with its name."""
        known = 1 <= k <= self.depth
        return f"layer {k} (`{self.layers[k - 1]}`)" if known else f"state {k}"

    def has(self, names: tuple[str, ...]) -> bool:
        """Whether all names were measured."""
        return all(len(self.table.select(name, self.run)) for name in names)


@dataclass(frozen=True)
class Rule:
    """One finding: when it applies and why."""

    name: str
    """Identifier of the finding."""
    summary: str
    """What it says about the network."""
    needs: tuple[str, ...]
    """Observations without which the rule is silent."""
    threshold: str
    """When it applies."""
    source: str
    """Why there."""
    apply: Callable[[Facts, Rule], Finding | None] | None = None
    """The rule itself; None for a conclusion drawn from the other findings."""

    def finding(
        self,
        title: str,
        severity: str,
        where: str,
        evidence: list[str],
        advice: list[str],
    ) -> Finding:
        """A finding of this rule."""
        return Finding(
            self.name,
            title,
            severity,
            where,
            tuple(evidence),
            tuple(advice),
            self.source,
        )


def growth(facts: Facts) -> float | None:
    """log10 of the last state's size over that behind the first layer."""
    size = facts.series("feature_rms")
    first, last = size.get(1), size.get(facts.depth)
    if first is None or last is None or math.isinf(first):
        return None
    return last - first


def zero_is_a_start(facts: Facts) -> bool:
    """Whether only the last layer is zero, and training it lowers the loss at once."""
    refit, constant = facts.value("loss.refit"), facts.value("loss.constant")
    is_last = facts.value("refit.layer") == facts.depth
    return is_last and refit < MUCH_LOWER * constant


def smallest_deviation(facts: Facts, k: int) -> float:
    place = f"state:{k}"
    values = [
        facts.value(f"deviation.{kind}", place) for kind in ("constant", "degree")
    ]
    known = [value for value in values if not math.isnan(value)]
    return min(known, default=math.nan)


def power(log10: float) -> str:
    """A decimal logarithm as a number: 10^-166.3, 0.032, exactly 0."""
    if math.isnan(log10):
        return "an unknown share"
    if log10 == -math.inf:
        return "exactly 0"
    if abs(log10) > 4:
        return f"10^{log10:.1f}"
    return f"{10**log10:.3g}"


def non_finite(facts: Facts, rule: Rule) -> Finding | None:
    for name, what in (("non_finite", "features"), ("gradient_non_finite", "gradient")):
        bad = [k for k, share in sorted(facts.series(name).items()) if share > 0]
        if not bad:
            continue
        forward = name == "non_finite"
        k = bad[0] if forward else bad[-1]
        share = facts.series(name)[k]
        dtype = facts.table.select(name, facts.run, f"state:{k}")
        precision = next(iter(dtype)).dtype
        return rule.finding(
            f"The {what} are not finite from {facts.layer(k)} on",
            "critical",
            facts.layer(k),
            [f"{share:.1%} of the {what} behind it are NaN or infinite ({precision})."],
            [
                "Look for a division by zero, a logarithm or an overflow in it.",
                "If sizes grow from layer to layer, normalise or scale the layers.",
            ],
        )
    return None


def exactly_zero(facts: Facts, rule: Rule) -> Finding | None:
    zeros = facts.series("exact_zeros")
    empty = [k for k, share in sorted(zeros.items()) if share == 1]
    if not empty or empty[0] == 0 or len(empty) != facts.depth - empty[0] + 1:
        return None
    k = empty[0]
    harmless = k == facts.depth and zero_is_a_start(facts)
    exact = facts.value("feature_norm", f"state:{k}")
    dtype = next(iter(facts.table.select("exact_zeros", facts.run))).dtype
    if math.isfinite(exact):
        cause = f"In float64 they still have norm {power(exact)}: {dtype} underflows."
        advice = DEPTH_ADVICE
    else:
        cause = "They are zero in float64 too: every unit of the layer is switched off."
        advice = [RESTART, *DEPTH_ADVICE[1:]]
    return rule.finding(
        f"Features are exactly zero from {facts.layer(k)} on",
        "note" if harmless else "critical",
        f"layers {k}-{facts.depth} of {facts.depth}",
        [
            f"All entries behind {facts.layer(k)} are 0 in {dtype}: the output does "
            "not depend on the input.",
            cause,
        ],
        advice,
    )


RESTART = (
    "Start the layers anew with `reset_parameters()`: zero weights and large negative "
    "biases switch units off."
)
DEPTH_ADVICE = [
    "Keep a state through the depth: `graphfathom.stabilize(model, data)` gives this "
    "network the state-space form with the same layers and parameters.",
    "Or give each layer a way around it: `DeepGCNLayer(block='res+')` or `GCN2Conv`, "
    "whose input connection keeps signal and gradient.",
    "Or use fewer layers: compare with the control at depth 1.",
]


def vanishing(facts: Facts, rule: Rule) -> Finding | None:
    relative = facts.series("gradient.state.relative")
    first = relative.get(1, math.nan)
    if facts.depth < 2 or not first < VANISHING:
        return None
    if first == -math.inf and zero_is_a_start(facts):
        return None  # it does not stay zero
    bad = [k for k, value in relative.items() if k >= 1 and value < VANISHING]
    gains = sorted(facts.series("mean_squared_gain").values())
    evidence = [
        f"Behind layer 1 the loss gradient is {power(first)} of the last state's.",
    ]
    probe = facts.series("gain_to_output")
    if 1 in probe and facts.depth in probe:
        drop = probe[1] - probe[facts.depth]
        evidence.append(
            f"In random directions the gain to the output falls to {power(drop)}."
        )
    if gains:
        middle = gains[len(gains) // 2]
        evidence.append(
            f"The median layer multiplies a random direction by {middle**0.5:.2f}."
        )
    zeros = [k for k, share in facts.series("gradient_zeros").items() if share == 1]
    if zeros:
        evidence.append(
            f"In the model's own precision the gradient is exactly 0 up to state "
            f"{max(zeros)}."
        )
    return rule.finding(
        f"Vanishing gradients: layer 1 receives {power(first)} of the gradient",
        "critical" if first < LOST else "warning",
        f"layers 1-{max(bad)} of {facts.depth}",
        evidence,
        DEPTH_ADVICE,
    )


def exploding(facts: Facts, rule: Rule) -> Finding | None:
    relative = facts.series("gradient.state.relative")
    first = relative.get(1, math.nan)
    if facts.depth < 2 or not first > EXPLODING:
        return None
    grown = [k for k, value in relative.items() if k >= 1 and value > EXPLODING]
    size = growth(facts)
    evidence = [
        f"Behind layer 1 the loss gradient is {power(first)} times that in the last "
        "state.",
    ]
    if size is not None:
        evidence.append(f"Features change their size by {power(size)} over the depth.")
    return rule.finding(
        f"Exploding gradients: they grow {power(first)}-fold on the way to layer 1",
        "critical" if first > -LOST else "warning",
        f"layers 1-{max(grown)} of {facts.depth}",
        evidence,
        [
            "Scale what each layer adds (1/L), or put the normalisation inside a "
            "residual branch: `DeepGCNLayer(block='res+')`.",
            "Batch normalisation alone multiplies gradients at every layer of an "
            "untrained network.",
        ],
    )


def to_zero(facts: Facts, rule: Rule) -> Finding | None:
    size = growth(facts)
    if facts.depth < 2 or size is None or not size < SHRUNK:
        return None
    if size == -math.inf and zero_is_a_start(facts):
        return None
    energy = facts.series("dirichlet_energy.normalized")
    evidence = [
        f"The root mean square feature falls to {power(size)} of that behind layer 1.",
    ]
    if 1 in energy and facts.depth in energy:
        drop = energy[facts.depth] - energy[1]
        evidence.append(f"The normalised Dirichlet energy falls to {power(drop)}.")
    return rule.finding(
        f"Over-smoothing to zero: features shrink to {power(size)} over the depth",
        "critical" if size < LOST else "warning",
        f"layers 1-{facts.depth}",
        evidence,
        DEPTH_ADVICE,
    )


def to_constants(facts: Facts, rule: Rule) -> Finding | None:
    values = {k: smallest_deviation(facts, k) for k in range(1, facts.depth + 1)}
    smooth = [k for k, value in values.items() if value < SMOOTH]
    start = smallest_deviation(facts, 0)
    if facts.depth < 2 or not smooth or not start > SMOOTH:
        return None
    k = smooth[0]
    worst = min(smooth, key=lambda j: values[j])
    return rule.finding(
        f"Over-smoothing: features are constant per component from {facts.layer(k)}",
        "critical",
        f"layers {k}-{smooth[-1]} of {facts.depth}",
        [
            f"Behind {facts.layer(worst)} only {values[worst]:.1e} of the features "
            "differ from constants (or from the roots of the degrees) of their "
            f"component; of the input it was {start:.2f}.",
            "Nodes of one component can no longer be told apart.",
        ],
        DEPTH_ADVICE,
    )


def dead(facts: Facts, rule: Rule) -> Finding | None:
    shares = facts.series("dead_units")
    bad = [k for k, v in shares.items() if 1 <= k < facts.depth and v > DEAD]
    if not bad:
        return None
    worst = max(bad, key=lambda k: shares[k])
    return rule.finding(
        f"Dead units: {shares[worst]:.0%} of those behind {facts.layer(worst)} are 0",
        "warning",
        f"layers {min(bad)}-{max(bad)} of {facts.depth}",
        [f"In {len(bad)} layers more than half of the units are 0 on every node."],
        [RESTART, "Or use an activation that does not switch off (tanh, GELU)."],
    )


def underflow(facts: Facts, rule: Rule) -> Finding | None:
    forward, backward = facts.series("subnormals"), facts.series("gradient_subnormals")
    bad = sorted(k for k, share in forward.items() if share > SUBNORMAL)
    gone = sorted(k for k, v in backward.items() if v > SUBNORMAL)
    exact = facts.series("gradient.state")
    # Zero in float64 too is no matter of range: something is switched off.
    lost = sorted(
        k
        for k, share in facts.series("gradient_zeros").items()
        if share == 1 and math.isfinite(exact.get(k, math.nan))
    )
    if not (bad or gone or lost):
        return None
    dtype = next(iter(facts.table.select("subnormals", facts.run))).dtype
    evidence = []
    if bad:
        evidence.append(f"Features behind layers {bad[0]}-{bad[-1]} are subnormal.")
    if gone:
        evidence.append(f"Gradients in states {gone[0]}-{gone[-1]} are subnormal.")
    if lost:
        evidence.append(f"Gradients are exactly 0 in states {lost[0]}-{lost[-1]}.")
    if bad or gone:
        evidence.append(
            "Such numbers have lost digits, and some CPUs are far slower on them."
        )
    return rule.finding(
        f"Numbers fall below the range of {dtype}",
        "critical" if lost else "warning",
        "whole network",
        evidence,
        ["Mend what shrinks them; `torch.set_flush_denormal(True)` only hides it."],
    )


def labels(facts: Facts, rule: Rule) -> Finding | None:
    if facts.value("labels.distinct") != 1:
        return None
    return rule.finding(
        "All labels that enter the loss are equal: there is nothing to learn",
        "critical",
        "labels",
        ["One distinct label; a constant output has the smallest loss."],
        ["Check `y` and the mask."],
    )


def features(facts: Facts, rule: Rule) -> Finding | None:
    if facts.value("features.varying") != 0 or facts.value("data.nodes") < 2:
        return None
    return rule.finding(
        "All nodes have the same features: only the structure tells them apart",
        "warning",
        "features",
        ["No column of the input features varies over the nodes."],
        [
            "Add what tells where a node is, `AddLaplacianEigenvectorPE`, or what is "
            "around it, `AddRandomWalkPE`.",
        ],
    )


def reach(facts: Facts, rule: Rule) -> Finding | None:
    diameter = facts.value("data.diameter")
    if facts.depth < 1 or not facts.depth < diameter:
        return None
    return rule.finding(
        f"{facts.depth} layers see {facts.depth} hops of a graph at least "
        f"{diameter:.0f} hops wide",
        "note",
        "whole network",
        ["Nodes farther apart cannot exchange anything."],
        ["No reason to worry unless the task is known to need distant nodes."],
    )
