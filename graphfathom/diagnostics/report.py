"""The frozen record of a diagnosis: verdict, findings, observations, settings."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graphfathom.diagnostics.observations import Observations

__all__ = ["SEVERITIES", "Finding", "Report", "encode"]

SEVERITIES = ("healthy", "note", "unknown", "warning", "critical")
"""From harmless to fatal; ``--fail-on`` compares positions in this tuple."""

FORMAT = 1
"""Version of ``report.json``; raised when a reader must change."""


@dataclass(frozen=True)
class Finding:
    """One conclusion: what, where, how bad, why we say so, what to do."""

    name: str
    """Stable identifier, e.g. ``"vanishing-gradients"``."""
    title: str
    """The conclusion in one short sentence without a final stop."""
    severity: str
    """One of :data:`SEVERITIES`."""
    where: str
    """The place in the network, e.g. ``"layers 1-40 of 64"``."""
    evidence: tuple[str, ...]
    """Measured facts, one sentence each, with their numbers."""
    advice: tuple[str, ...]
    """What to try, the most promising first."""
    source: str
    """Where the rule and its threshold come from."""


@dataclass(frozen=True)
class Report:
    """Everything a diagnosis found out; plots, pages and the terminal read only this.

    Args:
        findings: In order of precedence: the first is the verdict.
        observations: The table behind them.
        layers: Name of each layer; ``layer:k`` is ``layers[k - 1]``.
        states: Name of each state's tensors, e.g. ``(("x",), ("x", "x0"))``.
        model: ``{"name", "parameters", "dtype", "device", ...}``.
        data: ``{"name", "nodes", "edges", "features", "components", ...}``.
        settings: What was asked for and what was chosen (mode, loss, seed, ...).
        notes: What was guessed, reduced, lost or refused, one sentence each.
        versions: Package name to version.
        cost: Stage of the diagnosis to seconds.
    """

    findings: tuple[Finding, ...]
    observations: Observations
    layers: tuple[str, ...] = ()
    states: tuple[tuple[str, ...], ...] = ()
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> Finding:
        """The finding with the highest precedence."""
        return self.findings[0]

    @property
    def severity(self) -> str:
        """The worst severity among the findings."""
        return max((f.severity for f in self.findings), key=SEVERITIES.index)

    def __post_init__(self) -> None:
        if not self.findings:
            raise ValueError(
                "`findings` must have at least one entry, the verdict. Got none."
            )
        for finding in self.findings:
            if finding.severity not in SEVERITIES:
                raise ValueError(
                    f"`severity` must be one of {', '.join(SEVERITIES)}. "
                    f"Got {finding.severity!r}."
                )

    def __str__(self) -> str:
        from graphfathom import terminal

        return terminal.render(self)

    def __repr__(self) -> str:
        return (
            f"Report({self.verdict.name}, {self.verdict.severity}, "
            f"{len(self.layers)} layers, {len(self.observations)} observations)"
        )

    def _repr_html_(self) -> str:
        from graphfathom import html

        return html.fragment(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON; the inverse of :meth:`from_dict`.

        JSON has no NaN and no infinity: they are the strings ``"nan"``, ``"inf"`` and
        ``"-inf"``.
        """
        record = {
            "format": FORMAT,
            "verdict": self.verdict.title,
            "severity": self.severity,
            **{name: getattr(self, name) for name in PLAIN},
            "findings": [asdict(finding) for finding in self.findings],
            "observations": self.observations.to_rows(),
        }
        return encode(record)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Report:
        """Rebuild a report.

        Raises:
            ValueError: If it was written by a version with another format.
        """
        if record.get("format") != FORMAT:
            raise ValueError(
                f"`format` of a report must be {FORMAT}. Got {record.get('format')!r}: "
                "diagnose again, or read it with the version that wrote it."
            )
        findings = [
            Finding(
                **finding
                | {
                    "evidence": tuple(finding["evidence"]),
                    "advice": tuple(finding["advice"]),
                }
            )
            for finding in record["findings"]
        ]
        plain = {name: record[name] for name in PLAIN}
        plain["layers"] = tuple(plain["layers"])
        plain["states"] = tuple(tuple(names) for names in plain["states"])
        plain["notes"] = tuple(plain["notes"])
        plain["cost"] = {key: _number(value) for key, value in plain["cost"].items()}
        numbers = ("value", "stderr")
        rows = Observations.from_rows(
            row | {name: _number(row[name]) for name in numbers}
            for row in record["observations"]
        )
        return cls(findings=tuple(findings), observations=rows, **plain)

    def save(self, folder: str | Path) -> Path:
        """Write ``report.html``, ``report.json`` and each plot as SVG with its CSV.

        Args:
            folder: Made if it is not there; files of an earlier report are replaced.

        Returns:
            The path of ``report.html``.
        """
        from graphfathom import html, plotting

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
        for name, figure in plotting.figures(self).items():
            svg = plotting.to_svg(figure)
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
            csv = plotting.to_csv(self, name)
            (folder / f"{name}.csv").write_text(csv, encoding="utf-8")
        page = folder / "report.html"
        page.write_text(html.render(self), encoding="utf-8")
        return page

    @classmethod
    def load(cls, folder: str | Path) -> Report:
        """Read the ``report.json`` of a folder.

        Raises:
            FileNotFoundError: If there is none.
        """
        path = Path(folder) / "report.json"
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))


PLAIN = (
    "layers",
    "states",
    "model",
    "data",
    "settings",
    "notes",
    "versions",
    "cost",
)
"""Fields that are JSON values as they are."""


def encode(value: Any) -> Any:
    """The value with what JSON does not have as strings: ``"nan"``, ``"-inf"``."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return value


def _number(value: Any) -> Any:
    """Undo :func:`encode` where a number is meant: a name may be "nan" too."""
    return float(value) if isinstance(value, str) else value
