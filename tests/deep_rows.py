"""Made-up but plausible observations of a deep diagnosis, for ``report_factory``."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from graphfathom.diagnostics.observations import Observation

__all__ = ["deep_rows"]

GRID = [round(-3 + k / 10, 1) for k in range(41)]
FAR = 12
"""Hops of the farthest pair."""


def deep_rows(depth: int, gain: float, seed: int) -> list[Observation]:
    """Of a network whose layers change sizes by ``gain`` decades."""
    rng = random.Random(seed)
    layers = sorted({1 + round(i * (depth - 1) / 3) for i in range(4)})
    return [
        *(row for k in layers for row in _spectrum(k, gain, rng)),
        *_product(depth, gain),
        *(row for r in range(FAR + 1) for row in _distance(r, depth, gain)),
        Observation("sensitivity.far", "model", min(9, depth // 2), unit="hops"),
        *_predictions(depth, gain),
    ]


def _log10(
    name: str, place: str, value: float, stderr: float | None = None
) -> Observation:
    return Observation(name, place, value, stderr, "log10")


def _spectrum(k: int, gain: float, rng: random.Random) -> Iterator[Observation]:
    place = f"layer:{k}"
    yield _log10("edge_of_chaos", place, gain + rng.gauss(0, 0.01), 0.01)
    yield Observation("singular_values.below", place, 0.5, 0.03, "share")
    for x in GRID:
        for name, mean, stderr in (
            ("density", gain - 0.3, 0.05),
            ("theory.density", gain, None),
        ):
            height = 1.2 * math.exp(-(((x - mean) / 0.4) ** 2))
            name = f"{name}.log10={x:.1f}"
            yield Observation(name, place, height, stderr, "per decade")


def _product(depth: int, gain: float) -> Iterator[Observation]:
    for i in (1, 2):
        name, value = f"product_singular_value.{i}", (gain + 0.05) * depth - i
        yield _log10(name, "model", value)
        yield _log10(f"{name}.residual", "model", 0.02)
        name, value = f"lyapunov_exponent.{i}", math.log(10) * gain - 0.01 * i
        yield Observation(name, "model", value, unit="nats per layer")


def _distance(r: int, depth: int, gain: float) -> Iterator[Observation]:
    reached = r <= depth
    model = gain * depth - 0.02 * r if reached else math.nan
    topology = 1 - 0.25 * r if reached else -math.inf
    value = model + topology + 0.4 if reached else -math.inf
    place = f"distance:{r}"
    yield _log10("sensitivity", place, value, 0.1)
    yield _log10("sensitivity.model", place, model, 0.1)
    yield _log10("sensitivity.topology", place, topology)
    yield Observation("sensitivity.pairs", place, 1000.0 * 3 ** min(r, FAR - r))
    if reached:
        yield _log10("theory.sensitivity", place, 0.3 * depth + topology - 2)
        yield _log10("theory.sensitivity.topology", place, topology - 2)


def _predictions(depth: int, gain: float) -> Iterator[Observation]:
    yield _log10("theory.sensitivity.model", "model", 0.3 * depth)
    for k in range(1, depth + 1):
        place = f"layer:{k}"
        yield Observation("theory.mean_squared_gain", place, 10 ** (2 * gain))
        yield Observation("theory.largest_singular_value", place, 2 * 10**gain)
        size = (gain + math.log10(2)) * k
        yield _log10("theory.feature_norm", f"state:{k}", 2 + size)
        name = "theory.dirichlet_energy.combinatorial"
        yield _log10(name, f"state:{k}", 6 + 2 * size)
