"""The criteria of a state-space network against dense references."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCN

from graphfathom import Problem
from graphfathom.calibration import Criteria, criteria, measure, measure_both
from graphfathom.nn.models import GNNSSM
from graphfathom.nn.transition import Centered, Rotation, Scalar
from graphfathom.rewrite import to_state_space

STEPS, WIDTH, NODES = 5, 4, 6


def ring(nodes: int = NODES, dtype: torch.dtype = torch.float64) -> Data:
    draw = torch.Generator().manual_seed(0)
    source = torch.arange(nodes)
    target = (source + 1) % nodes
    return Data(
        x=torch.randn(nodes, 3, generator=draw, dtype=dtype),
        y=torch.randint(2, (nodes,), generator=draw),
        edge_index=torch.stack(
            [torch.cat([source, target]), torch.cat([target, source])]
        ),
    )


def network(steps: int = STEPS, **options: object) -> tuple[Problem, GCN]:
    torch.manual_seed(0)
    options = {"act": "tanh"} | options
    model = GCN(3, WIDTH, num_layers=steps + 2, out_channels=2, **options).double()  # pyright: ignore
    data = ring()
    problem = Problem(model, data)
    form = to_state_space(
        model, problem, state=Scalar(0.9), input=Centered(0.3), layers=None
    )
    return problem.replace(form, data), model


def reference(model: GCN, data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """First and last state, by the formula."""
    assert data.x is not None
    states = [torch.tanh(model.convs[0](data.x, data.edge_index))]
    for conv in list(model.convs)[1:-1]:
        message = torch.tanh(conv(states[-1], data.edge_index))
        message = 0.3 * (message - message.mean(1, keepdim=True))
        states.append(0.9 * states[-1] + message)
    return states[0], states[-1]


def dense(first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """The Jacobian, row by row."""
    rows = [
        torch.autograd.grad(entry, first, retain_graph=True)[0].flatten()
        for entry in last.flatten()
    ]
    return torch.stack(rows)


def test_criteria_equal_a_dense_reference() -> None:
    problem, model = network()
    found = measure(problem, "eval", seed=3)
    first, last = reference(model, problem.data)
    out = model.convs[-1](last, problem.data.edge_index)
    loss = torch.nn.functional.cross_entropy(out, problem.data.y)
    ends = torch.autograd.grad(loss, (first, last), retain_graph=True)
    jacobian = dense(first, last)
    draw = torch.Generator().manual_seed(3)
    probes = [
        torch.randn(NODES, WIDTH, generator=draw, dtype=first.dtype)
        for _ in range(criteria.NUM_PROBES)
    ]
    gains = [(jacobian.T @ p.flatten()).norm() / p.norm() for p in probes]
    first, last = first.detach(), last.detach()
    recalled = 0.9**STEPS * first

    def rank(x: torch.Tensor) -> float:
        share = torch.linalg.svdvals(x)
        share = share / share.sum()
        return math.exp(-float((share * share.log()).sum()))

    expected = Criteria(
        mode="eval",
        feature_ratio=float(last.norm() / first.norm()),
        gradient_ratio=float(ends[0].norm() / ends[1].norm()),
        gain_median=float(torch.stack(gains).median()),
        gain_mean=float(torch.stack(gains).mean()),
        rank_ratio=rank(last) / rank(first),
        message_share=float((last - recalled).norm() / last.norm()),
        recall=0.9**STEPS,
    )
    for name, value in dataclasses.asdict(expected).items():
        assert getattr(found, name) == (
            value if name == "mode" else pytest.approx(value, rel=1e-9)
        )


def test_the_mean_squared_gain_is_that_of_the_dense_jacobian(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem, model = network()
    jacobian = dense(*reference(model, problem.data))
    monkeypatch.setattr(criteria, "NUM_PROBES", 2001)
    found = measure(problem, "eval")
    size = float(jacobian.norm() / math.sqrt(len(jacobian)))
    # E|J'w| is below the root of E|J'w|^2, by little in 24 dimensions.
    assert found.gain_mean == pytest.approx(size, rel=0.05)


def test_recall_applies_the_state_matrix_once_a_step() -> None:
    problem, _ = network()
    rotation = Rotation(0.8)
    problem.model.set_transitions(rotation, Scalar(0.1))  # pyright: ignore
    with problem.model.watch() as states, torch.no_grad():  # pyright: ignore
        problem.run()
    power = torch.linalg.matrix_power(rotation.matrix(), STEPS)
    recalled = states[0] @ power.T
    found = measure(problem, "eval")
    share = float((states[-1] - recalled).norm() / states[-1].norm())
    assert found.message_share == pytest.approx(share, rel=1e-9)
    assert found.recall == pytest.approx(0.8**STEPS, rel=1e-9)


def test_train_mode_has_dropout_and_is_reproducible() -> None:
    problem, _ = network(dropout=0.5)
    before = torch.get_rng_state()
    train, evaluation = measure_both(problem)
    assert (train.mode, evaluation.mode) == ("train", "eval")
    assert train.feature_ratio != evaluation.feature_ratio
    assert measure_both(problem) == (train, evaluation)
    assert torch.equal(torch.get_rng_state(), before)
    assert problem.model.training


def test_without_dropout_both_modes_agree() -> None:
    train, evaluation = measure_both(network()[0])
    assert dataclasses.replace(train, mode="eval") == evaluation


def test_without_labels_there_is_no_gradient_ratio() -> None:
    problem, _ = network()
    data = problem.data.clone()
    del data.y
    found = measure(Problem(problem.model, data), "eval")
    assert found.gradient_ratio is None
    assert not any("gradient_ratio" in text for text in found.failures())


def test_a_frozen_network_is_measured() -> None:
    problem, _ = network()
    expected = measure_both(problem)
    problem.model.requires_grad_(False)
    assert measure_both(problem) == expected


@pytest.mark.parametrize("budget", [0, 5_000])
def test_states_are_computed_again_where_memory_is_short(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, _ = network(dropout=0.5)
    expected = measure_both(problem)
    monkeypatch.setattr(criteria, "BYTE_BUDGET", budget)
    assert measure_both(problem) == expected
    assert problem.model.checkpoint == "none"


def test_measuring_leaves_no_graph_alive() -> None:
    """Saved tensors must not be packed as they are: outputs would hold their graph."""
    import gc

    problem, _ = network(steps=20)
    measure(problem, "eval")
    gc.collect()
    count = len(gc.get_objects())
    for _ in range(5):
        measure(problem, "eval")
    gc.collect()
    assert len(gc.get_objects()) < count + 200


def test_failures_name_value_bound_and_mode() -> None:
    values = Criteria("train", 3.0, 0.1, 1.0, math.nan, 0.2, 0.1, 0.4)
    assert values.failures() == (
        "feature_ratio 3 is not in [0.5, 2.0] (train mode)",
        "gradient_ratio 0.1 is not in [0.5, 2.0] (train mode)",
        "gain_mean nan is not in [0.5, 2.0] (train mode)",
        "rank_ratio 0.2 is below 0.5 (train mode)",
        "message_share 0.1 is below 0.3 (train mode)",
        "recall 0.4 is below 0.5 (train mode)",
    )
    assert not Criteria("eval", 1.0, None, 1.0, 1.0, 1.0, 0.3, 0.5).failures()


def test_a_persistent_input_is_judged_by_states_and_input_together() -> None:
    torch.manual_seed(0)
    data = ring()
    model = GNNSSM(
        3,
        WIDTH,
        2,
        num_layers=40,
        state=Scalar(0.5),
        input=Scalar(0.45),
        persistent=Scalar(0.05),
        act="tanh",
    ).double()
    found = measure(Problem(model, data), "eval")
    assert found.message_share is None
    assert found.recall is None
    with model.watch() as states:
        model(data.x, data.edge_index)
    # What a change of H_0 does through the state alone is nothing after 40 layers;
    # through the input of every layer it arrives.
    assert found.gain_mean > 0.05
    assert 0.1 * found.gain_mean < 0.95**40
    assert len(states) == 41
