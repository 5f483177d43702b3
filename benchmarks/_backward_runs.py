"""One run of ``backward_smoothing``: a network measured and trained, or diagnosed."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _backward_networks import (
    Graph,
    Network,
    at_fitted_head,
    convolutions,
    gcn_operator,
    graph_of,
    measured,
    rate_of_gcn,
    spectral_norm,
    without_edges,
)
from _claim import cora
from _runs import Config, write
from torch import Tensor, nn

import graphfathom as gf
from graphfathom.diagnostics.observations import Observations
from graphfathom.nn import Scalar
from graphfathom.theory.stochastic import laplacian_walk, sinkhorn, smoothing_rate

WIDTH = 32
EVERY = 10
"""Epochs between two looks at the norms of the weights."""
FINDING = "spurious-stationary-point"
STATIONARY = 1e-3
"""Largest relative change of the loss per relative change of the weights of any layer,
and :data:`HIGH` of the best constant's loss, from which the independent measure, a head
fitted to squared loss, calls a network stationary."""
HIGH = 0.95


def execute(config: Config, folder: Path) -> dict[str, Any]:
    """Build the network, then do what the configuration says."""
    if config["kind"] == "rates":
        return rates()
    graph, model = build(config)
    if config["kind"] == "diagnose":
        found = diagnosed(model, graph, config)
    else:
        found = trained(model, graph, config, folder)
    return finite(found | {"smoothing": asdict(graph.smoothing)})


def rates() -> dict[str, Any]:
    """Lambda of three operators on Cora, over all components."""
    data, _ = cora()
    nodes = int(data.num_nodes or 0)
    found = {
        "GCN": rate_of_gcn(gcn_operator(data)),
        "Sinkhorn": smoothing_rate(sinkhorn(data.edge_index, nodes)),
        "I − Δ/(d + 1), d the largest degree": smoothing_rate(
            laplacian_walk(data.edge_index, nodes)
        ),
    }
    return {name: asdict(smoothing) for name, smoothing in found.items()}


@functools.lru_cache(maxsize=4)
def _graph(name: str, seed: int) -> Graph:
    return graph_of(name, seed)


def build(config: Config) -> tuple[Graph, nn.Module]:
    """Graph and network of a configuration."""
    graph = _graph(config["graph"], 0 if config["graph"] == "cora" else config["seed"])
    network, data = config["network"], graph.data
    torch.manual_seed(config["seed"])
    model: nn.Module = Network(
        (data.num_features, WIDTH, int(data.y.max()) + 1),
        config["layers"],
        config["scale"],
    )
    if network == "mlp":
        graph = without_edges(graph)
    if network == "stabilized":
        model = gf.stabilize(model, data)
    if network == "state":
        step = config["strength"] / math.sqrt(config["layers"])
        state, taken = Scalar(config["radius"]), Scalar(step)
        problem = gf.Problem(model, data)
        model = gf.to_state_space(model, problem, state=state, input=taken)
    return graph, model


class Course:
    """What is minimised, and what is written down while a network trains."""

    def __init__(self, graph: Graph, layers: list[Any], decay: float) -> None:
        self.graph, self.layers, self.decay = graph, layers, decay
        self.losses: list[float] = []
        self.gradients: list[list[float]] = []
        self.norms: list[list[float]] = []

    def loss(self, model: nn.Module) -> Tensor:
        """Cross-entropy on the training nodes, and the decay of the last layer."""
        data = self.graph.data
        output = model(data.x, self.graph.adjacency)[data.train_mask]
        value = F.cross_entropy(output, data.y[data.train_mask])
        self.losses.append(float(value.detach()))
        return value + self.decay / 2 * self.layers[-1].lin.weight.square().sum()

    def note(self, epoch: int, _: nn.Module) -> None:
        """Gradients that are in place, and now and then the norms of the weights."""
        weights = (conv.lin.weight.grad for conv in self.layers)
        norms = [0.0 if grad is None else float(grad.norm()) for grad in weights]
        self.gradients.append(norms)
        if epoch % EVERY == 0:
            self.norms.append(_norms(self.layers))

    def lines(self) -> str:
        """One line of JSON for each epoch."""
        rows = []
        pairs = zip(self.losses, self.gradients, strict=True)
        for epoch, (loss, norms) in enumerate(pairs):
            row = {"epoch": epoch, "loss": loss, "gradients": norms}
            if epoch % EVERY == 0:
                row["norms"] = self.norms[epoch // EVERY]
            rows.append(json.dumps(finite(row)))
        return "".join(f"{row}\n" for row in rows)


def trained(
    model: nn.Module, graph: Graph, config: Config, folder: Path
) -> dict[str, Any]:
    """Measure at the start with fitted and with random head, train, judge.

    Adam on all weights, cross-entropy on the training nodes, weight decay on the last
    layer alone; the weights of the last epoch.
    """
    data, layers = graph.data, convolutions(model)
    target = F.one_hot(data.y).to(data.x)
    start = {
        "fitted": asdict(at_fitted_head(model, graph, target, data.train_mask)),
        "random": asdict(measured(model, graph, target, data.train_mask)),
        "norms": _norms(layers),
    }
    course = Course(graph, layers, config["decay"])
    history = gf.training.fit(
        model,
        course.loss,
        epochs=config["epochs"],
        lr=config["lr"],
        weight_decay=0.0,
        on_step=course.note,
    )
    write(folder / "metrics.jsonl", course.lines())
    return {
        "start": start,
        "constant": _constant(data.y[data.train_mask]),
        "loss": course.losses[-1],
        "diverged": history.diverged,
        "gradients": course.gradients[-1],
        "norms": _norms(layers),
        **_accuracies(model, graph),
        "seconds": round(history.seconds, 1),
    }


def diagnosed(model: nn.Module, graph: Graph, config: Config) -> dict[str, Any]:
    """What the detector says of an untrained network, and an independent measure."""
    data = graph.data
    report = gf.diagnose(model, data, controls="none", seed=config["seed"])
    table = report.observations
    flag = next((f for f in report.findings if f.name == FINDING), None)
    target = F.one_hot(data.y).to(data.x)
    fitted = at_fitted_head(model, graph, target, data.train_mask)
    moved = _relative(fitted.gradients, model, fitted.loss)
    head = table.value("refit.layer")
    return {
        "findings": [f.name for f in report.findings],
        "title": flag.title if flag else None,
        "evidence": list(flag.evidence) if flag else [],
        "constant": table.value("loss.constant"),
        "refit": table.value("loss.refit"),
        "refit_gradient": _largest(table, "refit", head),
        "gradient": _largest(table, "model", head),
        "fitted": asdict(fitted),
        "moved": moved,
        "stationary": bool(
            moved < math.log10(STATIONARY) and fitted.loss >= HIGH * fitted.constant
        ),
    }


def _largest(table: Observations, run: str, head: float) -> float:
    """log10 of the largest gradient of the weights of a layer below the head."""
    rows = zip(*table.series("gradient.weights", run), strict=True)
    return max((value for layer, value in rows if layer < head), default=math.nan)


def _relative(gradients: list[float], model: nn.Module, loss: float) -> float:
    """log10 of the largest relative change of the loss per that of some weights."""
    sizes = (float(conv.lin.weight.detach().norm()) for conv in convolutions(model))
    moved = (g + math.log10(size) for g, size in zip(gradients, sizes, strict=False))
    return max(moved) - math.log10(loss)


def _norms(layers: list[Any]) -> list[float]:
    """Spectral norms of the weights."""
    return [float(spectral_norm(conv.lin.weight)) for conv in layers]


def _constant(y: Tensor) -> float:
    """Cross-entropy of the best constant."""
    share = y.bincount() / len(y)
    return float(-torch.special.xlogy(share, share).sum())


@torch.no_grad()
def _accuracies(model: nn.Module, graph: Graph) -> dict[str, float]:
    """In percent, of training and test nodes."""
    right = model(graph.data.x, graph.adjacency).argmax(1) == graph.data.y
    return {
        part: round(100 * float(right[graph.data[f"{part}_mask"]].double().mean()), 2)
        for part in ("train", "test")
    }


def finite(value: Any) -> Any:
    """Numbers that JSON knows; None for NaN and infinity."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)
