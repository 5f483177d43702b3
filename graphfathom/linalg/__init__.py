"""Linear operators known by their products, and algorithms on them."""

from graphfathom.linalg.block_sparse import BlockSparseOperator
from graphfathom.linalg.colouring import Colouring, bicolour, colour_rows
from graphfathom.linalg.components import (
    is_symmetric,
    sparse_eigenvalues,
    sparse_singular_values,
)
from graphfathom.linalg.density import SpectralDensity, spectral_density
from graphfathom.linalg.eigen import Eigenvalues, eigenvalues
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
from graphfathom.linalg.products import (
    LogSingularValues,
    log10_singular_values,
    lyapunov_exponents,
)
from graphfathom.linalg.restarted import SingularTriplets, largest_singular_values
from graphfathom.linalg.stochastic import (
    Estimate,
    Quantile,
    SingularValueSummary,
    singular_value_quantiles,
    singular_value_summary,
    squared_frobenius,
)
from graphfathom.linalg.structured import KroneckerOperator
from graphfathom.linalg.vector import stable_norm

__all__ = [
    "AbstractLinearOperator",
    "BlockSparseOperator",
    "Colouring",
    "DenseOperator",
    "Eigenvalues",
    "Estimate",
    "FunctionOperator",
    "GolubKahan",
    "KroneckerOperator",
    "LargestSingularValue",
    "LogSingularValues",
    "Quantile",
    "SingularTriplets",
    "SingularValueSummary",
    "SpectralDensity",
    "bicolour",
    "colour_rows",
    "eigenvalues",
    "golub_kahan",
    "is_symmetric",
    "largest_singular_value",
    "largest_singular_values",
    "log10_singular_values",
    "lyapunov_exponents",
    "singular_value_quantiles",
    "singular_value_summary",
    "sparse_eigenvalues",
    "sparse_singular_values",
    "spectral_density",
    "squared_frobenius",
    "stable_norm",
]
