"""SWAN and PH-DGN."""

from graphfathom.nn.zoo.phdgn import PHDGN
from graphfathom.nn.zoo.swan import SWAN
from zoo_cases.case import Case

CASES = {
    "swan": Case(SWAN),
    "swan, local": Case(SWAN, {"beta": 0.0, "gamma": 0.0}),
    "swan, normalized": Case(SWAN, {"aggregator": "normalized"}),
    "swan, sum": Case(SWAN, {"aggregator": "sum", "share_weights": False}),
    "swan, gcn": Case(SWAN, {"aggregator": "gcn"}),
    "swan, learned": Case(SWAN, {"learned": True}),
    "swan, gcn, learned": Case(
        SWAN, {"aggregator": "gcn", "learned": True, "share_weights": False}
    ),
    "phdgn": Case(PHDGN),
    "phdgn, gcn": Case(PHDGN, {"aggregator": "gcn", "share_weights": False}),
    "phdgn, driven": Case(PHDGN, {"alpha": 1.0, "beta": 1.0}),
    "phdgn, driven, param": Case(
        PHDGN, {"alpha": 1.0, "damping": "param", "beta": -1.0, "force": "mlp"}
    ),
    "phdgn, damped, mlp": Case(PHDGN, {"alpha": 1.0, "damping": "mlp"}),
    "phdgn, damped, dgn": Case(
        PHDGN,
        {"aggregator": "gcn", "alpha": 1.0, "damping": "dgn", "share_weights": False},
    ),
}
