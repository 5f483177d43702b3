"""The state-space form of a network where nothing else is asked for."""

from __future__ import annotations

import math

from torch import nn

from graphfathom.nn.transition import Centered, Scalar, Transition
from graphfathom.problem import Problem
from graphfathom.rewrite import StateSpaceModel, to_state_space

__all__ = ["data_free", "default_input", "inside"]


def default_input(form: StateSpaceModel) -> Transition:
    r"""The default matrix :math:`B`, of scale 1.

    It takes off the mean over the channels. Over two channels or fewer nothing would be
    left of the message, and layers that carry their state admit a scaled step only.
    """
    centered = not form.carries and form.input.channels > 2
    return Centered() if centered else Scalar()


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
    # H+ = 0 H + F(H) I is the network as it is.
    form = to_state_space(
        problem.model, problem, state=Scalar(0.0), input=Scalar(1.0), layers=layers
    )
    size = 1 / math.sqrt(form.num_steps)
    message = default_input(form)
    message.set_scale(size)
    form.set_transitions(Scalar(1 - size if form.carries else 1.0), message)
    return problem.replace(form, problem.data)


def inside(model: nn.Module, layers: str | None) -> str | None:
    """A pattern of names in a network, for the same network in state-space form."""
    known = isinstance(model, StateSpaceModel)
    return f"{model.network_name}.{layers}" if known and layers else layers
