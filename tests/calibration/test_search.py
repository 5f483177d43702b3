"""The strength that is chosen, and what is refused."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCN, GCNConv

from graphfathom import Problem
from graphfathom.calibration import (
    CalibrationError,
    calibrate,
    criteria,
    measure_both,
    search,
)
from graphfathom.datasets import csbm
from graphfathom.nn.models import GNNSSM
from graphfathom.nn.transition import Centered, Scalar
from graphfathom.rewrite import to_state_space
from tests.snapshots import differences, snapshot

DATA = csbm(40, 3, avg_degree=4, homophily=0.8, seed=0)
WIDTH = 12
"""Not that of the features: the first layer is the encoder."""


def form(
    num_layers: int = 18, data: Data = DATA, centered: bool = True, **options: object
) -> Problem:
    torch.manual_seed(0)
    model = GCN(data.num_features, WIDTH, num_layers, out_channels=3, **options)  # pyright: ignore
    problem = Problem(model, data)
    matrix = Centered(0.1) if centered else Scalar(0.1)
    rewritten = to_state_space(model, problem, state=Scalar(1.0), input=matrix)
    return problem.replace(rewritten, data)


@pytest.mark.parametrize("act", ["relu", "tanh", "gelu"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_is_chosen_meets_the_criteria(act: str, dropout: float) -> None:
    problem = form(act=act, dropout=dropout)
    found = calibrate(problem)
    assert found.after == measure_both(problem)
    assert not any(c.failures() for c in found.after)
    growth = sum(c.log_growth for c in found.after) / 2
    assert abs(growth) < search.BALANCE
    model = problem.model
    assert model.state.scale == found.radius
    assert model.input.scale == found.input_scale
    assert found.input_scale == pytest.approx(found.strength / math.sqrt(16))


def test_parameters_are_said_only_where_the_network_before_is_known() -> None:
    found = calibrate(form(), strength=1.0)
    assert found.parameters is None
    assert found.to_dict()["parameters"] is None
    assert "trainable parameters" not in str(found)
    known = dataclasses.replace(found, parameters=(1234, 1235))
    assert "trainable parameters 1,234 before, 1,235 after" in str(known)


def test_the_strength_is_the_largest() -> None:
    found = calibrate(form())
    failed = [strength for strength, _, why in found.tried if why]
    passed = [strength for strength, _, why in found.tried if not why]
    assert found.strength == max(passed)
    assert min(s for s in failed if s > found.strength) < 1.2 * found.strength


def test_a_given_strength_is_taken() -> None:
    problem = form()
    found = calibrate(problem, strength=0.75)
    assert found.strength == 0.75
    assert problem.model.input.scale == pytest.approx(0.75 / 4)


def test_only_the_two_scales_change() -> None:
    problem = form(dropout=0.5, norm="batch_norm")
    scales = problem.model.state.scale, problem.model.input.scale
    before = snapshot(problem.model, DATA)
    calibrate(problem)
    problem.model.calibration = None
    assert (problem.model.state.scale, problem.model.input.scale) != scales
    problem.model.state.set_scale(scales[0])
    problem.model.input.set_scale(scales[1])
    assert not differences(before, snapshot(problem.model, DATA))


def test_relu_drifts_along_ones_and_a_centred_input_removes_it() -> None:
    """c / sqrt(L) explodes where the common sign of the messages adds up."""
    ratios = {}
    for centered in (False, True):
        problem = form(258, centered=centered, act="relu")
        model = problem.model
        model.input.set_scale(1 / math.sqrt(256))
        with model.watch() as states, torch.no_grad():
            problem.run()
        ratios[centered] = float(states[-1].norm() / states[0].norm())
        share = states[-1].mean(1).norm() * math.sqrt(WIDTH) / states[-1].norm()
        assert bool(share > 0.9) is not centered
    assert ratios[False] > 10
    assert 0.5 < ratios[True] < 2


def test_a_carried_state_gets_a_scaled_step() -> None:
    class Residual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = GCNConv(16, 16)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            return x + torch.relu(self.conv(x, edge_index))

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.Linear(DATA.num_features, 16)
            self.blocks = torch.nn.ModuleList(Residual() for _ in range(64))
            self.readout = torch.nn.Linear(16, 3)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            x = self.encoder(x)
            for block in self.blocks:
                x = block(x, edge_index)
            return self.readout(x)

    torch.manual_seed(0)
    problem = Problem(Net(), DATA)
    rewritten = to_state_space(
        problem.model, problem, state=Scalar(0.0), input=Scalar(1.0)
    )
    found = calibrate(problem.replace(rewritten, DATA))
    assert rewritten.carries
    assert rewritten.state.scale + rewritten.input.scale == pytest.approx(1)
    assert found.radius == 1
    assert not any(c.failures() for c in found.after)


def test_a_strength_that_cannot_hold_is_refused() -> None:
    problem = form()
    before = snapshot(problem.model, DATA)
    with pytest.raises(
        CalibrationError, match=r"`strength` 200 does not meet the criteria: .* Leave"
    ):
        calibrate(problem, strength=200.0)
    assert not differences(before, snapshot(problem.model, DATA))


@pytest.mark.parametrize("strength", [0.0, -1.0, math.inf, math.nan])
def test_a_strength_must_be_a_positive_number(strength: float) -> None:
    with pytest.raises(ValueError, match=r"`strength` must be positive and finite"):
        calibrate(form(), strength=strength)


def test_weights_without_numbers_are_refused() -> None:
    problem = form()
    with torch.no_grad():
        problem.model.convs[5].lin.weight[0, 0] = math.nan  # pyright: ignore
    with pytest.raises(CalibrationError, match=r"not finite at any strength.*diagnose"):
        calibrate(problem)


def test_messages_of_zero_are_refused() -> None:
    problem = form()
    with torch.no_grad():
        for conv in list(problem.model.convs)[1:-1]:
            conv.lin.weight.zero_()
    with pytest.raises(CalibrationError, match=r"messages are zero.*edges.*weights"):
        calibrate(problem)


def test_when_nothing_meets_the_criteria_the_nearest_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(criteria, "MIN_MESSAGE_SHARE", 0.9999)
    with pytest.raises(
        CalibrationError,
        match=r"No strength .* Nearest is .* message_share .* is below",
    ):
        calibrate(form())


def test_gates_and_persistent_inputs_are_refused() -> None:
    options = ({"gates": True}, {"persistent": Scalar(0.1)})
    for option in options:
        model = GNNSSM(DATA.num_features, 16, 3, num_layers=4, **option)
        with pytest.raises(CalibrationError, match="more than one strength"):
            calibrate(Problem(model, DATA))


def test_a_gnnssm_is_calibrated_and_says_so() -> None:
    torch.manual_seed(0)
    model = GNNSSM(DATA.num_features, 16, 3, num_layers=64)
    assert "data-free default" in repr(model)
    found = calibrate(Problem(model, DATA))
    assert found.num_steps == 64
    assert "calibrated" in repr(model)
