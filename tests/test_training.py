"""The training loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphfathom.training import History, fit


class Regression(nn.Module):
    """A linear fit with dropout, so that modes and random numbers matter."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(20, 3, generator=generator)
        self.y = self.x @ torch.tensor([1.0, -2.0, 0.5])
        self.weight = nn.Parameter(torch.zeros(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self) -> Tensor:
        return self.dropout(self.x) @ self.weight


def loss_of(model: Any) -> Tensor:
    return (model() - model.y).square().mean()


def test_it_finds_the_least_squares_solution() -> None:
    model = Regression()
    history = fit(model, loss_of, epochs=2000, lr=0.05, weight_decay=0)
    expected = torch.tensor([1.0, -2.0, 0.5])
    # Adam's steps shrink with the gradient only; 1e-6 is far below the data's scale.
    torch.testing.assert_close(model.weight.data, expected, atol=1e-6, rtol=0)
    assert len(history.losses) == 2000
    assert history.losses[-1] < 1e-10 < history.losses[0]
    assert not history.diverged
    assert history.best_epoch is None
    assert history.seconds > 0


def test_its_steps_are_those_of_adam() -> None:
    model, other = Regression(), Regression()
    fit(model, loss_of, epochs=5, lr=0.1, weight_decay=0.3)
    optimizer = torch.optim.Adam(other.parameters(), lr=0.1, weight_decay=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        loss_of(other).backward()
        optimizer.step()
    assert torch.equal(model.weight, other.weight)


def test_losses_belong_to_the_weights_before_the_step() -> None:
    model = Regression()
    before = loss_of(model).item()
    assert fit(model, loss_of, epochs=3).losses[0] == before


def test_no_epochs_change_nothing() -> None:
    model = Regression()
    history = fit(model, loss_of, epochs=0)
    assert history.losses == ()
    assert model.weight.abs().sum() == 0


def test_the_best_weights_are_kept() -> None:
    model = Regression()
    seen: list[Tensor] = []
    values = iter([0.1, 0.7, 0.7, 0.2])

    def evaluate(model: Any) -> float:
        seen.append(model.weight.detach().clone())
        return next(values)

    history = fit(model, loss_of, epochs=4, evaluate=evaluate)
    assert history.metrics == (0.1, 0.7, 0.7, 0.2)
    assert history.best_epoch == 1
    assert torch.equal(model.weight, seen[1])


def test_a_nan_metric_is_never_the_best() -> None:
    values = iter([math.nan, 0.5, math.nan])
    history = fit(Regression(), loss_of, epochs=3, evaluate=lambda _: next(values))
    assert history.best_epoch == 1


def test_patience_stops() -> None:
    values = iter([0.5, 0.6, 0.6, 0.6, 0.6, 0.9])
    history = fit(
        Regression(), loss_of, epochs=6, evaluate=lambda _: next(values), patience=3
    )
    assert len(history.losses) == 5
    assert history.best_epoch == 1


def test_patience_without_any_best_value() -> None:
    history = fit(
        Regression(), loss_of, epochs=9, evaluate=lambda _: math.nan, patience=2
    )
    assert len(history.losses) == 2
    assert history.best_epoch is None


def test_modes_inside_and_afterwards() -> None:
    model = Regression(dropout=0.5)
    model.train()
    model.dropout.eval()
    seen: list[bool] = []

    def loss(model: Any) -> Tensor:
        seen.append(model.dropout.training)
        return loss_of(model)

    def evaluate(model: Any) -> float:
        seen.append(model.dropout.training)
        assert not torch.is_grad_enabled()
        return 0.0

    fit(model, loss, epochs=2, evaluate=evaluate)
    assert seen == [True, False, True, False]
    assert model.training
    assert not model.dropout.training


def test_modes_come_back_after_an_error() -> None:
    model = Regression().eval()

    def interrupt(model: nn.Module) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(model, interrupt, epochs=1)
    assert not model.training


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_loss_ends_the_run_before_its_step(value: float) -> None:
    model = Regression()
    factors = iter([1.0, 1.0, value])
    history = fit(model, lambda m: loss_of(m) * next(factors), epochs=9)
    assert history.diverged
    assert len(history.losses) == 3
    assert not math.isfinite(history.losses[-1])
    assert model.weight.isfinite().all()
    assert model.weight.abs().sum() > 0


def test_a_bad_gradient_ends_the_run_before_its_step() -> None:
    model = Regression()
    # The square root has an infinite slope at 0, where the weights start.
    history = fit(model, lambda m: m.weight.abs().sqrt().sum(), epochs=9)
    assert history.diverged
    assert history.losses == (0.0,)
    assert torch.equal(model.weight, torch.zeros(3))


def test_on_step_sees_gradients() -> None:
    model = Regression()
    seen: list[tuple[int, bool]] = []
    fit(
        model,
        loss_of,
        epochs=3,
        on_step=lambda epoch, m: seen.append((epoch, m.weight.grad is not None)),
    )
    assert seen == [(0, True), (1, True), (2, True)]
    assert model.weight.grad is None


def test_progress_is_told_about_ten_times() -> None:
    messages: list[str] = []
    fit(Regression(), loss_of, epochs=50, progress=messages.append)
    assert len(messages) == 10
    assert messages[-1].startswith("epoch 50 of 50: loss ")


def test_the_global_generator_is_used_and_not_seeded() -> None:
    weights = []
    for seed in (0, 0, 1):
        model = Regression(dropout=0.5)
        torch.manual_seed(seed)
        fit(model, loss_of, epochs=5)
        weights.append(model.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    fit(Regression(), loss_of, epochs=5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_history_is_a_record() -> None:
    history = History((2.0, 1.0), (), None, 0.5, False)
    expected = "History(2 epochs, last loss 1, best_epoch=None, diverged=False)"
    assert repr(history) == expected
    assert history.to_dict()["losses"] == (2.0, 1.0)
    assert "last loss none" in repr(History((), (), None, 0.0, False))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, r"`epochs` must be >= 0. Got -1."),
        ({"lr": 0.0}, r"`lr` must be positive and finite. Got 0.0."),
        ({"lr": math.nan}, r"`lr` must be positive and finite. Got nan."),
        ({"weight_decay": -1.0}, r"`weight_decay` must be >= 0. Got -1.0."),
        ({"patience": 0}, r"`patience` must be >= 1. Got 0."),
        ({"patience": 3}, r"`patience` needs `evaluate`"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(Regression(), loss_of, **{"epochs": 1, **options})


def test_nothing_to_train_is_refused() -> None:
    model = Regression().requires_grad_(False)
    with pytest.raises(ValueError, match=r"`model` must have parameters.*Regression"):
        fit(model, loss_of, epochs=1)


def test_a_loss_that_is_no_scalar_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must return a scalar. Got shape \(20,\)"):
        fit(Regression(), lambda m: m(), epochs=1)


def test_a_detached_loss_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a loss that depends on the weights"):
        fit(Regression(), lambda m: loss_of(m).detach(), epochs=1)
