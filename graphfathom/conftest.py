"""Names, precision and seed of the doctests in this package."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import graphfathom


@pytest.fixture(autouse=True)
def reader(doctest_namespace: dict[str, Any]) -> Iterator[None]:
    """Run each example as a reader would: fresh seed, torch's own default dtype."""
    doctest_namespace.update(graphfathom=graphfathom, gf=graphfathom, torch=torch)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(dtype)
