"""Every network of the catalogue is rewritten rightly, or refused by a sentence."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest
import torch
from problems import CATALOGUE, Case, Entry
from snapshots import differences, snapshot
from torch import Tensor, nn

from graphfathom.nn.transition import Scalar
from graphfathom.problem import unwrap_model
from graphfathom.rewrite import StateSpaceModel, to_state_space, unwrap

pytestmark = pytest.mark.filterwarnings("ignore:.*Sparse")

BESIDE = "hands its features on beside its layers"
SEVERAL = "already carries a state: behind `.*` it needs 2 tensors"
ITERATES = "already carries a state: it propagates several times inside one call"
PARALLEL = "read the same state side by side"

REFUSED = {
    "DeepGCN dense": "has no step: .*`layers.0` 2 -> 4, `layers.1` 4 -> 8",
    "DeepGCN res+ checkpointed": "has no message-passing layer",
    "GCNII": SEVERAL,
    "APPNP": ITERATES,
    "AntiSymmetricConv": ITERATES,
    "GatedGraphConv": ITERATES,
    "SGConv": ITERATES,
    "HeteroConv": "maps dictionaries of node types. Wrap each .*HeteroSSM",
    "dense inline": "passes messages by `matmul` in a forward around several layers",
    "GraphCON": SEVERAL,
    "DRew delayed": PARALLEL,
    "long skip": SEVERAL,
    "input injection": SEVERAL,
    "feed-forward": BESIDE,
    "virtual node": SEVERAL,
    "edge weights of x": BESIDE,
    "edge states": "returns a tuple of 2 items, and a state is one tensor",
    "x = x + h": BESIDE,
    "x += h": BESIDE,
    "x.add_(h)": BESIDE,
    "x[:, :2] += h[:, :2]": "changed in place",
    "parallel convs": PARALLEL,
    "returns a tuple": "must return one tensor",
    "returns a dict": "must return one tensor",
    "no messages": "has no message-passing layer",
}
"""Name -> what is said of it."""

TAKEN = [entry for entry in CATALOGUE if entry.name not in REFUSED]
LEFT = [entry for entry in CATALOGUE if entry.name in REFUSED]
CARRYING = {f"DeepGCN {b}" for b in ("res+", "res", "res+ dropout")} | {
    "DeepGCN res+ first conv",
    "GPS batch norm",
    "GPS no norm",
}


def rewritten(case: Case, state: float, message: float) -> StateSpaceModel:
    problem = case.problem()
    return to_state_space(
        problem.model, problem, state=Scalar(state), input=Scalar(message)
    )


def run(case: Case, model: nn.Module, seed: int = 0) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return case.problem().replace(model, case.data).run()


def plain(case: Case) -> nn.Module:
    return unwrap_model(case.model)


def names(entry: Entry) -> str:
    return entry.name


def test_the_catalogue_is_covered() -> None:
    assert not REFUSED.keys() - {entry.name for entry in CATALOGUE}
    assert len(TAKEN) >= 60


@pytest.mark.parametrize("entry", LEFT, ids=names)
def test_is_refused(entry: Entry) -> None:
    with pytest.raises((ValueError, TypeError), match=REFUSED[entry.name]):
        rewritten(entry.case(), 0.5, 0.5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("entry", TAKEN, ids=names)
def test_without_the_state_it_is_the_network(entry: Entry, training: bool) -> None:
    case = entry.case()
    form = rewritten(case, 0.0, 1.0).train(training)
    expected = run(case, plain(case).train(training))
    assert form.carries == (entry.name in CARRYING)
    torch.testing.assert_close(run(case, form), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("entry", TAKEN, ids=names)
def test_without_messages_it_is_encoder_and_readout(entry: Entry) -> None:
    case = entry.case()
    form = rewritten(case, 1.0, 0.0).eval()
    expected = run(case, form)
    with form.watch() as states:
        run(case, form)
    for state in states:
        assert torch.equal(state, states[0])
    before = {id(p) for p in form.parameters()}
    with torch.no_grad():
        for name in form.step_names:
            for parameter in form.get_submodule(f"layer.{name}").parameters():
                before.discard(id(parameter))
                parameter.normal_()
    if "first conv" not in entry.name:  # its first norm is part of the read-out
        torch.testing.assert_close(run(case, form), expected, rtol=0, atol=0)
    assert before, "encoder and read-out have parameters of their own"


@pytest.mark.parametrize("entry", TAKEN, ids=names)
def test_each_state_is_made_of_the_one_before(entry: Entry) -> None:
    case = entry.case()
    form = rewritten(case, 0.75, 0.25).eval()
    call = case.problem().replace(form, case.data).run
    with form.watch() as states:
        out = call()
    assert len(states) == form.num_steps + 1
    for k in range(form.num_steps):
        step = form.segment(k, k + 1, call)
        torch.testing.assert_close(step(states[k].detach()), states[k + 1].detach())
        other = torch.randn_like(states[k])
        form.set_transitions(Scalar(0.0), Scalar(1.0))
        message = step(other)
        form.set_transitions(Scalar(0.75), Scalar(0.25))
        expected = 0.75 * other + 0.25 * message
        torch.testing.assert_close(step(other), expected, rtol=1e-12, atol=1e-12)
    torch.autograd.grad(out.sum(), [states[0], states[-1]])  # both are in the graph


@pytest.mark.parametrize("entry", TAKEN, ids=names)
def test_parameters_and_keys_are_the_network_s(entry: Entry) -> None:
    case = entry.case()
    model, form = plain(case), rewritten(case, 0.5, 0.5)
    assert Counter(p.numel() for p in form.parameters()) == Counter(
        p.numel() for p in model.parameters()
    )
    assert [n for n, _ in form.named_parameters()] == [
        n for n, _ in model.named_parameters()
    ]
    assert form.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        for parameter in form.parameters():
            parameter.add_(1.0)
    form.load_state_dict(model.state_dict())
    for (name, mine), (_, theirs) in zip(
        form.named_parameters(), model.named_parameters(), strict=True
    ):
        assert torch.equal(mine, theirs), name
    model.load_state_dict(form.state_dict())


def comparable(model: nn.Module) -> dict[str, Any]:
    """Everything of a model but the identities of its parts."""
    held: dict[str, Any] = {key: v for key, v in model.state_dict().items()}
    for name, module in model.named_modules():
        held[f"{name} class"] = type(module)
        held[f"{name} mode"] = module.training
        held[f"{name} keys"] = sorted(vars(module))
        for registry in ("_forward_hooks", "_forward_pre_hooks"):
            held[f"{name} {registry}"] = len(getattr(module, registry))
    return held


@pytest.mark.parametrize("entry", TAKEN, ids=names)
def test_unwrapped_it_is_the_network_again(entry: Entry) -> None:
    case = entry.case()
    model = plain(case)
    next(iter(model.modules())).training = True
    before = comparable(model)
    inside = unwrap(rewritten(case, 0.5, 0.5))
    after = comparable(inside)
    assert before.keys() == after.keys()
    for key, value in before.items():
        same = torch.equal if isinstance(value, Tensor) else lambda a, b: a == b
        assert same(value, after[key]), key
    assert torch.equal(run(case, inside), run(case, model))


@pytest.mark.parametrize("entry", CATALOGUE, ids=names)
def test_the_network_is_not_touched(entry: Entry) -> None:
    case = entry.case()
    before = snapshot(case.model, case.data)
    with contextlib.suppress(ValueError, TypeError):
        rewritten(case, 0.5, 0.5)
    assert not differences(before, snapshot(case.model, case.data))
