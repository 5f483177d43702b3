"""What theory predicts: closed forms and bounds, each a function of plain tensors."""

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

__all__ = [
    "SensitivityBound",
    "commute_time",
    "effective_resistance",
    "gcn_singular_values",
    "log10_energy_bound",
    "log10_norm_bound",
    "marchenko_pastur_density",
    "norm_at_zero",
    "random_gcn_moments",
    "sensitivity_bound",
    "state_space_eigenvalues",
    "state_space_singular_value_bounds",
    "total_effective_resistance",
]
