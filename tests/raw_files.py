"""Small raw files in the formats that PyG reads, and a machine without network."""

from __future__ import annotations

import pickle
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse

__all__ = [
    "go_offline",
    "write_cora",
    "write_minesweeper",
    "write_reed98",
    "write_texas",
]


def go_offline(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """No network, no data folder, and a cache of its own."""

    def refuse(*_: Any, **__: Any) -> socket.socket:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.delenv("GRAPHFATHOM_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def write_minesweeper(folder: Path) -> Path:
    """A path of 8 nodes with 10 splits."""
    raw = folder / "heterophilous" / "minesweeper" / "raw"
    raw.mkdir(parents=True)
    train = np.zeros((10, 8), dtype=bool)
    train[np.arange(10), np.arange(10) % 8] = True
    np.savez(
        raw / "minesweeper.npz",
        node_features=np.eye(8, 7, dtype=np.float32),
        node_labels=np.arange(8) % 2,
        edges=np.stack([np.arange(7), np.arange(1, 8)], axis=1),
        train_masks=train,
        val_masks=np.roll(train, 1, axis=1),
        test_masks=np.roll(train, 2, axis=1),
    )
    return raw


def write_texas(folder: Path) -> Path:
    """A directed path of 4 nodes with 10 splits."""
    raw = folder / "webkb" / "texas" / "raw"
    raw.mkdir(parents=True)
    nodes = [f"{i}\t{i},1,0\t{i % 2}" for i in range(4)]
    edges = [f"{i}\t{i + 1}" for i in range(3)]
    for name, lines in (
        ("out1_node_feature_label.txt", nodes),
        ("out1_graph_edges.txt", edges),
    ):
        (raw / name).write_text("\n".join(["header", *lines, ""]))
    masks = np.eye(4)
    for i in range(10):
        parts = zip(("train_mask", "val_mask", "test_mask"), masks, strict=False)
        np.savez(raw / f"texas_split_0.6_0.2_{i}.npz", **dict(parts))
    return raw


def write_reed98(folder: Path) -> Path:
    """A ring of 12 nodes, two of them unlabelled, without a split."""
    raw = folder / "linkx" / "reed98" / "raw"
    raw.mkdir(parents=True)
    ring = scipy.sparse.eye(12, k=1) + scipy.sparse.eye(12, k=-11)
    info = np.zeros((12, 3), dtype=np.int32)
    info[:, 0] = np.arange(12) % 3
    info[:, 1] = np.arange(12) % 2 + 1
    info[:2, 1] = 0
    info[:, 2] = 5
    adjacency = scipy.sparse.csc_matrix(ring + ring.T)
    scipy.io.savemat(raw / "data.mat", {"A": adjacency, "local_info": info})
    return raw


def write_cora(folder: Path) -> Path:
    """A ring of 1,510 nodes: 10 for training, 500 and 1,000 as in the public split."""
    raw = folder / "planetoid" / "Cora" / "raw"
    raw.mkdir(parents=True)
    labels = np.eye(2, dtype=np.int32)[np.arange(1510) % 2]
    x = scipy.sparse.csr_matrix(np.eye(4, dtype=np.float32)[np.arange(1510) % 4])
    ring = {i: [(i - 1) % 1510, (i + 1) % 1510] for i in range(1510)}
    parts = {
        "x": x[:10],
        "y": labels[:10],
        "allx": x[:510],
        "ally": labels[:510],
        "tx": x[510:],
        "ty": labels[510:],
        "graph": ring,
    }
    for name, value in parts.items():
        (raw / f"ind.cora.{name}").write_bytes(pickle.dumps(value))
    tests = "".join(f"{i}\n" for i in range(510, 1510))
    (raw / "ind.cora.test.index").write_text(tests)
    return raw
