"""Which layers are kept from learning while others learn."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from graphfathom.diagnostics.energy import effective_rank
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.sandbox import copy_model
from graphfathom.diagnostics.trace import CaptureError, Trace, capture
from graphfathom.problem import Problem

__all__ = ["frozen_observations"]

MAX_ENTRIES = 2**22
"""Entries of a matrix above which its singular values take seconds."""


def frozen_observations(
    problem: Problem, trace: Trace, layers: str | None = None
) -> list[Observation]:
    """Share of the parameters of every layer that are not trained.

    A frozen parameter leaves no trace in the graph of a forward pass, so a copy of the
    network is captured in which all are trained.

    Args:
        problem: The caller's problem.
        trace: Its states.
        layers: The pattern that the layers were found by.

    Returns:
        ``weights.frozen`` at ``"layer:k"`` for every layer with parameters, and
        ``weights.frozen.rank``, the largest effective rank of its frozen matrices.
        Nothing if all or none of the network's parameters are frozen, or if it cannot
        be copied.
    """
    own = dict(problem.model.named_parameters())
    frozen = {n: p.detach() for n, p in own.items() if not p.requires_grad}
    if not 0 < len(frozen) < len(own):
        return []
    try:
        model = copy_model(problem.model)
    except Exception:  # whatever a stranger's model raises when copied
        return []
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        thawed = capture(problem.replace(model, problem.data), layers)
    except (CaptureError, RuntimeError):
        return []
    if thawed.layers != trace.layers:
        return []
    names = {id(p): name for name, p in thawed.problem.model.named_parameters()}
    rows = []
    for k in range(1, thawed.num_layers + 1):
        parameters = [names[id(p)] for p in thawed.segment(k).parameters]
        rows += _of_layer(f"layer:{k}", [own[name] for name in parameters])
    return rows


def _of_layer(place: str, parameters: list[Tensor]) -> list[Observation]:
    total = sum(p.numel() for p in parameters)
    still = [p.detach() for p in parameters if not p.requires_grad]
    if not total:
        return []
    share = sum(p.numel() for p in still) / total
    rows = [Observation("weights.frozen", place, share, unit="share")]
    ranks = [_rank(p) for p in still if p.dim() == 2 and min(p.shape) > 1]
    if ranks:
        rows.append(Observation("weights.frozen.rank", place, max(ranks)))
    return rows


def _rank(matrix: Tensor) -> float:
    """Effective rank; NaN if the matrix is too large to look."""
    if matrix.numel() > MAX_ENTRIES:
        return math.nan
    return float(effective_rank(matrix.to(torch.float64)))
