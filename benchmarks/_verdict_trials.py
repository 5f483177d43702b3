"""What is done with a trial of the verdict suite: train, diagnose, treat."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from _verdict_diseases import Trial
from _verdict_models import DenseLayer, Squashed
from torch import Tensor, nn
from torch_geometric.transforms import AddLaplacianEigenvectorPE

import graphfathom as gf
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.report import Finding, Report
from graphfathom.diagnostics.training_rules import RISE
from graphfathom.monitoring import Monitor

__all__ = ["REMEDIES", "described", "diagnose", "remedy_of", "train", "watched"]


def train(trial: Trial, seed: int) -> float:
    """Train a copy: test accuracy in percent at the best epoch by validation."""
    model = copy.deepcopy(trial.model)
    torch.manual_seed(seed)
    gf.training.fit(
        model,
        lambda model: _loss(model, trial),
        epochs=trial.epochs,
        lr=trial.lr,
        evaluate=lambda model: _accuracy(model, trial, "val"),
    )
    model.eval()
    return _accuracy(model, trial, "test")


def watched(trial: Trial, seed: int) -> Observations:
    """Train a copy in a user's loop, with a monitor in it."""
    model = copy.deepcopy(trial.model).train()
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(
        [p for p in model.parameters() if p.requires_grad],
        lr=trial.lr,
        weight_decay=5e-4,
    )
    with Monitor(model, every=5, layers=_pattern(trial)) as monitor:
        for _ in range(trial.epochs):
            optimizer.zero_grad()
            loss = _loss(model, trial)
            loss.backward()
            monitor.step(loss)
            optimizer.step()
    return monitor.observations


def _loss(model: nn.Module, trial: Trial) -> Tensor:
    data = trial.data
    output = model(data.x, data.edge_index)
    return F.cross_entropy(output[data.train_mask], data.y[data.train_mask])


@torch.no_grad()
def _accuracy(model: nn.Module, trial: Trial, part: str) -> float:
    data = trial.data
    right = model(data.x, data.edge_index).argmax(1) == data.y
    return 100 * float(right[data[f"{part}_mask"]].double().mean())


def diagnose(trial: Trial, seed: int, deep: bool) -> Report:
    """What a user would do: train once, then ask why the network does not learn."""
    return gf.diagnose(
        trial.model,
        trial.data,
        layers=_pattern(trial),
        deep=deep,
        trajectory=watched(trial, seed),
    )


def _pattern(trial: Trial) -> str | None:
    """Layers that are no message passing of PyG's have to be named to the monitor."""
    if not any(isinstance(m, DenseLayer) for m in trial.model.modules()):
        return None
    return "net.convs.*" if isinstance(trial.model, Squashed) else "*convs.*"


def remedy_of(finding: Finding) -> str | None:
    """The first of :data:`REMEDIES` that the advice names, None if it names none."""
    for sentence in finding.advice:
        for words in REMEDIES:
            if words in sentence:
                return words
    return None


def _stabilize(trial: Trial) -> Trial:
    return replace(trial, model=gf.stabilize(trial.model, trial.data))


def _rewire(trial: Trial) -> Trial:
    data = trial.data.clone()
    data = gf.transforms.Rewire(share=0.2)(data)
    return replace(trial, data=data)


def _encode(trial: Trial) -> Trial:
    """The encodings take the place of columns that say nothing, so that widths stay."""
    width = min(16, trial.data.num_features)
    encode = AddLaplacianEigenvectorPE(width, "encoding", is_undirected=True)
    data = encode(trial.data.clone())
    # Eigenvectors have norm 1, features about 1 in each entry.
    codes = data.encoding.to(data.x) * len(data.x) ** 0.5
    data.x = torch.cat([codes, data.x[:, width:]], dim=1)
    del data.encoding
    return replace(trial, data=data)


def _slower(trial: Trial) -> Trial:
    """A tenth of the rate, and again while the loss still jumps."""
    for _ in range(3):
        trial = replace(trial, lr=trial.lr / 10)
        losses = [row.value for row in watched(trial, 0).select("loss.peak")]
        if max(losses[1:]) <= RISE * losses[0]:
            break
    return trial


def _unfreeze(trial: Trial) -> Trial:
    """Let everything train, and start anew what did not."""
    model = copy.deepcopy(trial.model)
    for module in model.modules():
        if not all(p.requires_grad for p in module.parameters(recurse=False)):
            _restart(module)
    return replace(trial, model=model.requires_grad_(True))


def _reset(trial: Trial) -> Trial:
    model = copy.deepcopy(trial.model)
    for module in model.modules():
        _restart(module)
    return replace(trial, model=model)


def _restart(module: nn.Module) -> None:
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()  # pyright: ignore[reportCallIssue]


def _bare(trial: Trial) -> Trial:
    model = trial.model
    return replace(trial, model=model.net if isinstance(model, Squashed) else model)


REMEDIES: dict[str, Callable[[Trial], Trial]] = {
    "graphfathom.stabilize": _stabilize,
    "transforms.Rewire": _rewire,
    "AddLaplacianEigenvectorPE": _encode,
    "learning rate": _slower,
    "requires_grad_(True)": _unfreeze,
    "reset_parameters()": _reset,
    "the loss applies its own activation": _bare,
}
"""Words of an advice that a program can follow, and how it does so."""


def described(finding: Finding) -> dict[str, Any]:
    """What is kept of a finding."""
    return {
        "name": finding.name,
        "severity": finding.severity,
        "title": finding.title,
        "advice": list(finding.advice),
    }
