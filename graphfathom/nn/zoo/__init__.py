"""Compared models that PyG lacks, one per file, and how to build a model by name."""

from graphfathom.nn.zoo.adgn import ADGN
from graphfathom.nn.zoo.builders import NAMES, build
from graphfathom.nn.zoo.deep_gcn import DeepGCN
from graphfathom.nn.zoo.gcnii import GCNII

__all__ = ["ADGN", "GCNII", "NAMES", "DeepGCN", "build"]
