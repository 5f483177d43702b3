"""Tables of observations written by hand, for the tests of rules and findings."""

from __future__ import annotations

import math
from collections.abc import Mapping

from graphfathom.diagnostics.findings import find
from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import Finding

__all__ = ["DEPTH", "LAYERS", "Change", "Numbers", "found", "healthy", "names", "table"]

DEPTH = 4
LAYERS = tuple(f"convs.{k}" for k in range(DEPTH))

Numbers = Mapping[str, float | Mapping[int, float]]
"""Name to the value of the model, or to those of each state or layer."""
Change = dict[str, float | dict[int, float]]
"""What differs from a healthy network."""

PER_LAYER = {"mean_squared_gain", "gradient.weights", "zero_rows", "zero_columns"}
PER_DISTANCE = ("sensitivity",)
"""Beginnings of the names that are measured between nodes at a distance."""
OWN = ("exact_zeros", "subnormals", "non_finite", "gradient_")
"""Beginnings of the names that are measured in the caller's precision."""


def healthy(depth: int = DEPTH) -> dict[str, float | dict[int, float]]:
    """A network in which nothing is wrong."""
    per_state = {
        "feature_rms": 0.0,
        "feature_norm": 1.0,
        "dirichlet_energy.normalized": 0.0,
        "deviation.constant": 0.5,
        "deviation.degree": 0.5,
        "dead_units": 0.0,
        "gradient.state": -2.0,
        "gradient.state.relative": 0.0,
        "gain_to_output": 0.0,
        "exact_zeros": 0.5,
        "subnormals": 0.0,
        "non_finite": 0.0,
        "gradient_zeros": 0.5,
        "gradient_subnormals": 0.0,
        "gradient_non_finite": 0.0,
    }
    whole = {
        "data.nodes": 10.0,
        "data.edges": 20.0,
        "data.diameter": 2.0,
        "features.varying": 5.0,
        "labels.distinct": 3.0,
        "loss": 1.0,
    }
    numbers: dict[str, float | dict[int, float]] = dict(whole)
    for name, value in per_state.items():
        numbers[name] = dict.fromkeys(range(depth + 1), value)
    numbers["mean_squared_gain"] = dict.fromkeys(range(1, depth + 1), 1.0)
    return numbers


def changed(numbers: Numbers, change: Numbers) -> Change:
    """Numbers with some of them replaced, state by state."""
    result: Change = {
        n: dict(v) if isinstance(v, Mapping) else v for n, v in numbers.items()
    }
    for name, value in change.items():
        before = result.get(name)
        if isinstance(value, Mapping) and isinstance(before, dict):
            before.update(value)
        else:
            result[name] = dict(value) if isinstance(value, Mapping) else value
    return result


def table(numbers: Numbers, run: str = "model") -> Observations:
    """A table of one run."""
    rows = []
    for name, value in numbers.items():
        dtype = "float32" if name.startswith(OWN) else "float64"
        place = "layer" if name in PER_LAYER else "state"
        place = "distance" if name.startswith(PER_DISTANCE) else place
        if isinstance(value, Mapping):
            rows += [
                Observation(name, f"{place}:{k}", v, dtype=dtype, run=run)
                for k, v in value.items()
            ]
        elif not math.isnan(value):
            rows.append(Observation(name, "model", value, dtype=dtype, run=run))
    return Observations(rows)


def found(
    change: Numbers, depth: int = DEPTH, without: tuple[str, ...] = ()
) -> tuple[Finding, ...]:
    """Findings on a network that is healthy but for what is changed or missing."""
    numbers = changed(healthy(depth), change)
    for name in without:
        del numbers[name]
    return find(table(numbers), tuple(f"convs.{k}" for k in range(depth)))


def names(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.name for finding in findings]
