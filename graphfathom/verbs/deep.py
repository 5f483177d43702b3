"""What a diagnosis measures only when it is asked to look deep."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from graphfathom.diagnostics import (
    densities,
    distances,
    linearisation,
    predictions,
    stationarity_bounds,
)
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.spectra import sampled_layers
from graphfathom.diagnostics.structure import GraphStructure

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace
    from graphfathom.verbs.session import Session

__all__ = ["MAX_SECONDS", "deepen"]

MAX_SECONDS = 300.0
"""Longest that one estimate may take unless told otherwise: a coffee."""

Count = Callable[["Trace"], int]
Run = Callable[["Trace", torch.Generator], list[Observation]]


def deepen(
    session: Session,
    trace: Trace,
    structure: GraphStructure | None,
    max_seconds: float,
) -> None:
    """Add densities, products, sensitivities and predictions to a diagnosis.

    Each estimate says first how many products with a layer it takes, and about how
    long; one that would take too long is left out, and the notes say so.

    Args:
        session: The diagnosis that rows and notes are added to.
        trace: Its network.
        structure: The graph of the energies, None if there is none.
        max_seconds: Longest that one estimate may take.
    """
    with session.stage("price of a product"):
        usual, dense = _seconds(trace)
    for name, count, run in _estimates(session, structure):
        products = count(trace)
        seconds = dense if run is densities.density_observations else usual
        price = f"{products:,} products with a layer, about {products * seconds:.1f} s"
        if products * seconds > max_seconds:
            session.notes.append(
                f"Left out: {name}. They would take {price}, and `max_seconds` is "
                f"{max_seconds:g}."
            )
            continue
        try:
            with session.stage(name, price):
                session.rows += run(trace, session.generator())
        except ValueError as error:
            session.notes.append(f"No {name}: {error}")
        except OverflowError:
            session.notes.append(f"No {name}: numbers leave the range of float64.")


def _estimates(
    session: Session, structure: GraphStructure | None
) -> tuple[tuple[str, Count, Run], ...]:
    """Name, number of products and measure."""

    def predict(trace: Trace, generator: torch.Generator) -> list[Observation]:
        return predictions.prediction_observations(trace, structure, generator)

    def linearise(trace: Trace, _: torch.Generator) -> list[Observation]:
        return linearisation.linearisation_observations(trace, structure)

    def bound(trace: Trace, _: torch.Generator) -> list[Observation]:
        return stationarity_bounds.bound_observations(trace, session.recapture)

    return (
        (
            "densities of singular values",
            densities.density_products,
            densities.density_observations,
        ),
        (
            "singular values of all layers together",
            densities.product_products,
            densities.product_observations,
        ),
        (
            "sensitivities by distance",
            distances.distance_products,
            distances.distance_observations,
        ),
        ("predictions of theory", predictions.prediction_products, predict),
        ("linearisation of errors", linearisation.linearisation_products, linearise),
        ("bounds of stationary gradients", stationarity_bounds.bound_products, bound),
    )


def _seconds(trace: Trace) -> tuple[float, float]:
    """Seconds of a product with a usual layer, and of one of a density.

    A density takes the first layer as often as others, which may be much wider, and
    makes each product orthogonal to those before: on Cora three times as long.
    """
    layers = sampled_layers(trace.num_layers, densities.NUM_LAYERS)
    times = [_product_seconds(trace, k) for k in layers]
    return statistics.median(times), 4 * statistics.mean(times)


def _product_seconds(trace: Trace, k: int) -> float:
    """Seconds of a product with a layer, the mean of either side."""
    segment, before, behind = trace.segment(k), trace.states[k - 1], trace.states[k]
    seconds = math.inf
    for _ in range(2):  # the first one also builds what the others reuse
        start = time.perf_counter()
        with suppress(RuntimeError):  # not every layer can be differentiated twice
            segment.jvp(tuple(map(torch.ones_like, before.tensors)))
        segment.vjp(tuple(map(torch.ones_like, behind.tensors)))
        seconds = min(seconds, time.perf_counter() - start)
    segment.release()
    return seconds / 2
