"""Diffusion, oscillators and gates: DGC, GRAND, GraphCON and G²."""

from functools import partial

from torch_geometric.nn import GATConv

from graphfathom.nn.zoo.dgc import DGC
from graphfathom.nn.zoo.gradient_gating import GradientGating
from graphfathom.nn.zoo.grand import GRAND
from graphfathom.nn.zoo.graphcon import GraphCON
from zoo_cases.case import Case

gat = partial(GATConv, heads=2, concat=False)

# A layer hands on two tensors, features and attention or features and velocities.
TWO = "already carries a state: behind `.*` it needs 2 tensors"

CASES = {
    "dgc": Case(DGC),
    "grand": Case(GRAND),
    "grand, rk4": Case(GRAND, {"method": "rk4", "heads": 2, "share_weights": False}),
    "grand, linear": Case(GRAND, {"linear": True, "heads": 2}, stabilized=TWO),
    "grand, linear rk4": Case(
        GRAND,
        {"linear": True, "method": "rk4", "share_weights": False},
        stabilized=TWO,
    ),
    "graphcon": Case(GraphCON, stabilized=TWO),
    "graphcon, residual": Case(
        GraphCON, {"residual": True, "share_weights": False}, stabilized=TWO
    ),
    "graphcon, gat": Case(GraphCON, {"conv": gat}, stabilized=TWO),
    "gradient gating": Case(GradientGating),
    "gradient gating, sum": Case(
        GradientGating, {"aggr": "sum", "p": 1.5, "share_weights": False}
    ),
    "gradient gating, gat": Case(GradientGating, {"conv": gat}),
}
