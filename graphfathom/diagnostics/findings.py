"""Rules that turn the table of observations into conclusions.

A rule is a pure function of the table. It declares the observations it needs and is
silent without them. The order of :data:`RULES` is the order of precedence: what makes
later measurements meaningless comes first, causes come before symptoms.
"""

from __future__ import annotations

import math

from graphfathom.diagnostics import (
    data_rules,
    rules,
    stationary_rules,
    training_rules,
)
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.report import Finding
from graphfathom.diagnostics.rules import Facts, Rule
from graphfathom.diagnostics.squashing import over_squashing

__all__ = ["RULES", "find"]

SICK = ("warning", "critical")
"""Severities of a disease; what is only worth a note comes behind all of these."""
LEARNT = 0.05
"""Accuracy above the most frequent class from which a control has learnt anything."""


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
    sick = [finding for finding in found if finding.severity in SICK]
    if not sick:
        return (_without_disease(facts), *found)
    depth = max(table.series("gradient.state", "shallow")[0], default=0)
    control = _conclude(Facts(table, ("of the control",) * depth, "shallow"))
    if sick[0].name in {finding.name for finding in control}:
        alike = f"With {facts.depth} layers and with {depth}: {sick[0].title}."
    elif _learns_nothing(table):
        alike = "The control at depth 1 was trained, and is no better than guessing."
    else:
        return found
    return (_not_depth(alike), *found)


def _conclude(facts: Facts) -> tuple[Finding, ...]:
    applied = [
        rule.apply(facts, rule)
        for rule in RULES
        if rule.apply is not None and facts.has(rule.needs)
    ]
    found = [finding for finding in applied if finding is not None]
    return tuple(sorted(found, key=lambda finding: finding.severity not in SICK))


def _learns_nothing(table: Observations) -> bool:
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
    elif math.isnan(facts.series("gradient.state.relative").get(1, math.nan)):
        missing.append("No loss gradient reaches the last state: shares are unknown.")
    if facts.value("data.nodes") <= 1:
        missing.append("The graph has one node: nothing passes between nodes.")
    elif facts.value("data.edges") == 0:
        missing.append("The graph has no edges: no message is ever sent.")
    return missing


def _healthy(facts: Facts, rule: Rule) -> Finding:
    gradient = facts.series("gradient.state.relative")
    first = gradient.get(min(1, facts.depth), math.nan)
    evidence = [
        f"The gradient behind layer 1 is {rules.power(first)} times the last state's.",
    ]
    size = rules.growth(facts)
    if size is not None:
        evidence.append(
            f"Features change in size by a factor {rules.power(size)} over the depth."
        )
    deviation = rules.smallest_deviation(facts, facts.depth)
    if not math.isnan(deviation):
        evidence.append(
            f"{deviation:.0%} of the last features differ from component constants."
        )
    return rule.finding(
        f"Healthy: signal and gradient pass all {facts.depth} layers",
        "healthy",
        "whole network",
        evidence,
        ["If accuracy still falls with depth, look at the data and the optimiser."],
    )


def _not_depth(evidence: str) -> Finding:
    return _rule("not-a-depth-problem").finding(
        "Not a depth problem: the same network at depth 1 fails the same way",
        "critical",
        "whole network",
        [evidence],
        ["Look at the features, the labels and the scale of the weights first."],
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
        "learning-rate",
        "The learning rate of a monitored training is too high.",
        ("loss",),
        "the loss rises above 1.5 times its start, and breaks, stays above 0.9 of it, "
        "or leaves half of what refitting the last layer would gain undone; at the "
        "first step all layers had gradients within a factor of 10^3, no features were "
        "smooth, and the graph does not squash",
        "On eight small networks it never speaks at moderate rates; "
        "`training_rules.RISE`.",
        training_rules.learning_rate,
    ),
    Rule(
        "non-finite",
        "Features or gradients are NaN or infinite; the first bad layer is named.",
        ("non_finite",),
        "one entry that is not finite, in the caller's precision",
        "IEEE 754: whatever is computed from NaN is NaN.",
        rules.non_finite,
    ),
    Rule(
        "non-finite-training",
        "Numbers broke in a monitored training; the steps and the layer are named.",
        ("loss",),
        "a loss, feature or gradient that is not finite, up to the last measured step",
        "IEEE 754: a weight that has become NaN stays it.",
        training_rules.non_finite_training,
    ),
    Rule(
        "equal-labels",
        "The labels that enter the loss do not differ.",
        ("labels.distinct",),
        "one distinct label",
        "The best predictor is a constant.",
        rules.labels,
    ),
    Rule(
        "wrong-output-activation",
        "The output ends in an activation before a loss that has its own. A note where "
        "it does no harm.",
        ("loss",),
        "critical if a short training loses more than 10 points by it; untried, if it "
        "is flat for more than 60 % of the labels, the loss cannot fall below 90 % of "
        "a constant's, or more than 10 % of the labels' variance is out of reach",
        "Bounded logits alone cost under 3 points in our runs.",
        data_rules.wrong_output_activation,
    ),
    Rule(
        "constant-features",
        "All nodes have the same features.",
        ("features.varying",),
        "no varying column",
        "Message passing on constants can only count neighbours.",
        rules.features,
    ),
    Rule(
        "complete-graph",
        "Nearly all nodes are joined. A note where it does no harm.",
        ("data.joined",),
        "80 % of the pairs; critical if the deviation from constants falls below a "
        "tenth within two layers, or if features alone predict less than 90 % of the "
        "labels and neighbours none",
        "The mean over all nodes is a constant.",
        data_rules.complete_graph,
    ),
    Rule(
        "frozen-layers",
        "A layer cannot learn. A note where it does no harm.",
        ("weights.frozen",),
        "critical if a copy with all weights trained shortly is more than 10 points "
        "better; untried, if the effective rank of its matrices is below 2 and that of "
        "the features falls below 60 % in it",
        "Frozen layers of full rank cost nothing in our runs.",
        data_rules.frozen_layers,
    ),
    Rule(
        "exactly-zero",
        "Features are exactly zero from a layer on, in the caller's precision.",
        ("exact_zeros",),
        "all entries of a state, and of all behind it, are 0",
        "Then the output does not depend on the input.",
        rules.exactly_zero,
    ),
    Rule(
        "vanishing-gradients",
        "The gradient shrinks on its way to the first layer.",
        ("gradient.state.relative",),
        "below 10^-3 of the last state's behind layer 1; critical below 10^-6",
        "10^-3: a step that trains the last layer in ten steps trains the first in ten "
        "thousand. 10^-6: below the resolution of float32. Arroyo et al. 2025, "
        "Proposition 3.3 and equation (6).",
        rules.vanishing,
    ),
    Rule(
        "exploding-gradients",
        "The gradient grows on its way to the first layer.",
        ("gradient.state.relative",),
        "above 10^3 times the last state's behind layer 1; critical above 10^6",
        "The mirror image of vanishing; Pascanu et al. 2013.",
        rules.exploding,
    ),
    Rule(
        "over-smoothing-to-zero",
        "Features shrink towards zero with depth.",
        ("feature_rms",),
        "root mean square below 10^-3 of that behind layer 1; critical below 10^-6",
        "Arroyo et al. 2025, Propositions 4.2 and 4.3: contraction towards the fixed "
        "point 0.",
        rules.to_zero,
    ),
    Rule(
        "dead-units",
        "Units are zero on every node.",
        ("dead_units",),
        "more than half of the units of a hidden state",
        "A switched-off unit passes neither signal nor gradient; half of them is what "
        "a symmetric ReLU layer loses per node, not per unit.",
        rules.dead,
    ),
    Rule(
        "over-smoothing-to-constants",
        "Nodes of one component become indistinguishable.",
        ("deviation.constant", "deviation.degree"),
        "less than 1 % of a state behind a layer differs from the operator's kernel",
        "A read-out must amplify what is left a hundredfold. Keriven 2025, Theorem 1; "
        "the kernel is constants for stochastic operators, the root of the degrees for "
        "GCN's.",
        rules.to_constants,
    ),
    Rule(
        "spurious-stationary-point",
        "With its last layer trained, no other layer learns.",
        ("loss.refit",),
        "with the last layer refitted, the relative change of the loss per relative "
        "change of weights is below 10^-3 in every layer below it, and the loss is at "
        "least 95 % of the best constant's",
        "Backward oversmoothing: equation (6.6) in `graphfathom.theory.backward`. "
        "10^-3: a step of a tenth gains less than 0.01 %; layers that learn have 0.1 "
        "to 10.",
        stationary_rules.spurious_stationary_point,
    ),
    Rule(
        "stuck-head",
        "Training left the loss high, and the last layer alone makes it low.",
        ("loss.refit", "loss.constant"),
        "a frozen last layer, and a copy with all weights trained shortly is more than "
        "10 points better; or refitting the last layer lowers the loss below 0.7 of "
        "the best constant's, and at the end of training more than a quarter of that "
        "is left undone, with steady losses",
        "Refitting the last layer is a small problem that any optimiser solves.",
        stationary_rules.stuck_head,
    ),
    Rule(
        "uniform-attention",
        "Attention does not choose among neighbours. A note where it need not.",
        ("attention.entropy",),
        "entropy of at least 1 - 10^-6 of that of equal coefficients; a warning if no "
        "trained parameter changes it and a copy with all weights trained shortly is "
        "more than 10 points better (untried: features predict labels so much better "
        "than the mean of the neighbours)",
        "GATConv starts at 0.98 to 0.999.",
        data_rules.uniform_attention,
    ),
    Rule(
        "over-squashing",
        "Far nodes are not heard: by the graph, by the layers, or by both.",
        ("sensitivity.far",),
        "at the distance r <= L/2.5 that a tenth of the pairs reach: topology term "
        "below 10^-2 (a note alone where only the model term is below 10^-3)",
        "Arroyo et al. 2025, Theorem 5.1: the sensitivity is bounded by a model term "
        "times a topology term. With fewer layers few walks go so far on any graph. "
        "10^-2 and 10^-3: rewired and stabilized, the dumbbell is above.",
        over_squashing,
    ),
    Rule(
        "underflow",
        "Numbers are subnormal or underflow in the caller's precision.",
        ("subnormals",),
        "more than 1 % subnormal entries of a state, or a gradient that is exactly 0",
        "IEEE 754: subnormal numbers lose digits one by one. How much slower a CPU is "
        "on them differs: `benchmarks/subnormal_cost.py`.",
        rules.underflow,
    ),
    Rule(
        "label-noise",
        "Labels contradict the features. A note where a network can live with it.",
        ("labels.majority",),
        "validation labels more than 15 points and 3 standard errors easier to predict "
        "than training labels (a warning if that costs more than 10 points); or "
        "confident guesses err at 75 % of the usual rate or more; or nothing predicts "
        "the labels",
        "Block models of every difficulty: 1 of 352 clean tasks is suspected.",
        data_rules.label_noise,
    ),
    Rule(
        "under-reaching",
        "The network has fewer layers than the graph is wide. A note, never a verdict.",
        ("data.diameter",),
        "fewer layers than a lower bound of the diameter",
        "Alon and Yahav 2021: without labels of known distance it is no defect.",
        rules.reach,
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
        "None of the other rules applies; their thresholds are in the documentation.",
    ),
)
"""All rules, in order of precedence."""
