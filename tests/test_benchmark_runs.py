"""The queue of ``benchmarks/cora_depth.py``: each run once, and resumed exactly."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import graphfathom as gf
from graphfathom.nn import gcn_adjacency

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import _training
from _runs import Queue, digest
from _training import Task, execute

CONFIG = {"row": "ours", "depth": 3, "seed": 0, "width": 8, "dropout": 0.5, "lr": 0.01}
CONFIG |= {"weight_decay": 5e-4, "weight_decay_between": 0.01}
CONFIG |= {"epochs": 40, "patience": 40, "every": 2}


@pytest.fixture
def task(float32_default: None) -> Task:
    data = gf.datasets.csbm(60, 3, avg_degree=4, homophily=0.8, seed=0)
    masks = {part: data[f"{part}_mask"] for part in ("train", "val", "test")}
    adjacency = gcn_adjacency(data.edge_index, num_nodes=60)
    return Task(data.x, data.edge_index, adjacency, data.y, masks)


def test_the_name_is_that_of_the_values() -> None:
    assert digest(CONFIG) == digest(dict(reversed(CONFIG.items())))
    assert digest(CONFIG) != digest(CONFIG | {"seed": 1})
    with pytest.raises(ValueError, match="JSON"):
        digest(CONFIG | {"lr": float("nan")})


def test_each_run_is_made_once(tmp_path: Path) -> None:
    made = []

    def run(config: dict[str, Any], folder: Path) -> dict[str, Any]:
        made.append(config["seed"])
        assert folder.name == digest(config)
        return {"test": config["seed"]}

    queue, configs = Queue(tmp_path), [CONFIG | {"seed": seed} for seed in range(3)]
    queue.work(lambda: configs, run, lambda _: None)
    queue.work(lambda: configs, run, lambda _: None)
    assert made == [0, 1, 2]
    assert [queue.result(config) for config in configs] == [{"test": s} for s in made]
    assert (
        json.loads((queue.folder(configs[1]) / "config.json").read_text()) == configs[1]
    )


def test_a_run_of_another_process_is_left_to_it(tmp_path: Path) -> None:
    queue = Queue(tmp_path)
    with queue.locked(CONFIG) as ours, queue.locked(CONFIG) as again:
        assert (ours, again) == (True, False)
    with queue.locked(CONFIG) as ours:
        assert ours


def test_a_run_that_fails_is_not_finished(tmp_path: Path) -> None:
    queue = Queue(tmp_path)

    def fail(*_: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        queue.work(lambda: [CONFIG], fail)
    assert queue.result(CONFIG) is None


@pytest.mark.parametrize("row", ["ours", "gcn", "calibrated"])
def test_an_interrupted_run_resumes_to_the_same_numbers(
    row: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CONFIG | {"row": row}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = execute(task, config, whole)
    step, epochs = _training._step, 0

    def interrupted(*args: Any) -> float:
        nonlocal epochs
        epochs += 1
        if epochs == 31:  # six epochs behind the last checkpoint
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(_training, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute(task, config, parts)
    torch.manual_seed(123)
    monkeypatch.setattr(_training, "_step", step)
    found = execute(task, config, parts)
    assert found | {"seconds": 0} == expected | {"seconds": 0}
    texts = [(folder / "metrics.jsonl").read_text() for folder in (whole, parts)]
    assert texts[0] == texts[1]
    assert not (parts / "checkpoint.pt").exists()
