r"""Rates of smoothing: fitted over depth, beside the rate of the graph.

Where a layer propagates and multiplies, what differs between nodes shrinks by
:math:`\lambda s` per layer on its way forth, and so do the errors on their way back:
equations (6.1) and (6.3) of :mod:`graphfathom.theory.backward`. Here are both factors
as measured, and the two numbers that explain them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, eye_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, eigsh

from graphfathom.diagnostics.observations import Observation, Observations
from graphfathom.diagnostics.structure import GraphStructure, Kind
from graphfathom.linalg.components import csr_shape, is_symmetric

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["deflated_modulus", "kept_directions", "rate_observations"]

ROUNDING = 2**12
"""Deviations below so many units of rounding are rounding: 1e-12 in float64."""
DENSE_NODES = 300
"""Up to this size all eigenvalues take less time than a search for the largest."""
MAX_EDGES = 300_000
"""Above, the thousand products of a search may take more than three seconds."""
MAX_RESTARTS = 50
"""Of twenty products each."""
TOLERANCE = 1e-4
"""Relative error of the rate of a graph: 3 % of what is left behind 256 layers."""


def rate_observations(
    trace: Trace, table: Observations, structure: GraphStructure
) -> list[Observation]:
    r"""Factors per layer by which features and errors smooth.

    ``rate.forward.constant`` and ``rate.forward.degree`` are :math:`10^b` with the
    slope b of :math:`\log_{10} \|Q H_k\|_F` over :math:`k = 1, \dots, L`, for either
    kernel; ``rate.backward.*`` the same of :math:`\|Q G_k\|_F` from L back to 1. A fit
    ends where less than 1e-12 of a state differs between nodes, which is rounding. Its
    standard error says how straight the line is.

    ``rate.graph`` is :math:`\lambda`, the largest modulus of the eigenvalues of
    :math:`\hat A = \tilde D^{-1/2} (A + I) \tilde D^{-1/2}` but for the 1 of each
    component; :math:`\tilde D^{-1} (A + I)`, a stochastic mean, has the same
    eigenvalues. It belongs to the graph: the layers may propagate otherwise.
    ``rate.weights`` is s, the median of ``weight_norm`` over the layers.

    Args:
        trace: The network.
        table: Its energies and gradients.
        structure: Its graph.

    Returns:
        At most six rows: no rate of fewer than three states, none of a graph of more
        than 300,000 edges or without edges.
    """
    unit = float(torch.finfo(trace.dtype).eps) * ROUNDING
    rows = []
    for kind in get_args(Kind):
        forward, backward = _forward(table, kind), _backward(table, kind)
        depth = range(1, trace.num_layers + 1)
        for name, known, order in (
            ("forward", forward, depth),
            ("backward", backward, reversed(depth)),
        ):
            found = _factor(_above(unit, known, order))
            if found is not None:
                rows.append((f"rate.{name}.{kind}", *found))
    rate = _graph_rate(structure)
    if not math.isnan(rate):
        rows.append(("rate.graph", rate, None))
    norms = table.series("weight_norm")[1]
    if norms:
        rows.append(("rate.weights", statistics.median(norms), None))
    dtype = trace.precision
    return [Observation(n, "model", v, e, "1", dtype) for n, v, e in rows]


def _forward(table: Observations, kind: Kind) -> dict[int, tuple[float, float]]:
    """Share and logarithm of what differs between the nodes of each state."""
    norms = dict(zip(*table.series("feature_norm"), strict=True))
    shares = zip(*table.series(f"deviation.{kind}"), strict=True)
    return {
        k: (share, norms[k] + math.log10(share)) for k, share in shares if share > 0
    }


def _backward(table: Observations, kind: Kind) -> dict[int, tuple[float, float]]:
    """The same of the errors."""
    norms = dict(zip(*table.series(f"error.deviation_norm.{kind}"), strict=True))
    shares = zip(*table.series(f"error.deviation.{kind}"), strict=True)
    return {k: (share, norms[k]) for k, share in shares}


def _above(
    unit: float, known: dict[int, tuple[float, float]], order: Any
) -> Iterator[float]:
    """Logarithms of the states in an order, up to where they are rounding."""
    for k in order:
        share, log10 = known.get(k, (0.0, math.nan))
        if not (share > unit and math.isfinite(log10)):
            return
        yield log10


def _factor(logs: Iterator[float]) -> tuple[float, float] | None:
    """Factor per step of a straight line, and its standard error."""
    y = np.fromiter(logs, dtype=float)
    if len(y) < 3:
        return None
    x = np.arange(len(y)) - (len(y) - 1) / 2
    spread = float(x @ x)
    slope = float(x @ y) / spread
    rest = y - y.mean() - slope * x
    error = math.sqrt(float(rest @ rest) / (len(y) - 2) / spread)
    factor = 10**slope
    return factor, factor * math.log(10) * error


def _graph_rate(structure: GraphStructure) -> float:
    r"""The number :math:`\lambda` of :math:`\hat A`; NaN if there is none."""
    source, target = structure.source.cpu().numpy(), structure.target.cpu().numpy()
    if not 0 < len(source) <= MAX_EDGES:
        return math.nan
    n, weight = structure.num_nodes, structure.weight.cpu().numpy()
    half = coo_array((weight, (source, target)), shape=(n, n))
    scale = 1 / structure.root_degree.cpu().numpy()
    matrix = csr_array(half + half.T + eye_array(n)).multiply(scale).T.multiply(scale)
    return deflated_modulus(csr_array(matrix), kept_directions(structure, "degree"))


def kept_directions(structure: GraphStructure, kind: Kind) -> csr_array:
    """Orthonormal basis of what a propagation keeps, of shape (N, components)."""
    base = structure.root_degree.cpu().numpy()
    component = structure.component.cpu().numpy()
    if kind == "constant":
        base = np.ones_like(base)
    lengths = np.sqrt(np.bincount(component, base**2))
    places = np.arange(structure.num_nodes), component
    shape = (structure.num_nodes, structure.num_components)
    return csr_array(coo_array((base / lengths[component], places), shape=shape))


def deflated_modulus(matrix: csr_array, kept: csr_array) -> float:
    r"""Largest modulus of the eigenvalues beside those of directions that are kept.

    Those of :math:`Q P Q`, :math:`Q = I - U U^\top`: P leaves the span of U alone, so
    its other eigenvalues are those of what it does to the rest.

    Args:
        matrix: A propagation P, of shape (N, N).
        kept: A basis U of directions that it keeps, :math:`P U = U`, orthonormal, of
            shape (N, C).

    Returns:
        The modulus, to four digits in a graph of more than 300 nodes; NaN if there is
        no other direction, or if a thousand products do not find it.
    """
    n, count = csr_shape(kept)
    if count >= n:
        return math.nan

    def rest(v: np.ndarray) -> np.ndarray:
        return v - kept @ (kept.T @ v)

    def product(v: np.ndarray) -> np.ndarray:
        return rest(matrix @ rest(v))

    symmetric = is_symmetric(matrix)
    if n <= DENSE_NODES:
        dense = product(np.eye(n))
        solve = np.linalg.eigvalsh if symmetric else np.linalg.eigvals
        found = solve(dense)
    else:
        found = _extreme(product, n, symmetric)
    modulus = float(np.abs(found).max())
    return 0.0 if modulus < n * np.finfo(float).eps else modulus


def _extreme(product: Any, n: int, symmetric: bool) -> np.ndarray:
    """The eigenvalue of largest modulus, by Krylov subspaces."""
    start = np.random.default_rng(0).standard_normal(n)
    # Where the product is zero but for rounding, there is no subspace to search.
    if np.linalg.norm(product(start)) < n * np.finfo(float).eps:
        return np.zeros(1)
    make: Any = LinearOperator
    search: Any = eigsh if symmetric else eigs
    try:
        return search(
            make((n, n), matvec=product, dtype=np.float64),
            k=1,
            which="LM",
            v0=start,
            tol=TOLERANCE,
            maxiter=MAX_RESTARTS,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence:
        return np.full(1, math.nan)
