"""Model and data from words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from raw_files import go_offline, write_minesweeper
from torch import nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import DataLoader

from graphfathom.datasets import DataError, UnavailableError
from graphfathom.inputs import (
    Case,
    RunError,
    called_data,
    called_model,
    named_data,
    named_model,
    place,
)


@pytest.fixture(autouse=True)
def _workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go_offline(monkeypatch, tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An importable module, to put callables into."""
    module = ModuleType("user")
    monkeypatch.setitem(sys.modules, "user", module)
    return module


def graph() -> Data:
    edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
    y = torch.tensor([0, 3, 1])
    return Data(x=torch.randn(3, 5), edge_index=edge_index, y=y)


def silent(message: str) -> None:
    return


def test_named_data(tmp_path: Path) -> None:
    write_minesweeper(tmp_path / "data")
    case = named_data("minesweeper", tmp_path / "data", silent)
    assert case.name == "Minesweeper"
    assert case.data.num_nodes == 8
    assert "split 0 of 10" in case.description
    assert case.note == ""


def test_only_cora_has_a_stand_in() -> None:
    case = named_data(None, None, silent)
    assert case.data.num_nodes == 2708
    assert case.note.startswith(
        "A generated graph of Cora's size was used. Cora cannot"
    )
    with pytest.raises(UnavailableError, match=r"CiteSeer cannot be had"):
        named_data("CiteSeer", None, silent)


def test_a_wrong_folder_is_no_reason_for_a_stand_in() -> None:
    with pytest.raises(DataError, match=r"`data_dir` must be a folder"):
        named_data("Cora", "/no/where", silent)


def test_a_callable_is_no_name() -> None:
    with pytest.raises(ValueError, match=r"'my:load' is no data set.*`--data my:load`"):
        named_data("my:load", None, silent)


def test_progress_says_that_cora_was_taken() -> None:
    messages: list[str] = []
    named_data(None, None, messages.append)
    assert messages[0] == "no data set named: taking Cora"


def test_called_data(user: ModuleType) -> None:
    user.load = graph
    case = called_data("user:load")
    assert (case.name, case.description, case.arguments) == ("user:load",) * 2 + ({},)
    assert case.data.num_nodes == 3


def test_a_graph_is_taken_as_it_is(user: ModuleType) -> None:
    user.data = graph()
    assert called_data("user:data").data is user.data


def test_called_data_with_arguments(user: ModuleType) -> None:
    user.load = lambda: (graph(), {"target": "y"})
    case = called_data("user:load")
    assert case.data.num_nodes == 3
    assert case.arguments == {"target": "y"}


def test_the_arguments_of_a_call_are_data(user: ModuleType) -> None:
    call = ((torch.randn(3, 5),), {"edge_index": graph().edge_index})
    user.load = lambda: call
    case = called_data("user:load")
    assert case.data is call
    assert case.arguments == {}


def test_a_folder_of_python_files_is_importable(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "my_data.py").write_text(
        "class Loaders:\n    @staticmethod\n    def load():\n        return 'graph'"
    )
    assert called_data("pkg.my_data:Loaders.load").data == "graph"


@pytest.mark.parametrize("spec", ["load", ":load", "user:", ":"])
def test_a_spec_has_two_parts(spec: str) -> None:
    message = rf"`--data` must be module:callable, e.g. .* Got '{spec}'."
    with pytest.raises(ValueError, match=message):
        called_data(spec)


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"there is no module 'absent' in .* or among"):
        called_data("absent:load")
    with pytest.raises(ValueError, match=r"there is no module 'absent' in "):
        called_data("absent.below:load")


def test_a_module_that_misses_another(tmp_path: Path) -> None:
    (tmp_path / "needy.py").write_text("import absent_package")
    message = r"importing 'needy' raised ModuleNotFoundError: .*'absent_package'"
    with pytest.raises(ValueError, match=message):
        called_data("needy:load")


def test_a_module_that_breaks(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    message = r"`--model broken:f`: importing 'broken' raised ZeroDivisionError"
    with pytest.raises(ValueError, match=message):
        called_model("broken:f", graph())


def test_an_attribute_that_is_not_there(user: ModuleType) -> None:
    user.load_graph = graph
    message = r"module 'user' has no 'load_grap'. Did you mean 'load_graph'\?"
    with pytest.raises(ValueError, match=message):
        called_data("user:load_grap")
    with pytest.raises(ValueError, match=r"module 'user' has no 'xyz'.$"):
        called_data("user:xyz")


def test_an_attribute_that_is_not_callable(user: ModuleType) -> None:
    user.data = {"x": 1}
    message = r"`--data user:data` must be callable. Got dict: write a function"
    with pytest.raises(ValueError, match=message):
        called_data("user:data")


def test_a_data_callable_that_breaks(user: ModuleType) -> None:
    user.load = lambda: 1 / 0
    with pytest.raises(DataError, match=r"`--data user:load` raised ZeroDivisionError"):
        called_data("user:load")


def test_a_data_callable_that_needs_more(user: ModuleType) -> None:
    user.load = lambda folder: folder
    message = r"`--data user:load` needs folder, which we cannot give it. It is called "
    with pytest.raises(ValueError, match=message + "with nothing"):
        called_data("user:load")


def test_named_model() -> None:
    assert repr(named_model("gcn", graph())) == "GCN(5, 4, num_layers=64)"
    model = named_model("GCN", graph(), 3, 8, act="tanh")
    assert repr(model) == "GCN(5, 4, num_layers=3)"
    assert model.hidden_channels == 8
    assert isinstance(model.act, nn.Tanh)


@pytest.mark.parametrize(
    ("y", "width"),
    [
        (torch.tensor([[0], [4], [1]]), 5),
        (torch.tensor([0.5, 1.0, 2.0]), 1),
        (torch.ones(3, 6), 6),
        (None, 8),
    ],
)
def test_the_labels_give_the_width_of_the_output(
    y: torch.Tensor | None, width: int
) -> None:
    data = graph()
    data.y = y
    assert repr(named_model("gcn", data, 3, 8)) == f"GCN(5, {width}, num_layers=3)"


def test_a_loader_gives_widths_by_its_first_batch() -> None:
    model = named_model("gcn", DataLoader([graph()]), 3)
    assert repr(model) == "GCN(5, 4, num_layers=3)"


def test_a_built_in_model_needs_one_graph_with_features() -> None:
    for data in (hetero(), (graph().x, {}), Data(num_nodes=3)):
        message = rf"'gcn' needs one homogeneous graph .* Got {type(data).__name__}"
        with pytest.raises(ValueError, match=message):
            named_model("gcn", data)


def hetero() -> HeteroData:
    data = HeteroData()
    data["paper"].x = torch.randn(3, 5)
    data["paper"].y = torch.tensor([0, 1, 2])
    data["author"].x = torch.randn(2, 7)
    return data


def recorder() -> tuple[Callable[..., nn.Module], dict[str, Any]]:
    seen: dict[str, Any] = {}

    def keep(**arguments: Any) -> nn.Module:
        seen.update(arguments)
        return nn.Linear(1, 1)

    return keep, seen


def test_a_callable_gets_what_it_accepts(user: ModuleType) -> None:
    keep, seen = recorder()

    def build(
        in_channels: int, out_channels: int, num_layers: int, data: Data, other: int = 3
    ) -> nn.Module:
        return keep(
            widths=(in_channels, out_channels, num_layers), data=data, other=other
        )

    user.build = build
    data = graph()
    called_model("user:build", data, num_layers=9)
    assert seen["widths"] == (5, 4, 9)
    assert seen["data"] is data
    assert seen["other"] == 3


def test_its_own_defaults_hold_unless_asked(user: ModuleType) -> None:
    keep, seen = recorder()

    def build(num_layers: int = 16, *, hidden_channels: int) -> nn.Module:
        return keep(sizes=(num_layers, hidden_channels))

    user.build = build
    called_model("user:build", graph())
    assert seen["sizes"] == (16, 64)
    called_model("user:build", graph(), 2, 3)
    assert seen["sizes"] == (2, 3)


def test_a_heterogeneous_graph_has_a_width_for_each_type(user: ModuleType) -> None:
    keep, seen = recorder()

    def build(in_channels: dict[str, int], out_channels: int) -> nn.Module:
        return keep(widths=(in_channels, out_channels))

    user.build = build
    called_model("user:build", hetero())
    assert seen["widths"] == ({"paper": 5, "author": 7}, 3)


def test_a_class_is_a_callable() -> None:
    model = called_model("torch_geometric.nn:GCN", graph(), 3, 8)
    assert repr(model) == "GCN(5, 4, num_layers=3)"


def test_a_module_is_taken_as_it_is(user: ModuleType) -> None:
    user.model = nn.Linear(2, 2)
    assert called_model("user:model", graph()) is user.model


def test_a_callable_that_needs_more(user: ModuleType) -> None:
    user.build = lambda in_channels, heads: None
    message = r"`--model user:build` needs heads, .* called with data, in_channels, "
    with pytest.raises(ValueError, match=message):
        called_model("user:build", graph())


def test_widths_that_the_data_does_not_tell(user: ModuleType) -> None:
    user.build = lambda in_channels: None
    with pytest.raises(ValueError, match=r"needs in_channels, which we cannot give"):
        called_model("user:build", "no graph")


def test_a_callable_that_breaks(user: ModuleType) -> None:
    user.build = lambda: 1 / 0
    with pytest.raises(
        RunError, match=r"`--model user:build` raised ZeroDivisionError"
    ):
        called_model("user:build", graph())


def test_a_callable_that_returns_no_module(user: ModuleType) -> None:
    user.build = lambda: "model"
    message = r"`--model user:build` must return a torch.nn.Module. Got str."
    with pytest.raises(ValueError, match=message):
        called_model("user:build", graph())


def test_place_casts_floats_only() -> None:
    case = Case(graph(), "name", "description")
    model, placed = place(nn.Linear(5, 2), case, "cpu", "float16")
    assert next(model.parameters()).dtype == torch.float16
    assert placed.data.x.dtype == torch.float16
    assert placed.data.edge_index.dtype == torch.int64
    assert case.data.x.dtype == torch.get_default_dtype()


def test_place_does_nothing_unasked() -> None:
    case = Case(((torch.ones(2),), {}), "name", "description")
    linear = nn.Linear(5, 2)
    model, placed = place(linear, case, None, None)
    assert model is linear
    assert placed.data[0][0].dtype == torch.get_default_dtype()


@pytest.mark.parametrize("device", ["abacus", "cuda:99"])
def test_a_device_that_is_not_there(device: str) -> None:
    message = rf"`--device` must be a device of this machine. Got '{device}': "
    with pytest.raises(ValueError, match=message):
        place(nn.Linear(5, 2), Case(graph(), "", ""), device, None)
