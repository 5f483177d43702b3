"""The state-space form of a network where nothing else is asked for."""

from __future__ import annotations

from torch import nn

from graphfathom.calibration import set_strength
from graphfathom.nn.transition import Centered, Scalar, Transition
from graphfathom.problem import Problem
from graphfathom.rewrite import StateSpaceModel, to_state_space

__all__ = ["as_it_is", "data_free", "inside", "set_default"]


def as_it_is(problem: Problem, layers: str | None) -> StateSpaceModel:
    """The form of a network that computes what it does: H+ = 0 H + F(H) I."""
    return to_state_space(
        problem.model, problem, state=Scalar(0.0), input=Scalar(1.0), layers=layers
    )


def set_default(
    form: StateSpaceModel,
    state: Transition | None = None,
    input: Transition | None = None,
) -> None:
    r"""Set the matrices, whose scales are still to be found, where none is given.

    By default :math:`B` takes off the mean over the channels. Over two channels or
    fewer nothing would be left of the message, and layers that carry their state admit
    a scaled step only.
    """
    if form.carries and state is None and input is None:
        return
    centered = not form.carries and form.input.channels > 2
    plain = Centered() if centered else Scalar()
    form.set_transitions(state or Scalar(), input or plain)


def data_free(problem: Problem, layers: str | None = None) -> Problem:
    r"""The problem on a copy of its network in state-space form, not calibrated.

    .. math:: H_{k+1} = H_k + \frac{1}{\sqrt L} F_k(H_k) B^\top

    This is strength :math:`c = 1`, where the search of
    :func:`~graphfathom.calibration.calibrate` begins. Layers that add to their input
    by themselves take the step ``x + f(x) / sqrt(L)``.

    Args:
        problem: The network on its data; neither is changed.
        layers: Pattern of the names of the modules that are layers. Default: message
            passing is found by role.

    Raises:
        RewriteError: If the network has no such form.
    """
    form = as_it_is(problem, layers)
    set_default(form)
    set_strength(form, 1.0)
    return problem.replace(form, problem.data)


def inside(model: nn.Module, layers: str | None) -> str | None:
    """A pattern of names in a network, for the same network in state-space form."""
    known = isinstance(model, StateSpaceModel)
    return f"{model.network_name}.{layers}" if known and layers else layers
