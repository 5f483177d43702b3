"""Where rows go while training runs."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from graphs import random_graph
from torch_geometric.nn import GCN

from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.monitoring import JsonLines, Monitor, TensorBoard, read_json_lines

ROWS = (
    Observation("loss", "model", 0.5, run="training", step=20),
    Observation("feature_rms", "layer:3", -math.inf, None, "log10", "float32"),
    Observation("gain", "state:1", math.inf, 0.25),
)


class Board:
    """Takes scalars as TensorBoard's writer does."""

    def __init__(self) -> None:
        self.scalars: list[tuple[str, float, int]] = []
        self.closed = False

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))

    def close(self) -> None:
        self.closed = True


def test_json_lines_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.jsonl"
    for rows in (ROWS[:1], ROWS[1:]):  # appended by a second run of the program
        writer = JsonLines(path)
        writer.write(rows)
        writer.close()
    assert read_json_lines(path) == Observations(ROWS)
    lines = path.read_text().splitlines()
    assert json.loads(lines[1])["value"] == "-inf"
    assert repr(writer) == f"JsonLines({str(path)!r})"


def test_nan_is_read_back(tmp_path: Path) -> None:
    writer = JsonLines(tmp_path / "run.jsonl")
    writer.write([Observation("loss", "model", math.nan)])
    assert math.isnan(read_json_lines(writer.path).value("loss"))
    writer.close()


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    writer = JsonLines(tmp_path / "run.jsonl")
    writer.write(ROWS)
    writer.close()
    text = writer.path.read_text()
    writer.path.write_text(text[:-10])
    assert read_json_lines(writer.path) == Observations(ROWS[:2])


@pytest.mark.parametrize("line", ["no json", "[1]", '{"value": 1}', '{"name": "x"}'])
def test_other_files_are_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "other.txt"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"one observation a line. Got .* in line 1"):
        read_json_lines(path)


def test_scalars_for_tensorboard() -> None:
    board = Board()
    writer = TensorBoard(board)
    writer.write(ROWS[:2])
    writer.close()
    assert board.scalars == [
        ("loss/model", 0.5, 20),
        ("feature_rms/layer_3", -math.inf, 0),
    ]
    assert not board.closed, "it is the caller's"


def test_a_folder_needs_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "torch.utils.tensorboard":
            raise ModuleNotFoundError(name)
        return load(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=r"pip install graphfathom\[tensorboard\]"):
        TensorBoard("runs")


def test_what_takes_no_scalars_is_refused() -> None:
    with pytest.raises(TypeError, match=r"have `add_scalar.*Got list"):
        TensorBoard([])


class Broken:
    """A disk that is full from the second write on."""

    def __init__(self) -> None:
        self.writes = 0
        self.closed = False

    def write(self, rows: Sequence[Observation]) -> None:
        self.writes += 1
        if self.writes > 1:
            raise OSError("No space left on device")

    def close(self) -> None:
        self.closed = True


def test_a_writer_that_fails_is_left_out_and_training_goes_on() -> None:
    model, data, board, broken = GCN(3, 4, 2, 2), random_graph(), Board(), Broken()
    monitor = Monitor(model, every=1, writers=[broken, TensorBoard(board)])

    def step() -> None:
        loss = model(data.x, data.edge_index).square().mean()
        loss.backward()
        monitor.step(loss)

    step()
    with pytest.warns(UserWarning, match=r"Broken failed at step 1 .* No space left"):
        step()
    step()
    assert broken.writes == 2
    tags = [scalar[2] for scalar in board.scalars if scalar[0] == "loss/model"]
    assert tags == [0, 1, 2]
    assert len(monitor.observations.select("loss")) == 3


def test_closing_a_monitor_closes_its_writers(tmp_path: Path) -> None:
    broken = Broken()
    with Monitor(GCN(3, 4, 2, 2), writers=[broken, JsonLines(tmp_path / "x")]):
        pass
    assert broken.closed


def test_the_lines_of_a_run_are_its_observations(tmp_path: Path) -> None:
    model, data = GCN(3, 4, 2, 2), random_graph()
    model.convs[0].lin.weight.data[0, 0] = math.inf
    writer = JsonLines(tmp_path / "run.jsonl")
    with Monitor(model, writers=[writer]) as monitor:
        loss = model(data.x, data.edge_index).square().mean()
        loss.backward()
        monitor.step(loss)
    found, expected = read_json_lines(writer.path), monitor.observations
    assert str(found.to_rows()) == str(expected.to_rows()), "NaN is not equal to NaN"
    assert torch.isnan(torch.tensor([row.value for row in found])).any()
