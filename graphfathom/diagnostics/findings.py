"""Rules that turn the table of observations into conclusions.

A rule is a pure function of the table. It declares the observations it needs and is
silent without them. The order of :data:`RULES` is the order of precedence: what makes
later measurements meaningless comes first, causes come before symptoms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.report import Finding

__all__ = ["RULES", "Facts", "Rule", "find"]

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
DEAD = 0.5
"""Share of units that are zero on every node."""
LEARNT = 0.05
"""Accuracy above the most frequent class from which a control has learnt anything."""
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


def find(table: Observations, layers: tuple[str, ...]) -> tuple[Finding, ...]:
    """Apply all rules.

    Args:
        table: What was measured.
        layers: Names of the layers.

    Returns:
        The findings in order of precedence; the first is the verdict.
    """
    facts = Facts(table, layers)
    found = _conclude(facts)
    sick = [f for f in found if f.severity in ("warning", "critical")]
    if not sick:
        return (_without_disease(facts), *found)
    control = Facts(table, ("the only layer",), "shallow")
    if sick[0].name in {f.name for f in _conclude(control)} or _fails_alike(table):
        return (_not_depth(sick[0], facts), *found)
    return found


def _conclude(facts: Facts) -> tuple[Finding, ...]:
    applied = [
        rule.apply(facts, rule)
        for rule in RULES
        if rule.apply is not None and facts.has(rule.needs)
    ]
    return tuple(finding for finding in applied if finding is not None)


def _fails_alike(table: Observations) -> bool:
    """Whether the control at depth 1 was trained and is no better than guessing."""
    guess = table.value("accuracy.majority")
    trained = table.value("accuracy.test", run="shallow")
    return trained < guess + LEARNT


def _rule(name: str) -> Rule:
    return next(rule for rule in RULES if rule.name == name)


def _without_disease(facts: Facts) -> Finding:
    missing = _missing_evidence(facts)
    if not missing:
        return _healthy(facts, _rule("healthy"))
    return _rule("not-enough-evidence").finding(
        "Not enough evidence for a verdict on the depth of this network",
        "unknown",
        "whole network",
        missing,
        ["Give what is missing, then diagnose again."],
    )


def _missing_evidence(facts: Facts) -> list[str]:
    missing = []
    if facts.depth < 1:
        missing.append("The layers could not be told apart, see the notes.")
    if math.isnan(facts.value("loss")):
        missing.append("There are no labels, so no loss and no gradient of it.")
    if facts.value("data.nodes") <= 1:
        missing.append("The graph has one node: nothing passes between nodes.")
    elif facts.value("data.edges") == 0:
        missing.append("The graph has no edges: no message is ever sent.")
    return missing


def _healthy(facts: Facts, rule: Rule) -> Finding:
    gradient = facts.series("gradient.state.relative")
    first = gradient.get(min(1, facts.depth), math.nan)
    evidence = [
        f"Layer 1 receives {power(first)} of the gradient that reaches the last state.",
    ]
    size = _growth(facts)
    if size is not None:
        evidence.append(f"Features change their size by {power(size)} over the depth.")
    deviation = _smallest_deviation(facts, facts.depth)
    if not math.isnan(deviation):
        evidence.append(
            f"{deviation:.0%} of the last features differ from a constant per component."
        )
    return rule.finding(
        f"Healthy: signal and gradient pass all {facts.depth} layers",
        "healthy",
        "whole network",
        evidence,
        ["If accuracy still falls with depth, look at the data and the optimiser."],
    )


def _not_depth(worst: Finding, facts: Facts) -> Finding:
    return _rule("not-a-depth-problem").finding(
        "Not a depth problem: the same network at depth 1 fails the same way",
        "critical",
        "whole network",
        [f"With {facts.depth} layers and with one: {worst.title}."],
        ["Look at the features, the labels and the scale of the weights first."],
    )


def _growth(facts: Facts) -> float | None:
    """log10 of the last state's size over that behind the first layer."""
    size = facts.series("feature_rms")
    first, last = size.get(1), size.get(facts.depth)
    if first is None or last is None or math.isinf(first):
        return None
    return last - first


def _smallest_deviation(facts: Facts, k: int) -> float:
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


def _non_finite(facts: Facts, rule: Rule) -> Finding | None:
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
                "Look for a division by zero, a logarithm or an overflow in this layer.",
                "If sizes grow from layer to layer, normalise or scale the layers.",
            ],
        )
    return None


def _exactly_zero(facts: Facts, rule: Rule) -> Finding | None:
    zeros = facts.series("exact_zeros")
    empty = [k for k, share in sorted(zeros.items()) if share == 1]
    if not empty or empty[0] == 0 or len(empty) != facts.depth - empty[0] + 1:
        return None
    k = empty[0]
    exact = facts.value("feature_norm", f"state:{k}")
    dtype = next(iter(facts.table.select("exact_zeros", facts.run))).dtype
    if math.isfinite(exact):
        cause = f"In float64 they still have norm {power(exact)}: {dtype} underflows."
    else:
        cause = "They are zero in float64 too: every unit of the layer is switched off."
    return rule.finding(
        f"Features are exactly zero from {facts.layer(k)} on",
        "critical",
        f"layers {k}-{facts.depth} of {facts.depth}",
        [
            f"All entries behind {facts.layer(k)} are 0 in {dtype}: the output does "
            "not depend on the input.",
            cause,
        ],
        DEPTH_ADVICE,
    )


DEPTH_ADVICE = [
    "Give each layer a way around it: `DeepGCNLayer(block='res+')` or `GCN2Conv`, "
    "whose input connection keeps signal and gradient.",
    "Or use fewer layers: compare with the control at depth 1.",
]


def _vanishing(facts: Facts, rule: Rule) -> Finding | None:
    relative = facts.series("gradient.state.relative")
    first = relative.get(1, math.nan)
    if facts.depth < 2 or not first < VANISHING:
        return None
    bad = [k for k, value in relative.items() if 1 <= k and value < VANISHING]
    gains = sorted(facts.series("mean_squared_gain").values())
    evidence = [
        f"Behind layer 1 the loss gradient is {power(first)} of that in the last state.",
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


def _exploding(facts: Facts, rule: Rule) -> Finding | None:
    relative = facts.series("gradient.state.relative")
    first = relative.get(1, math.nan)
    if facts.depth < 2 or not first > EXPLODING:
        return None
    grown = [k for k, value in relative.items() if k >= 1 and value > EXPLODING]
    size = _growth(facts)
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


def _to_zero(facts: Facts, rule: Rule) -> Finding | None:
    size = _growth(facts)
    if facts.depth < 2 or size is None or not size < SHRUNK:
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


def _to_constants(facts: Facts, rule: Rule) -> Finding | None:
    values = {k: _smallest_deviation(facts, k) for k in range(1, facts.depth + 1)}
    smooth = [k for k, value in values.items() if value < SMOOTH]
    start = _smallest_deviation(facts, 0)
    if facts.depth < 2 or not smooth or not start > SMOOTH:
        return None
    k = smooth[0]
    worst = min(smooth, key=lambda j: values[j])
    return rule.finding(
        f"Over-smoothing: features are constant on each component from {facts.layer(k)}",
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


def _dead(facts: Facts, rule: Rule) -> Finding | None:
    shares = facts.series("dead_units")
    bad = [k for k, v in shares.items() if 1 <= k < facts.depth and DEAD < v < 1]
    if not bad:
        return None
    worst = max(bad, key=lambda k: shares[k])
    return rule.finding(
        f"Dead units: {shares[worst]:.0%} of the units behind {facts.layer(worst)} are 0",
        "warning",
        f"layers {min(bad)}-{max(bad)} of {facts.depth}",
        [f"In {len(bad)} layers more than half of the units are 0 on every node."],
        ["Use an activation that does not switch off (tanh, GELU), or smaller biases."],
    )


def _underflow(facts: Facts, rule: Rule) -> Finding | None:
    forward, backward = facts.series("subnormals"), facts.series("gradient_subnormals")
    bad = sorted(k for k, share in forward.items() if share > SUBNORMAL)
    gone = sorted(k for k, v in backward.items() if v > SUBNORMAL)
    lost = sorted(k for k, v in facts.series("gradient_zeros").items() if v == 1)
    if facts.value("loss.gradient_is_zero") == 1 or not (bad or gone or lost):
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
        evidence.append("CPU kernels take 30 to 120 times longer on such numbers.")
    return rule.finding(
        f"Numbers fall below the range of {dtype}",
        "critical" if lost else "warning",
        "whole network",
        evidence,
        ["Mend what shrinks them; `torch.set_flush_denormal(True)` only hides it."],
    )


def _labels(facts: Facts, rule: Rule) -> Finding | None:
    if facts.value("labels.distinct") != 1:
        return None
    return rule.finding(
        "All labels that enter the loss are equal: there is nothing to learn",
        "critical",
        "labels",
        ["One distinct label; a constant output has the smallest loss."],
        ["Check `y` and the mask."],
    )


def _features(facts: Facts, rule: Rule) -> Finding | None:
    if facts.value("features.varying") != 0 or facts.value("data.nodes") < 2:
        return None
    return rule.finding(
        "All nodes have the same features: only the structure tells them apart",
        "warning",
        "features",
        ["No column of the input features varies over the nodes."],
        [
            "Add structural encodings, e.g. `AddRandomWalkPE` or `AddLaplacianEigenvectorPE`."
        ],
    )


def _reach(facts: Facts, rule: Rule) -> Finding | None:
    diameter = facts.value("data.diameter")
    if not facts.depth < diameter:
        return None
    return rule.finding(
        f"{facts.depth} layers see {facts.depth} hops of a graph at least "
        f"{diameter:.0f} hops wide",
        "note",
        "whole network",
        ["Nodes farther apart cannot exchange anything."],
        ["No reason to worry unless the task is known to need distant nodes."],
    )


RULES = (
    Rule(
        "not-a-depth-problem",
        "The same network at depth 1 has the same first finding.",
        ("gradient.state",),
        "the control `shallow` shows the same first finding, or was trained and stays "
        "within 5 points of the most frequent class",
        "A cause that is there at depth 1 cannot be the depth.",
    ),
    Rule(
        "non-finite",
        "Features or gradients are NaN or infinite; the first bad layer is named.",
        ("non_finite",),
        "one entry that is not finite, in the caller's precision",
        "IEEE 754: whatever is computed from NaN is NaN.",
    ),
    Rule(
        "equal-labels",
        "The labels that enter the loss do not differ.",
        ("labels.distinct",),
        "one distinct label",
        "The best predictor is a constant.",
        _labels,
    ),
    Rule(
        "constant-features",
        "All nodes have the same features.",
        ("features.varying",),
        "no varying column",
        "Message passing on constants can only count neighbours.",
        _features,
    ),
    Rule(
        "exactly-zero",
        "Features are exactly zero from a layer on, in the caller's precision.",
        ("exact_zeros",),
        "all entries of a state, and of all behind it, are 0",
        "Then the output does not depend on the input.",
        _exactly_zero,
    ),
    Rule(
        "vanishing-gradients",
        "The gradient shrinks on its way to the first layer.",
        ("gradient.state.relative",),
        "below 10^-3 of the last state's behind layer 1; critical below 10^-6",
        "10^-3: a step that trains the last layer in ten steps trains the first in ten "
        "thousand. 10^-6: below the resolution of float32. Arroyo et al. 2025, "
        "Proposition 3.3 and equation (6).",
        _vanishing,
    ),
    Rule(
        "exploding-gradients",
        "The gradient grows on its way to the first layer.",
        ("gradient.state.relative",),
        "above 10^3 times the last state's behind layer 1; critical above 10^6",
        "The mirror image of vanishing; Pascanu et al. 2013.",
        _exploding,
    ),
    Rule(
        "over-smoothing-to-zero",
        "Features shrink towards zero with depth.",
        ("feature_rms",),
        "root mean square below 10^-3 of that behind layer 1; critical below 10^-6",
        "Arroyo et al. 2025, Propositions 4.2 and 4.3: contraction towards the fixed "
        "point 0.",
        _to_zero,
    ),
    Rule(
        "over-smoothing-to-constants",
        "Nodes of one component become indistinguishable.",
        ("deviation.constant", "deviation.degree"),
        "less than 1 % of a state behind a layer differs from the operator's kernel",
        "A read-out must amplify what is left a hundredfold. Keriven 2025, Theorem 1; "
        "the kernel is constants for stochastic operators, the root of the degrees for "
        "GCN's.",
        _to_constants,
    ),
    Rule(
        "dead-units",
        "Units are zero on every node.",
        ("dead_units",),
        "more than half of the units of a hidden state",
        "A switched-off unit passes neither signal nor gradient; half of them is what "
        "a symmetric ReLU layer loses per node, not per unit.",
        _dead,
    ),
    Rule(
        "underflow",
        "Numbers are subnormal or underflow in the caller's precision.",
        ("subnormals",),
        "more than 1 % subnormal entries of a state, or a gradient that is exactly 0",
        "Measured: CPU kernels are 30 to 120 times slower on subnormal numbers.",
        _underflow,
    ),
    Rule(
        "under-reaching",
        "The network has fewer layers than the graph is wide. A note, never a verdict.",
        ("data.diameter",),
        "fewer layers than a lower bound of the diameter",
        "Alon and Yahav 2021: without labels of known distance it is no defect.",
        _reach,
    ),
    Rule(
        "not-enough-evidence",
        "Something that a verdict needs was not measured.",
        (),
        "no finding applies, and labels, edges or layers are missing",
        "A right number or a refusal.",
    ),
    Rule(
        "healthy",
        "Nothing was found.",
        (),
        "no finding applies and everything was measured",
        "Thresholds of all the rules above.",
        _non_finite,
    ),
)
"""All rules, in order of precedence."""
