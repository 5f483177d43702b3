"""Runs in folders: named by their configuration, skipped once finished, locked."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch_geometric

Config = dict[str, Any]
"""All that decides a run's numbers, as JSON has it."""


def digest(config: Config) -> str:
    """Name of a configuration: the same for the same values in any order."""
    text = json.dumps(config, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """As :func:`write`; NaN, which JSON lacks, must have become None before."""
    write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


class Queue:
    """Folders of runs below one root.

    A folder has ``config.json``, ``env.json``, ``metrics.jsonl`` and, last of all,
    ``result.json``: with it the run is finished, without it the run starts again.

    Args:
        root: Where the folders lie; made if it is not there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def folder(self, config: Config) -> Path:
        """Where a run lies."""
        return self.root / digest(config)

    def result(self, config: Config) -> dict[str, Any] | None:
        """What a finished run wrote, None for any other."""
        path = self.folder(config) / "result.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    @contextmanager
    def locked(self, config: Config) -> Iterator[bool]:
        """Yield whether the run is now ours.

        The kernel drops the lock when its process ends, however it ends, so no lock
        outlives its owner; the number in the file is for people to read.
        """
        folder = self.folder(config)
        folder.mkdir(exist_ok=True)
        with open(folder / "lock", "a+", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield True

    def work(
        self,
        plan: Callable[[], list[Config]],
        execute: Callable[[Config, Path], dict[str, Any]],
        say: Callable[[str], None] = print,
    ) -> None:
        """Run what is planned until all of it is finished, by us or by others.

        ``plan()`` is asked again after each run: what it returns may depend on results.
        """
        while True:
            unfinished = [c for c in plan() if self.result(c) is None]
            if not unfinished:
                return
            if not any(self._run(config, execute, say) for config in unfinished):
                time.sleep(5)

    def _run(
        self,
        config: Config,
        execute: Callable[[Config, Path], dict[str, Any]],
        say: Callable[[str], None],
    ) -> bool:
        """Run one configuration unless another process has it or has finished it."""
        with self.locked(config) as ours:
            if not ours or self.result(config) is not None:
                return False
            folder = self.folder(config)
            write_json(folder / "config.json", config)
            write_json(folder / "env.json", environment())
            result = execute(config, folder)
            write_json(folder / "result.json", result)
            say(f"{time.strftime('%H:%M:%S')} {folder.name} {config} {result}")
            return True


def environment() -> dict[str, Any]:
    """Where a run was made."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    ).stdout.strip()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_geometric": torch_geometric.__version__,
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
