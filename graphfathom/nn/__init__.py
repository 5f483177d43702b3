"""Graph networks as torch modules; imports nothing else of this package."""

from graphfathom.nn import zoo
from graphfathom.nn.frame import GraphNetwork
from graphfathom.nn.identity import IdentityMappedConv
from graphfathom.nn.kgnn_ssm import kGNNSSM
from graphfathom.nn.khop import (
    Shells,
    gather_shells,
    khop_adjacency,
    propagate_linear_shells,
    propagate_shells,
)
from graphfathom.nn.models import GNNSSM, default_transitions
from graphfathom.nn.propagation import (
    Adjacency,
    GCNConv,
    adjacency_for,
    gcn_adjacency,
    propagate,
    propagate_linear,
    shared,
)
from graphfathom.nn.state_space import Gates, HeteroSSM, StateSpaceConv, advance
from graphfathom.nn.transition import (
    Centered,
    Dense,
    Diagonal,
    Orthogonal,
    Rotation,
    Scalar,
    Transition,
    layers_until_overflow,
)

__all__ = [
    "GNNSSM",
    "Adjacency",
    "Centered",
    "Dense",
    "Diagonal",
    "GCNConv",
    "Gates",
    "GraphNetwork",
    "HeteroSSM",
    "IdentityMappedConv",
    "Orthogonal",
    "Rotation",
    "Scalar",
    "Shells",
    "StateSpaceConv",
    "Transition",
    "adjacency_for",
    "advance",
    "default_transitions",
    "gather_shells",
    "gcn_adjacency",
    "kGNNSSM",
    "khop_adjacency",
    "layers_until_overflow",
    "propagate",
    "propagate_linear",
    "propagate_linear_shells",
    "propagate_shells",
    "shared",
    "zoo",
]
