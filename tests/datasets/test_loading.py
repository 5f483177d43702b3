"""Data sets by name, without the network."""

from __future__ import annotations

import os
import re
import socket
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_geometric.datasets
from raw_files import (
    go_offline,
    write_cora,
    write_minesweeper,
    write_reed98,
    write_texas,
)

from graphfathom.datasets import (
    NAMES,
    DataError,
    UnavailableError,
    cache_folder,
    data_folder,
    load,
    loading,
    locate,
)
from graphfathom.datasets.sources import SOURCES

REAL = os.environ.get("GRAPHFATHOM_DATA")
PYG_MODULE = "torch_geometric.datasets.heterophilous_graph_dataset"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go_offline(monkeypatch, tmp_path / "cache")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with four small data sets."""
    folder = tmp_path / "data"
    for write in (write_cora, write_minesweeper, write_reed98, write_texas):
        write(folder)
    return folder


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_the_table_agrees_with_pyg(source: Any) -> None:
    loader: Any = getattr(torch_geometric.datasets, source.loader)
    data_set = loader.__new__(loader)
    data_set.root = source.root
    data_set.split = "public"
    data_set.geom_gcn_preprocess = True
    name = source.options.get("name", "")
    if source.loader == "HeterophilousGraphDataset":
        name = name.lower().replace("-", "_")
    data_set.name = name
    expected = [f"{source.root}/{source.raw}/{file}" for file in source.files]
    assert sorted(data_set.raw_paths) == sorted(expected)


def test_public_split(folder: Path) -> None:
    data, description = load("Cora", folder)
    assert description == (
        "Cora: 1,510 nodes, 3,020 edges, 4 features, 2 classes, split: 10/500/1,000; "
        f"{folder}/planetoid/Cora/raw"
    )
    assert data.x.dtype == torch.float32
    assert int(data.train_mask.sum()) == 10


def test_the_first_of_ten_splits_is_taken_and_said(folder: Path) -> None:
    data, description = load("Minesweeper", folder)
    assert "split 0 of 10: 1/1/1" in description
    for place, mask in enumerate(("train_mask", "val_mask", "test_mask")):
        assert data[mask].nonzero().flatten().tolist() == [place]


def test_directed_edges_are_kept_and_said(folder: Path) -> None:
    data, description = load("Texas", folder)
    assert data.edge_index.tolist() == [[0, 1, 2], [1, 2, 3]]
    assert "3 directed edges" in description


def test_without_a_split_one_is_drawn_among_labelled_nodes(folder: Path) -> None:
    data, description = load("Reed98", folder)
    assert "random split (it has none): 5/2/3" in description
    masks = torch.stack([data.train_mask, data.val_mask, data.test_mask])
    assert masks.sum(0).max() == 1
    assert torch.equal(masks.any(0), data.y >= 0)
    again, _ = load("Reed98", folder)
    assert torch.equal(again.train_mask, data.train_mask)
    assert data.x.dtype == torch.float32


def test_names_in_any_case(folder: Path) -> None:
    assert load("mineSWEEPER", folder)[1] == load("Minesweeper", folder)[1]


def test_the_environment_names_the_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHFATHOM_DATA", str(folder))
    assert load("Cora")[1] == load("Cora", folder)[1]
    assert data_folder() == folder
    assert locate("Cora") == folder / "planetoid/Cora/raw"
    assert locate("PubMed") is None


def test_the_folder_is_never_written_to(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    folder.chmod(0o555)
    try:
        load("Cora", folder)
        load("Cora", folder)
    finally:
        folder.chmod(0o755)
    assert sorted(folder.rglob("*")) == before


def test_the_second_time_comes_from_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("Minesweeper", folder)
    made = list((cache_folder() / "data").iterdir())
    assert len(made) == 1

    def process(self: Any) -> None:
        raise AssertionError("processed again")

    loader = torch_geometric.datasets.HeterophilousGraphDataset
    monkeypatch.setattr(loader, "process", process)
    load("Minesweeper", folder)
    assert list((cache_folder() / "data").iterdir()) == made


def test_changed_files_are_read_anew(folder: Path) -> None:
    load("Texas", folder)
    edges = folder / "webkb/texas/raw/out1_graph_edges.txt"
    edges.write_text("header\n0\t3\n")
    assert load("Texas", folder)[0].edge_index.tolist() == [[0], [3]]


def test_files_are_copied_where_links_do_not_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert load("Texas", folder)[0].num_nodes == 4


def test_a_faster_process_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def late(self: Path, target: Path) -> Path:
        if not target.exists():
            rename(self, target)
        raise OSError("Directory not empty")

    monkeypatch.setattr(Path, "rename", late)
    assert load("Texas", folder)[0].num_nodes == 4


def test_warnings_and_filters_stay_as_they_are(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # under which PyG is silent
    filters = list(warnings.filters)
    timeout = socket.getdefaulttimeout()
    load("Cora", folder)
    assert list(warnings.filters) == filters
    assert socket.getdefaulttimeout() == timeout
    assert capsys.readouterr() == ("", "")


def test_progress(folder: Path) -> None:
    messages: list[str] = []
    load("Cora", folder, progress=messages.append)
    assert messages == ["reading Cora"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Coar", r"Unknown data set 'Coar'. Did you mean Cora or "),
        ("pubmet", r"Did you mean PubMed\?"),
        ("xyzzy", r"Unknown data set 'xyzzy'. Known are Cora, CiteSeer, "),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(name)
    assert not isinstance(caught.value, UnavailableError)


def test_no_network_and_a_missing_file(folder: Path) -> None:
    missing = folder / "planetoid/Cora/raw/ind.cora.tx"
    missing.unlink()
    message = (
        rf"Cora cannot be had: {re.escape(str(missing))} is missing, .*unreachable"
    )
    with pytest.raises(UnavailableError, match=message):
        load("Cora", folder)


def test_no_network_and_no_folder() -> None:
    message = (
        r"PubMed cannot be had: .*PubMed-download/PubMed/raw/ind.pubmed.x is missing "
        r"\(no data folder is set\), and downloading from github.com failed "
        r"\(Network is unreachable\). Connect to the network, or set GRAPHFATHOM_DATA"
    )
    with pytest.raises(UnavailableError, match=message):
        load("PubMed")


def test_a_folder_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"`data_dir` must be a folder .*Got /no/where"):
        load("Cora", "/no/where")
    monkeypatch.setenv("GRAPHFATHOM_DATA", "/no/where")
    with pytest.raises(DataError, match=r"GRAPHFATHOM_DATA must be a folder"):
        load("Cora")


def test_a_damaged_file(folder: Path) -> None:
    (folder / "heterophilous/minesweeper/raw/minesweeper.npz").write_text("no zip")
    with pytest.raises(DataError, match=r"Minesweeper cannot be read from .* damaged"):
        load("Minesweeper", folder)
    assert list((cache_folder() / "data").iterdir()) == []


def test_a_damaged_cache(folder: Path) -> None:
    load("Texas", folder)
    (made,) = (cache_folder() / "data").iterdir()
    (made / "texas/processed/data.pt").write_text("no archive")
    with pytest.raises(DataError, match=rf"from the cache .*remove {made}"):
        load("Texas", folder)


def test_a_cache_that_cannot_be_made(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"The cache folder .* set XDG_CACHE_HOME"):
        load("Cora", folder)


@pytest.fixture
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "probe", lambda host: None)


@pytest.mark.usefixtures("_online")
def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def download(url: str, folder: str) -> None:
        calls.append(url)
        raw = write_minesweeper(tmp_path / "server")
        Path(folder, "minesweeper.npz").write_bytes(
            (raw / "minesweeper.npz").read_bytes()
        )

    monkeypatch.setattr(f"{PYG_MODULE}.download_url", download)
    messages: list[str] = []
    data, description = load("Minesweeper", progress=messages.append)
    assert data.num_nodes == 8
    assert description.endswith("; downloaded by PyG")
    assert messages[0] == "downloading Minesweeper from github.com"
    load("Minesweeper")
    assert len(calls) == 1


@pytest.mark.usefixtures("_online")
def test_a_download_that_breaks_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, folder: str) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(f"{PYG_MODULE}.download_url", download)
    message = r"minesweeper.npz is missing .*failed \(TimeoutError: timed out\)"
    with pytest.raises(UnavailableError, match=message):
        load("Minesweeper")
    assert list((cache_folder() / "data").iterdir()) == []


def test_a_server_that_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wait(*_: Any, **__: Any) -> None:
        time.sleep(1)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", wait)
    start = time.perf_counter()
    assert loading.probe("example.org", 0.05) == "no answer within 0.05 s"
    assert time.perf_counter() - start < 0.9


def test_a_proxy_is_asked_where_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    class Connection:
        def close(self) -> None:
            return

    def connect(address: Any, timeout: float) -> Connection:
        asked.append(address)
        return Connection()

    monkeypatch.setattr(socket, "create_connection", connect)
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert loading.probe("example.org") is None
    monkeypatch.setenv("https_proxy", "http://proxy.local:3128")
    assert loading.probe("example.org") is None
    assert asked == [("example.org", 443), ("proxy.local", 3128)]


@pytest.mark.skipif(not REAL, reason="GRAPHFATHOM_DATA is not set")
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("Cora", (2708, 10556, 1433, 7, "140/500/1,000")),
        ("CiteSeer", (3327, 9104, 3703, 6, "120/500/1,000")),
        ("Texas", (183, 325, 1703, 5, "87/59/37")),
        ("Actor", (7600, 30019, 932, 5, "3,648/2,432/1,520")),
        ("Minesweeper", (10000, 78804, 7, 2, "5,000/2,500/2,500")),
        ("Reed98", (962, 37624, 745, 2, "432/216/217")),
    ],
)
def test_published_sizes(name: str, sizes: tuple[int, int, int, int, str]) -> None:
    assert REAL is not None
    if locate(name, REAL) is None:
        pytest.skip(f"{name} is not in {REAL}")
    data, description = load(name, REAL)
    classes = int(data.y.max()) + 1
    found = (data.num_nodes, data.num_edges, data.num_features, classes)
    assert found == sizes[:4]
    assert sizes[4] in description


def test_every_name_is_unique() -> None:
    assert len({name.lower() for name in NAMES}) == len(NAMES)
