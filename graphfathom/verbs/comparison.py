"""The controls of a diagnosis: is it the graph, the depth, or the data?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphfathom.diagnostics import facts
from graphfathom.diagnostics.controls import (
    copy_of,
    mlp,
    output_of,
    shallow,
    unfrozen,
)
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.output_facts import without_activation
from graphfathom.diagnostics.sandbox import random_state
from graphfathom.diagnostics.trace import BYTE_BUDGET, capture
from graphfathom.problem import Problem
from graphfathom.training import fit
from graphfathom.verbs.session import Session, silent
from graphfathom.verbs.state_space import data_free, inside

__all__ = ["CONTROLS", "compare", "controls"]

CONTROLS = ("none", "untrained", "trained")
"""How far the controls go."""

SHORT = "model (short training)"
"""The run of the model itself, trained as shortly as its controls."""
TRAINING_EPOCHS = 100
"""Length of a control's training: half of the GCN paper's, enough to see it learn."""


def controls(
    problem: Problem, *, trained: bool = False, seed: int = 0
) -> dict[str, Problem]:
    """Networks to compare with: at depth 1, without the graph, in state-space form.

    ``"shallow"`` is a copy of the network that keeps the first of its repeated layers,
    and the last where the widths demand it; ``"mlp"`` sees the features without the
    graph; ``"stabilized"`` is a copy in state-space form of strength 1, not calibrated.
    One that cannot be built is absent.

    Args:
        problem: The problem whose network is compared.
        trained: Whether to train each for a short time.
        seed: Seed of the initial weights of the MLP and of the training.

    Returns:
        Name to problem.
    """
    session = Session(problem, None, seed, BYTE_BUDGET, silent)
    session.trace = capture(problem)
    built = _build(session)
    if trained:
        for control in built.values():
            _train(control, seed)
    return built


def compare(session: Session, trained: bool) -> None:
    """Measure the controls beside the model.

    Args:
        session: The diagnosis that rows and notes are added to.
        trained: Whether to train them, and a copy of the model, for a short time.
    """
    if session.problem.target is not None:
        _try(session)
    if session.trace is None or session.trace.num_layers < 2:
        return
    built = _build(session)
    if "shallow" not in built:
        session.notes.append(
            "No control at depth 1: no copy with fewer layers runs. Compare with a "
            "shallow network of your own."
        )
    for run, control in built.items():
        session.measure_run(run, control, _pattern(session, run, control))
    if trained:
        _train_all(session, built)


def _build(session: Session) -> dict[str, Problem]:
    """The controls that can be built for a problem."""
    assert session.trace is not None
    candidates = {
        "shallow": shallow(session.problem, session.trace),
        "mlp": mlp(session.problem, session.trace, session.seed),
        "stabilized": _stabilized(session),
    }
    return {run: control for run, control in candidates.items() if control}


def _stabilized(session: Session) -> Problem | None:
    """The network in state-space form, or a note that says why there is none."""
    try:
        return data_free(session.problem, session.pattern)
    except Exception as error:  # also what a stranger's model raises when copied
        reason = str(error).partition(". ")[0].removesuffix(".")
        session.notes.append(f"No control in state-space form: {reason}.")
        return None


def _pattern(session: Session, run: str, control: Problem) -> str | None:
    """Which modules of a control are layers."""
    if run == "stabilized":
        return inside(control.model, session.pattern)
    return "lins.*" if run == "mlp" else session.pattern


def _try(session: Session) -> None:
    """Train copies for a short time: as the network is, and without what looks wrong.

    Most networks learn in spite of frozen weights, or of an activation behind the
    output that the loss does not expect; only a trial tells which do not.
    """
    with session.stage("trials"), random_state():
        torch.manual_seed(session.seed)
        try:
            remedies = {"unfrozen": unfrozen(session.problem)}
            names = [row.name for row in session.rows]
            if any(name.startswith("output.conflict.") for name in names):
                remedies["without activation"] = without_activation(session.problem)
            tried = {run: problem for run, problem in remedies.items() if problem}
            if tried:
                tried[SHORT] = copy_of(session.problem)
        except Exception as error:  # whatever a stranger's model raises when copied
            session.notes.append(f"Nothing was tried out: {error}")
            return
        for run, problem in tried.items():
            _train_and_score(session, run, problem, select=True)


def _train_and_score(
    session: Session, run: str, problem: Problem, select: bool = False
) -> None:
    """Train a network for a short time, and add how well it does."""
    if not any(p.requires_grad for p in problem.model.parameters()):
        session.notes.append(f"Not trained: `{run}`, all its weights are frozen.")
        return
    session.progress(f"training {run}")
    _train(problem, session.seed, select)
    output = output_of(problem)
    session.rows += facts.accuracy_observations(problem, output, run)
    session.rows += facts.loss_observations(problem, output, run)


def _train_all(session: Session, built: dict[str, Problem]) -> None:
    """Train the controls and a copy of the model, and add how well they do."""
    if SHORT not in (row.run for row in session.rows):
        try:
            built[SHORT] = copy_of(session.problem)
        except Exception as error:  # whatever a stranger's model raises when copied
            session.notes.append(
                "The model was not trained for comparison: it cannot be copied "
                f"({type(error).__name__}: {error})."
            )
    for run, control in built.items():
        _train_and_score(session, run, control)


def _train(problem: Problem, seed: int, select: bool = False) -> None:
    """Short training of a control, by the loss of the problem.

    With ``select`` the weights of the epoch with the best validation accuracy are kept,
    where there are validation nodes.
    """

    def loss_fn(model: nn.Module) -> Tensor:
        loss = problem.loss_of(problem.replace(model, problem.data).run())
        if loss is None:
            raise ValueError(
                "Trained controls need labels. Pass `target=`, or "
                "`controls='untrained'`."
            )
        return loss

    def accuracy(model: nn.Module) -> float:
        output = problem.replace(model, problem.data).run()
        rows = Observations(facts.accuracy_observations(problem, output))
        return rows.value("accuracy.val")

    with random_state():
        torch.manual_seed(seed)
        fit(
            problem.model,
            loss_fn,
            epochs=TRAINING_EPOCHS,
            evaluate=accuracy if select else None,
        )
