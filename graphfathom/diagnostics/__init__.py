"""Measures of a network, what they say, and the record of both."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphfathom.diagnostics.closed_forms import ClosedForm, closed_form
    from graphfathom.diagnostics.exact_jacobian import SparseJacobian, sparse_jacobian
    from graphfathom.diagnostics.exact_spectra import (
        all_singular_values,
        eigenvalue_cloud,
    )
    from graphfathom.diagnostics.jacobian import JacobianError, JacobianOperator
    from graphfathom.diagnostics.layer_map import LayerMap

__all__ = [
    "ClosedForm",
    "JacobianError",
    "JacobianOperator",
    "LayerMap",
    "SparseJacobian",
    "all_singular_values",
    "closed_form",
    "eigenvalue_cloud",
    "sparse_jacobian",
]

_HOME = {
    "ClosedForm": "closed_forms",
    "JacobianError": "jacobian",
    "JacobianOperator": "jacobian",
    "LayerMap": "layer_map",
    "SparseJacobian": "exact_jacobian",
    "all_singular_values": "exact_spectra",
    "closed_form": "closed_forms",
    "eigenvalue_cloud": "exact_spectra",
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
