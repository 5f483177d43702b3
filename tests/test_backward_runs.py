"""The runs of ``benchmarks/backward_smoothing.py``, on a network of three layers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import _backward_plan as plan
import _backward_tables as tables
from _backward_networks import (
    Network,
    at_fitted_head,
    convolutions,
    graph_of,
    with_fitted_head,
)
from _backward_runs import build, execute
from _runs import Queue

CONFIG = plan.run("train", ("fast", "gnn", 3, 1.0), 0, epochs=2, lr=0.1, decay=0.01)


def test_what_a_run_writes_down(tmp_path: Path) -> None:
    found = execute(CONFIG, tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    graph, model = build(CONFIG)
    data = graph.data
    output = model(data.x, data.edge_index, data.edge_weight)[data.train_mask]
    loss = F.cross_entropy(output, data.y[data.train_mask])
    layers = [conv.lin.weight for conv in convolutions(model)]
    gradients = list(torch.autograd.grad(loss, layers))
    gradients[-1] = gradients[-1] + CONFIG["decay"] * layers[-1].detach()
    assert first["loss"] == pytest.approx(float(loss.detach()))
    assert first["gradients"] == pytest.approx([float(g.norm()) for g in gradients])
    assert first["norms"][:3] == pytest.approx([1.0] * 3)
    assert second["loss"] == found["loss"] < first["loss"]
    assert 40 < found["test"] <= 100


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_the_fitted_head_is_a_minimum(ridge: float) -> None:
    graph = graph_of("fast", 0)
    torch.manual_seed(0)
    model = Network((32, 32, 2), 4)
    data, y = graph.data, F.one_hot(graph.data.y).double()
    rows = data.train_mask
    fitted = with_fitted_head(model, graph, y, rows, ridge)
    output = fitted(data.x, data.edge_index, data.edge_weight)
    head = convolutions(fitted)[-1]
    error = (output - y)[rows].square().sum(1).mean()
    objective = error + ridge * head.lin.weight.square().sum()
    for gradient in torch.autograd.grad(objective, list(head.parameters())):
        assert gradient.abs().max() < 1e-10
    found = at_fitted_head(model, graph, y, rows, ridge)
    assert found.loss == pytest.approx(float(error.detach()) / 2)
    assert found.loss < found.constant


def test_rates_of_the_graphs() -> None:
    assert graph_of("fast", 0).smoothing.rate <= 0.8
    assert graph_of("slow", 0).smoothing.rate >= 0.93


@pytest.mark.parametrize("network", ["mlp", "state", "stabilized"])
def test_every_kind_of_network(network: str) -> None:
    cell = ("fast", network, 3, 1.0)
    graph, model = build(plan.run("train", cell, 0, radius=0.9, strength=1.0))
    data = graph.data
    found = model(data.x, graph.adjacency)
    torch.testing.assert_close(model(data.x, data.edge_index, data.edge_weight), found)
    assert len(convolutions(model)) == 4
    if network == "mlp":
        torch.testing.assert_close(
            model(data.x[:7], torch.arange(7).expand(2, -1))[3], found[3]
        )


def test_every_run_is_planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_source", lambda: "Cora")
    runs = [json.dumps(c, sort_keys=True) for c in plan.everything()]
    # The weights of norm 1 are a row of two tables.
    assert len(runs) - len(set(runs)) == plan.FEW


def test_tables_of_what_there_is(tmp_path: Path) -> None:
    cell = plan.TRAINED[0]
    result: dict[str, Any] = {
        "findings": ["spurious-stationary-point"],
        "title": "Spurious stationary point (smoothing)",
        "stationary": True,
        **dict.fromkeys(("refit", "constant", "refit_gradient", "moved"), 0.5),
    }
    queue = Queue(tmp_path)
    queue.work(lambda: [plan.diagnosed(cell, 3)], lambda *_: result, lambda _: None)
    (row,) = tables.judged(queue)
    assert (row["seeds"], row["flagged"], row["right"], row["peer_right"]) == (
        1,
        1,
        1,
        0,
    )
    assert tables.trained(queue) == []
