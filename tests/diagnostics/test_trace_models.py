"""The tracer on every network of the catalogue: a right number or a refusal."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from problems import CATALOGUE, Case, Entry, State, dense_jacobian
from references import TOLERANCE, Map, align, relative_error
from torch import Tensor, nn

from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.trace import CaptureError, ForwardError, Trace, capture
from graphfathom.problem import Problem

# torch's and PyG's own remarks on sparse matrices.
pytestmark = pytest.mark.filterwarnings("ignore:.*[Ss]parse")

EXACT = [entry for entry in CATALOGUE if not entry.match]
REFUSALS = (CaptureError, ForwardError, JacobianError, TypeError)
REFUSED = [entry for entry in CATALOGUE if entry.match]

exact = pytest.mark.parametrize("entry", EXACT, ids=lambda entry: entry.name)
every = pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)


@pytest.fixture(scope="module", autouse=True)
def process_group() -> Iterator[None]:
    """The group of the DistributedDataParallel entry ends with this file."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@functools.cache
def traced(entry: Entry) -> tuple[Case, Trace]:
    """A network and its trace; no test changes either."""
    case = entry.case()
    return case, capture(case.problem())


def reference_states(case: Case) -> tuple[list[State], list[Map]]:
    """Detached states of the reference, and the maps between them."""
    with torch.no_grad():
        return case.states(case.features), list(case.maps)


def matched(case: Case, trace: Trace) -> tuple[list[State], list[Map], list[Tensor]]:
    """The reference moved to where the trace has its last state, and the orders.

    Behind the last layer several places are equally right: the read-out begins at any
    of the points of ``case.tail``.
    """
    states, maps = reference_states(case)
    carried = [state.carried for state in trace.states]
    assert trace.num_layers == len(case.maps), trace.layers
    orders = [align(*pair) for pair in zip(carried[:-1], states[:-1], strict=True)]
    last = align(carried[-1], states[-1])
    for function in case.tail:
        if last is None:
            maps[-1] = compose(maps[-1], function)
            with torch.no_grad():
                states[-1] = function(*states[-1])
            last = align(carried[-1], states[-1])
    orders.append(last)
    wrong = [k for k, order in enumerate(orders) if order is None]
    assert not wrong, f"states {wrong} of {[state.names for state in trace.states]}"
    return states, maps, orders


def compose(first: Map, second: Map) -> Map:
    """One map after the other."""
    return lambda *state: second(*first(*state))


@exact
def test_states_are_those_of_the_reference(entry: Entry) -> None:
    case, trace = traced(entry)
    matched(case, trace)


@exact
def test_layer_jacobians_equal_the_dense_truth(entry: Entry) -> None:
    case, trace = traced(entry)
    states, maps, orders = matched(case, trace)
    for k, function in enumerate(maps):
        truth = dense_jacobian(function, states[k])
        truth = truth[orders[k + 1]][:, orders[k]]
        found = trace.jacobian(k, k + 1).to_dense()
        assert relative_error(found, truth) < TOLERANCE, f"layer {k + 1}"


@exact
def test_product_of_all_layers_equals_the_dense_truth(entry: Entry) -> None:
    case, trace = traced(entry)
    states, maps, orders = matched(case, trace)
    through = functools.reduce(compose, maps)
    truth = dense_jacobian(through, states[0])[orders[-1]][:, orders[0]]
    found = trace.jacobian(0, trace.num_layers).to_dense()
    assert relative_error(found, truth) < TOLERANCE


@exact
def test_jacobians_are_adjoint(entry: Entry) -> None:
    _, trace = traced(entry)
    last = trace.num_layers
    for i, j in [*((k, k + 1) for k in range(last)), (0, last)]:
        operator = trace.jacobian(i, j)
        rows, columns = operator.shape
        v, w = torch.randn(columns), torch.randn(rows)
        forward, backward = operator.matvec(v) @ w, v @ operator.rmatvec(w)
        scale = operator.matvec(v).norm() * w.norm() + 1e-300
        assert abs(forward - backward) <= TOLERANCE * scale


@exact
def test_rows_and_columns_give_the_same_matrix(entry: Entry) -> None:
    _, trace = traced(entry)
    operator = trace.jacobian(0, 1)
    rows, columns = operator.shape
    by_columns = torch.stack([operator.matvec(v) for v in torch.eye(columns)], dim=1)
    by_rows = torch.stack([operator.rmatvec(w) for w in torch.eye(rows)])
    assert relative_error(by_columns, by_rows) < TOLERANCE


def judged(case: Case, trace: Trace) -> nn.Module:
    """A copy of the caller's model in the mode that the trace judges."""
    model = copy.deepcopy(case.problem().model)
    model.eval()
    for module in model.modules():
        fresh = int(getattr(module, "num_batches_tracked", None) or 0) == 0
        if fresh and isinstance(module, nn.BatchNorm1d):
            module.train()
    return model


@exact
def test_gradients_of_the_loss_equal_plain_autograd(entry: Entry) -> None:
    case, trace = traced(entry)
    problem = case.problem()
    model = judged(case, trace)
    loss = problem.loss_of(problem.replace(model, problem.data).run())
    parameters = dict(model.named_parameters())
    expected = dict(
        zip(
            parameters,
            torch.autograd.grad(loss, [*parameters.values()], allow_unused=True),
            strict=True,
        )
    )
    found = gradients(trace)
    # A bias in front of a norm has a gradient of rounding errors: one scale for all.
    scale = max(g.abs().max().item() for g in expected.values() if g is not None)
    for name, gradient in expected.items():
        zero = torch.zeros_like(parameters[name])
        difference = found.get(name, zero) - (zero if gradient is None else gradient)
        assert difference.abs().max() < TOLERANCE * scale, name


def gradients(trace: Trace) -> dict[str, Tensor]:
    """Gradient of the loss in each parameter, segment by segment from the output."""
    names = {id(p): name for name, p in trace.problem.model.named_parameters()}
    output = trace.output.detach().requires_grad_()
    cotangents = torch.autograd.grad(trace.problem.loss_of(output), output)
    found: dict[str, Tensor] = {}
    for k in reversed(range(trace.num_layers + 2)):
        segment = trace.segment(k)
        cotangents, parts = segment.vjp(cotangents, with_parameters=True)
        for parameter, part in zip(segment.parameters, parts, strict=True):
            name = names[id(parameter)]
            if part is not None:
                found[name] = found.get(name, 0) + part
    return found


@pytest.mark.parametrize("jk", ["cat", "max", "lstm"])
@pytest.mark.parametrize("name", ["GCN", "GAT", "GIN", "GraphSAGE", "PNA"])
def test_jumping_knowledge_is_named_apart(name: str, jk: str) -> None:
    _, trace = traced(find(f"{name} jk={jk}"))
    assert [len(state.carried) for state in trace.states] == [1, 1, 1, 1]
    assert [len(state.taps) for state in trace.states] == [0, 0, 1, 2]


@exact
def test_no_layer_reads_a_tap(entry: Entry) -> None:
    _, trace = traced(entry)
    for k in range(1, trace.num_layers + 1):
        before, after = trace.states[k - 1], trace.states[k]
        weights = tuple(
            torch.zeros_like(tensor) if name in after.taps else torch.randn_like(tensor)
            for name, tensor in zip(after.names, after.tensors, strict=True)
        )
        grads, _ = trace.segment(k).vjp(weights)
        for name, grad in zip(before.names, grads, strict=True):
            assert name not in before.taps or not grad.any(), f"{name} of layer {k}"


def find(name: str) -> Entry:
    """An entry of the catalogue."""
    return next(entry for entry in CATALOGUE if entry.name == name)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("GCN", "convs.*"),
        ("GCN", "convs.?"),
        ("DeepGCN res+", "layers.*"),
        ("DeepGCN dense", "layers.?"),
        ("DeepGCN res", "layers.*.conv"),
        ("dense layers", "layers.*"),
        ("feed-forward", "convs.*"),
    ],
)
def test_named_layers_are_those_found_by_role(name: str, pattern: str) -> None:
    case, found = traced(find(name))
    named = capture(case.problem(), layers=pattern)
    assert named.num_layers == found.num_layers
    for k in range(found.num_layers):
        truth = found.jacobian(k, k + 1).to_dense()
        assert relative_error(named.jacobian(k, k + 1).to_dense(), truth) < TOLERANCE


def test_layers_that_no_module_has_are_refused() -> None:
    case, _ = traced(find("GCN"))
    with pytest.raises(CaptureError, match=r"'nothing\.\*'"):
        capture(case.problem(), layers="nothing.*")


def test_a_float32_model_is_traced_in_float64() -> None:
    case, _ = traced(find("GCN"))
    model, data = copy.deepcopy(case.model).float(), case.data.clone()
    data.x = data.x.float()
    before = snapshot(model)
    trace = capture(Problem(model, data))
    assert equal(snapshot(model), before)
    twin = data.clone()
    twin.x = data.x.double()
    truth = capture(Problem(copy.deepcopy(model).double(), twin))
    assert trace.states[3].main.dtype == torch.float64
    found, expected = (t.jacobian(0, 3).to_dense() for t in (trace, truth))
    assert relative_error(found, expected) < TOLERANCE


@pytest.mark.parametrize("entry", REFUSED, ids=lambda entry: entry.name)
def test_refusals_say_why(entry: Entry) -> None:
    case = entry.case()
    with pytest.raises(REFUSALS, match=entry.match):
        differentiate(case)


def differentiate(case: Case) -> None:
    """Trace a network and differentiate through all of its layers."""
    trace = capture(case.problem())
    trace.jacobian(0, trace.num_layers).to_dense()


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that a diagnosis must leave as it was."""
    hooks = [name for name in vars(nn.Module()) if name.endswith("_hooks")]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {
        "tensors": [(n, t.dtype, t.requires_grad, t.clone()) for n, t in tensors],
        "identities": [id(t) for _, t in tensors],
        "grads": [
            None if p.grad is None else (id(p.grad), p.grad.clone())
            for p in model.parameters()
        ],
        "training": [module.training for module in model.modules()],
        "hooks": [
            [len(vars(m).get(name, ())) for name in hooks] for m in model.modules()
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "random": torch.get_rng_state(),
        "dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
    }


def equal(a: Any, b: Any) -> bool:
    """Bit equality of nested snapshots."""
    if isinstance(a, Tensor):
        same_kind = (a.dtype, a.layout) == (b.dtype, b.layout)
        return same_kind and torch.equal(a.to_dense(), b.to_dense())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@every
def test_the_callers_model_is_bit_identical_afterwards(entry: Entry) -> None:
    case = entry.case()
    for parameter in list(case.model.parameters())[::2]:
        parameter.grad = torch.randn_like(parameter)
    for module in list(case.model.modules())[1::3]:
        module.train(not module.training)
    data = case.data.clone()
    before = snapshot(case.model)
    with contextlib.suppress(*(REFUSALS if entry.match else ())):
        differentiate(case)
    after = snapshot(case.model)
    assert [key for key in before if not equal(before[key], after[key])] == []
    assert_same_data(data, case.data)


def assert_same_data(before: Any, after: Any) -> None:
    """The graph and its features are untouched as well."""
    left, right = before.to_dict(), after.to_dict()
    assert left.keys() == right.keys()
    for key in left:
        assert equal(left[key], right[key]), key
