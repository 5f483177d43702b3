"""Measures of a network, what they say, and the record of both."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphfathom.diagnostics.batches import combine_batches
    from graphfathom.diagnostics.by_distance import (
        Influence,
        SensitivityByDistance,
        influence,
        sensitivity_by_distance,
    )
    from graphfathom.diagnostics.closed_forms import ClosedForm
    from graphfathom.diagnostics.exact_jacobian import SparseJacobian, sparse_jacobian
    from graphfathom.diagnostics.exact_spectra import (
        all_singular_values,
        eigenvalue_cloud,
    )
    from graphfathom.diagnostics.jacobian import JacobianError, JacobianOperator
    from graphfathom.diagnostics.layer_map import LayerMap
    from graphfathom.diagnostics.node_jacobian import NodeJacobian
    from graphfathom.diagnostics.sensitivity import (
        PairSensitivity,
        Price,
        Sensitivity,
        pair_sensitivity,
        price,
        sensitivity_of,
        sensitivity_to,
    )
    from graphfathom.diagnostics.solved_forms import closed_form

__all__ = [
    "ClosedForm",
    "Influence",
    "JacobianError",
    "JacobianOperator",
    "LayerMap",
    "NodeJacobian",
    "PairSensitivity",
    "Price",
    "Sensitivity",
    "SensitivityByDistance",
    "SparseJacobian",
    "all_singular_values",
    "closed_form",
    "combine_batches",
    "eigenvalue_cloud",
    "influence",
    "pair_sensitivity",
    "price",
    "sensitivity_by_distance",
    "sensitivity_of",
    "sensitivity_to",
    "sparse_jacobian",
]

_HOME = {
    "ClosedForm": "closed_forms",
    "Influence": "by_distance",
    "JacobianError": "jacobian",
    "JacobianOperator": "jacobian",
    "LayerMap": "layer_map",
    "NodeJacobian": "node_jacobian",
    "PairSensitivity": "sensitivity",
    "Price": "sensitivity",
    "Sensitivity": "sensitivity",
    "SensitivityByDistance": "by_distance",
    "SparseJacobian": "exact_jacobian",
    "all_singular_values": "exact_spectra",
    "closed_form": "solved_forms",
    "combine_batches": "batches",
    "eigenvalue_cloud": "exact_spectra",
    "influence": "by_distance",
    "pair_sensitivity": "sensitivity",
    "price": "sensitivity",
    "sensitivity_by_distance": "by_distance",
    "sensitivity_of": "sensitivity",
    "sensitivity_to": "sensitivity",
    "sparse_jacobian": "exact_jacobian",
}


def __getattr__(name: str) -> Any:
    # Lazily: a report is read without PyG, which takes seconds to import.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOME[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
