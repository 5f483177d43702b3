"""The grammar of the verdict suite: which cases there are, and what each one is."""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import _verdict_models
import torch
from _verdict_diseases import DISEASES, SEVERITIES, Disease, Trial
from _verdict_graphs import FAMILIES, UNSEEN_FAMILIES, graph
from _verdict_models import ARCHITECTURES, Architecture

__all__ = ["SPLITS", "Case", "build", "draw", "fingerprint", "repaired"]

SPLITS = ("tuning", "held-out")
HEALTHY = 0.24
"""Share of cases without a disease: as many as four diseases have."""
ORDER = ("strong", "moderate", "strong", "mild")
"""Severities in turn: half of the cases should earn their label beyond doubt."""


@dataclass(frozen=True)
class Case:
    """A sentence of the grammar; all else follows from it."""

    disease: str
    severity: str
    architecture: str
    graph: str
    depth: int
    seed: int

    @property
    def is_unseen(self) -> tuple[bool, bool]:
        """Whether architecture and graph are absent from tuning."""
        unseen = ARCHITECTURES[self.architecture].unseen
        return unseen, self.graph in UNSEEN_FAMILIES

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values."""
        return asdict(self)


def draw(split: str, count: int, seed: int) -> list[Case]:
    """Draw cases, as many of each disease as of any other.

    Args:
        split: ``"tuning"`` or ``"held-out"``, where half of the architectures and
            graphs are such as tuning never sees.
        count: Number of cases; about a quarter of them have no disease.
        seed: Seed of the draw.

    Returns:
        The cases in random order, so that the first few are a sample of all.

    Raises:
        ValueError: If the split is unknown or there are too few cases.

    Example:
        >>> sum(case.disease == "healthy" for case in draw("tuning", 100, seed=0))
        24
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}. Got {split!r}.")
    if count < len(DISEASES):
        raise ValueError(
            f"`count` must be >= {len(DISEASES)}, one case of each disease. Got "
            f"{count}."
        )
    rng = random.Random(f"{split}/{seed}")
    well = max(1, round(HEALTHY * count))
    sick = itertools.cycle(name for name in DISEASES if name != "healthy")
    names = ["healthy"] * well + list(itertools.islice(sick, count - well))
    turns = {name: itertools.cycle(ORDER) for name in DISEASES}
    cases = [_draw(name, next(turns[name]), split, rng) for name in names]
    if len(set(cases)) < count:
        raise RuntimeError(f"Seed {seed} draws a case twice: take another.")
    rng.shuffle(cases)
    return cases


def build(case: Case) -> Trial:
    """The trial of a case: always the same weights, graph, labels."""
    disease = DISEASES[case.disease]
    level = disease.levels[case.severity]
    return disease.inflict(_healthy(case, case.depth), level, case.seed)


def repaired(case: Case) -> Trial:
    """The twin, which differs by nothing but the disease.

    Where depth is the cause, and for healthy networks, it has the smallest depth of
    the architecture, with weights of the same law.
    """
    shallow = DISEASES[case.disease].cause_is_depth or case.disease == "healthy"
    smallest = ARCHITECTURES[case.architecture].healthy[0]
    return _healthy(case, smallest if shallow else case.depth)


def fingerprint(case: Case) -> str:
    """Name of what a case and its twin are: weights, data, training, code of models."""
    content = hashlib.sha256(Path(_verdict_models.__file__).read_bytes())
    for trial in (build(case), repaired(case)):
        data = trial.data.to_dict()
        content.update(f"{trial.model} {trial.lr} {trial.epochs} {list(data)}".encode())
        for name, tensor in [*trial.model.state_dict().items(), *data.items()]:
            content.update(name.encode() + tensor.numpy().tobytes())
        frozen = [p.requires_grad for p in trial.model.parameters()]
        content.update(str(frozen).encode())
    return content.hexdigest()[:16]


def _healthy(case: Case, depth: int) -> Trial:
    data, disease = graph(case.graph, case.seed), DISEASES[case.disease]
    if disease.prepare is not None:
        data = disease.prepare(data, case.seed)
    torch.manual_seed(case.seed)
    classes = int(data.y.max()) + 1
    made = ARCHITECTURES[case.architecture].build(data.num_features, classes, depth)
    return Trial(made, data)


def _draw(name: str, severity: str, split: str, rng: random.Random) -> Case:
    assert severity in SEVERITIES
    disease = DISEASES[name]
    fitting = {
        key: value for key, value in ARCHITECTURES.items() if _can_have(value, disease)
    }
    new = [key for key, value in fitting.items() if value.unseen]
    known = [key for key in fitting if key not in new]
    architecture = _choice(known, new, split, rng)
    known_families = [key for key in FAMILIES if key not in UNSEEN_FAMILIES]
    family = _choice(known_families, list(UNSEEN_FAMILIES), split, rng)
    by_severity = disease.depths or {severity: fitting[architecture].healthy}
    depth = rng.choice(by_severity[severity])
    return Case(name, severity, architecture, family, depth, rng.randrange(10**6))


def _can_have(architecture: Architecture, disease: Disease) -> bool:
    has_trait = not disease.trait or getattr(architecture, disease.trait)
    return architecture.kind in disease.kinds and has_trait


def _choice(known: list[str], new: list[str], split: str, rng: random.Random) -> str:
    if split == "held-out" and new and rng.random() < 0.5:
        return rng.choice(new)
    return rng.choice(known)
