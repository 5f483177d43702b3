"""The verdict suite: its grammar, its labels and its scores, without its runs."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import binomtest

from graphfathom.diagnostics.findings import RULES
from graphfathom.diagnostics.report import Finding

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from _verdict_cases import SPLITS, Case, build, draw, fingerprint, repaired
from _verdict_diseases import DISEASES, SEVERITIES
from _verdict_graphs import FAMILIES, UNSEEN_FAMILIES, dumbbells, graph
from _verdict_models import ARCHITECTURES, head, layers
from _verdict_scores import Outcome, label, markdown, scores, wilson
from _verdict_trials import REMEDIES, remedy_of

pytestmark = pytest.mark.usefixtures("float32_default")
all_diseases = pytest.mark.parametrize("disease", list(DISEASES))


def example(disease: str, severity: str = "strong", seed: int = 7) -> Case:
    """A case of a disease, as the grammar draws it."""
    return next(
        case
        for case in draw("tuning", 100, seed)
        if (case.disease, case.severity) == (disease, severity)
    )


@pytest.mark.parametrize("split", SPLITS)
def test_the_grammar_is_balanced_and_repeats_itself(split: str) -> None:
    cases = draw(split, 260, seed=3)
    assert cases == draw(split, 260, seed=3)
    assert len(set(cases)) == 260
    assert not set(cases) & set(draw(split, 260, seed=4))
    counts = Counter(case.disease for case in cases)
    assert set(counts) == set(DISEASES)
    assert counts.pop("healthy") == 62
    assert min(counts.values()) >= 12
    assert max(counts.values()) - min(counts.values()) <= 1
    severities = Counter(case.severity for case in cases)
    assert set(severities) == set(SEVERITIES)
    assert severities["strong"] > 100


def test_tuning_never_sees_what_is_held_out() -> None:
    assert len(UNSEEN_FAMILIES) >= 2
    assert sum(a.unseen for a in ARCHITECTURES.values()) >= 3
    for case in draw("tuning", 260, seed=0):
        assert case.is_unseen == (False, False)
    seen = [case.is_unseen for case in draw("held-out", 260, seed=0)]
    assert sum(architecture for architecture, _ in seen) > 60
    assert sum(family for _, family in seen) > 90


def test_splits_differ_at_the_same_seed() -> None:
    assert not set(draw("tuning", 100, 0)) & set(draw("held-out", 100, 0))


@pytest.mark.parametrize(
    ("split", "count", "message"),
    [
        ("test", 100, r"`split` must be one of tuning, held-out\. Got 'test'"),
        ("tuning", 5, r"`count` must be >= 16, one case of each disease\. Got 5"),
    ],
)
def test_bad_draws_are_refused(split: str, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(split, count, 0)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_graphs_are_small_and_undirected(family: str) -> None:
    data = graph(family, seed=4)
    assert data.validate()
    assert data.is_undirected()
    assert not data.has_self_loops()
    assert 300 <= data.num_nodes <= 400
    assert 3 <= data.num_edges / data.num_nodes <= 12
    masks = data.train_mask.int() + data.val_mask.int() + data.test_mask.int()
    assert bool((masks == 1).all())
    assert set(data.y[data.train_mask].tolist()) == set(data.y.tolist())
    same = data.y[data.edge_index[0]] == data.y[data.edge_index[1]]
    assert float(same.float().mean()) > 0.6, "neighbours help"


def test_dumbbells_ask_the_left_what_the_right_knows() -> None:
    data = dumbbells(bridge=3, size=5, seed=1, count=10)
    assert data.num_nodes == 10 * (2 * 5 + 2)
    asked = data.train_mask | data.val_mask | data.test_mask
    assert int(asked.sum()) == 10 * 5
    own = data.x[asked].argmax(1) == data.y[asked]
    assert float(own.float().mean()) < 0.6, "noise alone"


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_networks_run_at_every_depth_they_are_drawn_at(name: str) -> None:
    data = graph("grid", seed=0)
    architecture = ARCHITECTURES[name]
    for depth in architecture.healthy:
        model = architecture.build(data.num_features, 3, depth)
        assert model(data.x, data.edge_index).shape == (data.num_nodes, 3)
        assert len(layers(model)) == depth
        assert any(p.requires_grad for p in head(model).parameters())


@all_diseases
def test_a_case_is_always_the_same(disease: str) -> None:
    case = example(disease)
    assert fingerprint(case) == fingerprint(case)
    first, again = build(case), build(case)
    for name, tensor in first.model.state_dict().items():
        other = again.model.state_dict()[name]
        assert torch.equal(tensor.nan_to_num(), other.nan_to_num())
    assert torch.equal(first.data.edge_index, again.data.edge_index)


def _contents(case: Case) -> list[dict[str, Any]]:
    found = []
    for trial in (build(case), repaired(case)):
        weights = {k.removeprefix("net."): v for k, v in _weights(trial.model).items()}
        found.append(
            {"weights": weights, "lr": trial.lr, "net": type(trial.model)}
            | {"trains": [p.requires_grad for p in trial.model.parameters()]}
            | {name: trial.data[name] for name in ("x", "y", "edge_index")}
        )
    return found


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return model.state_dict()


TOUCHED = {
    "bottleneck": {"x", "y", "edge_index"},
    "dead-units": {"weights"},
    "stuck-head": {"weights", "trains"},
    "label-noise": {"y"},
    "wrong-output": {"net"},
    "constant-features": {"x"},
    "complete-graph": {"edge_index"},
    "uniform-attention": {"weights", "trains"},
    "learning-rate": {"lr"},
    "frozen-layer": {"weights", "trains"},
    "collapse-to-zero": {"weights"},
    "nan": {"weights"},
}
"""What a disease changes, where it is not the depth."""


@pytest.mark.parametrize("disease", list(TOUCHED))
def test_the_twin_differs_by_the_disease_alone(disease: str) -> None:
    sick, well = _contents(example(disease))
    touched = {name for name in sick if not _same(sick[name], well[name])}
    assert touched == TOUCHED[disease]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_where_depth_is_the_cause_the_twin_is_shallow() -> None:
    for disease in ("contraction", "explosion", "collapse-to-constants"):
        case = example(disease)
        assert len(layers(build(case).model)) == case.depth
        assert len(layers(repaired(case).model)) == 2


def test_diseases_do_what_they_say() -> None:
    trial = build(example("nan"))
    assert any(bool(p.isnan().any()) for p in trial.model.parameters())
    trial = build(example("label-noise"))
    clean = repaired(example("label-noise")).data
    wrong = trial.data.y != clean.y
    assert not bool((wrong & ~clean.train_mask).any())
    assert 0.7 < float(wrong[clean.train_mask].float().mean()) < 1
    trial = build(example("frozen-layer"))
    frozen = layers(trial.model)[0]
    weights = [p for p in frozen.parameters() if p.dim() == 2 and min(p.shape) > 1]
    assert all(int(torch.linalg.matrix_rank(p)) == 1 for p in weights)
    trial = build(example("constant-features"))
    assert float(trial.data.x.std(0).max()) < 1e-6
    data = build(example("complete-graph")).data
    assert data.num_edges == data.num_nodes * (data.num_nodes - 1)


@pytest.mark.parametrize(
    ("accuracy", "twin", "expected"),
    [
        (80, 90, "sick"),
        (80.1, 90, "between"),
        (88, 90, "healthy"),
        (87.9, 90, "between"),
        (95, 90, "healthy"),
    ],
)
def test_labels_are_earned(accuracy: float, twin: float, expected: str) -> None:
    assert label(accuracy, twin) == expected


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (190, 200), (3, 11)])
def test_wilson_intervals_are_those_of_scipy(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right, count) == pytest.approx(
        (expected.low, expected.high), abs=1e-4
    )


def test_of_no_trials_nothing_is_known() -> None:
    assert wilson(0, 0) == (0, 1)


def outcome(
    disease: str,
    *findings: str,
    accuracy: float = 50,
    severity: str = "critical",
    advice: dict[str, Any] | None = None,
) -> Outcome:
    """A case that reached some accuracy, its twin 90, with these findings."""
    case = Case(disease, "strong", "gcn", "grid", 2, 0)
    found = tuple({"name": n, "severity": severity, "title": n} for n in findings)
    return Outcome(case, accuracy, 90.0, found, advice)


@all_diseases
def test_an_accepted_first_finding_is_right(disease: str) -> None:
    if disease == "healthy":
        found = outcome(disease, "healthy", accuracy=90, severity="healthy")
        assert found.is_right
        return
    for name in DISEASES[disease].accepted:
        assert outcome(disease, name).is_right
        assert not outcome(disease, "equal-labels", name).is_right, "not the first"


def test_a_preface_is_skipped_unless_depth_is_the_cause() -> None:
    names = "not-a-depth-problem", "non-finite"
    assert outcome("nan", *names).is_right
    names = "not-a-depth-problem", "vanishing-gradients"
    assert not outcome("contraction", *names).is_right


def test_a_disease_that_does_no_harm_is_scored_as_healthy() -> None:
    well = outcome("wrong-output", "wrong-output-activation", accuracy=89)
    assert (well.row, well.is_right) == ("healthy", False)
    noted = outcome("wrong-output", "healthy", "x", accuracy=89, severity="note")
    assert noted.is_right


def test_what_is_not_scored() -> None:
    assert outcome("nan", "non-finite", accuracy=85).row is None
    assert outcome("healthy", "healthy", accuracy=50).row is None


def test_scores_of_a_known_list() -> None:
    advice = {"remedy": "learning rate", "gone": True, "accuracy": 60.0}
    failed = advice | {"gone": False}
    found = scores(
        [
            outcome("nan", "non-finite"),
            outcome("explosion", "non-finite"),
            outcome("learning-rate", "learning-rate", advice=advice),
            outcome("learning-rate", "learning-rate", advice=failed),
            outcome("label-noise", "learning-rate"),
            outcome("healthy", "healthy", accuracy=90, severity="healthy"),
            outcome("healthy", "dead-units", accuracy=90, severity="warning"),
            outcome("healthy", "healthy", accuracy=85),
        ]
    )
    assert found["right"]["right"] == 5
    assert found["right"]["of"] == 7
    assert found["healthy called sick"] == 1
    assert found["not scored"] == 1
    assert found["precision"]["learning-rate"]["share"] == pytest.approx(
        2 / 3, abs=1e-4
    )
    assert found["precision"]["non-finite"]["share"] == 1
    assert found["recall"]["label-noise"]["share"] == 0
    assert found["recall"]["healthy"]["share"] == 0.5
    assert found["recall"]["bottleneck"]["share"] is None
    assert found["confusion"]["label-noise"] == {"learning-rate": 1}
    followed = found["advice"]["all"]
    assert (followed["of"], followed["gone"], followed["up"]) == (2, 1, 2)
    assert followed["share"] == 0.5
    assert {case["disease"] for case in found["wrong"]} == {"label-noise", "healthy"}
    assert "| nan | 1 | 100 % |" in markdown(found)


def test_accepted_findings_are_findings() -> None:
    known = {rule.name for rule in RULES}
    accepted = {name for disease in DISEASES.values() for name in disease.accepted}
    assert accepted <= known, accepted - known


def finding(*advice: str) -> Finding:
    return Finding("x", "X", "critical", "", (), advice, "")


def test_advice_that_a_program_can_follow_is_recognised() -> None:
    assert remedy_of(finding("Pray.", "Try `graphfathom.stabilize(model, data)`.")) == (
        "graphfathom.stabilize"
    )
    assert remedy_of(finding("Pray.")) is None


@pytest.mark.parametrize("words", list(REMEDIES))
def test_remedies_do_not_change_the_trial_they_are_given(words: str) -> None:
    case = Case("frozen-layer", "mild", "gcn", "grid", 3, 0)
    trial = build(case)
    before = {k: v.clone() for k, v in trial.model.state_dict().items()}
    flags = [p.requires_grad for p in trial.model.parameters()]
    better = REMEDIES[words](trial)
    assert flags == [p.requires_grad for p in trial.model.parameters()]
    assert _same(before, trial.model.state_dict())
    assert torch.equal(trial.data.x, build(case).data.x)
    output = better.model(better.data.x, better.data.edge_index)
    assert bool(output.isfinite().all())
