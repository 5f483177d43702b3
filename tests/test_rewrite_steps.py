"""Layers of a rewritten network that are called when it is not their turn."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from graphs import random_graph
from rewritten import WIDTH, Blocks, Frame, call, rewrite
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from graphfathom.rewrite import (
    StepError,
)


@pytest.mark.parametrize(
    ("habit", "message"),
    [
        ("reversed", r"`convs.2` of Frame was called when convs.0 was due"),
        ("early", r"ended after 2 of 4 states: `convs.2` was not called"),
        ("recursive", "called while it runs"),
    ],
)
def test_a_forward_that_changes_is_refused(habit: str, message: str) -> None:
    form = rewrite(Frame())
    expected = call(form)
    form.layer.habit = habit
    with pytest.raises(StepError, match=message):
        call(form)
    form.layer.habit = ""
    assert torch.equal(call(form), expected)


def test_after_an_error_the_next_run_is_right() -> None:
    form = rewrite(Frame())
    expected = call(form)
    form.layer.habit = "fails"
    with pytest.raises(RuntimeError, match="on purpose"):
        call(form)
    form.layer.habit = ""
    assert torch.equal(call(form), expected)


def test_a_layer_alone_has_no_state() -> None:
    form, data = rewrite(Frame()), random_graph()
    with pytest.raises(
        StepError, match=r"`convs.1` of Frame was called outside of its"
    ):
        form.convs[1](torch.randn(8, WIDTH), data.edge_index)


def test_recomputation_is_refused_at_the_boundary() -> None:
    form = rewrite(Frame())
    form.layer.habit = "checkpoint"
    out = call(form)
    with pytest.raises(StepError, match=r"recomputed by torch.utils.checkpoint"):
        out.sum().backward()


def test_recomputation_of_all_layers_is_right() -> None:
    form, data = rewrite(Frame()), random_graph()
    expected = torch.autograd.grad(call(form).sum(), list(form.parameters()))
    out = checkpoint(form, data.x, data.edge_index, use_reentrant=False)
    found = torch.autograd.grad(out.sum(), list(form.parameters()))
    torch.testing.assert_close(found, expected)


def test_recomputation_of_blocks_is_right() -> None:
    form = rewrite(Blocks())
    expected = torch.autograd.grad(call(form).sum(), list(form.parameters()))
    form.layer.checkpointed = True
    found = torch.autograd.grad(call(form).sum(), list(form.parameters()))
    torch.testing.assert_close(found, expected)


def test_a_second_thread_is_refused() -> None:
    form = rewrite(Frame())
    inside, go = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        inside.set()
        go.wait(10)

    handle = form.layer.readout.register_forward_pre_hook(wait)
    expected: list[Tensor] = []
    thread = threading.Thread(target=lambda: expected.append(call(form)))
    thread.start()
    inside.wait(10)
    handle.remove()
    with pytest.raises(StepError, match="by another thread"):
        call(form)
    go.set()
    thread.join()
    assert torch.equal(expected[0], call(form))


def test_a_state_changed_in_place_is_refused_when_it_happens() -> None:
    form = rewrite(Frame())

    def spoil(module: nn.Module, args: Any, output: Tensor) -> None:
        with torch.no_grad():
            args[0].add_(1.0)

    form.convs[1].register_forward_hook(spoil)
    with pytest.raises(StepError, match=r"changed in place by `convs.1`"):
        call(form)


def test_segment_refuses_wrong_states() -> None:
    form = rewrite(Frame())
    with pytest.raises(
        ValueError, match=r"0 <= i <= j <= 3, the states. Got i = 2, j = 1"
    ):
        form.segment(2, 1, lambda: None)
    with pytest.raises(StepError, match="did not run Frame up to state 1"):
        form.segment(0, 1, lambda: None)(torch.ones(8, WIDTH))
