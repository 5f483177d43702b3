"""Networks on shells."""

from graphfathom.nn.kgnn_ssm import kGNNSSM
from graphfathom.nn.zoo.drew import DRew
from graphfathom.nn.zoo.glstm import GLSTM
from graphfathom.nn.zoo.gred import GRED
from zoo_cases.case import Case

SHELLS = ("shell_index", "shell_hop")

# A state of several tensors: delayed features, or a memory beside the features.
SEVERAL = "returns a tuple of . items, and a state is one tensor"

# Each layer adds what several shells sent to the state, which grows exponentially; and
# L layers of L shells would have L^2 weights.
DEEP = {"num_hops": 4, "l2_norm": True}

CASES = {
    "kgnn-ssm": Case(
        kGNNSSM, inputs=SHELLS, stabilized=r"already carries a state \(kGNNSSM\)"
    ),
    "drew": Case(DRew, inputs=SHELLS, deep=DEEP),
    "drew, delay 1": Case(
        DRew, {"nu": 1}, inputs=SHELLS, stabilized=SEVERAL, deep=DEEP
    ),
    "drew, as in its code": Case(
        DRew,
        {"nu": 2, "self_loops": True, "l2_norm": True},
        inputs=SHELLS,
        stabilized=SEVERAL,
        deep={"num_hops": 4},
    ),
    "drew, shared": Case(
        DRew,
        {"nu": 1, "num_hops": 3, "share_weights": True},
        inputs=SHELLS,
        stabilized=SEVERAL,
        deep={"l2_norm": True},
    ),
    "gred": Case(GRED, {"num_hops": 4}, inputs=SHELLS),
    "gred, no norm": Case(
        GRED, {"num_hops": 4, "norm": False, "state_channels": 5}, inputs=SHELLS
    ),
    "glstm": Case(GLSTM, {"memory_channels": 4}, inputs=SHELLS, stabilized=SEVERAL),
    "glstm, neighbours": Case(
        GLSTM,
        {"khop": False, "memory_channels": 4, "num_heads": 2, "norm": False},
        stabilized=SEVERAL,
    ),
}
