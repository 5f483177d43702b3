"""Stabilize: the same network in state-space form, at any depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from graphfathom.calibration import (
    LABELS,
    Calibration,
    Criteria,
    calibrate,
    measure_both,
)
from graphfathom.diagnostics.report import Finding, Report
from graphfathom.diagnostics.trace import BYTE_BUDGET
from graphfathom.nn.transition import Transition
from graphfathom.problem import Problem
from graphfathom.verbs.session import Session, silent
from graphfathom.verbs.state_space import as_it_is, inside, set_default

__all__ = ["before_after", "stabilize"]


@torch.inference_mode(mode=False)
@torch.enable_grad()
def stabilize(
    model: nn.Module | Problem,
    data: Any = None,
    *,
    forward_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    target: Tensor | str | None = None,
    mask: Tensor | str | None = None,
    layers: str | None = None,
    strength: float | None = None,
    state: Transition | None = None,
    input: Transition | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> nn.Module:
    r"""Give a network the state-space form, calibrated on its data.

    .. math:: H_{k+1} = r H_k + \beta F_k(H_k) B^\top, \qquad \beta = c / \sqrt L

    with :math:`F_k` everything between two states of the network. The layers and the
    trainable parameters stay the same; :math:`B = I - 11^\top / d` takes the mean over
    the channels off, along which ReLU pushes every state. The strength c and r are
    chosen by :func:`~graphfathom.calibration.calibrate`.

    Args:
        model: The network, or a :class:`~graphfathom.problem.Problem`, which already
            holds the next five arguments. It is not changed.
        data: What it runs on; see :class:`~graphfathom.problem.Problem`.
        forward_fn: How to call it, if not by name.
        loss: ``loss(output, target)``, if it is not to be inferred.
        target: Labels, or their name in the data.
        mask: Rows that enter the loss, or their name in the data.
        layers: Pattern of the names of the modules that are layers, e.g.
            ``"convs.*"``. Default: message passing is found by role.
        strength: Take this c. Default: the largest that meets the criteria.
        state: Another state matrix; its scale is calibrated.
        input: Another input matrix; its scale is calibrated.
        seed: Seed of dropout and of the random probes.
        progress: Called with a sentence per strength tried.

    Returns:
        The stabilized copy. ``print(deep.calibration)`` shows what was chosen and the
        criteria before and after; ``graphfathom.unwrap(deep)`` is the network without
        the state, with the parameters it has then.

    Raises:
        TypeError: If an argument is of the wrong kind.
        RewriteError: If the network has no state-space form or carries a state that
            cannot be scaled.
        CalibrationError: If no strength meets the criteria.

    Example:
        >>> from torch_geometric.nn import GCN
        >>> data = graphfathom.datasets.csbm(60, 3, avg_degree=4, homophily=0.8, seed=0)
        >>> gcn = GCN(data.num_features, 16, num_layers=32, out_channels=3)
        >>> deep = stabilize(gcn, data)
        >>> deep.calibration.after[0].failures()
        ()
    """
    if isinstance(model, Problem):
        problem = model
    else:
        problem = Problem(model, data, forward_fn, loss, target, mask)
    form = as_it_is(problem, layers)
    deep = problem.replace(form, problem.data)
    before = measure_both(deep, seed)
    set_default(form, state, input)
    found = calibrate(deep, strength=strength, seed=seed, progress=progress)
    counts = _trainable(problem.model), _trainable(form)
    form.calibration = replace(found, before=before, parameters=counts)
    return form


def _trainable(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def before_after(
    problem: Problem,
    deep: nn.Module,
    *,
    layers: str | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Diagnose a stabilized network, with the original one measured beside it.

    Args:
        problem: The problem of the original network.
        deep: What :func:`stabilize` returned for it.
        layers: Pattern of the names of the modules that are layers, as in
            :func:`stabilize`: of the original network. Default: message passing is
            found by role.
        seed: Seed of the random probes.
        progress: Called with a few words at the beginning of each stage.

    Returns:
        The diagnosis of ``deep``; the run ``"original"`` is the network as it was.

    Raises:
        TypeError: If ``deep`` was not stabilized.
    """
    calibration = getattr(deep, "calibration", None)
    if not isinstance(calibration, Calibration):
        raise TypeError(
            "`deep` must be the result of stabilize. Got "
            f"{type(deep).__name__} without a calibration."
        )
    session = Session(
        problem.replace(deep, problem.data),
        inside(deep, layers),
        seed,
        BYTE_BUDGET,
        progress or silent,
    )
    session.measure()
    with session.stage("original network"):
        session.measure_run("original", problem, layers)
    report = session.report("none")
    finding = _finding(calibration)
    return replace(
        report,
        findings=(*report.findings, finding),
        settings={**report.settings, "calibration": calibration.to_dict()},
    )


def _finding(calibration: Calibration) -> Finding:
    """The calibration in the words of a report."""
    both = calibration.before, calibration.after
    evidence = []
    for name, label in LABELS.items():
        before, after = (_in_modes(name, runs) for runs in both)
        evidence.append(f"{label}: {before} before, {after} after.")
    radius, scale = calibration.radius, calibration.input_scale
    return Finding(
        name="state-space-form",
        title=(
            f"In state-space form with r = {radius:.5g} and messages scaled by "
            f"{scale:.3g}"
        ),
        severity="note",
        where=f"{calibration.num_steps} steps",
        evidence=tuple(evidence),
        advice=(),
        source="graphfathom.calibration: criteria (a) to (e)",
    )


def _in_modes(name: str, runs: tuple[Criteria, ...]) -> str:
    """A criterion in train and in eval mode, once if they agree."""
    texts = [_number(getattr(criteria, name)) for criteria in runs]
    if len(set(texts)) == 1:
        return texts[0]
    pairs = zip(texts, runs, strict=True)
    return " and ".join(f"{text} ({criteria.mode} mode)" for text, criteria in pairs)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3g}"
