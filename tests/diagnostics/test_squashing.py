"""Over-squashing: the rule on written tables, and the four cells of the dumbbell."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from tables import found, names
from torch import nn
from torch_geometric.data import Data
from torch_geometric.nn import GCN

import graphfathom as gf
from graphfathom.diagnostics.findings import RULES
from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import Finding, Report
from graphfathom.diagnostics.rules import Facts
from graphfathom.diagnostics.squashing import (
    BOTH,
    MODEL,
    REWIRE,
    STABILIZE,
    STRENGTHEN,
    TOPOLOGY,
    over_squashing,
)

RULE = next(rule for rule in RULES if rule.name == "over-squashing")
TINY = 1e-9
WIDTH, DEPTH = 16, 16


def judged(
    model: dict[int, float],
    topology: dict[int, float],
    *,
    share: float | None = None,
) -> Finding | None:
    """The finding on a table of the two terms at each distance, the last one far.

    ``share`` of the layers are in state-space form.
    """
    rows = [Observation("sensitivity.far", "model", max(model))]
    if share is not None:
        rows.append(Observation("layers.state_space", "model", share))
    for name, numbers in (
        ("sensitivity.model", model),
        ("sensitivity.topology", topology),
        ("sensitivity", {r: model[r] + topology[r] for r in model}),
    ):
        rows += [Observation(name, f"distance:{r}", v) for r, v in numbers.items()]
    return over_squashing(Facts(Observations(rows), ("conv",) * 10), RULE)


def far(model: float, topology: float, **options) -> Finding | None:
    """The same with both terms at 4 hops, the farthest distance."""
    near = dict.fromkeys(range(4), 0.0)
    return judged(near | {4: model}, near | {4: topology}, **options)


@pytest.mark.parametrize(
    ("model", "topology", "causes", "severity"),
    [
        (MODEL, TOPOLOGY, None, None),
        (MODEL - TINY, TOPOLOGY, "the layers", "note"),
        (MODEL, TOPOLOGY - TINY, "the graph", "warning"),
        (MODEL - TINY, TOPOLOGY - TINY, "the graph and the layers", "warning"),
        (-math.inf, 0.0, "the layers", "note"),
    ],
)
def test_each_cause_has_its_threshold(
    model: float, topology: float, causes: str | None, severity: str | None
) -> None:
    finding = far(model, topology)
    if causes is None:
        assert finding is None
        return
    assert finding is not None
    title = f"Over-squashing by {causes}: nodes 4 hops apart hardly hear each other"
    assert finding.title == title
    assert finding.severity == severity
    assert finding.where == "pairs of nodes 4 hops apart"


@pytest.mark.parametrize(
    ("model", "topology", "share", "advice"),
    [
        (0.0, -3.0, 0.0, (REWIRE,)),
        (-4.0, 0.0, 0.0, (STABILIZE,)),
        (-4.0, 0.0, None, (STABILIZE,)),
        (-4.0, 0.0, 1.0, (STRENGTHEN,)),
        (-4.0, -3.0, 0.0, (REWIRE, STABILIZE, BOTH)),
        (-4.0, -3.0, 1.0, (REWIRE, STRENGTHEN, BOTH)),
    ],
)
def test_advice_follows_the_causes(
    model: float, topology: float, share: float | None, advice: tuple[str, ...]
) -> None:
    finding = far(model, topology, share=share)
    assert finding is not None
    assert finding.advice == advice


def test_evidence_states_the_split() -> None:
    finding = far(-4.0, -2.5)
    assert finding is not None
    assert finding.evidence == (
        "The derivative of one node by another, 4 hops away, has norm 10^-6.5.",
        "Of the walks of the graph such a pair has 0.00316 of what pairs have on "
        "average; the layers leave 0.0001 of that.",
    )


def test_the_bound_is_named_where_it_is_known() -> None:
    near = dict.fromkeys(range(5), 0.0)
    rows = [
        Observation(name, f"distance:{r}", -5.0 if r == 4 else value)
        for name in ("sensitivity", "sensitivity.model", "sensitivity.topology")
        for r, value in near.items()
    ]
    rows.append(Observation("sensitivity.far", "model", 4.0))
    rows.append(Observation("theory.sensitivity", "distance:4", 2.0))
    finding = over_squashing(Facts(Observations(rows), ("c",) * 8), RULE)
    assert finding is not None
    assert finding.evidence[-1] == "Theorem 5.1 bounds it by 100."


def test_without_the_measure_the_rule_is_silent() -> None:
    assert "over-squashing" not in names(found({}))


@functools.cache
def diagnosed(rewired: bool, stabilized: bool) -> Report:
    """A cell of the table: a GCN of 16 layers on two cliques with a bridge."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        data = gf.datasets.dumbbell(20, 4, seed=0)
        data = gf.transforms.Rewire(4)(data) if rewired else data
        torch.manual_seed(0)
        model = GCN(data.num_features, WIDTH, DEPTH, 5)
        model = gf.stabilize(model, data) if stabilized else model
        return gf.diagnose(model, data, controls="none", deep=True)
    finally:
        torch.set_default_dtype(default)


@pytest.mark.parametrize(
    ("rewired", "stabilized", "causes"),
    [
        (False, False, "the graph and the layers"),
        (True, False, "the layers"),
        (False, True, "the graph"),
        (True, True, ""),
    ],
)
def test_the_dumbbell_needs_both(rewired: bool, stabilized: bool, causes: str) -> None:
    report = diagnosed(rewired, stabilized)
    titles = [f.title for f in report.findings if f.name == "over-squashing"]
    expected = f"Over-squashing by {causes}: nodes {3 if rewired else 6} hops apart"
    assert [title.removesuffix(" hardly hear each other") for title in titles] == (
        [expected] if causes else []
    )


@pytest.mark.parametrize("rewired", [False, True])
def test_the_topology_term_is_that_of_the_graph_alone(rewired: bool) -> None:
    tables = [diagnosed(rewired, form).observations for form in (False, True)]
    first, second = (table.series("sensitivity.topology") for table in tables)
    assert first == second


def test_a_weak_state_space_network_is_advised_to_be_stronger() -> None:
    data = gf.datasets.dumbbell(20, 4, seed=0)
    model: nn.Module = gf.nn.GNNSSM(
        5, WIDTH, 5, num_layers=DEPTH, input=gf.nn.Scalar(1e-3)
    )
    report = gf.diagnose(model, with_double(data), controls="none", deep=True)
    finding = next(f for f in report.findings if f.name == "over-squashing")
    assert finding.advice == (REWIRE, STRENGTHEN, BOTH)


def with_double(data: Data) -> Data:
    data.x = data.x.to(torch.get_default_dtype())
    return data
