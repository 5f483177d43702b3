"""Over-squashing: far nodes are not heard, by the fault of the graph or the layers."""

from __future__ import annotations

import math

from graphfathom.diagnostics.report import Finding
from graphfathom.diagnostics.rules import Facts, Rule, power

__all__ = ["over_squashing"]

MODEL = -3.0
"""log10 of what the layers leave of the sensitivity to a far node."""
TOPOLOGY = -2.0
"""log10 of what a far pair has of the walks of the graph, relative to all pairs."""

REWIRE = (
    "Rewire the graph: `graphfathom.transforms.Rewire(num_edges=...)` adds the edges "
    "that shorten it most."
)
STABILIZE = (
    "Stabilize the network: `graphfathom.stabilize(model, data)` keeps what is sent "
    "over the depth, so that it arrives."
)
STRENGTHEN = (
    "The network has the state-space form: make its messages stronger with "
    "`graphfathom.calibrate(problem, strength=...)`, or give it more layers."
)
BOTH = "Do both: on this graph with these layers, neither is enough alone."


def over_squashing(facts: Facts, rule: Rule) -> Finding | None:
    """Split the sensitivity to far nodes, and say which part is to blame."""
    far = facts.value("sensitivity.far")
    if math.isnan(far):
        return None
    r = round(far)
    place = f"distance:{r}"
    model = facts.value("sensitivity.model", place)
    topology = facts.value("sensitivity.topology", place)
    causes, advice = [], []
    if topology < TOPOLOGY:
        causes.append("the graph")
        advice.append(REWIRE)
    if model < MODEL:
        causes.append("the layers")
        formed = facts.value("layers.state_space") > 0
        advice.append(STRENGTHEN if formed else STABILIZE)
    if not causes:
        return None
    return rule.finding(
        f"Over-squashing by {' and '.join(causes)}: nodes {r} hops apart hardly hear "
        "each other",
        "warning" if topology < TOPOLOGY else "note",
        f"pairs of nodes {r} hops apart",
        [
            f"The derivative of one node by another, {r} hops away, has norm "
            f"{power(facts.value('sensitivity', place))}.",
            f"Of the walks of the graph such a pair has {power(topology)} of what "
            f"pairs have on average; the layers leave {power(model)} of that.",
            *_bound(facts, place),
        ],
        [*advice, *([BOTH] if len(causes) == 2 else [])],
    )


def _bound(facts: Facts, place: str) -> list[str]:
    """What Theorem 5.1 allows, where it was computed."""
    bound = facts.value("theory.sensitivity", place)
    return [] if math.isnan(bound) else [f"Theorem 5.1 bounds it by {power(bound)}."]
