"""Precision, device, seeds and the one real data set of the tests."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.datasets import Planetoid


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("graphfathom")
    group.addoption(
        "--dtype",
        default="float64",
        choices=("float32", "float64"),
        help="torch's default dtype in the tests (default: float64)",
    )
    group.addoption("--device", default="cpu", help="device of the fixture `device`")


def pytest_configure(config: pytest.Config) -> None:
    # Here and not in a fixture: tensors built while tests are collected, and by
    # fixtures of a wider scope, have this dtype too. Child processes have torch's own.
    torch.set_default_dtype(getattr(torch, config.getoption("--dtype")))
    torch.set_num_threads(1)  # the workers of pytest-xdist share the cores


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def seed() -> None:
    """Each test starts from the same random state, in whatever order they run."""
    random.seed(0)
    np.random.seed(0)  # the state that transforms of PyG draw from
    torch.manual_seed(0)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device asked for with ``--device``."""
    return torch.device(request.config.getoption("--device"))


@pytest.fixture
def float32_default() -> Iterator[None]:
    """torch's own default dtype, for tests of what a user gets without asking."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def workplace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, float32_default: None
) -> None:
    """A place to run the command line in."""
    from command_line import enter_workplace  # imports the whole package

    enter_workplace(monkeypatch, tmp_path)


@pytest.fixture(scope="session")
def cora_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the raw files of Cora, laid out as ``Planetoid(root, "Cora")`` has it.

    A copy because PyG writes its processed files beside the raw ones.
    """
    folder = os.environ.get("GRAPHFATHOM_DATA")
    if not folder:
        pytest.skip("GRAPHFATHOM_DATA is not set")
    raw = Path(folder, "planetoid", "Cora", "raw")
    if not raw.is_dir():
        pytest.skip(f"{raw} does not exist")
    root = tmp_path_factory.mktemp("planetoid")
    # File by file: the copies of a read-only folder must be writable for pytest to
    # remove them.
    (root / "Cora" / "raw").mkdir(parents=True)
    for file in raw.iterdir():
        shutil.copyfile(file, root / "Cora" / "raw" / file.name)
    return root


@pytest.fixture(scope="session")
def cora(cora_root: Path) -> Data:
    """Cora with its public split. Shared by all tests: clone it before changing it."""
    return Planetoid(str(cora_root), "Cora")[0]
