"""What holds for every compared model."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from zoo_cases import ALL, Case, call, graphs

import graphfathom as gf
from graphfathom.diagnostics.segments import CaptureError
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem

EVERY = pytest.mark.parametrize("case", ALL.values(), ids=ALL.keys())
FIRST = {case.model: name for name, case in reversed(ALL.items())}
"""One case for each class: compiling all of them would take minutes."""
COMPILED = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, marks=() if FIRST[case.model] == name else pytest.mark.slow, id=name
        )
        for name, case in ALL.items()
    ],
)


def built(case: Case, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    return case.build(**changes)


def gradients(model: nn.Module, case: Case, data: Data) -> dict[str, Tensor | None]:
    model.zero_grad()
    call(model, case, data).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}


@EVERY
def test_shapes(case: Case) -> None:
    batch = Batch.from_data_list(graphs())
    assert call(built(case), case, batch).shape == (batch.num_nodes, 2)
    for readout in ("mean", "all"):
        model = built(case, readout=readout, head="mlp")
        assert call(model, case, batch).shape == (3, 2)
    assert call(built(case, num_layers=1), case, batch).isfinite().all()


@EVERY
def test_permutation_of_the_nodes(case: Case) -> None:
    data = graphs()[0]
    order = torch.randperm(data.num_nodes, generator=torch.Generator().manual_seed(3))
    place = torch.empty_like(order).index_copy(0, order, torch.arange(len(order)))
    turned = data.clone()
    turned.x = data.x[order]
    turned.edge_index = place[data.edge_index]
    turned.shell_index = place[data.shell_index]
    model = built(case).eval()
    found, expected = call(model, case, turned), call(model, case, data)[order]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@EVERY
def test_batch_is_the_union_of_its_graphs(case: Case) -> None:
    model, parts = built(case).eval(), graphs()
    found = call(model, case, Batch.from_data_list(parts))
    expected = torch.cat([call(model, case, data) for data in parts])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@EVERY
def test_gradients_reach_every_parameter(case: Case) -> None:
    found = gradients(built(case), case, Batch.from_data_list(graphs()))
    missing = {name for name, g in found.items() if g is None or not g.any()}
    assert missing == {n for n in found if n.endswith(case.unused or "?")}


@EVERY
def test_repr_has_class_and_sizes(case: Case) -> None:
    model = built(case)
    assert repr(model).startswith(f"{type(model).__name__}(3, 8, 2, num_layers=4")


@EVERY
def test_reset_draws_what_a_seed_says(case: Case) -> None:
    model, states = built(case), []
    first = copy.deepcopy(model.state_dict())
    for _ in range(2):
        torch.manual_seed(1)
        model.reset_parameters()  # pyright: ignore[reportCallIssue]
        states.append(copy.deepcopy(model.state_dict()))
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    weights = [n for n, p in model.named_parameters() if p.dim() > 1]
    assert not any(torch.equal(states[0][name], first[name]) for name in weights)


@EVERY
def test_save_and_load(case: Case) -> None:
    model, data, file = built(case).eval(), graphs()[0], io.BytesIO()
    torch.save(model.state_dict(), file)
    torch.manual_seed(5)
    other = case.build().eval()
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(call(other, case, data), call(model, case, data))


@EVERY
def test_float32_is_near_float64(case: Case) -> None:
    model, data = built(case).eval(), graphs()[0]
    expected = call(model, case, data)
    assert expected.dtype == torch.float64
    data = data.apply(lambda t: t.float() if t.is_floating_point() else t)
    found = call(model.float(), case, data)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)


@COMPILED
def test_compiles_with_dynamic_shapes(case: Case) -> None:
    model = built(case, num_layers=2).eval()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for data in graphs()[:2]:
        torch.testing.assert_close(
            call(compiled, case, data),
            call(model, case, data),  # pyright: ignore
        )


@EVERY
def test_checkpoints_give_the_same_gradients(case: Case) -> None:
    data = graphs()[0]
    expected = gradients(built(case), case, data)
    for checkpoint in ("sqrt", "every"):
        found = gradients(built(case, checkpoint=checkpoint), case, data)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)


@EVERY
def test_edges_of_the_domain(case: Case) -> None:
    model, data = built(case).eval(), graphs()[1]
    empty = torch.zeros(2, 0, dtype=torch.long)
    lonely = data.clone()
    lonely.edge_index, lonely.shell_index = empty, empty
    lonely.edge_attr, lonely.shell_hop = torch.zeros(0, 2), empty[0]
    assert call(model, case, lonely).isfinite().all()
    one = lonely.clone()
    one.x = data.x[:1]
    alone, among_others = call(model, case, one), call(model, case, lonely)[:1]
    assert torch.allclose(alone, among_others) != case.mixes
    none = lonely.clone()
    none.x = data.x[:0]
    assert call(model, case, none).shape == (0, 2)


@EVERY
def test_nan_is_handed_on(case: Case) -> None:
    model, data = built(case).eval(), graphs()[1]
    data.x[0] = float("nan")
    assert call(model, case, data)[0].isnan().all()


@EVERY
def test_256_layers(case: Case) -> None:
    model = built(case, num_layers=256, checkpoint="sqrt", **case.deep).float()
    data = graphs()[0].apply(lambda t: t.float() if t.is_floating_point() else t)
    found = gradients(model, case, data)
    assert all(g is None or g.isfinite().all() for g in found.values())


@EVERY
def test_capture_finds_every_layer_or_refuses(case: Case) -> None:
    model, data = built(case).eval(), graphs()[0]
    problem = Problem(model, data)
    if case.refused is not None:
        with pytest.raises(CaptureError, match=case.refused):
            capture(problem)
        return
    trace = capture(problem)
    assert trace.num_layers == 4
    v = torch.randn(trace.jacobian(0, 4).shape[1], dtype=torch.float64)
    w = torch.randn(trace.jacobian(0, 4).shape[0], dtype=torch.float64)
    left = trace.jacobian(0, 4).matvec(v) @ w
    torch.testing.assert_close(left, trace.jacobian(0, 4).rmatvec(w) @ v)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST.values())
def test_256_layers_can_be_diagnosed(name: str) -> None:
    case, data = ALL[name], graphs()[0]
    data.y = torch.arange(data.num_nodes) % 2
    model = built(case, num_layers=256, **case.deep)
    if case.refused is not None:
        with pytest.raises(CaptureError, match=case.refused):
            gf.diagnose(model, data)
        return
    report = gf.diagnose(model, data, controls="none")
    places, values = report.observations.series("gradient.state")
    assert list(places) == list(range(257))
    assert not torch.tensor(values).isnan().any()


@EVERY
def test_stabilize_or_a_reason(case: Case) -> None:
    model, data = built(case).eval(), graphs()[0]
    data.y = torch.arange(data.num_nodes) % 2
    if case.stabilized is not None:
        with pytest.raises(Exception, match=case.stabilized):
            gf.stabilize(model, data)
        return
    deep = gf.stabilize(model, data)
    assert call(deep, case, data).isfinite().all()


@EVERY
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, r"`num_layers` must be an integer >= 1"),
        ({"hidden_channels": 0}, r"`hidden_channels` must be an integer >= 1"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\)"),
        ({"readout": "graph"}, r"`readout` must be one of 'node'"),
        ({"head": "deep"}, r"`head` must be one of 'linear'"),
        ({"checkpoint": "all"}, r"`checkpoint` must be one of 'none'"),
        ({"act": "rely"}, r"`act` must be the name of an activation"),
    ],
)
def test_bad_input(case: Case, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        case.build(**options)
