"""Rewrite a copy of a network into state-space form."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphfathom.diagnostics.sandbox import Sandbox, copy_model, judged_mode
from graphfathom.nn.abstract_state_space import AbstractStateSpace, as_transition
from graphfathom.nn.models import GNNSSM
from graphfathom.nn.transition import Transition
from graphfathom.problem import Problem, unwrap_model
from graphfathom.rewrite import owned, points
from graphfathom.rewrite.form import RewriteError, StateSpaceModel
from graphfathom.rewrite.plan import Plan, States, find, find_plan, owned_plan
from graphfathom.rewrite.survey import Survey, survey
from graphfathom.validation import check_placement

__all__ = ["to_state_space"]


def to_state_space(
    model: nn.Module,
    problem: Problem,
    *,
    state: Transition,
    input: Transition,
    layers: str | None = None,
) -> StateSpaceModel:
    r"""Give a network the state-space form, on a copy.

    .. math:: H_{k+1} = H_k \Lambda^\top + F_k(H_k) B^\top

    :math:`F_k` is everything between two states of the network: convolution,
    activation, normalisation and dropout. Layers that change the width, before and
    behind the steps, stay what they are: encoder and read-out. There are no new
    parameters, and the keys of ``state_dict`` stay.

    A model of PyG (``GCN``, ``GAT``, ...) gets a forward of our own. Where modules map
    a state to the next one (``DeepGCNLayer``, ``GPSConv``, blocks of your own), the
    state is added behind them; else it is put in at the inputs of the layers, so that
    activations and dropout in a hand-written forward are part of :math:`F_k`. Behind
    the last layer the state is put in before the first linear module, or else at the
    last output of a module: a function such as ``relu`` between that and the read-out
    is part of the read-out.

    Args:
        model: Any network on a homogeneous graph; it is not changed.
        problem: Its data, on which it is run a few times to see what it does.
        state: The matrix :math:`\Lambda` of all layers.
        input: The matrix :math:`B` of all layers.
        layers: Pattern of the names of the modules that are layers, e.g.
            ``"convs.*"``. Default: message passing is found by role.

    Returns:
        The rewritten copy, in the mode (training or not) of the model.

    Raises:
        TypeError: If an argument is of the wrong kind.
        RewriteError: If the network has no such form or already carries a state.

    Example:
        >>> from graphfathom import Problem
        >>> from graphfathom.nn.transition import Scalar
        >>> from torch_geometric.data import Data
        >>> from torch_geometric.nn import GCN
        >>> data = Data(x=torch.eye(2), edge_index=torch.tensor([[0, 1], [1, 0]]))
        >>> problem = Problem(GCN(2, 4, num_layers=64, out_channels=2), data)
        >>> form = to_state_space(
        ...     problem.model, problem, state=Scalar(1.0), input=Scalar(1 / 62)
        ... )
        >>> form.form, form.num_steps, form.step_names[0]
        ('structural', 62, 'convs.1')
    """
    as_transition("state", state)
    as_transition("input", input)
    if not isinstance(problem, Problem):
        raise TypeError(
            f"`problem` must be a Problem. Got {type(problem).__name__}: pass "
            "Problem(model, data)."
        )
    model = _checked_model(model)
    check_placement(model, problem.data)
    problem = problem.replace(model, problem.data)
    box = Sandbox(problem, judged_mode(problem))
    if layers is None and owned.is_owned(model):
        # Its layers are known, and need no search.
        convs = range(len(model.convs))  # pyright: ignore[reportArgumentType]
        states = States(tuple(f"convs.{i}" for i in convs))
    else:
        states = find(box, layers)
    found = survey(box, states.layers)
    plan = None if layers is not None else owned_plan(found)
    plan = plan or find_plan(box, found, states)
    return _build(copy_model(model), plan, found, state, input)


def _checked_model(model: Any) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"`model` must be a torch.nn.Module. Got {type(model).__name__}: pass an "
            "instance, not a class or a function."
        )
    model = unwrap_model(model)
    name = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise RewriteError(
            f"{name} is compiled by torch.jit, and its forward cannot be changed. Pass "
            "the Python module that was compiled."
        )
    for module in model.modules():
        if isinstance(module, AbstractStateSpace | GNNSSM):
            kind = type(module).__name__
            raise RewriteError(
                f"{name} already carries a state ({kind}). To choose its matrices on "
                "your data, use calibrate."
            )
    return model


def _build(
    model: nn.Module,
    plan: Plan,
    found: Survey,
    state: Transition,
    input: Transition,
) -> StateSpaceModel:
    """Rewrite a network that is free to be changed."""
    route = tuple(point.name for point in plan.points)
    if plan.form == "block":
        route = plan.steps
    first = next(call.input for call in found.calls if call.name == plan.steps[0])
    assert first is not None  # a step takes one tensor
    for part in (state, input):
        part.bind(first.shape[-1], first.zeros(0))
    form = StateSpaceModel(
        model, state, input, plan.form, plan.steps, route, carries=plan.carries
    )
    modules = dict(model.named_modules())
    if plan.form == "structural":
        owned.restructure(modules[plan.scope], form.carrier, plan.indices)  # pyright: ignore
    elif plan.form == "block":
        keys = {point.call.name: point.call.key for point in plan.points}
        for name, key in keys.items():
            points.add_block(modules[name], form.carrier, name, key)  # pyright: ignore
    else:
        hooked = {
            (p.name, p.call.name): None if p.at_output else p.call.key
            for p in plan.points
        }
        for (name, module), key in hooked.items():
            points.add_boundary(modules[module], form.carrier, name, key)
    if plan.form != "structural":
        points.add_scope(modules[plan.scope], form.carrier, plan.scope)
    form.training = model.training  # not by train(): its modules may differ
    return form
