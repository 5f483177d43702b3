"""Networks of PyG's layers, with their controls."""

from graphfathom.nn.zoo.gcnii import GCNII
from graphfathom.nn.zoo.gps import GPS
from graphfathom.nn.zoo.mlp import MLP
from graphfathom.nn.zoo.mpnn import MPNN
from zoo_cases.case import Case

# Sums over neighbours and residual sums grow with each layer.
NORMED = {"norm": "layer"}

EARLIER_STATES = "the read-out uses earlier states too"
FIRST_STATE = "GCNII already carries a state"

CASES = {
    "gcn": Case(MPNN),
    "gat": Case(MPNN, {"conv": "gat"}),
    "gatv2": Case(MPNN, {"conv": "gatv2"}),
    "gin": Case(MPNN, {"conv": "gin"}, deep=NORMED),
    "gin, mlp": Case(MPNN, {"conv": "gin_mlp"}, deep=NORMED),
    "sage": Case(MPNN, {"conv": "sage"}),
    "gcn, residual": Case(MPNN, {"residual": True}, deep=NORMED),
    "gcn, jk cat": Case(MPNN, {"jk": "cat"}, stabilized=EARLIER_STATES),
    "gcn, jk max": Case(MPNN, {"jk": "max"}, stabilized=EARLIER_STATES),
    "gcn, pair norm": Case(MPNN, {"norm": "pair"}, mixes=True),
    "gcn, layer norm": Case(MPNN, {"norm": "layer"}),
    "gcn, batch norm": Case(MPNN, {"norm": "batch"}),
    "gcn, drop edge": Case(MPNN, {"drop_edge": 0.5}),
    "gcnii": Case(GCNII, stabilized=FIRST_STATE),
    "gcnii*": Case(GCNII, {"shared_weights": False}, stabilized=FIRST_STATE),
    "gcnii, tied": Case(GCNII, {"share_weights": True}, stabilized=FIRST_STATE),
    "gps": Case(GPS, mixes=True),
    "gps, layer norm": Case(
        GPS, {"norm": "layer", "conv": "gin", "heads": 2}, mixes=True
    ),
    # Without messages there is nothing that separates one layer from the next.
    "mlp": Case(
        MLP,
        refused="No message-passing layer was found",
        stabilized="MLP has no message-passing layer",
    ),
}
