"""Data sets by name, and graphs drawn from a model.

``graphfathom.datasets.csbm`` is the function, not the module that it shares its name
with.
"""

from graphfathom.datasets.bottleneck import dumbbell
from graphfathom.datasets.csbm import csbm, synthetic_cora
from graphfathom.datasets.loading import (
    NAMES,
    DataError,
    UnavailableError,
    cache_folder,
    data_folder,
    load,
    locate,
)

__all__ = [
    "NAMES",
    "DataError",
    "UnavailableError",
    "cache_folder",
    "csbm",
    "data_folder",
    "dumbbell",
    "load",
    "locate",
    "synthetic_cora",
]
