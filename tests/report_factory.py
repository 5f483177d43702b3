"""Made-up but plausible reports for the tests of everything that shows a report.

``make_report`` draws its numbers from a seeded generator: no model is run. The slopes
are those of a plain GCN on a citation graph, where every layer takes about a third of
the signal and of the gradient away.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from deep_rows import deep_rows

from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.report import Finding, Report

__all__ = ["KINDS", "make_report", "report_of", "states"]

FLOAT32_TINY = math.log10(2.0**-126)
FLOAT32_ZERO = math.log10(2.0**-149)
NODES, EDGES, WIDTH = 2708, 5278, 64


@dataclass(frozen=True)
class Regime:
    """Decades gained per layer and what the states converge to."""

    forward: float
    backward: float
    mixing: float
    finding: Finding


def finding(
    name: str,
    title: str,
    severity: str,
    where: str,
    evidence: tuple[str, ...],
    advice: tuple[str, ...],
) -> Finding:
    source = "Graph-coupled state spaces (Arroyo et al., 2025), Section 3; https://arxiv.org/abs/2502.10818"
    return Finding(name, title, severity, where, evidence, advice, source)


VANISHING = finding(
    "vanishing-gradients",
    "Gradients vanish on the way to the first layers",
    "critical",
    "layers 1-58 of 64",
    (
        "At the first layer the gradient of the loss is 10^-10.9 of its last value.",
        "A layer keeps 0.46 of a squared change (mean squared gain, ± 0.01).",
        "No gradient is zero in float32 yet; at this slope one is from layer 270 on.",
    ),
    (
        "Put the layers into state-space form: `gf.stabilize(model, data)`.",
        'Or add residual connections: `DeepGCNLayer(block="res+")` keeps a gain of 1.',
        "Or use fewer layers: depth 2 reaches a loss of 0.63 on the same data.",
    ),
)
HEALTHY = finding(
    "healthy",
    "No sign of trouble with depth",
    "healthy",
    "all 64 layers",
    (
        "Gradients at the first layer are 0.92 of those at the last.",
        "The effective rank of the last state is 38.2 of 64.",
    ),
    (),
)
SMOOTHING = finding(
    "over-smoothing.constant",
    "The nodes become alike: over-smoothing to component constants",
    "warning",
    "states 9-64",
    (
        "From state 9 on, less than 1 % of a state differs from component constants.",
        "The effective rank falls from 41.3 to 1.0.",
    ),
    ("Keep part of the input in every layer, as GCN2Conv does.",),
)
EXPLODING = finding(
    "exploding-gradients",
    "Gradients explode on the way to the first layers",
    "critical",
    "layers 1-44",
    ("The gradient at the first layer is 10^14.1 times that at the last.",),
    ("Scale the weights by 0.6.",),
)
NON_FINITE = finding(
    "non-finite",
    "Numbers stop being finite at layer 38 (convs.37)",
    "critical",
    "layer 38 of 64",
    ("State 38 holds 173,312 values that are infinite or NaN in float32.",),
    ("Lower the learning rate or put a norm before layer 38.",),
)
ZERO = finding(
    "zero-states",
    "The states are exactly zero from layer 269 on in float32",
    "critical",
    "states 269-320 of 320",
    ("Every entry of state 269 is exactly zero in float32; its size is 10^-45.1.",),
    ("Put the layers into state-space form: `gf.stabilize(model, data)`.",),
)
UNKNOWN = finding(
    "not-enough-evidence",
    "Not enough evidence for a verdict",
    "unknown",
    "the whole network",
    (),
    (),
)
NOTE = finding(
    "under-reaching",
    "After one layer a node has seen 0.2 % of the others",
    "note",
    "layer 1",
    ("The diameter of the graph is 19.",),
    (),
)
HOSTILE = finding(
    "<script>alert(1)</script>",
    'A title with <b>tags</b>, "quotes" & a \x1b[31mterminal escape\x1b[0m '
    + "and-no-break" * 20,
    "warning",
    "layer <img src=x onerror=alert(1)>\nsecond line",
    tuple(
        f"Evidence {k}: " + "a very long sentence with 界面 wide characters " * 9
        for k in range(30)
    ),
    tuple(f"Advice {k}: `f(<x>)` " + "x" * 300 for k in range(20)),
)

REGIMES = {
    "vanishing": Regime(-0.167, -0.17, 0.10, VANISHING),
    "healthy": Regime(0.0, 0.0005, 0.002, HEALTHY),
    "smoothing": Regime(-0.001, -0.01, 0.25, SMOOTHING),
    "exploding": Regime(0.2, 0.22, 0.05, EXPLODING),
    "non-finite": Regime(1.0, 0.9, 0.02, NON_FINITE),
    "zero": Regime(-0.167, -0.17, 0.10, ZERO),
    "tiny": Regime(-0.1, -0.1, 0.1, UNKNOWN),
    "bare": Regime(0.0, 0.0, 0.0, UNKNOWN),
    "hostile": Regime(-0.167, -0.17, 0.10, HOSTILE),
}
KINDS = tuple(REGIMES)
"""``tiny`` has one layer and two measured names, ``bare`` has only a finding."""


def states(
    name: str, values: Iterable[float], unit: str = "1", **more: Any
) -> list[Observation]:
    """A quantity at state 0, 1, 2, ..."""
    return [
        Observation(name, f"state:{k}", value, unit=unit, **more)
        for k, value in enumerate(values)
    ]


def report_of(*rows: Observation, **fields: Any) -> Report:
    """A report of given observations; the verdict does not matter."""
    table = Observations(rows)
    return Report(**{"findings": (HEALTHY,), "observations": table, **fields})


def make_report(
    depth: int = 64, kind: str = "vanishing", *, controls: bool = True, seed: int = 0
) -> Report:
    """A fully populated fake report; see :data:`KINDS`."""
    regime = REGIMES[kind]
    if kind == "bare":
        return Report(findings=(regime.finding,), observations=Observations())
    depth = 1 if kind == "tiny" else depth
    verdict = regime.finding
    verdict = replace(verdict, where=verdict.where.replace("of 64", f"of {depth}"))
    return Report(
        findings=(verdict, *_others(kind)),
        observations=Observations(_rows(regime, depth, kind, controls, seed)),
        layers=tuple(f"convs.{k}" for k in range(depth)),
        states=(("x",),) * (depth + 1),
        model={"name": "GCN", "parameters": 365_191, "dtype": "float32"},
        data={"name": "Cora", "nodes": NODES, "edges": EDGES, "features": 1433},
        settings={"mode": "train", "loss": "cross-entropy", "seed": 0, "layers": None},
        notes=(
            "The loss was not given: cross-entropy, because the labels are integers.",
            "Singular values were taken on 16 of the layers, evenly spaced.",
            "Batch statistics were used without updating the buffers.",
            *(f"Another note, number {k}." for k in range(25 * (kind == "hostile"))),
        ),
        versions={"graphfathom": "0.1.0", "python": "3.11.9", "torch": "2.13.0"},
        cost={"trace": 1.21, "signal": 0.64, "gradients": 2.31, "jacobians": 5.87},
    )


def _others(kind: str) -> tuple[Finding, ...]:
    if kind == "hostile":
        return tuple(replace(HOSTILE, severity="note") for _ in range(25))
    others = {
        "vanishing": (SMOOTHING, NOTE),
        "zero": (VANISHING, SMOOTHING, NOTE),
        "healthy": (NOTE,),
    }
    return others.get(kind, ())


def _rows(
    regime: Regime, depth: int, kind: str, controls: bool, seed: int
) -> list[Observation]:
    rows = list(_run(regime, depth, "model", random.Random(seed), kind))
    rows += deep_rows(depth, regime.backward, seed)
    if kind == "tiny":
        return [row for row in rows if row.name in {"feature_rms", "gradient.state"}]
    if not controls:
        return rows
    mlp = replace(regime, forward=-0.15, backward=-0.16)
    shallow = replace(regime, forward=-0.1, backward=-0.1)
    rows += _run(regime, depth, "model (eval)", random.Random(seed + 1), kind)
    rows += _run(mlp, depth, "mlp", random.Random(seed + 2), "mlp")
    rows += _run(shallow, 1, "shallow", random.Random(seed + 3), "shallow")
    kept = REGIMES["healthy"]
    rows += _run(kept, depth, "stabilized", random.Random(seed + 4), "healthy")
    return rows


def _run(
    regime: Regime, depth: int, run: str, rng: random.Random, kind: str
) -> Iterator[Observation]:
    for k in range(depth + 1):
        yield from _state(regime, depth, run, rng, kind, k)
    for k in range(1, depth + 1):
        yield from _layer(regime, depth, run, rng, k)
    accuracy = {"healthy": 0.8, "mlp": 0.2, "shallow": 0.76}.get(kind, 0.17)
    for name, value, unit in (
        ("loss", math.nan if kind == "non-finite" else 1.9 - accuracy, "1"),
        ("loss.constant", 1.9459, "1"),
        ("accuracy.train", min(1.0, accuracy + 0.12), "1"),
        ("accuracy.val", accuracy, "1"),
        ("accuracy.test", accuracy + 0.01, "1"),
        ("accuracy.majority", 0.302, "1"),
    ):
        yield Observation(name, "model", value, unit=unit, run=run)


def _state(
    regime: Regime, depth: int, run: str, rng: random.Random, kind: str, k: int
) -> Iterator[Observation]:
    def make(
        name: str, value: float, unit: str = "1", dtype: str = "float64", **more: Any
    ) -> Observation:
        place = f"state:{k}"
        return Observation(name, place, value, unit=unit, dtype=dtype, run=run, **more)

    rms = -1.2 + regime.forward * k + rng.gauss(0, 0.02)
    deviation = max(10 ** (-regime.mixing * k) * rng.uniform(0.95, 1.0), 4e-3)
    broken = kind == "non-finite" and k >= 38
    size = math.inf if broken else rms
    energy = 2 * rms + math.log10(EDGES * WIDTH) + 2 * math.log10(deviation)
    yield make("feature_rms", size, "log10")
    yield make("feature_norm", size + 0.5 * math.log10(NODES * WIDTH), "log10")
    yield make("dirichlet_energy.combinatorial", size if broken else energy, "log10")
    yield make("dirichlet_energy.normalized", size if broken else energy - 0.8, "log10")
    rayleigh = 10 ** (energy - 2 * rms) / (NODES * WIDTH)
    measured: dict[str, float] = {
        "rayleigh_quotient.combinatorial": rayleigh,
        "rayleigh_quotient.normalized": rayleigh / 4,
        "effective_rank": 1 + 40 * deviation,
        "deviation.constant": deviation,
        "deviation.degree": max(deviation**1.5, 1e-3),
        "dead_units": min(0.9, 0.01 * k) if regime.forward < -0.1 else 0.02,
    }
    for name, value in measured.items():
        yield make(name, math.nan if broken else value)
    back = -2.4 + regime.backward * (depth - k) + rng.gauss(0, 0.03)
    gradient = math.nan if kind == "non-finite" else back
    gain = regime.backward * (depth - k) + rng.gauss(0, 0.03)
    yield make("gradient.state", gradient, "log10")
    yield make("gradient.state.relative", gradient + 2.4, "log10")
    yield make("gain_to_output", gain, "log10", stderr=0.03)
    differing = 10 ** (-0.2 * min(depth - k, 20))
    for kernel in ("constant", "degree"):
        yield make(f"error.deviation.{kernel}", math.nan if broken else differing)
    yield from _precision(make, kind, rms, back, broken)


def _precision(
    make: Callable[..., Observation], kind: str, rms: float, back: float, broken: bool
) -> Iterator[Observation]:
    zero = kind in {"zero", "hostile"} and rms < FLOAT32_ZERO
    bad = kind == "non-finite"
    for name, share in (
        ("exact_zeros", 1.0 if zero else 0.48),
        ("subnormals", 0.5 if FLOAT32_ZERO <= rms < FLOAT32_TINY else 0.0),
        ("non_finite", 0.9 if broken else 0.0),
        ("gradient_zeros", 1.0 if back < FLOAT32_ZERO else 0.4),
        ("gradient_subnormals", 0.6 if FLOAT32_ZERO <= back < FLOAT32_TINY else 0.0),
        ("gradient_non_finite", 1.0 if bad else 0.0),
    ):
        yield make(name, share, "share", dtype="float32")


def _layer(
    regime: Regime, depth: int, run: str, rng: random.Random, k: int
) -> Iterator[Observation]:
    def make(
        name: str, value: float, unit: str = "1", se: float | None = None
    ) -> Observation:
        return Observation(name, f"layer:{k}", value, se, unit, "float64", run)

    gain = 10 ** (2 * regime.backward) * rng.uniform(0.95, 1.05)
    yield make("mean_squared_gain", gain, se=0.02 * gain)
    yield make("zero_rows", 0.5, "share")
    yield make("zero_columns", 0.02, "share")
    yield make(
        "gradient.weights",
        -3.1 + regime.backward * (depth - k) + rng.gauss(0, 0.1),
        "log10",
    )
    if run == "model":  # of the controls it is not measured
        yield make("stationarity", -0.5 + regime.backward * (depth - k), "log10")
    chosen = (
        {1 + round(i * (depth - 1) / 15) for i in range(16)}
        if depth > 16
        else set(range(1, depth + 1))
    )
    if k in chosen:
        yield make("largest_singular_value", 1.6 * gain**0.5)
        yield make("largest_singular_value.residual", 1e-6)
        yield make("gain_quantile.50", 0.7 * gain**0.5)
        yield make("gain_quantile.10", 0.0 if rng.random() < 0.1 else 0.02 * gain**0.5)
