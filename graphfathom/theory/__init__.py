"""What theory predicts: closed forms and bounds, each a function of plain tensors."""

from graphfathom.theory.backward import (
    LIPSCHITZ_TANH,
    BackwardBound,
    GradientSplit,
    backward_bound,
    deviation_factors,
    gradient_split,
    log10_deviation_bounds,
    mean_error_bound,
)
from graphfathom.theory.resistance import (
    commute_time,
    effective_resistance,
    total_effective_resistance,
)
from graphfathom.theory.smoothing import (
    log10_energy_bound,
    log10_norm_bound,
    norm_at_zero,
)
from graphfathom.theory.spectra import (
    gcn_singular_values,
    marchenko_pastur_density,
    random_gcn_moments,
    state_space_eigenvalues,
    state_space_singular_value_bounds,
)
from graphfathom.theory.squashing import SensitivityBound, sensitivity_bound
from graphfathom.theory.stochastic import (
    Smoothing,
    laplacian_walk,
    sinkhorn,
    smoothing_rate,
)

__all__ = [
    "LIPSCHITZ_TANH",
    "BackwardBound",
    "GradientSplit",
    "SensitivityBound",
    "Smoothing",
    "backward_bound",
    "commute_time",
    "deviation_factors",
    "effective_resistance",
    "gcn_singular_values",
    "gradient_split",
    "laplacian_walk",
    "log10_deviation_bounds",
    "log10_energy_bound",
    "log10_norm_bound",
    "marchenko_pastur_density",
    "mean_error_bound",
    "norm_at_zero",
    "random_gcn_moments",
    "sensitivity_bound",
    "sinkhorn",
    "smoothing_rate",
    "state_space_eigenvalues",
    "state_space_singular_value_bounds",
    "total_effective_resistance",
]
