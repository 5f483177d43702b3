"""Data sets by PyG name: from a folder of raw files, else by PyG's own download.

A data folder holds the roots of PyG's classes, e.g. ``planetoid/Cora/raw/ind.cora.x``.
It is never written to: PyG gets a folder of links in the user's cache.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.metadata
import io
import os
import shutil
import socket
import tempfile
import threading
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Data

from graphfathom.datasets.sources import SOURCES, Source

__all__ = [
    "NAMES",
    "DataError",
    "UnavailableError",
    "cache_folder",
    "data_folder",
    "load",
    "locate",
    "probe",
]

PROBE_SECONDS = 5.0
"""Time for a first answer of a download server: a machine without network may
otherwise wait minutes for the name server."""

STALL_SECONDS = 30.0
"""Silence after which a running download counts as failed."""

MASKS = ("train_mask", "val_mask", "test_mask")


class DataError(ValueError):
    """A data set that cannot be loaded, and what to do."""


class UnavailableError(DataError):
    """A data set that is neither in a folder nor to be downloaded."""


NAMES = tuple(source.name for source in SOURCES)
"""The names that :func:`load` knows."""


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> tuple[Data, str]:
    """Load a data set by its PyG name.

    The raw files are looked for in ``data_dir``, else in the folder that the variable
    ``GRAPHFATHOM_DATA`` names; where they are not there, PyG downloads them into the
    cache. Only load files you trust: those of the Planetoid sets are pickles.

    Of several splits the first is taken. Where a data set has none, half of the
    labelled nodes train and a quarter each validates and tests, drawn with seed 0
    (the shares of Lim et al., 2021).

    Args:
        name: One of :data:`NAMES`, in upper or lower case.
        data_dir: Folder with the layout of PyG's roots.
        progress: Called with a sentence before each slow stage.

    Returns:
        The graph with float32 features and one ``train_mask``, ``val_mask`` and
        ``test_mask``, and one line that describes it.

    Raises:
        DataError: If the name is unknown, the folder does not exist or a file is
            damaged.
        UnavailableError: If a file is missing and cannot be downloaded.

    References:
        | Large Scale Learning on Non-Homophilous Graphs (Lim et al., 2021)
        | https://arxiv.org/abs/2110.14446
    """
    source = _find(name)
    say = progress or (lambda message: None)
    raw = locate(source.name, data_dir)
    key = "download" if raw is None else _fingerprint(source, raw)
    root = cache_folder() / "data" / f"{source.name}-{key}"
    if not root.is_dir():
        if raw is None:
            say(f"downloading {source.name} from {source.host}")
            reason = probe(source.host)
            if reason is not None:
                raise UnavailableError(_unavailable(source, root, data_dir, reason))
        _make(source, root, raw, data_dir)
    say(f"reading {source.name}")
    try:
        data = _read(source, root)
    except Exception as error:
        raise DataError(
            f"{source.name} cannot be read from the cache ({_brief(error)}): remove "
            f"{root}, which will be made anew."
        ) from error
    return _describe(source, data, "downloaded by PyG" if raw is None else str(raw))


def locate(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder of the raw files of a data set, or None if one is missing.

    Args:
        name: One of :data:`NAMES`.
        data_dir: As for :func:`load`.

    Returns:
        The folder, below the data folder.
    """
    source = _find(name)
    folder = data_folder(data_dir)
    raw = folder / source.root / source.raw if folder else None
    return raw if raw and _first_missing(source, raw) is None else None


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The folder where data sets are looked for: the argument, else the environment.

    Args:
        data_dir: The folder; ``GRAPHFATHOM_DATA`` if None.

    Returns:
        The folder, or None if neither names one.

    Raises:
        DataError: If the folder does not exist.
    """
    given = data_dir or os.environ.get("GRAPHFATHOM_DATA")
    if not given:
        return None
    folder = Path(given).expanduser().resolve()
    if not folder.is_dir():
        who = "`data_dir`" if data_dir else "GRAPHFATHOM_DATA"
        raise DataError(
            f"{who} must be a folder of data sets. Got {given}, which is no folder: "
            "correct the path or leave it out."
        )
    return folder


def cache_folder() -> Path:
    """The folder for processed data: ``graphfathom`` below ``XDG_CACHE_HOME``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "graphfathom"


def probe(host: str, seconds: float = PROBE_SECONDS) -> str | None:
    """Try to reach a server, through the proxy where one is set.

    Args:
        host: Name of the server, asked at its port 443.
        seconds: Time to wait.

    Returns:
        None if it answers, else the reason why not.
    """
    address = urllib.parse.urlsplit(urllib.request.getproxies().get("https", ""))
    target = (address.hostname or host, address.port or 443)
    outcome: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection(target, timeout=seconds).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(str(error))

    # In a thread, because the look-up of a name has no timeout of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else f"no answer within {seconds:g} s"


def _find(name: str) -> Source:
    known = {source.name.lower(): source for source in SOURCES}
    if name.lower() in known:
        return known[name.lower()]
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if near:
        names = " or ".join(known[key].name for key in near)
        raise DataError(f"Unknown data set {name!r}. Did you mean {names}?")
    raise DataError(f"Unknown data set {name!r}. Known are {', '.join(NAMES)}.")


def _first_missing(source: Source, raw: Path) -> str | None:
    return next((file for file in source.files if not (raw / file).is_file()), None)


def _fingerprint(source: Source, raw: Path) -> str:
    """Changes with the place, the files and the version of PyG that reads them."""
    parts = [str(raw), importlib.metadata.version("torch_geometric")]
    for file in source.files:
        status = (raw / file).stat()
        parts.append(f"{file} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _unavailable(
    source: Source, root: Path, data_dir: str | os.PathLike[str] | None, reason: str
) -> str:
    folder = data_folder(data_dir)
    raw = folder / source.root / source.raw if folder else root / source.raw
    unset = "" if folder else " (no data folder is set)"
    return (
        f"{source.name} cannot be had: {raw / (_first_missing(source, raw) or '')} is "
        f"missing{unset}, and downloading from {source.host} failed ({reason}). "
        "Connect to the network, or set GRAPHFATHOM_DATA (`data_dir`) to a folder with "
        f"{source.root}/{source.raw}, the raw files of PyG's {source.loader}."
    )


def _make(
    source: Source,
    root: Path,
    raw: Path | None,
    data_dir: str | os.PathLike[str] | None,
) -> None:
    """Fill a folder of the cache: raw files linked or downloaded, then processed."""
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=root.parent, prefix=f"{source.name}-"))
    except OSError as error:
        raise DataError(
            f"The cache folder {root.parent} cannot be used ({error}): set "
            "XDG_CACHE_HOME to a folder you can write to."
        ) from error
    try:
        if raw is not None:
            _link(source, raw, draft / source.raw)
        _read(source, draft)
        # One step: a process beside this one never sees half a folder.
        draft.rename(root)
    except Exception as error:
        if root.is_dir():
            return  # That process was faster.
        if raw is None and _first_missing(source, draft / source.raw):
            message = _unavailable(source, root, data_dir, _brief(error))
            raise UnavailableError(message) from error
        raise DataError(
            f"{source.name} cannot be read from {raw or source.host} "
            f"({_brief(error)}): a file is damaged, replace it."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _brief(error: Exception) -> str:
    """Kind and first line: torch's messages run over many."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _link(source: Source, raw: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in source.files:
        try:
            (target / file).symlink_to(raw / file)
        except OSError:  # A file system without links.
            shutil.copyfile(raw / file, target / file)


def _read(source: Source, root: Path) -> Data:
    """What PyG makes of a folder; it downloads and processes what is not there."""
    import torch_geometric.datasets

    loader: Any = getattr(torch_geometric.datasets, source.loader)
    # PyG prints its progress, changes the filters of warnings, and the pickles of 2016
    # use names that NumPy and SciPy warn about: nothing a caller could act on.
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        _socket_timeout(STALL_SECONDS),
    ):
        warnings.simplefilter("ignore")
        return loader(root=str(root), **source.options)[0]


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _describe(source: Source, data: Any, origin: str) -> tuple[Data, str]:
    """One split, float32 features, and the line that says what was chosen."""
    data.x = data.x.float()
    split = "split"
    if "train_mask" not in data:
        _draw_split(data)
        split = "random split (it has none)"
    elif data.train_mask.dim() == 2:
        split = f"split 0 of {data.train_mask.size(1)}"
        for mask in MASKS:
            data[mask] = data[mask][:, 0].contiguous()
    sizes = "/".join(f"{int(data[mask].sum()):,}" for mask in MASKS)
    directed = "" if data.is_undirected() else " directed"
    description = (
        f"{source.name}: {data.num_nodes:,} nodes, {data.num_edges:,}{directed} edges, "
        f"{data.num_features:,} features, {int(data.y.max()) + 1} classes, {split}: "
        f"{sizes}; {origin}"
    )
    return data, description


def _draw_split(data: Any) -> None:
    labelled = (data.y >= 0).nonzero().flatten()
    generator = torch.Generator().manual_seed(0)
    order = labelled[torch.randperm(labelled.numel(), generator=generator)]
    bounds = (order.numel() // 2, 3 * order.numel() // 4)
    for mask, part in zip(MASKS, order.tensor_split(bounds), strict=True):
        chosen = torch.zeros(data.y.numel(), dtype=torch.bool)
        data[mask] = chosen.index_fill(0, part, True)
