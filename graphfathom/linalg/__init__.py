"""Linear operators known by their products, and algorithms on them."""

from graphfathom.linalg.krylov import (
    GolubKahan,
    LargestSingularValue,
    golub_kahan,
    largest_singular_value,
)
from graphfathom.linalg.operator import (
    AbstractLinearOperator,
    DenseOperator,
    FunctionOperator,
)
from graphfathom.linalg.stochastic import (
    Estimate,
    Quantile,
    SingularValueSummary,
    singular_value_quantiles,
    singular_value_summary,
    squared_frobenius,
)
from graphfathom.linalg.vector import stable_norm

__all__ = [
    "AbstractLinearOperator",
    "DenseOperator",
    "Estimate",
    "FunctionOperator",
    "GolubKahan",
    "LargestSingularValue",
    "Quantile",
    "SingularValueSummary",
    "golub_kahan",
    "largest_singular_value",
    "singular_value_quantiles",
    "singular_value_summary",
    "squared_frobenius",
    "stable_norm",
]
