"""What can be asked of each command: types and docstrings are its help."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

__all__ = ["Diagnose", "Doctor", "Stabilize", "parse"]

DESCRIPTION = """Finds out why a deep graph network does not learn, and makes it learn.

$ graphfathom diagnose Cora --model gcn --layers 64
$ graphfathom stabilize Cora --model gcn --layers 64
$ graphfathom diagnose --model my_package.my_module:build --data my_module:load
$ graphfathom --version

Exit codes: 0 ok, 1 findings at or above --fail-on, 2 usage, 3 data, 4 a run failed or
a network is refused, 70 an internal error, 130 interrupted.
"""

CONTROLS = ("none", "untrained", "trained")


def _arg(metavar: str, default: str = "") -> Any:
    """How help shows an option whose default is None."""
    hint = f"(default: {default})" if default else ""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


@dataclass(frozen=True)
class AbstractCommand:
    """What a network and its data are, and where results go.

    Args:
        dataset: Name of a data set in PyG, e.g. Cora, Texas or Minesweeper. Where Cora
            is neither found nor to be downloaded, a graph of its size is generated.
        data: Your own data instead: called with nothing, returns a Data, HeteroData or
            loader, or a pair (data, kwargs) with some of forward_fn, loss, target and
            mask in kwargs.
        model: gcn, gat, gin, sage, mlp, res+, gcnii, gatv2, gps, gated-gcn, adgn,
            adgn-sum, swan, phdgn, dgc, grand, graphcon, gradient-gating, unitary,
            mp-ssm or sonar; or your own module, or a callable that is given what it
            accepts by name of in_channels, out_channels, num_layers, hidden_channels
            and data.
        layers: Number of layers.
        hidden: Hidden channels.
        norm: Normalisation of a built-in model; for none res+ takes layer, gps and
            gated-gcn take batch.
        dropout: Dropout of a built-in model.
        act: Activation of a built-in model, e.g. relu, gelu, tanh, identity.
        layer_names: Pattern of the names of the modules that are layers, e.g. convs.*,
            where message passing does not tell.
        data_dir: Folder of data sets, laid out as the roots of PyG.
        device: Where to move model and data, e.g. cuda.
        dtype: What to cast model and data to: float16, bfloat16, float32 or float64.
        seed: Seed of weights, training and random probes.
        out: Folder for report.html, report.json and the plots.
        json: Print the record as JSON and not the summary.
        quiet: No progress.
        traceback: Show the traceback of an error.
    """

    dataset: Annotated[str | None, tyro.conf.Positional, _arg("[DATASET]", "Cora")] = (
        None
    )
    data: Annotated[str | None, _arg("MODULE:CALLABLE")] = None
    model: Annotated[str, tyro.conf.arg(metavar="NAME|MODULE:CALLABLE")] = "gcn"
    layers: Annotated[int | None, _arg("INT", "64, or that of your callable")] = None
    hidden: Annotated[int | None, _arg("INT", "64, or that of your callable")] = None
    norm: Literal["none", "batch", "layer"] = "none"
    dropout: float = 0.0
    act: Annotated[str | None, _arg("NAME", "the model's own")] = None
    layer_names: Annotated[str | None, _arg("PATTERN", "found by role")] = None
    data_dir: Annotated[Path | None, _arg("DIR", "GRAPHFATHOM_DATA")] = None
    device: Annotated[str | None, _arg("DEVICE", "where they are")] = None
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32", "float64"] | None,
        _arg("DTYPE", "as they are; what is built in is float32"),
    ] = None
    seed: int = 0
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("report")
    json: bool = False
    quiet: bool = False
    traceback: bool = False


@dataclass(frozen=True)
class Diagnose(AbstractCommand):
    """Diagnose a network on a data set and write a report.

    Args:
        epochs: Train for this many epochs (Adam, full batch), then diagnose.
        controls: What to compare with: an MLP, the same network with one layer and the
            same in state-space form. A bare --controls means trained: each control is
            trained for a short time.
        deep: Also estimate the densities of singular values and the sensitivity by
            distance, and compare with what theory predicts; each says its price first.
        max_seconds: Longest that one of these may take; a longer one is left out.
        mode: Judge normalisation and dropout as at initialisation or as in evaluation.
        fail_on: Exit with 1 if a finding is this severe or worse.
    """

    epochs: int = 0
    controls: Literal["none", "untrained", "trained"] = "untrained"
    deep: bool = False
    max_seconds: float = 300.0
    mode: Literal["auto", "init", "eval"] = "auto"
    fail_on: Literal["warning", "critical", "never"] = "never"


@dataclass(frozen=True)
class Stabilize(AbstractCommand):
    """Give a network the state-space form, and train it beside the network as it was.

    Writes stabilize.json and the weights, stabilized.pt, beside the report.

    Args:
        strength: How strong messages are; if not given, the largest strength that
            meets the criteria is searched.
        epochs: Train the network, its stabilized form, the same network with 2 layers
            and an MLP for this many epochs (Adam, full batch); 0 for no training.
        depths: Train the network and its stabilized form at these depths, too.
    """

    strength: Annotated[float | None, _arg("FLOAT", "searched")] = None
    epochs: int = 200
    depths: Annotated[tuple[int, ...], _arg("INT [INT ...]", "none")] = ()


@dataclass(frozen=True)
class Doctor:
    """Say what this machine has: versions, devices, packages, data sets.

    Args:
        data_dir: Folder of data sets, laid out as the roots of PyG.
        online: Also try to reach the servers of the data sets.
        json: Print one JSON object.
        traceback: Show the traceback of an error.
    """

    data_dir: Annotated[Path | None, _arg("DIR", "GRAPHFATHOM_DATA")] = None
    online: bool = False
    json: bool = False
    traceback: bool = False


def parse(arguments: list[str]) -> Diagnose | Stabilize | Doctor:
    """The options of a command; raises SystemExit after help and usage errors."""
    parsed: list[str] = []
    for argument, following in zip_longest(arguments, arguments[1:]):
        parsed.append(argument)
        if argument == "--controls" and following not in CONTROLS:
            parsed.append("trained")
    # tyro colours what goes to a terminal, but not what goes to a buffer.
    texts = (io.StringIO(), io.StringIO()) if os.environ.get("NO_COLOR") else None
    with contextlib.ExitStack() as stack:
        if texts is not None:
            stack.callback(lambda: sys.stderr.write(texts[1].getvalue()))
            stack.callback(lambda: sys.stdout.write(texts[0].getvalue()))
            stack.enter_context(contextlib.redirect_stdout(texts[0]))
            stack.enter_context(contextlib.redirect_stderr(texts[1]))
        return tyro.extras.subcommand_cli_from_dict(
            {"diagnose": Diagnose, "stabilize": Stabilize, "doctor": Doctor},
            prog="graphfathom",
            description=DESCRIPTION,
            args=parsed,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
