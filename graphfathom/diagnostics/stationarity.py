r"""Is the network stationary once its last layer is trained, whatever its loss?

Training finds the best last layer at once. From then on the layers below learn only if
gradient still reaches them, so we refit the last layer on a copy and look there: the
answer is the same before training as behind it. See
:mod:`graphfathom.theory.backward` for why deep graph networks are stationary then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from graphfathom.diagnostics.gradients import gradient_observations
from graphfathom.diagnostics.last_layer import Capture, Refit, RefitError, refit_head
from graphfathom.diagnostics.layer_runs import ClosedLayers
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.rates import MAX_EDGES, deflated_modulus, kept_directions
from graphfathom.diagnostics.stationarity_bounds import is_plain
from graphfathom.diagnostics.structure import GraphStructure, Kind
from graphfathom.diagnostics.trace import CaptureError, ForwardError, Trace, capture
from graphfathom.linalg.vector import stable_norm

__all__ = ["stationarity_observations"]

KEEPS = 1e-6
"""How well a propagation must keep what its rate leaves out: weights of a graph that
are given in float32 sum to 1 up to 1e-7."""
KEPT = ("gradient.weights", "error.")
"""Beginnings of the names that are kept of the refitted network."""


def stationarity_observations(
    trace: Trace,
    structure: GraphStructure | None,
    measured: Iterable[Observation],
    recapture: Capture = capture,
) -> tuple[list[Observation], list[str]]:
    r"""What refitting the last layer alone does to loss and gradients.

    .. math:: \log_{10} \frac{\|\partial \mathcal{L} / \partial \theta_k\|
        \, \|\theta_k\|}{|\mathcal{L}|}

    with all parameters :math:`\theta_k` of layer k is its ``stationarity``: no change
    of the layer changes the loss faster, both relative to what they are. It is -inf
    where the gradient is exactly zero, and NaN where only the parameters or the loss
    are; layers without parameters have none.

    Of the whole network ``loss.refit``, ``refit.gradient`` (of loss and penalty at the
    end), ``refit.converged``, ``refit.layer`` (L + 1 for a read-out), ``head.gradient``
    (of the loss, as the model is) and ``head.frozen``, the share of the head's
    parameters that are. ``gradient.to_neighbours`` of a middle layer is the share of
    the gradient of one node's features that goes to other nodes; where that layer is
    :math:`\sigma(P X W)` with a P that keeps constants or :math:`\tilde D^{1/2} 1` on
    each component, ``rate.propagation.constant`` or ``rate.propagation.degree`` is the
    largest modulus of its other eigenvalues.

    Args:
        trace: The network.
        structure: The graph of its N nodes, None if there is none.
        measured: What :func:`~graphfathom.diagnostics.gradients.gradient_observations`
            gave for the network.
        recapture: Records a copy of the problem as the trace was recorded.

    Returns:
        Rows, those of the refitted network with the run ``"refit"``, and notes. Without
        labels no rows; where the last layer cannot be refitted, a note says why.
    """
    if trace.problem.target is None:
        return [], []
    rows = [*_relative(trace, measured)]
    if structure is not None and len(structure.source):
        rows += _to_neighbours(trace, structure)
        rows += _propagation(trace, structure)
    try:
        refit = refit_head(trace, recapture=recapture)
        refitted = recapture(refit.problem)
    except (RefitError, CaptureError, ForwardError) as error:
        return rows, [f"The last layer was not refitted: {error}"]
    rows += _summary(refit, trace.precision)
    found = gradient_observations(refitted, structure)
    found += _relative(refitted, found)
    kept = (row for row in found if row.name.startswith((*KEPT, "stationarity")))
    rows += [replace(row, run="refit") for row in kept]
    notes = []
    if not refit.converged:
        notes.append(
            f"Refitting the last layer did not converge in {refit.iterations} "
            "iterations: its loss is an upper bound."
        )
    return rows, notes


def _summary(refit: Refit, dtype: str) -> Iterator[Observation]:
    for name, value, unit in (
        ("loss.refit", refit.loss, "1"),
        ("refit.gradient", _log10(refit.gradient), "log10"),
        ("refit.converged", float(refit.converged), "1"),
        ("refit.layer", float(refit.layer), "1"),
        ("head.gradient", _log10(refit.start), "log10"),
        ("head.frozen", refit.frozen, "share"),
    ):
        yield Observation(name, "model", value, None, unit, dtype)


def _relative(trace: Trace, measured: Iterable[Observation]) -> list[Observation]:
    """Stationarity of each layer from the gradients of its weights."""
    with torch.no_grad():
        loss = trace.problem.loss_of(trace.output)
    assert loss is not None  # asked for before
    size = _log10(abs(float(loss)))
    rows = []
    for row in measured:
        if row.name != "gradient.weights" or row.index is None:
            continue
        weights = _log10(float(_norm(trace.segment(row.index).parameters)))
        # -inf - -inf is NaN, as it should be, but for a gradient that is zero anyway.
        value = row.value
        if value != -math.inf:
            defined = math.isfinite(weights) and math.isfinite(size)
            value = value + weights - size if defined else math.nan
        rows.append(replace(row, name="stationarity", value=value))
    return rows


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    return stable_norm(torch.cat([t.detach().double().reshape(-1) for t in tensors]))


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else (-math.inf if value == 0 else value)


def _middle(trace: Trace) -> int:
    """The layer that stands for all."""
    return (trace.num_layers + 1) // 2


def _propagation(trace: Trace, structure: GraphStructure) -> list[Observation]:
    """How fast the propagation that a layer is proved to use smooths."""
    form = ClosedLayers(trace).form(_middle(trace))
    if form is None or not is_plain(form):
        return []
    matrix = form.terms[0][0]
    if matrix.nnz > MAX_EDGES or len(form.behind) != structure.num_nodes:
        return []
    for kind in get_args(Kind):
        kept = kept_directions(structure, kind)
        if abs(matrix @ kept - kept).max() < KEEPS:
            name, rate = f"rate.propagation.{kind}", deflated_modulus(matrix, kept)
            return [Observation(name, "model", rate, dtype=trace.precision)]
    return []


def _to_neighbours(trace: Trace, structure: GraphStructure) -> list[Observation]:
    """Whether a layer hears neighbours: a gradient at one node, pulled through it.

    Normalisation by the statistics of a batch passes it too, and is not told apart.
    """
    k = _middle(trace)
    before, behind = trace.states[k - 1], trace.states[k]
    if any(
        state.main.dim() != 2 or len(state.main) != structure.num_nodes
        for state in (before, behind)
    ):
        return []
    ends = torch.cat([structure.source, structure.target])
    node = int(torch.bincount(ends).argmax())
    cotangents = tuple(torch.zeros_like(tensor) for tensor in behind.tensors)
    # Not ones: a state-space layer may be blind to the sum of its channels.
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(behind.main.shape[1], generator=generator, dtype=torch.float64)
    cotangents[0][node] = noise.to(behind.main)
    arrived = trace.segment(k).vjp(cotangents)[0][0].square().sum(1).double()
    total = float(arrived.sum())
    arrived[node] = 0.0
    share = float(arrived.sum()) / total if total > 0 else math.nan
    name, place = "gradient.to_neighbours", f"layer:{k}"
    return [Observation(name, place, share, None, "share", trace.precision)]
