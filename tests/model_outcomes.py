"""What becomes of a compared model when it is captured and stabilized."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from zoo_cases import Case, graphs

import graphfathom as gf
from graphfathom.calibration import CalibrationError
from graphfathom.diagnostics.segments import CaptureError
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem
from graphfathom.rewrite.form import RewriteError

EQUAL = {
    "in_channels": 64,
    "hidden_channels": 64,
    "out_channels": 7,
    "num_layers": 8,
}
"""Sizes at which parameters are counted."""

PAPER = re.compile(r"\(([^()]+, \d{4})\),?[\s|]+(https?://\S+)")


@dataclass(frozen=True)
class Outcome:
    """One row of the table of models."""

    name: str
    model: str
    options: str
    needs: str
    num_parameters: int
    """At the sizes :data:`EQUAL`."""
    captured: str
    """``yes``, or the first sentence of the refusal."""
    state: str
    """Names of the tensors between layers 2 and 3 of 4, as a diagnosis finds them."""
    stabilized: str
    """The same."""
    deep: str
    """Options with which the tests of all models run 256 layers, else ``yes``."""


def describe(name: str, case: Case) -> dict[str, Any]:
    """What is known of a model without running it as a diagnosis does."""
    return {
        "name": name,
        "model": model_class(case).__name__,
        "options": shown(case.options),
        "needs": ", ".join(f"`{name}`" for name in case.inputs),
        "num_parameters": sum(p.numel() for p in case.build(**EQUAL).parameters()),
        "deep": f"with {shown(case.deep)}" if case.deep else "yes",
    }


def examine(name: str, case: Case) -> Outcome:
    """Build a model, capture it and stabilize it."""
    captured, state = try_capture(case)
    return Outcome(
        **describe(name, case),
        captured=captured,
        state=state,
        stabilized=try_stabilize(case),
    )


def built(case: Case, **changes: Any) -> nn.Module:
    """With the weights that the tests of all models draw."""
    torch.manual_seed(0)
    return case.build(**changes)


def model_class(case: Case) -> type[nn.Module]:
    """The class of a case, whose docstring names the paper."""
    return type(case.build())


def papers(model: type[nn.Module]) -> list[tuple[str, str]]:
    """Authors with year, and address, of the references of a class."""
    _, _, references = (inspect.getdoc(model) or "").partition("References:")
    return PAPER.findall(references)


def shown(options: dict[str, Any]) -> str:
    """Options as they are written in a call."""
    written = []
    for name, value in options.items():
        function = getattr(value, "func", value)  # of a partial one
        written.append(f"`{name}={getattr(function, '__name__', repr(value))}`")
    return ", ".join(written)


def try_capture(case: Case) -> tuple[str, str]:
    """``yes`` and the names of a state, or why not and none."""
    try:
        trace = capture(Problem(built(case).eval(), graphs()[0]))
    except CaptureError as error:
        return f"no: {first_sentence(error)}", ""
    return "yes", ", ".join(trace.states[2].names)


def try_stabilize(case: Case) -> str:
    """``yes`` or why not."""
    data = graphs()[0]
    data.y = torch.arange(data.num_nodes) % 2
    try:
        gf.stabilize(built(case).eval(), data)
    except (CaptureError, RewriteError, CalibrationError) as error:
        return f"no: {first_sentence(error)}"
    return "yes"


def first_sentence(error: Exception) -> str:
    """Up to the first stop that ends a sentence."""
    return re.split(r"(?<=[.:]) ", " ".join(str(error).split()))[0].rstrip(".:")
