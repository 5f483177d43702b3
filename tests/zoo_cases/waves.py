"""Gated, unitary, state-space and wave models."""

from graphfathom.nn.zoo.gated_gcn import GatedGCN
from graphfathom.nn.zoo.mp_ssm import MPSSM
from graphfathom.nn.zoo.sonar import SONAR
from graphfathom.nn.zoo.unitary import UnitaryGCN
from zoo_cases.case import Case

PAIR = "returns a tuple of 2 items, and a state is one tensor"
"""Features with edge states, imaginary parts or velocities beside them."""
CARRIED = "MPSSM already carries a state"
"""The input of the block, which every layer adds."""

CASES = {
    "gated gcn": Case(GatedGCN, stabilized=PAIR),
    "gated gcn, edge features": Case(
        GatedGCN, {"edge_dim": 2}, inputs=("edge_attr",), stabilized=PAIR
    ),
    "gated gcn, no norm": Case(
        GatedGCN,
        {"norm": None, "share_weights": True},
        stabilized=PAIR,
        # With ReLU and without a norm a residual sum grows by a factor a layer.
        deep={"act": "tanh"},
    ),
    "unitary, separable": Case(
        UnitaryGCN,
        stabilized=PAIR,
        # The real part of the last state is read out.
        unused=("layers.3.imag_bias",),
    ),
    "unitary, lie": Case(UnitaryGCN, {"form": "lie", "share_weights": True}),
    "mp-ssm": Case(MPSSM, stabilized=CARRIED),
    "mp-ssm, blocks": Case(MPSSM, {"block_size": 2}, stabilized=CARRIED),
    # The force drives the features away until a step is too long for the friction.
    "sonar": Case(SONAR, stabilized=PAIR, deep={"step_size": 0.01}),
    "sonar, recomputed": Case(
        SONAR,
        {"resistance": "recomputed", "share_weights": False},
        stabilized=PAIR,
    ),
    "sonar, free": Case(
        SONAR,
        {
            "positive": "relu",
            "velocity": "zero",
            "damping": False,
            "forcing": False,
            "symmetric": False,
        },
        stabilized=PAIR,
        # Weights with negative eigenvalues make waves grow with time.
        deep={"step_size": 0.01},
    ),
}
