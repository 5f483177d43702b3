r"""What theory predicts from the parts of the layers, beside what was measured.

Every bound here holds at the features that the network was run on: constants that a
theorem takes over all features, the slopes of the activation, are those seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from torch import Tensor

from graphfathom.diagnostics.closed_forms import ClosedForm, closed_form
from graphfathom.diagnostics.densities import GRID, NUM_LAYERS, grid_name
from graphfathom.diagnostics.exact_jacobian import TOLERANCE
from graphfathom.diagnostics.layer_map import LayerMap
from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.node_norms import log10_sum
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.spectra import sampled_layers
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.linalg.components import csr_parts, csr_shape, sparse_singular_values
from graphfathom.theory.smoothing import log10_energy_bound, log10_norm_bound
from graphfathom.theory.spectra import marchenko_pastur_density, random_gcn_moments
from graphfathom.theory.squashing import SensitivityBound, sensitivity_bound

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["prediction_observations", "prediction_products"]

NUM_ROOTS = 16
"""Nodes from which the bound of the sensitivity is followed through the graph."""
DENSE_NODES = 4_000
"""Graphs up to this size have all singular values of their propagation computed."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """The numbers of a layer that the theorems ask for."""

    form: ClosedForm
    propagation: csr_array
    weight: Tensor
    slope: float
    lipschitz: float
    contracts: bool
    """Whether the message is no larger than the slope times the linear one."""


def prediction_products(trace: Trace) -> int:
    """Products with one layer that :func:`prediction_observations` takes."""
    return 14 * trace.num_layers


def prediction_observations(
    trace: Trace, structure: GraphStructure | None
) -> list[Observation]:
    r"""Predictions for layers :math:`\sigma(P X W)` and their state-space form.

    Args:
        trace: The network.
        structure: The graph of the energies, None if there is none.

    Returns:
        Per layer ``theory.mean_squared_gain`` (Theorem 3.2 for Gaussian weights of this
        variance, times the mean square of the slopes) and
        ``theory.largest_singular_value`` (the bound of Proposition 3.3); of at most
        four layers ``theory.density.log10=...`` (Lemma 3.1 with the law of Marchenko
        and Pastur, without the activation). If all layers have the form, per state
        ``theory.feature_norm`` and ``theory.dirichlet_energy.combinatorial``
        (Propositions 4.2 and 4.3), and ``theory.sensitivity`` at every distance
        (Theorem 5.1 in the Frobenius norm) with its split, ``theory.sensitivity.model``
        and ``theory.sensitivity.topology``. Layers without the form have none.
    """
    layers = {k: _parts(trace, k) for k in range(1, trace.num_layers + 1)}
    known = {k: layer for k, layer in layers.items() if layer is not None}
    rows = _spectra(trace, known)
    if len(known) == trace.num_layers:
        chain = [known[k] for k in sorted(known)]
        rows += _sizes(trace, chain, structure)
        rows += _distances(trace, chain)
    return rows


def _parts(trace: Trace, k: int) -> _Layer | None:
    layer = LayerMap(trace, k)
    form = closed_form(layer)
    if form is None or not layer.defect(form, 1) <= TOLERANCE:
        return None
    propagation, weight = form.terms[0]
    slope = float(form.behind.abs().max())
    if form.before is not None:
        slope *= float(form.before.abs().max())
    gain = slope * sum(_norm(p) * float(_norm_of(m)) for p, m in form.terms)
    input = 1.0 if form.input is None else float(_norm_of(form.input))
    carry = 0.0 if form.carry is None else float(_norm_of(form.carry))
    return _Layer(
        form,
        propagation,
        weight,
        slope,
        carry + input * gain,
        _contracts(layer, form, slope * input),
    )


def _contracts(layer: LayerMap, form: ClosedForm, factor: float) -> bool:
    """Whether Proposition 4.2 holds here, as without bias and with sigma(0) = 0."""
    tensors = (*layer.before.carried, *layer.behind.carried)
    if form.before is not None or len(tensors) > 2:
        return False
    x, y = (tensor.flatten(1) for tensor in tensors)
    message = y if form.carry is None else y - x @ form.carry.mT
    return bool(message.norm() <= (1 + 1e-9) * factor * form.message(x).norm())


def _norm_of(matrix: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(matrix, 2)


def _norm(matrix: csr_array) -> float:
    """Largest singular value of a sparse matrix."""
    size = csr_shape(matrix)[0]
    if size < 3 or matrix.nnz == 0:
        return float(_norm_of(torch.from_numpy(matrix.toarray()).double()))
    start = torch.ones(size, dtype=torch.float64).numpy()
    found: Any = svds(matrix, 1, v0=start, return_singular_vectors=False)
    return float(found[0])


def _spectra(trace: Trace, layers: dict[int, _Layer]) -> list[Observation]:
    rows, dtype = [], trace.precision
    sampled = sampled_layers(trace.num_layers, NUM_LAYERS)
    for k, layer in layers.items():
        place, form = f"layer:{k}", layer.form
        bound = Observation(
            "theory.largest_singular_value", place, layer.lipschitz, None, "1", dtype
        )
        rows.append(bound)
        plain = form.input is None and form.carry is None and len(form.terms) == 1
        if not plain:
            continue
        n, (out, width) = form.num_nodes, layer.weight.shape
        variance = float(layer.weight.square().mean())
        if variance == 0:
            continue
        average = math.sqrt(float((csr_parts(layer.propagation)[2] ** 2).sum()) / n)
        mean, _ = random_gcn_moments(torch.tensor([average]), out, width, variance)
        active = float(form.behind.square().mean())
        if form.before is not None:
            active *= float(form.before.square().mean())
        gain = float(mean) * active
        name = "theory.mean_squared_gain"
        rows.append(Observation(name, place, gain, None, "1", dtype))
        if k in sampled and n <= DENSE_NODES:
            values = sparse_singular_values(layer.propagation)
            rows += _density(values, out, width, variance, place, dtype)
    return rows


def _density(
    propagation: Tensor, out: int, width: int, variance: float, place: str, dtype: str
) -> list[Observation]:
    r"""Density of :math:`\log_{10} |\lambda_i| \sqrt{\mu_j}` for random weights."""
    values = propagation[propagation > 1e-9 * propagation.max()]
    large, small = max(out, width), min(out, width)
    # mu = x^2 / lambda^2 has the density f(mu), log10 x the density 2 ln(10) mu f(mu).
    mu = 10 ** (2 * (GRID[:, None] - values.log10()[None]))
    density, _ = marchenko_pastur_density(mu, small / large, variance * large)
    height = (2 * math.log(10) * mu * density).mean(1)
    return [
        Observation(grid_name("theory.density", x), place, y, None, "per decade", dtype)
        for x, y in zip(GRID.tolist(), height.tolist(), strict=True)
    ]


def _sizes(
    trace: Trace, layers: list[_Layer], structure: GraphStructure | None
) -> list[Observation]:
    """Bounds of features and energies, as far as no layer adds anything of its own."""
    rows, dtype = [], trace.precision
    norm = float(trace.states[0].main.norm())
    constants = torch.tensor([layer.lipschitz for layer in layers])
    for k in range(1, len(layers) + 1):
        if not layers[k - 1].contracts:
            break
        bound = log10_norm_bound(constants[:k], norm)
        name = "theory.feature_norm"
        rows.append(Observation(name, f"state:{k}", bound, None, "log10", dtype))
        if structure is None or not bool((structure.weight == 1).all()):
            continue
        ends = torch.cat([structure.source, structure.target])
        degree = int(ends.bincount().max()) if len(ends) else 0
        bound = log10_energy_bound(constants[:k], norm, len(ends) // 2, degree)
        name = "theory.dirichlet_energy.combinatorial"
        rows.append(Observation(name, f"state:{k}", bound, None, "log10", dtype))
    return rows


def _distances(trace: Trace, layers: list[_Layer]) -> list[Observation]:
    """Theorem 5.1 by distance, where all layers propagate alike."""
    if not _alike(trace, layers):
        return []
    jacobian = NodeJacobian(trace, 0, trace.num_layers)
    n = layers[0].form.num_nodes
    roots = torch.linspace(0, n - 1, min(NUM_ROOTS, n)).long()
    distance = jacobian.distances(roots, backward=False)
    found = _bounds(layers, roots)
    topology = torch.stack([bound.topology for bound in found])
    # The Frobenius norm is at most the root of the width times that of Theorem 5.1.
    width = max(max(layer.weight.shape) for layer in layers)
    model = found[0].model + math.log10(width) / 2
    rows = [_row(trace, "theory.sensitivity.model", "model", model)]
    for r in range(int(distance.max()) + 1):
        values = 2 * topology[distance == r]
        if not len(values):
            continue
        mean = float(log10_sum(values, 0) - math.log10(len(values))) / 2
        place = f"distance:{r}"
        rows.append(_row(trace, "theory.sensitivity", place, model + mean))
        rows.append(_row(trace, "theory.sensitivity.topology", place, mean))
    return rows


def _alike(trace: Trace, layers: list[_Layer]) -> bool:
    first = layers[0].propagation
    single = all(len(state.carried) == 1 for state in trace.states)
    return single and all(
        len(layer.form.terms) == 1
        and layer.propagation.nnz == first.nnz
        and abs(layer.propagation - first).max() < 1e-12
        for layer in layers
    )


def _bounds(layers: list[_Layer], roots: Tensor) -> list[SensitivityBound]:
    """The bound from each root, with the largest constants of all layers."""
    n = layers[0].form.num_nodes
    rowptr, col, value = map(torch.from_numpy, csr_parts(layers[0].propagation))
    target = torch.arange(n).repeat_interleave(rowptr.long().diff())
    edges = torch.stack([col.long(), target])
    largest = max(float(layer.weight.abs().max()) for layer in layers)
    width = max(max(layer.weight.shape) for layer in layers)
    slope = max(layer.slope for layer in layers)
    carried = max(_column_sum(layer.form.carry) for layer in layers)
    factor = slope * largest * width
    return [
        sensitivity_bound(
            edges,
            n,
            int(root),
            len(layers),
            max_weight=largest,
            channels=width,
            edge_weight=value,
            residual=carried / factor if factor else 0.0,
            message=max(_column_sum(layer.form.input, 1.0) for layer in layers),
            slope=slope,
        )
        for root in roots
    ]


def _row(trace: Trace, name: str, place: str, value: float) -> Observation:
    return Observation(name, place, value, None, "log10", trace.precision)


def _column_sum(matrix: Tensor | None, default: float = 0.0) -> float:
    """Largest sum of absolute entries of a column."""
    return default if matrix is None else float(matrix.abs().sum(0).max())
