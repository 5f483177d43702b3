"""A-DGN."""

from graphfathom.nn.zoo.adgn import ADGN
from zoo_cases.case import Case

CASES = {
    "adgn": Case(ADGN),
    "adgn, sum": Case(ADGN, {"aggregator": "sum", "share_weights": False}),
}
