"""What all benchmark scripts share: the data, interleaved timing, the last line."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Data

from graphfathom.datasets import UnavailableError, load, synthetic_cora

RESULTS = Path(__file__).parent / "results"


def parse(description: str) -> argparse.Namespace:
    """The options that every script has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small size, no file")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def cora() -> tuple[Data, str]:
    """Cora where it can be had, else the generated graph of its size."""
    try:
        return load("Cora")[0], "Cora"
    except UnavailableError:
        return synthetic_cora(), "generated graph of Cora's size"


def interleaved(
    ours: Callable[[], Any], peer: Callable[[], Any], rounds: int
) -> tuple[float, float]:
    """Median seconds of both, measured in turns so that noise hits both alike."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for function, seconds in zip((ours, peer), times, strict=True):
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def publish(result: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the claim as the last line; the full run also writes it."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    result |= {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    if not options.quick:
        path = RESULTS / f"{result['claim']}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
