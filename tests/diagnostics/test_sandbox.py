"""A caller's model is run, and nobody can tell afterwards."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from graphs import random_graph
from snapshots import differences, frozen, snapshot
from stubborn import Counting, Dropping, Locked, gcn, sequential
from torch import Tensor, nn
from torch_geometric.nn import GCN, GCNConv

from graphfathom.diagnostics.sandbox import (
    ModelState,
    Sandbox,
    judged_mode,
    random_state,
    running_norms,
)
from graphfathom.problem import Problem


class Memory(nn.Module):
    """One attribute of each kind that a forward pass may change."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
        self.register_buffer("buffered", torch.tensor([torch.nan, torch.inf, -0.0]))
        self.register_buffer("sparse", torch.eye(3).to_sparse_csr())
        self.plain = torch.zeros(2)
        self.number = 0
        self.entries = [1, 2]
        self.table = {"a": 1}
        self.names = {"x"}

    def forward(self) -> None:
        self.buffered.fill_(0.0)
        self.sparse.values().zero_()
        self.plain += 1
        self.number += 1
        self.entries.append(3)
        self.table["b"] = 2
        self.names.clear()
        self.cache = torch.ones(1)
        self.weight.data.zero_()
        self.weight.grad = torch.ones(3)
        self.eval()
        self.register_forward_hook(lambda *_: None)
        del self.table["a"]


# torch's own remark on sparse matrices.
@pytest.mark.filterwarnings("ignore:.*Sparse")
@pytest.mark.parametrize("gradient", [None, torch.full((3,), torch.nan)])
def test_every_kind_of_memory_is_restored(gradient: Tensor | None) -> None:
    model, data = Memory(), random_graph()
    model.weight.grad = gradient
    before = snapshot(model, data)
    state = ModelState(model)
    for _ in range(2):
        model()
        assert len(differences(before, snapshot(model, data))) > 10
        state.restore()
        assert differences(before, snapshot(model, data)) == []


def test_a_gradient_changed_in_place_is_restored() -> None:
    model = Memory()
    model.weight.grad = torch.ones(3)
    state, held = ModelState(model), model.weight.grad
    model.weight.grad.mul_(2)
    state.restore()
    assert model.weight.grad is held
    assert held.tolist() == [1, 1, 1]


def test_random_states_are_given_back_even_after_an_error() -> None:
    def states() -> list[Any]:
        numpy = np.random.get_state()
        return [
            torch.get_rng_state().tolist(),
            [numpy[1].tolist(), numpy[2]],
            random.getstate(),
        ]

    def draw() -> None:
        with random_state():
            torch.rand(3), np.random.rand(), random.random()
            assert all(now != then for now, then in zip(states(), before, strict=True))
            raise ArithmeticError("drawn")

    before = states()
    with pytest.raises(ArithmeticError, match="drawn"):
        draw()
    assert states() == before


@pytest.mark.parametrize(
    ("norm", "seen", "mode"),
    [
        (None, 0, "eval"),
        ("layer_norm", 0, "eval"),
        ("batch_norm", 0, "init"),
        ("batch_norm", 3, "eval"),
    ],
)
def test_a_network_that_never_saw_a_batch_is_judged_at_initialisation(
    norm: str | None, seen: int, mode: str
) -> None:
    model = gcn(norm=norm)
    for module in running_norms(model):
        module.num_batches_tracked.fill_(seen)
    # The last layer of PyG's GCN has no norm.
    assert len(running_norms(model)) == (2 if norm == "batch_norm" else 0)
    assert judged_mode(Problem(model, random_graph())) == mode
    for asked in ("init", "eval"):
        assert judged_mode(Problem(model, random_graph(), mode=asked)) == asked


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", ["init", "eval"])
def test_only_norms_are_in_training_mode_at_initialisation(
    mode: str, training: bool
) -> None:
    model = gcn(norm="batch_norm", dropout=0.5).train(training)
    box = Sandbox(Problem(model, random_graph()), mode, torch.float64)
    with box.running() as problem:
        for module in problem.model.modules():
            is_norm = isinstance(module, nn.BatchNorm1d)
            assert module.training == (is_norm and mode == "init")


def test_batch_statistics_leave_the_buffers_alone() -> None:
    model, data = gcn(norm="batch_norm"), random_graph()
    box = Sandbox(Problem(model, data), "init", torch.float64)
    with box.running() as problem:
        first = problem.run()
        assert int(problem.model.norms[0].module.num_batches_tracked) == 1
    with box.running() as problem:
        assert int(problem.model.norms[0].module.num_batches_tracked) == 0
        assert torch.equal(problem.run(), first)
    assert int(model.norms[0].module.num_batches_tracked) == 0


@pytest.mark.parametrize("kind", [GCN, Counting, Dropping, Locked])
def test_each_run_is_the_first(kind: type[GCN]) -> None:
    model, data = gcn(kind=kind, norm="batch_norm"), random_graph()
    before = snapshot(model, data)
    box = Sandbox(Problem(model, data), "init")
    outputs = []
    for _ in range(3):
        with box.running() as problem, torch.no_grad():
            outputs.append(problem.run())
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert differences(before, snapshot(model, data)) == []


def test_a_copy_has_the_precision_asked_for() -> None:
    model, data = gcn(cached=True).float(), random_graph()
    data.x, data.edge_weight = data.x.float(), torch.rand(data.num_edges).float()
    model(data.x, data.edge_index, data.edge_weight)  # fills the caches
    before = snapshot(model, data)
    box = Sandbox(Problem(model, data), "eval", torch.float64)
    with box.running() as problem:
        assert {p.dtype for p in problem.model.parameters()} == {torch.float64}
        assert problem.data.x.dtype == problem.data.edge_weight.dtype == torch.float64
        assert problem.data.edge_index.dtype == torch.int64
        cache = problem.model.convs[0]._cached_edge_index[1]
        assert cache.dtype == torch.float64
        assert problem.run().dtype == torch.float64
    assert box.notes == []
    assert differences(before, snapshot(model, data)) == []


@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_a_model_without_copy_is_run_itself(dtype: torch.dtype | None) -> None:
    model, data = gcn(kind=Locked).float(), random_graph()
    data.x = data.x.float()
    box = Sandbox(Problem(model, data), "eval", dtype)
    assert box.problem.model is model
    assert box.dtype == torch.float32
    assert box.problem.data is not data
    (note,) = box.notes
    assert "cannot pickle '_thread.lock' object): measured in float32 on" in note


def test_a_model_without_copy_is_restored_after_an_error() -> None:
    model, data = gcn(kind=Locked), random_graph()
    before = snapshot(model, data)
    box = Sandbox(Problem(model, data), "init")

    def fail() -> None:
        with box.running() as problem:
            problem.model.log.append(1)
            problem.model(data.x)

    with pytest.raises(TypeError, match="missing 1 required"):
        fail()
    assert differences(before, snapshot(model, data)) == []


def test_copies_of_two_sequential_models_keep_their_own_code() -> None:
    data = random_graph()
    random.seed()
    conv = GCNConv(3, 3)
    for model in (sequential(conv), sequential(conv, nn.Tanh())):
        random.seed(5)  # both are diagnosed in the same random state
        expected = model(data.x, data.edge_index)
        with Sandbox(Problem(model, data), "eval").running() as problem:
            assert torch.equal(problem.run(), expected)
    random.seed(5)  # and the caller goes on in it
    third = sequential(conv, nn.Tanh(), nn.Tanh())
    assert torch.equal(third(data.x, data.edge_index), expected.tanh())


def test_changes_of_the_data_do_not_reach_the_caller() -> None:
    data = random_graph()
    held = frozen(data.to_dict())
    problem = Problem(
        gcn(), data, forward_fn=lambda m, d: m(d.x.mul_(2), d.edge_index.clone())
    )
    box = Sandbox(problem, "eval", torch.float64)
    with box.running() as safe, torch.no_grad():
        safe.run()
    assert frozen(data.to_dict()) == held


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, None])
def test_autocast_is_the_callers_only_in_his_precision(
    dtype: torch.dtype | None,
) -> None:
    model, data = gcn().float(), random_graph()
    data.x = data.x.float()
    seen = []
    problem = Problem(
        model,
        data,
        forward_fn=lambda m, d: seen.append(torch.is_autocast_enabled("cpu")),
    )
    box = Sandbox(problem, "eval", dtype)
    with torch.autocast("cpu", torch.bfloat16), box.running() as safe:
        safe.call()
    with box.running() as safe:
        safe.call()
    assert seen == [dtype is not torch.float64, False]
