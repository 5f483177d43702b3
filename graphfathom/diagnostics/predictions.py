r"""What theory predicts from the parts of the layers, beside what was measured.

Every bound here holds at the features that the network was run on: constants that a
theorem takes over all features, the slopes of the activation, are those seen there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds
from torch import Tensor

from graphfathom.diagnostics.closed_forms import ClosedForm
from graphfathom.diagnostics.densities import GRID, NUM_LAYERS, grid_name
from graphfathom.diagnostics.distances import NUM_ROOTS
from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.layer_map import LayerMap
from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.node_norms import log10_sum
from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.solved_forms import checked_form, tolerance
from graphfathom.diagnostics.spectra import sampled_layers
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.linalg.components import csr_parts, csr_shape, sparse_singular_values
from graphfathom.theory.smoothing import log10_energy_bound, log10_norm_bound
from graphfathom.theory.spectra import marchenko_pastur_density, random_gcn_moments
from graphfathom.theory.squashing import SensitivityBound, sensitivity_bound

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["prediction_observations", "prediction_products"]

UNSEEN = 0.1
"""How far the largest slope of a smooth activation may lie above those seen."""
DENSE_NODES = 4_000
"""Graphs up to this size have all singular values of their propagation computed."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """The numbers of a layer that the theorems ask for."""

    form: ClosedForm
    slope: float
    lipschitz: float
    growth: float | None
    """How much longer it may make features; None if it does not map 0 to 0."""

    @property
    def propagation(self) -> csr_array:
        return self.form.terms[0][0]

    @property
    def weight(self) -> Tensor:
        return self.form.terms[0][1]

    @property
    def is_plain(self) -> bool:
        """Whether it is act(P X W), with nothing added."""
        form = self.form
        return form.input is None and form.carry is None and len(form.terms) == 1


def prediction_products(trace: Trace) -> int:
    """Products with one layer that :func:`prediction_observations` takes, about."""
    return 10 * trace.num_layers


def prediction_observations(
    trace: Trace,
    structure: GraphStructure | None,
    generator: torch.Generator | None = None,
) -> list[Observation]:
    r"""Predictions for layers :math:`\sigma(P X W)` and their state-space form.

    Args:
        trace: The network.
        structure: The graph of the energies, None if there is none.
        generator: Draws the nodes of the sensitivities in a graph of more than 32
            nodes. From the same state as in
            :func:`~graphfathom.diagnostics.distances.distance_observations` they are
            the same nodes. The global one if None.

    Returns:
        Per layer ``theory.largest_singular_value`` (the bound of Proposition 3.3) and,
        for :math:`\sigma(P X W)`, ``theory.mean_squared_gain`` (Theorem 3.2 for
        Gaussian weights of this variance, times the mean square of the slopes); of at
        most four such layers ``theory.density.log10=...`` (Lemma 3.1 with the law of
        Marchenko and Pastur, without the activation). If all layers have a form, per
        state ``theory.feature_norm`` and ``theory.dirichlet_energy.combinatorial``
        (Propositions 4.2 and 4.3), as far as all layers before it map 0 to 0, and
        ``theory.sensitivity`` at every distance (Theorem 5.1 in the Frobenius norm)
        with its split, ``theory.sensitivity.model`` and
        ``theory.sensitivity.topology``, where all layers propagate alike.

    Raises:
        ValueError: If no layer has such a form.
    """
    norms: dict[int, float] = {}
    layers = {k: _parts(trace, k, norms) for k in range(1, trace.num_layers + 1)}
    known = {k: layer for k, layer in layers.items() if layer is not None}
    if not known:
        raise ValueError("no layer is act(P X W) or its state-space form.")
    rows = _spectra(trace, known)
    if len(known) == trace.num_layers:
        chain = [known[k] for k in sorted(known)]
        rows += _sizes(trace, chain, structure)
        rows += _distances(trace, chain, generator)
    return rows


def _parts(trace: Trace, k: int, norms: dict[int, float]) -> _Layer | None:
    try:
        layer = LayerMap(trace, k)
        form = checked_form(layer)
    except JacobianError:
        return None
    if form is None:
        return None
    slope = float(form.behind.abs().max())
    if form.before is not None:
        slope *= float(form.before.abs().max())
    gain = 0.0
    for p, m in form.terms:  # layers that propagate alike share one matrix
        if id(p) not in norms:
            norms[id(p)] = _norm(p)
        gain += slope * norms[id(p)] * _norm_of(m)
    input = 1.0 if form.input is None else _norm_of(form.input)
    carry = 0.0 if form.carry is None else _norm_of(form.carry)
    chord = _chord(layer, form, slope * input)
    growth = None if chord is None else carry + input * gain * chord
    return _Layer(form, slope, carry + input * gain, growth)


def _chord(layer: LayerMap, form: ClosedForm, factor: float) -> float | None:
    """How much longer messages are than slopes make them; None if f(0) = 0 is not sure.

    A function of single entries that maps 0 to 0 makes no row longer than its largest
    slope does; that of all features is at most a little above those seen. A sigmoid
    makes small rows much longer, and a bias may make rows longer or shorter.
    """
    tensors = (*layer.before.carried, *layer.behind.carried)
    parameters = layer.trace.segment(layer.k).parameters
    added = any(p.dim() < 2 and bool(p.any()) for p in parameters)
    if added or form.before is not None or len(tensors) > 2:
        return None
    x, y = (tensor.flatten(1) for tensor in tensors)
    message = y if form.carry is None else y - x @ form.carry.mT
    straight = factor * form.message(x).norm(dim=1)
    straight += tolerance(layer.dtype) * y.norm(dim=1)
    ratio = message.norm(dim=1) / straight.where(straight > 0, 1.0)
    longest = float(ratio.max())
    return max(longest, 1.0) if longest <= 1 + UNSEEN else None


def _norm_of(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, 2))


def _norm(matrix: csr_array) -> float:
    """Largest singular value of a sparse matrix."""
    size = csr_shape(matrix)[0]
    if size < 3 or not csr_parts(matrix)[2].any():
        return _norm_of(torch.from_numpy(matrix.toarray()).double())
    # Not ones, which may be an eigenvector of another eigenvalue.
    start = torch.randn(size, generator=torch.Generator().manual_seed(0)).double()
    found: Any = svds(matrix, 1, v0=start.numpy(), return_singular_vectors=False)
    return float(found[0])


def _spectra(trace: Trace, layers: dict[int, _Layer]) -> list[Observation]:
    rows, dtype = [], trace.precision
    sampled = sampled_layers(trace.num_layers, NUM_LAYERS)
    spectra: dict[int, Tensor] = {}
    for k, layer in layers.items():
        place, p = f"layer:{k}", layer.propagation
        name = "theory.largest_singular_value"
        rows.append(Observation(name, place, layer.lipschitz, None, "1", dtype))
        out, width = layer.weight.shape
        variance = float(layer.weight.square().mean())
        if not layer.is_plain or not 0 < variance < math.inf:
            continue
        n, form = layer.form.num_nodes, layer.form
        average = math.sqrt(float((csr_parts(p)[2] ** 2).sum()) / n)
        mean, _ = random_gcn_moments(torch.tensor([average]), out, width, variance)
        active = float(form.behind.square().mean())
        if form.before is not None:
            active *= float(form.before.square().mean())
        name, gain = "theory.mean_squared_gain", float(mean) * active
        rows.append(Observation(name, place, gain, None, "1", dtype))
        if k in sampled and n <= DENSE_NODES:
            if id(p) not in spectra:
                spectra[id(p)] = sparse_singular_values(p)
            rows += _density(spectra[id(p)], layer.weight, place, dtype)
    return rows


def _density(
    propagation: Tensor, weight: Tensor, place: str, dtype: str
) -> list[Observation]:
    r"""Density of :math:`\log_{10} |\lambda_i| \sqrt{\mu_j}` for random weights."""
    values = propagation[propagation > 1e-9 * propagation.max()]
    if not len(values):
        return []
    small, large = sorted(weight.shape)
    variance = float(weight.square().mean())
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
    rows, degree, count = [], 0, 0
    norm = float(trace.states[0].main.norm())
    growths = torch.tensor([layer.growth or 0.0 for layer in layers]).double()
    unweighted = structure is not None and bool((structure.weight == 1).all())
    if structure is not None and unweighted:
        ends = torch.cat([structure.source, structure.target])
        degree, count = int(ends.bincount(minlength=1).max()), len(structure.source)
    for k in range(1, len(layers) + 1):
        if layers[k - 1].growth is None:
            break
        bounds = {"theory.feature_norm": log10_norm_bound(growths[:k], norm)}
        if unweighted:
            name = "theory.dirichlet_energy.combinatorial"
            bounds[name] = log10_energy_bound(growths[:k], norm, count, degree)
        rows += [_row(trace, name, f"state:{k}", v) for name, v in bounds.items()]
    return rows


def _distances(
    trace: Trace, layers: list[_Layer], generator: torch.Generator | None
) -> list[Observation]:
    """Theorem 5.1 by distance, where all layers propagate alike."""
    n = layers[0].form.num_nodes
    roots = torch.arange(n)
    if n > NUM_ROOTS:
        roots = torch.randperm(n, generator=generator)[:NUM_ROOTS]
    try:
        distance = NodeJacobian(trace, 0, trace.num_layers).distances(
            roots, backward=True
        )
    except ValueError:  # no hops are known, so nothing was measured either
        return []
    found = _bounds(layers, roots) if _alike(trace, layers) else []
    if not found:
        return []
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
    """The bound of each root v to all nodes u, with the largest constants."""
    n = layers[0].form.num_nodes
    rowptr, col, value = map(torch.from_numpy, csr_parts(layers[0].propagation))
    target = torch.arange(n).repeat_interleave(rowptr.long().diff())
    largest = max(float(layer.weight.abs().max()) for layer in layers)
    width = max(max(layer.weight.shape) for layer in layers)
    slope = max(layer.slope for layer in layers)
    factor = slope * largest * width
    if factor == 0:  # no messages, and no model term
        return []
    carried = max(_column_sum(layer.form.carry, 0.0) for layer in layers)
    return [
        sensitivity_bound(
            torch.stack([target, col.long()]),  # back along the edges, from v to u
            n,
            root,
            len(layers),
            max_weight=largest,
            channels=width,
            edge_weight=value,
            residual=carried / factor,
            message=max(_column_sum(layer.form.input, 1.0) for layer in layers),
            slope=slope,
        )
        for root in roots.tolist()
    ]


def _row(trace: Trace, name: str, place: str, value: float) -> Observation:
    return Observation(name, place, value, None, "log10", trace.precision)


def _column_sum(matrix: Tensor | None, default: float) -> float:
    """Largest sum of absolute entries of a column."""
    return default if matrix is None else float(matrix.abs().sum(0).max())
