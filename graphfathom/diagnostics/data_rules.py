"""Rules on labels, outputs, frozen layers, dense graphs and attention.

Each of these can be found in networks that learn well. What is found is a note, and a
warning only where the table also shows that it does harm.
"""

from __future__ import annotations

import math

from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.report import Finding
from graphfathom.diagnostics.rules import Facts, Rule, smallest_deviation

__all__ = [
    "complete_graph",
    "frozen_layers",
    "label_noise",
    "trial",
    "uniform_attention",
    "wrong_output_activation",
]

INPUTS = ("features", "neighbours", "both", "products")
"""What labels were predicted from, see ``label_facts``."""
LOST = 0.1
"""Accuracy that a user would miss: ten points."""
SIGMAS = 2.0
"""Standard errors beyond which a difference is not taken for chance."""
CERTAIN = 3.0
"""Standard errors where a healthy task must not be suspected."""
NOISY = 0.15
"""Accuracy by which training labels are harder to predict than validation labels."""
EVEN = 0.75
"""Error of confident guesses over that of all, from which errors do not depend on
confidence. On block models of every difficulty it is below 0.6 without noise."""
LEARNABLE = 0.6
"""Accuracy below which confident guesses err on clean labels too."""
POWER = 0.05
"""Largest standard error with which labels may be called random."""

BLOCKED = 0.6
"""Share of labels whose output is flat, from which networks mostly did not recover."""
FLOOR = 0.9
"""Smallest loss within reach, relative to a constant's: little can be learnt."""
UNREACHABLE = 0.1
"""Share of the labels' variance outside of what the output can be."""

RANK = 2.0
"""Effective rank below which a matrix passes on little more than one number a node."""
DROP = 0.6
"""Effective rank behind a layer over that before it; with full weights it is above."""

DENSE = 0.8
"""Share of joined pairs from which neighbourhoods hardly differ."""
ALIKE = 0.1
"""Deviation of features from constants, relative to that of the input."""
KNOWN = 0.9
"""Accuracy of the features alone, with which the graph is not needed."""

UNIFORM = 1 - 1e-6
"""Entropy of attention that does not choose; GATConv starts at 0.98 to 0.9999."""
FIXED = -8.0
"""log10 of the coefficients' gradient below which training does not change them."""


def wrong_output_activation(facts: Facts, rule: Rule) -> Finding | None:
    """An activation before a loss that has its own; critical where it does harm."""
    prefix = "output.conflict."
    found = [r.name for r in facts.table.select(run=facts.run) if prefix in r.name]
    if not found:
        return None
    name = found[0].removeprefix(prefix)
    evidence, harmful = _output_harm(facts)
    severity = "critical" if harmful else "note"
    return rule.finding(
        f"The output ends in {name}, but the loss expects numbers without bounds",
        severity,
        "output",
        [f"The last operation that made the output is {name}.", *evidence],
        [f"Return what {name} is given: the loss applies its own activation."],
    )


def _output_harm(facts: Facts) -> tuple[list[str], bool]:
    """What the activation costs, in words, and whether it is too much."""
    evidence, harmful = [], False
    floor = facts.value("output.floor")
    if not math.isnan(floor):
        evidence.append(
            f"Within its bounds the loss stays above {floor:.0%} of a constant's."
        )
        harmful |= floor > FLOOR
    blocked = facts.value("output.blocked")
    if blocked > 0:
        evidence.append(
            f"For {blocked:.0%} of the labels it is flat on the wrong side."
        )
        harmful |= blocked > BLOCKED
    lost = facts.value("output.unreachable")
    if not math.isnan(lost):
        evidence.append(f"{lost:.0%} of the labels' variance is beyond its bounds.")
        harmful |= lost > UNREACHABLE
    tried = trial(facts, "without activation")
    if tried is not None:  # and need not be guessed
        evidence.append(
            f"Trained for a short time with it: accuracy {tried[0]:.0%}; without: "
            f"{tried[1]:.0%}."
        )
        harmful = tried[1] - tried[0] > LOST
    return evidence, harmful


def trial(facts: Facts, remedy: str) -> tuple[float, float] | None:
    """Accuracies after a short training, as the network is and with a remedy."""
    for split in ("val", "test", "train"):
        tried = [
            facts.table.value(f"accuracy.{split}", run=run)
            for run in ("model (short training)", remedy)
        ]
        if not any(map(math.isnan, tried)):
            return tried[0], tried[1]
    return None


def frozen_layers(facts: Facts, rule: Rule) -> Finding | None:
    """Layers that cannot learn; critical where one passes too little on."""
    shares = facts.series("weights.frozen")
    frozen = [k for k, share in shares.items() if share > 0.5]
    if not frozen:
        return None
    evidence, harmful = _cost_of_freezing(facts)
    narrow = [(k, text) for k in frozen if (text := _narrowness(facts, k))]
    if harmful is None:  # not tried
        harmful = bool(narrow)
    k, *texts = narrow[0] if narrow else (frozen[0],)
    share = f"{shares[k]:.0%} of its parameters do not require gradients."
    evidence = [share, *evidence, *texts]
    if not harmful:
        return rule.finding(
            f"{len(frozen)} of {facts.depth} layers are frozen",
            "note",
            facts.layer(k),
            evidence,
            ["No reason to worry if this is what you want."],
        )
    return rule.finding(
        f"Frozen {facts.layer(k)} lets too little through, and training cannot mend it",
        "critical",
        facts.layer(k),
        evidence,
        [
            "Let it train: `requires_grad_(True)`, and start it anew with "
            "`reset_parameters()`, or load weights that pass more on.",
        ],
    )


def _narrowness(facts: Facts, k: int) -> str:
    """What a frozen layer loses, in words; empty if it passes most on."""
    weights = facts.value("weights.frozen.rank", f"layer:{k}")
    before, behind = (facts.value("effective_rank", f"state:{j}") for j in (k - 1, k))
    if not (weights < RANK and behind < DROP * before):
        return ""
    return (
        f"The effective rank of its matrices is at most {weights:.1f}, and that of the "
        f"features falls from {before:.1f} to {behind:.1f} in it."
    )


def _cost_of_freezing(facts: Facts) -> tuple[list[str], bool | None]:
    """What a trial says of the frozen weights, and whether they do harm, if tried."""
    tried = trial(facts, "unfrozen")
    if tried is None:
        return [], None
    text = (
        f"Trained for a short time, the network reaches an accuracy of {tried[0]:.0%}; "
        f"with all its weights, {tried[1]:.0%}."
    )
    return [text], tried[1] - tried[0] > LOST


def complete_graph(facts: Facts, rule: Rule) -> Finding | None:
    """All nodes joined; critical where features become alike or labels need more."""
    joined = facts.value("data.joined")
    if not joined >= DENSE:
        return None
    start = smallest_deviation(facts, 0)
    behind = [smallest_deviation(facts, k) for k in (1, 2) if k <= facts.depth]
    left = min([v for v in behind if not math.isnan(v)], default=math.nan)
    evidence = [f"{joined:.0%} of all pairs within a component are joined."]
    harmful = left < ALIKE * start
    if not math.isnan(left):
        evidence.append(
            f"Features deviate from constants by {start:.2f} at first, and by "
            f"{left:.2g} within two layers."
        )
    own, neighbours = _labels(facts, "features"), _labels(facts, "neighbours")
    if own is not None and neighbours is not None:
        evidence.append(
            f"A linear predictor is right on {own.value:.0%} of the training labels by "
            f"the features alone, on {neighbours.value:.0%} by the neighbours' mean."
        )
        harmful |= own.value < KNOWN and not _above(neighbours, facts)
    return rule.finding(
        "Nearly all nodes are joined: every neighbourhood is the same",
        "critical" if harmful else "note",
        "graph",
        evidence,
        [
            "Keep only the edges that mean something, e.g. to the nearest neighbours.",
            "Or let the layers choose among neighbours (attention), or leave the graph "
            "out: compare with the control `mlp`.",
        ],
    )


def uniform_attention(facts: Facts, rule: Rule) -> Finding | None:
    """Attention that does not choose; a warning where it should and cannot."""
    entropy = facts.series("attention.entropy")
    uniform = [k for k, value in entropy.items() if value >= UNIFORM]
    if not uniform:
        return None
    learnable = facts.series("attention.learnable")
    fixed = [k for k in uniform if learnable.get(k, math.nan) < FIXED]
    own, neighbours = _labels(facts, "features"), _labels(facts, "neighbours")
    evidence = [
        f"Its entropy is {min(entropy[k] for k in uniform):.6f} of that of equal "
        f"coefficients in {len(uniform)} of {len(entropy)} layers with attention.",
    ]
    if fixed:
        evidence.append("No trained parameter changes it.")
    tried, harmful = _cost_of_freezing(facts)
    if own is not None and neighbours is not None:
        lost = _difference(own, neighbours)
        chance = SIGMAS * _error(own, neighbours)
        if harmful is None:
            harmful = lost > max(LOST, chance)
        evidence.append(
            f"A linear predictor is right on {own.value:.0%} of the training labels by "
            f"the features alone, on {neighbours.value:.0%} by the neighbours' mean."
        )
    return rule.finding(
        "Attention is uniform: good and bad neighbours count alike",
        "warning" if fixed and harmful else "note",
        f"layers {uniform[0]}-{uniform[-1]} of {facts.depth}",
        [*evidence, *tried],
        [
            "Let the attention train: `requires_grad_(True)`, with weights that do not "
            "start at zero."
        ]
        if fixed
        else ["No reason to worry before training: it starts so."],
    )


def label_noise(facts: Facts, rule: Rule) -> Finding | None:
    """Labels that contradict the features; a warning where that does harm."""
    for look in (_noise_in_training, _noise_everywhere, _random_labels):
        finding = look(facts, rule)
        if finding is not None:
            return finding
    return None


def _noise_in_training(facts: Facts, rule: Rule) -> Finding | None:
    """Training labels are harder to predict than validation labels."""
    tried, val = _tried(facts), _labels(facts, "val")
    taught = facts.table.get("labels.agreement.val", run=facts.run)
    if not tried or val is None or taught is None:
        return None
    train = max(tried, key=lambda row: row.value)
    if not _difference(val, train) > max(NOISY, CERTAIN * _error(val, train)):
        return None
    cost = _difference(val, taught)
    harmful = cost > max(LOST, SIGMAS * _error(val, taught))
    return rule.finding(
        f"Label noise: training labels are {_difference(val, train):.0%} harder to "
        "predict than validation labels",
        "warning" if harmful else "note",
        "labels",
        [
            f"In cross-validation a linear predictor is right on {val.value:.0%} of "
            f"the validation labels, on {train.value:.0%} of the training labels.",
            f"Learnt from the training labels it is right on {taught.value:.0%} of the "
            "validation labels.",
        ],
        NOISE_ADVICE,
    )


def _noise_everywhere(facts: Facts, rule: Rule) -> Finding | None:
    """Confident guesses err as often as all others."""
    every, sure = _labels(facts, "both"), _labels(facts, "confident")
    if every is None or sure is None or every.value < LEARNABLE:
        return None
    if max(row.value for row in _tried(facts)) > every.value + SIGMAS * _error(every):
        return None  # it is the predictor that errs
    wrong, chance = 1 - sure.value, CERTAIN * _error(sure)
    if not wrong > max(EVEN * (1 - every.value), LOST + chance):
        return None
    # Without validation labels those that the network is judged by may be clean.
    compared = _labels(facts, "val") is not None
    return rule.finding(
        f"Label noise: about {wrong:.0%} of the labels contradict what is known of "
        "their nodes",
        "warning" if compared else "note",
        "labels",
        [
            f"A linear predictor on two hops errs on {1 - every.value:.0%} of the "
            f"labels, and on {wrong:.0%} of those that it is most certain of.",
            "Where labels are only hard to tell, confident guesses are right.",
        ],
        NOISE_ADVICE,
    )


def _random_labels(facts: Facts, rule: Rule) -> Finding | None:
    """Nothing that was tried predicts the labels."""
    tried = [
        _labels(facts, name) for name in ("features", "neighbours", "both", "products")
    ]
    known = [row for row in tried if row is not None]
    edges = facts.table.get("labels.agreement.edges", run=facts.run)
    if len(known) < len(tried) or any(_above(row, facts) for row in known):
        return None
    if max(row.stderr or 0.0 for row in known) > POWER:
        return None
    if edges is not None and abs(edges.value) > 3 * (edges.stderr or 0.0):
        return None
    if facts.value("features.varying") == 0:
        return None
    best = max(row.value for row in known)
    return rule.finding(
        "Labels look random, as far as two hops and pairs of features show",
        "warning",
        "labels",
        [
            f"No linear predictor is right on more than {best:.0%} of the training "
            f"labels; {facts.value('labels.majority'):.0%} are of one class.",
            "Joined nodes have the same label as often as by chance.",
        ],
        [
            "Check that features and labels are in the same order.",
            "If labels depend on far nodes, ignore this: it looks two hops far.",
        ],
    )


NOISE_ADVICE = [
    "Check the labels: look first at those that neighbours and features contradict.",
    "Until then stop early by validation accuracy, and do not enlarge the network.",
]


def _labels(facts: Facts, name: str) -> Observation | None:
    return facts.table.get(f"labels.predictable.{name}", run=facts.run)


def _tried(facts: Facts) -> list[Observation]:
    """The predictor's accuracy on every input; empty if it was not measured."""
    rows = [_labels(facts, name) for name in INPUTS]
    return [row for row in rows if row is not None]


def _above(row: Observation, facts: Facts) -> bool:
    """Whether an accuracy is above that of the most frequent class."""
    limit = facts.value("labels.majority") + SIGMAS * _error(row)
    return row.value > limit


def _difference(a: Observation, b: Observation) -> float:
    return a.value - b.value


def _error(*rows: Observation) -> float:
    """Standard error of a share, or of the difference of independent ones."""
    return math.hypot(*(row.stderr or 0.0 for row in rows))
