r"""Smoothness of node features: Dirichlet energy, Rayleigh quotient, effective rank.

All measures see the symmetrised graph of :mod:`graphfathom.diagnostics.structure`: each
joined pair of nodes counts once, self-loops do not. Nothing is normalised unless a name
or an argument says so.

Everything is computed in float64 and detached, on features divided by their largest
magnitude: features of size 1e-170, whose squares are 0 in float64, have the right
quotients, ranks and logarithms. Features that are not finite give NaN.

======================= ===============================================================
code                    symbol
======================= ===============================================================
``x``                   features :math:`H`, of shape :math:`(N, F)`
``variant``             Laplacian :math:`D - A` (combinatorial) or :math:`I - \hat A`
                        with :math:`\hat A = \tilde D^{-1/2} (A + I) \tilde D^{-1/2}`
                        and :math:`\tilde D = D + I` (normalized)
``root_degree``         :math:`\tilde D^{1/2} 1`, the kernel of :math:`I - \hat A` if
                        the graph is connected
======================= ===============================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from graphfathom.diagnostics.observations import Observation
from graphfathom.diagnostics.structure import GraphStructure, Kind

__all__ = [
    "GraphStructure",
    "component_deviation",
    "dead_units",
    "dirichlet_energy",
    "effective_rank",
    "energy_observations",
    "feature_rms",
    "rayleigh_quotient",
]

Variant = Literal["combinatorial", "normalized"]
Normalization = Literal["none", "per-node", "per-edge"]

BLOCK_ENTRIES = 2**22
"""Differences held at a time: 32 MiB."""


def dirichlet_energy(
    x: Tensor,
    edge_index: Tensor,
    edge_weight: Tensor | None = None,
    batch: Tensor | None = None,
    *,
    variant: Variant = "combinatorial",
    normalization: Normalization = "none",
    log10: bool = False,
) -> Tensor:
    r"""Dirichlet energy: how much features differ along edges.

    .. math::
        E(H) = \operatorname{tr} H' (D - A) H
             = \sum_{\{u, v\}} w_{uv} \|h_u - h_v\|^2

    or, with ``variant="normalized"``,

    .. math::
        E(H) = \operatorname{tr} H' (I - \hat A) H
             = \sum_{\{u, v\}} w_{uv}
               \bigl\| \tilde d_u^{-1/2} h_u - \tilde d_v^{-1/2} h_v \bigr\|^2.

    It is 0 if and only if, on each connected component, H is constant, or each column
    is proportional to the root of :math:`\tilde d`. Conventions in use differ by the
    Laplacian, by factors of 2, N and E and by a square root: compare like with like.

    Args:
        x: Features, of shape (N, F).
        edge_index: Ends of the stored edges, of shape (2, number of stored edges).
        edge_weight: One finite weight >= 0 per stored edge. Ones if None.
        batch: Index of the graph of each node, of shape (N,). None for one graph.
        variant: ``"combinatorial"`` or ``"normalized"``.
        normalization: Divide by nothing (``"none"``), by the number of nodes
            (``"per-node"``) or by that of edges (``"per-edge"``; NaN without edges).
        log10: Return the decimal logarithm, -inf for an exact 0. The energy itself
            underflows for features below 1e-162.

    Returns:
        The energy, in squared units of ``x``: of shape (G,) with ``batch``, else ().

    Raises:
        TypeError: If a tensor has the wrong dtype.
        ValueError: If an argument has the wrong shape or range.

    Example:
        >>> x, ring = torch.tensor([[0.0], [1.0]]), torch.tensor([[0, 1], [1, 0]])
        >>> dirichlet_energy(x, ring)
        tensor(1., dtype=torch.float64)

    References:
        | A Survey on Oversmoothing in Graph Neural Networks (Rusch, Bronstein and
          Mishra, 2023)
        | https://arxiv.org/abs/2303.10993
    """
    _check_choice("normalization", normalization, Normalization)
    features, structure = _prepared(x, edge_index, edge_weight, batch)
    energy = features.energy(structure, variant)
    counts = {
        "none": torch.ones_like(energy),
        "per-node": features.per_graph(torch.ones_like(structure.root_degree)),
        "per-edge": features.per_graph(
            torch.ones_like(structure.weight), structure.source
        ),
    }
    count = counts[normalization]
    if log10:
        energy = energy.log10() + 2 * features.scale.log10() - count.log10()
    else:
        energy = energy * features.scale * features.scale / count
    return energy if batch is not None else energy[0]


def rayleigh_quotient(
    x: Tensor,
    edge_index: Tensor,
    edge_weight: Tensor | None = None,
    batch: Tensor | None = None,
    *,
    variant: Variant = "combinatorial",
) -> Tensor:
    r"""Dirichlet energy over squared norm, :math:`E(H) / \|H\|_F^2`.

    A mean of Laplacian eigenvalues, independent of the scale of H: at most twice the
    largest degree (combinatorial), or below 2 (normalized).

    Args:
        x: Features, of shape (N, F).
        edge_index: Ends of the stored edges, of shape (2, number of stored edges).
        edge_weight: One finite weight >= 0 per stored edge. Ones if None.
        batch: Index of the graph of each node, of shape (N,). None for one graph.
        variant: ``"combinatorial"`` or ``"normalized"``.

    Returns:
        The quotient, of shape (G,) with ``batch``, else (). NaN for zero features,
        which have none.
    """
    features, structure = _prepared(x, edge_index, edge_weight, batch)
    quotient = features.energy(structure, variant) / features.square
    return quotient if batch is not None else quotient[0]


def component_deviation(
    x: Tensor,
    edge_index: Tensor,
    edge_weight: Tensor | None = None,
    batch: Tensor | None = None,
    *,
    kind: Kind = "constant",
) -> Tensor:
    r"""Relative distance to the fully smoothed features, :math:`\|H - PH\|/\|H\|`.

    P projects each column onto the span, over connected components, of their constants
    (the kernel of :math:`D - A`), or of :math:`\tilde D^{1/2} 1` restricted to them
    (the kernel of :math:`I - \hat A`).

    Args:
        x: Features, of shape (N, F).
        edge_index: Ends of the stored edges, of shape (2, number of stored edges).
        edge_weight: One finite weight >= 0 per stored edge. Ones if None.
        batch: Index of the graph of each node, of shape (N,). None for one graph.
        kind: ``"constant"`` or ``"degree"``.

    Returns:
        A number in [0, 1], of shape (G,) with ``batch``, else (). NaN for zero
        features, which have none.
    """
    features, structure = _prepared(x, edge_index, edge_weight, batch)
    deviation = features.deviation(structure, kind)
    return deviation if batch is not None else deviation[0]


def effective_rank(x: Tensor, batch: Tensor | None = None) -> Tensor:
    r"""Number of directions that features use, by the entropy of their spectrum.

    .. math:: \exp\Bigl(-\sum_i p_i \log p_i\Bigr), \qquad
        p_i = \sigma_i / \textstyle\sum_j \sigma_j

    with the singular values :math:`\sigma_i` of H, from a singular value decomposition:
    a Gram matrix would lose those below 1e-8 of the largest.

    Args:
        x: Features, of shape (N, F).
        batch: Index of the graph of each node, of shape (N,). None for one graph.

    Returns:
        A number in [1, min(N, F)], or 0 for zero features; of shape (G,) with
        ``batch``, else ().

    References:
        | The effective rank: a measure of effective dimensionality (Roy and Vetterli,
          2007)
    """
    rank = _Features.of(x, batch).rank()
    return rank if batch is not None else rank[0]


def feature_rms(
    x: Tensor, batch: Tensor | None = None, *, log10: bool = False
) -> Tensor:
    r"""Root mean square of all entries, :math:`\|H\|_F / \sqrt{NF}`.

    Args:
        x: Features, of shape (N, F).
        batch: Index of the graph of each node, of shape (N,). None for one graph.
        log10: Return the decimal logarithm, -inf for zero features.

    Returns:
        The number in units of ``x``, of shape (G,) with ``batch``, else ().
    """
    features = _Features.of(x, batch)
    entries = features.per_graph(torch.ones_like(features.rows[:, 0])) * x.shape[1]
    root = (features.square / entries).sqrt()
    rms = root.log10() + features.scale.log10() if log10 else root * features.scale
    return rms if batch is not None else rms[0]


def dead_units(x: Tensor) -> Tensor:
    """Share of the columns of ``x``, of shape (N, F), that are exactly zero."""
    _check_features(x)
    return (~x.detach().any(dim=0)).double().mean()


def energy_observations(
    states: Sequence[Tensor], structure: GraphStructure, *, run: str = "model"
) -> list[Observation]:
    """All measures of this module on each state of a network, as one graph.

    ``feature_rms``, ``feature_norm`` (Frobenius) and both energies (per graph,
    unnormalised) have the unit ``"log10"``: a thousand layers reach 1e-166, where the
    numbers or their squares underflow. ``-inf`` is an exact zero. Rayleigh quotients
    and deviations of zero features are NaN.

    Args:
        states: Features of states 0 .. L, of shapes (N, F_k).
        structure: The graph of N nodes.
        run: Which network the states are of.

    Returns:
        Ten observations per state, at ``"state:k"``.

    Raises:
        ValueError: If a state does not have one row per node.
    """
    rows = []
    for k, state in enumerate(states):
        if state.ndim != 2 or state.shape[0] != structure.num_nodes:
            raise ValueError(
                f"`states[{k}]` must have shape ({structure.num_nodes}, F), one row "
                f"per node. Got {tuple(state.shape)}."
            )
        for name, (value, unit) in _measured(state, structure).items():
            rows.append(
                Observation(name, f"state:{k}", float(value), None, unit, run=run)
            )
    return rows


def _measured(x: Tensor, structure: GraphStructure) -> dict[str, tuple[Tensor, str]]:
    """Value and unit of each measure of one state, by name."""
    features = _Features.of(x, None)
    size = features.scale.log10()
    norm = features.square.log10() / 2 + size
    measured = {
        "feature_rms": (norm - math.log10(x.numel()) / 2, "log10"),
        "feature_norm": (norm, "log10"),
    }
    for variant in get_args(Variant):
        energy = features.energy(structure, variant)
        measured[f"dirichlet_energy.{variant}"] = (energy.log10() + 2 * size, "log10")
        measured[f"rayleigh_quotient.{variant}"] = (energy / features.square, "1")
    measured["effective_rank"] = (features.rank(), "1")
    for kind in get_args(Kind):
        measured[f"deviation.{kind}"] = (features.deviation(structure, kind), "1")
    measured["dead_units"] = (dead_units(x), "1")
    return measured


@dataclass(frozen=True, eq=False)
class _Features:
    """Features of G graphs, each divided by its largest magnitude."""

    rows: Tensor  # (N, F), in float64
    scale: Tensor  # (G,), the largest magnitudes
    square: Tensor  # (G,), squared Frobenius norms of the divided features
    batch: Tensor  # (N,)

    @classmethod
    def of(cls, x: Tensor, batch: Tensor | None) -> _Features:
        _check_features(x)
        if batch is None:
            batch = torch.zeros(len(x), dtype=torch.long, device=x.device)
        _check_batch(batch, len(x))
        x = x.detach().double()
        scale = x.new_zeros(int(batch.max()) + 1)
        scale = scale.scatter_reduce(0, batch, x.abs().amax(dim=1), "amax")
        divisor = torch.where(scale == 0, torch.ones_like(scale), scale)
        rows = x / divisor[batch].unsqueeze(1)
        square = torch.zeros_like(scale).index_add(0, batch, rows.square().sum(dim=1))
        return cls(rows, scale, square, batch)

    def per_graph(self, values: Tensor, nodes: Tensor | None = None) -> Tensor:
        """Sum values of nodes, or of things that sit at ``nodes``, over each graph."""
        batch = self.batch if nodes is None else self.batch[nodes]
        return torch.zeros_like(self.scale).index_add(0, batch, values)

    def energy(self, structure: GraphStructure, variant: Variant) -> Tensor:
        """Dirichlet energy of the divided features."""
        _check_choice("variant", variant, Variant)
        rows = self.rows
        if variant == "normalized":
            rows = rows / structure.root_degree.unsqueeze(1)
        size = max(1, BLOCK_ENTRIES // rows.shape[1])
        blocks = zip(
            structure.source.split(size), structure.target.split(size), strict=True
        )
        squares = [(rows[u] - rows[v]).square_().sum(dim=1) for u, v in blocks]
        return self.per_graph(structure.weight * torch.cat(squares), structure.source)

    def deviation(self, structure: GraphStructure, kind: Kind) -> Tensor:
        """Relative distance to the kernel of a Laplacian."""
        _check_choice("kind", kind, Kind)
        rest = self.rows - structure.kernel_part(self.rows, kind)
        share = self.per_graph(rest.square().sum(dim=1)) / self.square
        return share.clamp(max=1).sqrt()  # rounding can pass 1

    def rank(self) -> Tensor:
        """Effective rank of each graph."""
        counts = torch.bincount(self.batch, minlength=len(self.scale)).tolist()
        graphs = self.rows[self.batch.argsort(stable=True)].split(counts)
        ranks = map(_spectral_rank, graphs, self.scale.tolist())
        return torch.stack(list(ranks))


def _spectral_rank(rows: Tensor, scale: float) -> Tensor:
    """Effective rank of features divided by ``scale``."""
    if not math.isfinite(scale):
        return rows.new_tensor(math.nan)
    if scale == 0:
        return rows.new_zeros(())
    values = torch.linalg.svdvals(rows)
    return torch.special.entr(values / values.sum()).sum().exp()


def _prepared(
    x: Tensor, edge_index: Tensor, edge_weight: Tensor | None, batch: Tensor | None
) -> tuple[_Features, GraphStructure]:
    features = _Features.of(x, batch)
    structure = GraphStructure.from_edge_index(edge_index, len(x), edge_weight)
    ends = features.batch[structure.source], features.batch[structure.target]
    if not torch.equal(*ends):
        raise ValueError("`batch` must not cut edges. Got an edge between two graphs.")
    return features, structure


def _check_features(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(
            f"`x` must be a real floating-point tensor. Got {x.dtype}. Convert it with "
            f"`.float()`."
        )
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(
            f"`x` must have shape (N, F) with N, F >= 1. Got {tuple(x.shape)}."
        )


def _check_batch(batch: Tensor, num_nodes: int) -> None:
    if batch.dtype != torch.long or batch.shape != (num_nodes,) or batch.min() < 0:
        raise ValueError(
            f"`batch` must hold one graph index >= 0 per node, as int64 of shape "
            f"({num_nodes},). Got {batch.dtype} of shape {tuple(batch.shape)}."
        )


def _check_choice(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise ValueError(f"`{name}` must be one of {get_args(choices)}. Got {value!r}.")
