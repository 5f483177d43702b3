"""Scores of the verdict suite: who is sick, which verdicts are right, how sure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from _verdict_cases import Case
from _verdict_diseases import DISEASES

__all__ = ["Outcome", "label", "markdown", "scores", "wilson"]

SICK, HEALTHY = 10.0, 2.0
"""Points of test accuracy below the repaired twin."""
GAIN = 5.0
"""Points of test accuracy by which advice must raise it to be right."""
HARMLESS = ("healthy", "note")
PREFACE = "not-a-depth-problem"
"""Says of the finding behind it that one layer has it too; no disease by itself."""


def label(accuracy: float, twin: float) -> str:
    """What a case has earned: ``"sick"``, ``"healthy"`` or ``"between"``."""
    if twin - accuracy >= SICK:
        return "sick"
    return "healthy" if twin - accuracy <= HEALTHY else "between"


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    r"""Wilson's interval of a share, by default of 95 %.

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n
        + z^2 / 4n^2}}{1 + z^2 / n}

    Args:
        right: Number of successes.
        count: Number of trials n; of none, the interval is all of [0, 1].
        z: Quantile of the normal distribution.

    References:
        | Probable Inference, the Law of Succession, and Statistical Inference
        | (Wilson, 1927), https://doi.org/10.1080/01621459.1927.10502953
    """
    if count == 0:
        return 0.0, 1.0
    share, square = right / count, z**2 / count
    centre = share + square / 2
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count))
    low, high = ((centre + sign * half) / (1 + square) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


@dataclass(frozen=True)
class Outcome:
    """All that was found out about a case."""

    case: Case
    accuracy: float
    twin: float
    findings: tuple[dict[str, Any], ...]
    """Name, severity, title of each, in the report's order."""
    advice: dict[str, Any] | None = None
    """The remedy, whether it removed the finding, and the accuracy with it."""

    @property
    def label(self) -> str:
        """What the case has earned."""
        return label(self.accuracy, self.twin)

    @property
    def row(self) -> str | None:
        """The disease that is really there, None if the case is not scored."""
        if self.label == "healthy":
            return "healthy"
        is_drawn_sick = self.case.disease != "healthy" and self.label == "sick"
        return self.case.disease if is_drawn_sick else None

    @property
    def first(self) -> str:
        """The first finding; what the preface refers to, where the cause is no depth.

        A disease of depth must not be said not to be one.
        """
        names = [finding["name"] for finding in self.findings]
        is_preface = names[0] == PREFACE and len(names) > 1
        skips = is_preface and not DISEASES[self.case.disease].cause_is_depth
        return names[1] if skips else names[0]

    @property
    def is_right(self) -> bool:
        """Whether a sick case has the right first finding, a healthy one no finding."""
        if self.row == "healthy":
            return all(found["severity"] in HARMLESS for found in self.findings)
        return self.row is not None and self.first in DISEASES[self.row].accepted


def scores(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """All numbers of the claim."""
    outcomes = list(outcomes)
    scored = [outcome for outcome in outcomes if outcome.row is not None]
    healthy = [outcome for outcome in scored if outcome.row == "healthy"]
    named = Counter(outcome.first for outcome in scored)
    unseen = [outcome for outcome in scored if any(outcome.case.is_unseen)]
    treated = [o for o in scored if o.row != "healthy" and o.advice is not None]
    return {
        "right": _share(scored),
        "healthy called sick": sum(not outcome.is_right for outcome in healthy),
        "healthy": len(healthy),
        "unseen architecture or graph": _share(unseen),
        "cases": len(outcomes),
        "not scored": len(outcomes) - len(scored),
        "labels": _labels(outcomes),
        "precision": {
            name: _share([o for o in scored if o.first == name]) for name in named
        },
        "recall": {
            name: _share([o for o in scored if o.row == name]) for name in DISEASES
        },
        "confusion": {
            name: dict(Counter(o.first for o in scored if o.row == name))
            for name in DISEASES
        },
        "advice": _advice(treated),
        "wrong": [_described(outcome) for outcome in scored if not outcome.is_right],
    }


def markdown(found: dict[str, Any]) -> str:
    """Recall, confusion and precision as tables."""
    lines = ["| disease | cases | right | interval | first findings |"]
    lines.append("| --- | ---: | ---: | --- | --- |")
    for name, share in found["recall"].items():
        counts = sorted(found["confusion"][name].items(), key=lambda item: -item[1])
        texts = ", ".join(f"`{first}` {count}" for first, count in counts)
        lines.append(f"| {name} | {share['of']} | {_text(share)} | {texts} |")
    lines += ["", "| first finding | times | right | interval |"]
    lines.append("| --- | ---: | ---: | --- |")
    for name, share in sorted(found["precision"].items()):
        lines.append(f"| `{name}` | {share['of']} | {_text(share)} |")
    lines += [
        "",
        "| advice | times | finding gone | accuracy up | right | interval |",
    ]
    lines.append("| --- | ---: | ---: | ---: | ---: | --- |")
    for name, share in found["advice"].items():
        parts = f"{share['gone']} | {share['up']}"
        lines.append(f"| {name} | {share['of']} | {parts} | {_text(share)} |")
    return "\n".join(lines) + "\n"


def _text(share: dict[str, Any]) -> str:
    low, high = share["interval"]
    if not share["of"]:
        return "– | –"
    return f"{100 * share['share']:.0f} % | {100 * low:.0f}–{100 * high:.0f} %"


def _share(outcomes: list[Outcome]) -> dict[str, Any]:
    return _counted(sum(o.is_right for o in outcomes), len(outcomes))


def _counted(right: int, count: int) -> dict[str, Any]:
    interval = [round(bound, 4) for bound in wilson(right, count)]
    share = round(right / count, 4) if count else None
    return {"right": right, "of": count, "share": share, "interval": interval}


def _labels(outcomes: list[Outcome]) -> dict[str, dict[str, int]]:
    """How many cases of each disease have earned which label."""
    return {
        name: dict(Counter(o.label for o in outcomes if o.case.disease == name))
        for name in DISEASES
    }


def _advice(treated: list[Outcome]) -> dict[str, Any]:
    """Of each remedy and of all: how often the finding went and the accuracy rose."""
    remedies = sorted({o.advice["remedy"] for o in treated if o.advice})
    found = {name: _followed(treated, {name}) for name in remedies}
    return found | {"all": _followed(treated, set(remedies))}


def _followed(treated: list[Outcome], remedies: set[str]) -> dict[str, Any]:
    rows = [
        (o.advice["gone"], o.advice["accuracy"] - o.accuracy >= GAIN)
        for o in treated
        if o.advice and o.advice["remedy"] in remedies
    ]
    counts = {"gone": sum(g for g, _ in rows), "up": sum(up for _, up in rows)}
    return counts | _counted(sum(gone and up for gone, up in rows), len(rows))


def _described(outcome: Outcome) -> dict[str, Any]:
    return outcome.case.to_dict() | {
        "label": outcome.label,
        "accuracy": outcome.accuracy,
        "twin": outcome.twin,
        "findings": [found["title"] for found in outcome.findings],
    }
