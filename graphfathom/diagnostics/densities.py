"""The whole spectrum of single layers, and of the network as a product of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from graphfathom.diagnostics.jacobian import JacobianOperator, state_size
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.spectra import sampled_layers
from graphfathom.linalg.density import spectral_density
from graphfathom.linalg.operator import AbstractLinearOperator, FunctionOperator
from graphfathom.linalg.products import log10_singular_values, lyapunov_exponents
from graphfathom.linalg.vector import gaussian_vector

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = [
    "GRID",
    "density_observations",
    "density_products",
    "grid_name",
    "product_observations",
    "product_products",
]

NUM_LAYERS = 4
"""Layers whose density is estimated: the first, the last and two between."""
NUM_MATVECS, NUM_SAMPLES = 20, 4
"""Steps and probes: the nodes then lie about 8 % of the largest value apart."""
NUM_VALUES, OVERSAMPLING, MAX_SWEEPS = 2, 3, 4
"""Singular values of the whole product, further columns and passes."""
SMALL = 0.1
"""Directions that lose more than nine tenths of their length in one layer."""
GRID = torch.linspace(-3, 1, 41, dtype=torch.float64)
"""Decimal logarithms of the singular values at which the density is given."""


def grid_name(name: str, log10: float) -> str:
    """Name of a density at a point of :data:`GRID`: ``"density.log10=-0.5"``."""
    return f"{name}.log10={log10:.1f}".replace("=-0.0", "=0.0")


def density_products(trace: Trace) -> int:
    """Products with one layer that :func:`density_observations` takes."""
    layers = len(sampled_layers(trace.num_layers, NUM_LAYERS))
    # Two more check an operator, and two find its zeros.
    return layers * (2 * NUM_MATVECS * NUM_SAMPLES + 4)


def density_observations(trace: Trace, generator: torch.Generator) -> list[Observation]:
    r"""Distribution of the singular values of at most four layers.

    Args:
        trace: The network.
        generator: Source of randomness.

    Returns:
        ``edge_of_chaos``, :math:`\tfrac12 \log_{10} (\|J\|_F^2 / n)`, which is 0 where
        the mean square of lengths is kept; ``singular_values.below``, the share of
        those of at most 0.1; and ``density.log10=...`` for every point of
        :data:`GRID`, the density per decade of :math:`\log_{10} \sigma`, smoothed,
        over those that are not 0.
    """
    rows: list[Observation] = []
    dtype = trace.precision
    for k in sampled_layers(trace.num_layers, NUM_LAYERS):
        jacobian, place = trace.jacobian(k - 1, k), f"layer:{k}"
        if min(jacobian.shape) < 1:
            continue
        for name, value, stderr, unit in _measures(jacobian, generator):
            rows.append(Observation(name, place, value, stderr, unit, dtype))
        trace.segment(k).release()
    return rows


Measure = tuple[str, float, float, str]


def _measures(
    jacobian: JacobianOperator, generator: torch.Generator
) -> Iterator[Measure]:
    """Name, value, standard error and unit of each number about a layer."""
    kept = _loud(jacobian, generator)
    count, size = min(jacobian.shape), min(kept.shape)
    if size == 0:
        yield "edge_of_chaos", -math.inf, 0.0, "log10"
        yield "singular_values.below", 1.0, 0.0, "share"
        for x in GRID.tolist():
            yield grid_name("density", x), math.nan, 0.0, "per decade"
        return
    steps = min(NUM_MATVECS, size)
    found = spectral_density(kept, steps, NUM_SAMPLES, generator=generator)
    # The columns left out are zeros among the n of the mean.
    chaos = found.edge_of_chaos
    spread = math.log10(kept.shape[1] / jacobian.shape[1]) / 2
    below = found.fraction_below(SMALL)
    share = size / count
    values, errors = found.density(10**GRID, log10=True)
    yield "edge_of_chaos", chaos.value + spread, chaos.stderr, "log10"
    yield (
        "singular_values.below",
        1 - share + share * below.value,
        share * below.stderr,
        "share",
    )
    points = zip(GRID.tolist(), values.tolist(), errors.tolist(), strict=True)
    for x, value, stderr in points:
        yield grid_name("density", x), value, stderr, "per decade"


def _loud(
    jacobian: JacobianOperator, generator: torch.Generator
) -> AbstractLinearOperator:
    """The operator without rows and columns that are exactly zero.

    Half of the rows of a ReLU layer are: zeros that a quadrature of a few steps cannot
    tell from small singular values, which stay as they are.
    """
    (m, n), kind = jacobian.shape, (jacobian.dtype, jacobian.device)
    v, w = (gaussian_vector(size, *kind, generator=generator) for size in (n, m))
    # NaN is kept.
    rows = (jacobian.matvec(v) != 0).nonzero().flatten()
    columns = (jacobian.rmatvec(w) != 0).nonzero().flatten()
    if (len(rows), len(columns)) == (m, n):
        return jacobian

    def forth(x: Tensor) -> Tensor:
        return jacobian.matvec(x.new_zeros(n).index_copy(0, columns, x))[rows]

    def back(y: Tensor) -> Tensor:
        return jacobian.rmatvec(y.new_zeros(m).index_copy(0, rows, y))[columns]

    return FunctionOperator(forth, back, (len(rows), len(columns)), *kind)


def product_products(trace: Trace) -> int:
    """Products with one layer that :func:`product_observations` takes at most."""
    columns = NUM_VALUES + OVERSAMPLING
    # Two more check an operator, and two say what is zero behind it.
    return trace.num_layers * (columns * MAX_SWEEPS + NUM_VALUES + 4)


def product_observations(trace: Trace, generator: torch.Generator) -> list[Observation]:
    r"""Singular values of the Jacobian of all layers together.

    Args:
        trace: The network.
        generator: Source of randomness.

    Returns:
        ``product_singular_value.1`` and ``.2``, the largest of
        :math:`\partial H_L / \partial H_0` in log10, each with ``....residual``, how
        many decades away the product surely has one; and ``lyapunov_exponent.1`` and
        ``.2``, growth rates of random volumes in nats per layer.

    Raises:
        ValueError: If a state is in a precision below float32.
    """
    for state in trace.states:
        if state.main.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                "rounding of a long product is too large below float32. Got "
                f"{state.main.dtype}: cast the model to float32."
            )
    factors = _Layers(trace)
    count = min(NUM_VALUES, *map(state_size, trace.states))
    if count < 1:
        return []
    found = log10_singular_values(
        factors,
        count,
        oversampling=OVERSAMPLING,
        max_sweeps=MAX_SWEEPS,
        tol=1e-2,
        generator=generator,
    )
    exponents = lyapunov_exponents(factors, count, generator=generator)
    dtype, rows = trace.precision, []
    for i in range(count):
        for name, value, unit in (
            (f"product_singular_value.{i + 1}", found.log10[i], "log10"),
            (f"product_singular_value.{i + 1}.residual", found.residual[i], "log10"),
            (f"lyapunov_exponent.{i + 1}", exponents[i], "nats per layer"),
        ):
            rows.append(Observation(name, "model", float(value), None, unit, dtype))
    return rows


class _Layers(Sequence[JacobianOperator]):
    """The Jacobians of all layers, each checked once; one holds its graph at a time."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self._last = trace, 0
        self._known: dict[int, JacobianOperator] = {}

    def __len__(self) -> int:
        return self.trace.num_layers

    @overload
    def __getitem__(self, index: int) -> JacobianOperator: ...
    @overload
    def __getitem__(self, index: slice) -> list[JacobianOperator]: ...
    def __getitem__(self, index: int | slice) -> object:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        k = range(1, len(self) + 1)[index]
        if self._last not in (0, k):
            self.trace.segment(self._last).release()
        self._last = k
        if k not in self._known:
            self._known[k] = self.trace.jacobian(k - 1, k)
        return self._known[k]
