"""Which files each data set has, where PyG keeps them and where it gets them."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["SOURCES", "Source"]


@dataclass(frozen=True)
class Source:
    """Where a data set is, in PyG's terms."""

    name: str
    """PyG's name, as we print it."""
    loader: str
    """Class in ``torch_geometric.datasets``."""
    root: str
    """Folder of the class below the data folder."""
    raw: str
    """Folder of the raw files below the root."""
    files: tuple[str, ...]
    """Raw files that PyG needs."""
    host: str
    """Server that PyG downloads from."""
    options: dict[str, str] = field(default_factory=dict)
    """Arguments of the class beside its root."""


def _planetoid(name: str) -> Source:
    parts = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
    files = tuple(f"ind.{name.lower()}.{part}" for part in parts)
    options = {"name": name}
    return Source(
        name, "Planetoid", "planetoid", f"{name}/raw", files, "github.com", options
    )


def _geom_gcn(name: str, loader: str, root: str, raw: str, key: str = "") -> Source:
    splits = (f"{key or name.lower()}_split_0.6_0.2_{i}.npz" for i in range(10))
    files = ("out1_node_feature_label.txt", "out1_graph_edges.txt", *splits)
    options = {} if key else {"name": name.lower()}
    return Source(name, loader, root, raw, files, "raw.githubusercontent.com", options)


def _heterophilous(name: str) -> Source:
    key = name.lower().replace("-", "_")
    loader, root = "HeterophilousGraphDataset", "heterophilous"
    files = (f"{key}.npz",)
    return Source(name, loader, root, f"{key}/raw", files, "github.com", {"name": name})


def _linkx(name: str, *splits: str) -> Source:
    key = name.lower()
    files = ("data.mat", *splits)
    return Source(
        name, "LINKXDataset", "linkx", f"{key}/raw", files, "github.com", {"name": key}
    )


SOURCES = (
    _planetoid("Cora"),
    _planetoid("CiteSeer"),
    _planetoid("PubMed"),
    _geom_gcn("Texas", "WebKB", "webkb", "texas/raw"),
    _geom_gcn("Wisconsin", "WebKB", "webkb", "wisconsin/raw"),
    _geom_gcn("Cornell", "WebKB", "webkb", "cornell/raw"),
    _geom_gcn("Actor", "Actor", "actor", "raw", key="film"),
    _geom_gcn("Chameleon", "WikipediaNetwork", "wikipedia", "chameleon/geom_gcn/raw"),
    _geom_gcn("Squirrel", "WikipediaNetwork", "wikipedia", "squirrel/geom_gcn/raw"),
    _heterophilous("Roman-empire"),
    _heterophilous("Amazon-ratings"),
    _heterophilous("Minesweeper"),
    _heterophilous("Tolokers"),
    _heterophilous("Questions"),
    _linkx("Reed98"),
    _linkx("Amherst41"),
    _linkx("Cornell5"),
    _linkx("JohnsHopkins55"),
    _linkx("Penn94", "fb100-Penn94-splits.npy"),
)
"""The data sets that can be loaded by name."""
