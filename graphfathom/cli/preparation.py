"""What commands have in common: read the data, build the model, refuse early."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphfathom.cli.options import AbstractCommand

if TYPE_CHECKING:
    from torch import nn

    from graphfathom.diagnostics.report import Report
    from graphfathom.inputs import Case

__all__ = [
    "add_facts",
    "build",
    "check",
    "layer_pattern",
    "read",
    "save",
    "seeded",
    "speaker",
]

LAYER_NAMES = {"mlp": "lins.*"}
"""Names of the layers of built-in models that pass no messages."""


def speaker(quiet: bool) -> Callable[[str], None]:
    """Says on stderr what is going on, or nothing."""

    def say(message: str) -> None:
        if not quiet:
            print(f"graphfathom: {message}", file=sys.stderr, flush=True)

    return say


def check(options: AbstractCommand) -> None:
    """Refuse, before anything slow, what cannot work.

    Raises:
        ValueError: If an option does not fit; the message names it.
    """
    if options.dataset is not None and options.data is not None:
        raise ValueError(
            f"Name a data set or pass `--data`, not both. Got {options.dataset!r} and "
            f"{options.data!r}."
        )
    for name in ("norm", "dropout", "act"):
        given = getattr(options, name) != getattr(AbstractCommand, name)
        if ":" in options.model and given:
            raise ValueError(
                f"`--{name}` is for built-in models: set it in {options.model!r}."
            )
    out = options.out.expanduser().absolute()
    nearest = next(folder for folder in (out, *out.parents) if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise ValueError(f"`--out` must be a folder to write to. Got {options.out}.")


def read(options: AbstractCommand, say: Callable[[str], None]) -> Case:
    """The data, and a word about it."""
    from graphfathom import inputs

    if options.data is not None:
        case = inputs.called_data(options.data)
    else:
        case = inputs.named_data(options.dataset, options.data_dir, say)
    say(case.description)
    if case.note:  # A warning and not progress: also with --quiet.
        print(f"graphfathom: {case.note}", file=sys.stderr, flush=True)
    return case


@contextmanager
def seeded(options: AbstractCommand) -> Iterator[None]:
    """Draw from the seed of the option; the caller of ``main`` keeps its own state."""
    import torch

    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(options.seed)
        yield


def build(
    options: AbstractCommand, case: Case, layers: int | None
) -> tuple[nn.Module, Case]:
    """The model at a depth, and the data, both where they shall be."""
    from graphfathom import inputs

    model = _build(options, case.data, layers)
    return inputs.place(model, case, options.device, options.dtype)


def _build(options: AbstractCommand, data: Any, layers: int | None) -> nn.Module:
    from graphfathom import inputs

    sizes = (layers, options.hidden)
    if ":" in options.model:
        return inputs.called_model(options.model, data, *sizes)
    return inputs.named_model(
        options.model,
        data,
        *sizes,
        norm=None if options.norm == "none" else options.norm,
        dropout=options.dropout,
        act=options.act,
    )


def layer_pattern(options: AbstractCommand) -> str | None:
    """The names of the layers, if they are not to be found by role."""
    return options.layer_names or LAYER_NAMES.get(options.model.lower())


def add_facts(
    report: Report, case: Case, command: str, training: str = "", **settings: Any
) -> Report:
    """The report with what only the command line knows."""
    settings = {"data": case.description, "command": command, **settings}
    if case.note:
        settings["data_note"] = case.note
    if training:
        settings["training"] = training
    notes = tuple(note for note in (case.note, training) if note)
    return dataclasses.replace(
        report,
        settings={**report.settings, **settings},
        data={**report.data, "name": case.name},
        notes=(*notes, *report.notes),
    )


def save(report: Report, options: AbstractCommand) -> Path:
    """Write the report; return the path of the page.

    Raises:
        ValueError: If the folder cannot be written to.
    """
    try:
        return report.save(options.out.expanduser())
    except OSError as error:
        raise ValueError(f"`--out` must be a folder to write to: {error}.") from error
