"""One run of ``cora_depth``: a network trained on Cora, taken up where it stopped."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _claim import cora
from _rows import ROWS
from _runs import Config, write
from torch import Tensor, nn
from torch_geometric.data import Data

import graphfathom as gf
from graphfathom.nn.models import GNNSSM
from graphfathom.nn.propagation import Adjacency, gcn_adjacency

EVERY = 2
"""Epochs between two looks at the validation accuracy."""
STUCK = {"after": 100, "above": 0.99}
"""Epochs, and the share of the loss of guessing."""


@dataclass(frozen=True)
class Task:
    """What every run of one process shares."""

    x: Tensor
    edge_index: Tensor
    adjacency: Adjacency
    y: Tensor
    masks: dict[str, Tensor]

    @classmethod
    def load(cls) -> Task:
        """Cora with row-normalised features and one adjacency."""
        data, _ = cora()
        x = data.x / data.x.sum(1, keepdim=True).clamp(min=1)
        masks = {part: data[f"{part}_mask"] for part in ("train", "val", "test")}
        adjacency = gcn_adjacency(data.edge_index, num_nodes=data.num_nodes)
        return cls(x, data.edge_index, adjacency, data.y, masks)

    def data(self) -> Data:
        """The same, as a problem takes it."""
        masks = {f"{part}_mask": mask for part, mask in self.masks.items()}
        return Data(x=self.x, edge_index=self.edge_index, y=self.y, **masks)


@dataclass
class Course:
    """How far a run has come."""

    losses: list[float] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    seconds: float = 0.0

    def look(self, found: dict[str, Any]) -> None:
        """Note an evaluation."""
        self.lines.append(found)
        if self.best is None or found["rank"] > self.best["rank"]:
            self.best = found

    def over(self, config: Config, limit: float) -> bool:
        """Whether the run has diverged, is stuck, has waited in vain or is done."""
        epochs = len(self.losses)
        if epochs == 0:
            return False
        best = self.best["epoch"] if self.best else 0
        return (
            not math.isfinite(self.losses[-1])
            or (epochs >= STUCK["after"] and self.is_stuck(limit))
            or epochs - 1 - best >= config["patience"]
            or epochs >= config["epochs"]
        )

    def is_stuck(self, limit: float) -> bool:
        """Whether no training loss was below the limit."""
        return not any(loss <= limit for loss in self.losses)


def execute(task: Task, config: Config, folder: Path) -> dict[str, Any]:
    """One run: build or take up, train, keep the best epoch's numbers."""
    torch.manual_seed(config["seed"])
    classes = int(task.y.max()) + 1
    limit = STUCK["above"] * math.log(classes)
    model = network(task, config)
    optimizer = _optimizer(model, config)
    course, path = Course(), folder / "checkpoint.pt"
    if path.exists():
        course = _load(path, model, optimizer)
    while not course.over(config, limit):
        start, epoch = time.perf_counter(), len(course.losses)
        course.losses.append(_step(model, optimizer, task))
        if epoch % EVERY == EVERY - 1 and math.isfinite(course.losses[-1]):
            found = {"epoch": epoch, "loss": course.losses[-1]}
            course.look(found | _evaluate(model, task))
        course.seconds += time.perf_counter() - start
        if epoch % 25 == 24:
            _save(path, model, optimizer, course)
    lines = "".join(json.dumps(line) + "\n" for line in course.lines)
    write(folder / "metrics.jsonl", lines)
    path.unlink(missing_ok=True)
    best = course.best or dict.fromkeys(("val", "test", "rank", "epoch"))
    return {
        "val": best["val"],
        "test": best["test"],
        "rank": best["rank"],
        "best_epoch": best["epoch"],
        "epochs": len(course.losses),
        "diverged": not math.isfinite(course.losses[-1]),
        "stuck": course.is_stuck(limit),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(course.seconds, 1),
    }


def network(task: Task, config: Config) -> Any:
    """The row's network at its start."""
    classes = int(task.y.max()) + 1
    widths = (task.x.shape[1], config["width"], classes)
    model: Any = ROWS[config["row"]].build(*widths, config["depth"], config["dropout"])
    if config["row"] == "gain":
        model.correct_gain(task.x, task.adjacency)
    if config["row"] == "calibrated":
        gf.calibrate(gf.Problem(model, task.data()))
    return model


def _save(path: Path, model: Any, optimizer: Any, course: Course) -> None:
    """All that the rest of a run depends on, atomically."""
    part = path.with_suffix(".part")
    states = [model.state_dict(), optimizer.state_dict(), torch.get_rng_state()]
    torch.save([*states, asdict(course)], part)
    os.replace(part, path)


def _load(path: Path, model: Any, optimizer: Any) -> Course:
    """Take up a run where it was saved."""
    weights, moments, random, course = torch.load(path, weights_only=True)
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    torch.set_rng_state(random)
    return Course(**course)


def _optimizer(model: Any, config: Config) -> torch.optim.Optimizer:
    """Adam with one weight decay for the two ends and one for what lies between."""
    if isinstance(model, GNNSSM):
        ends: list[nn.Module] = [model.encoder, model.decoder]
    else:
        ends = model.ends()
    outer = {id(p): p for module in ends for p in module.parameters()}
    inner = [p for p in model.parameters() if id(p) not in outer]
    groups = [
        {"params": list(outer.values()), "weight_decay": config["weight_decay"]},
        {"params": inner, "weight_decay": config["weight_decay_between"]},
    ]
    return torch.optim.Adam([g for g in groups if g["params"]], lr=config["lr"])


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, task: Task) -> float:
    """One epoch; the weights stay as they are if a loss or gradient is not finite."""
    model.train()
    optimizer.zero_grad()
    train = task.masks["train"]
    loss = F.cross_entropy(model(task.x, task.adjacency)[train], task.y[train])
    if not torch.isfinite(loss):
        return math.nan
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not all(torch.isfinite(norm) for norm in torch._foreach_norm(gradients)):
        return math.nan
    optimizer.step()
    return loss.item()


@torch.no_grad()
def _evaluate(model: nn.Module, task: Task) -> dict[str, Any]:
    """Accuracies in percent, and what epochs are compared by."""
    model.eval()
    output = model(task.x, task.adjacency)
    right = output.argmax(1) == task.y
    val, test = (
        round(100 * float(right[task.masks[part]].float().mean()), 3)
        for part in ("val", "test")
    )
    mask = task.masks["val"]
    loss = float(F.cross_entropy(output[mask], task.y[mask]))
    rank = [val, -loss if math.isfinite(loss) else -1e30]
    return {"val": val, "test": test, "rank": rank}
