"""The compared models, one per file in one frame, and how to build one by name."""

from graphfathom.nn.zoo.adgn import ADGN
from graphfathom.nn.zoo.builders import NAMES, build
from graphfathom.nn.zoo.deep_gcn import DeepGCN
from graphfathom.nn.zoo.dgc import DGC
from graphfathom.nn.zoo.drew import DRew
from graphfathom.nn.zoo.gated_gcn import GatedGCN
from graphfathom.nn.zoo.gcnii import GCNII
from graphfathom.nn.zoo.glstm import GLSTM
from graphfathom.nn.zoo.gps import GPS
from graphfathom.nn.zoo.gradient_gating import GradientGating
from graphfathom.nn.zoo.grand import GRAND
from graphfathom.nn.zoo.graphcon import GraphCON
from graphfathom.nn.zoo.gred import GRED
from graphfathom.nn.zoo.mlp import MLP
from graphfathom.nn.zoo.mp_ssm import MPSSM
from graphfathom.nn.zoo.mpnn import MPNN
from graphfathom.nn.zoo.phdgn import PHDGN
from graphfathom.nn.zoo.sonar import SONAR
from graphfathom.nn.zoo.swan import SWAN
from graphfathom.nn.zoo.unitary import UnitaryGCN

__all__ = [
    "ADGN",
    "DGC",
    "GCNII",
    "GLSTM",
    "GPS",
    "GRAND",
    "GRED",
    "MLP",
    "MPNN",
    "MPSSM",
    "NAMES",
    "PHDGN",
    "SONAR",
    "SWAN",
    "DRew",
    "DeepGCN",
    "GatedGCN",
    "GradientGating",
    "GraphCON",
    "UnitaryGCN",
    "build",
]
