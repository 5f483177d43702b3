"""Diagnose: why a graph network does not learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.report import Report
from graphfathom.diagnostics.trace import BYTE_BUDGET
from graphfathom.diagnostics.training_rules import trajectory_rows
from graphfathom.problem import Problem
from graphfathom.verbs.comparison import CONTROLS, compare
from graphfathom.verbs.deep import MAX_SECONDS
from graphfathom.verbs.session import Session, silent

__all__ = ["diagnose"]


@torch.inference_mode(mode=False)
@torch.enable_grad()
def diagnose(
    model: nn.Module | Problem,
    data: Any = None,
    *,
    forward_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    target: Tensor | str | None = None,
    mask: Tensor | str | None = None,
    mode: str = "auto",
    layers: str | None = None,
    trajectory: Observations | None = None,
    controls: str = "untrained",
    deep: bool = False,
    max_seconds: float = MAX_SECONDS,
    seed: int = 0,
    byte_budget: int = BYTE_BUDGET,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Find out why a graph network does not learn.

    The model is not changed: not its weights, buffers, gradients, hooks, mode, device
    or precision, nor any random state.

    Args:
        model: The network, or a :class:`~graphfathom.problem.Problem`, which already
            holds the next six arguments.
        data: What it runs on; see :class:`~graphfathom.problem.Problem`.
        forward_fn: How to call it, if not by name.
        loss: ``loss(output, target)``, if it is not to be inferred.
        target: Labels, or their name in the data.
        mask: Rows that enter the loss, or their name in the data.
        mode: ``"auto"``, ``"init"`` or ``"eval"``.
        layers: Pattern of the names of the modules that are layers, e.g.
            ``"convs.*"``. Default: message passing is found by role.
        trajectory: What a :class:`~graphfathom.monitoring.Monitor` has seen while the
            network was trained, to be judged with the rest.
        controls: ``"none"``; ``"untrained"``: the same network at depth 1, the same in
            state-space form and an MLP are measured beside it; ``"trained"``: they and
            the network itself are trained for a short time as well, on copies. Unless
            ``"none"``, a copy is also trained with and without what may do harm:
            frozen weights, an activation behind the output.
        deep: Whether to estimate the densities of singular values, those of all layers
            together, sensitivities by distance, and what theory predicts as well.
            Each says its price first.
        max_seconds: Longest that one of these may take; a longer one is left out.
        seed: Seed of the random probes and of the controls.
        byte_budget: Bytes of saved tensors that may be alive at a time.
        progress: Called with a few words at the beginning of each stage.

    Returns:
        The report: verdict, findings, observations, notes.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an option is out of range, the data cannot be used or no layer
            is found.
        ForwardError: If the model's own forward raises; the message names the layer.

    Example:
        >>> from torch_geometric.nn import GCN
        >>> data = graphfathom.datasets.csbm(60, 3, avg_degree=4, homophily=0.8, seed=0)
        >>> gcn = GCN(data.num_features, 16, num_layers=32, out_channels=3)
        >>> diagnose(gcn, data).verdict.name
        'vanishing-gradients'
    """
    if controls not in CONTROLS:
        raise ValueError(
            f"`controls` must be one of {', '.join(CONTROLS)}. Got {controls!r}."
        )
    if not max_seconds > 0:
        raise ValueError(
            f"`max_seconds` must be > 0, a limit for each deep estimate. Got "
            f"{max_seconds}: for none, leave `deep` out."
        )
    if isinstance(model, Problem):
        problem = model
    else:
        problem = Problem(model, data, forward_fn, loss, target, mask, mode)
    session = Session(problem, layers, seed, byte_budget, progress or silent)
    session.rows += trajectory_rows(trajectory)
    session.measure(max_seconds if deep else None)
    if controls != "none":
        with session.stage("controls"):
            compare(session, trained=controls == "trained")
    return session.report(controls)
