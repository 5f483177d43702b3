"""Smoothing by contraction: Lemma 4.1, Propositions 4.2 and 4.3.

The results are logarithms to the base 10: over a thousand layers the bounds themselves
leave the range of floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["log10_energy_bound", "log10_norm_bound", "norm_at_zero"]


def norm_at_zero(layer: Callable[[Tensor], Tensor], x: Tensor) -> float:
    r"""The norm :math:`\|f(0)\|`, which is 0 where Lemma 4.1 holds.

    A layer :math:`f(H) = \sigma(\hat{A} H W)` with :math:`\sigma(0) = 0` and without
    bias maps 0 to 0, which makes 0 the only fixed point of a contraction. A bias, or
    an activation such as the sigmoid, does not.

    Args:
        layer: The map :math:`f`.
        x: Features whose shape, precision and device the zeros have.

    Example:
        >>> norm_at_zero(torch.tanh, torch.randn(2, 3))
        0.0
    """
    with torch.no_grad():
        return float(layer(torch.zeros_like(x)).norm())


def log10_norm_bound(lipschitz: Tensor, norm: float) -> float:
    r"""Bound of the features behind some layers, Proposition 4.2.

    .. math:: \|f(H)\| \le \prod_{k=1}^K \|f_k\|_\mathrm{Lip} \; \|H\|

    for layers that map 0 to 0, see :func:`norm_at_zero`. With constants below
    :math:`1 - \varepsilon` the features vanish as :math:`(1 - \varepsilon)^K`.

    Args:
        lipschitz: Constants of the layers, each the largest norm of its Jacobian over
            all features, of shape :math:`(K)`. For a GCN layer and an activation of
            slope at most 1, :math:`\|W\|`.
        norm: The Frobenius norm :math:`\|H\|`.

    Returns:
        The logarithm to the base 10 of the bound, -inf for 0.

    Raises:
        ValueError: If a constant or the norm is negative or NaN.

    Example:
        >>> halves = torch.full((1000,), 0.5)
        >>> round(log10_norm_bound(halves, norm=1.0), 4)
        -301.03

    References:
        | On Vanishing Gradients, Over-Smoothing, and Over-Squashing in GNNs
        | (Arroyo et al., 2025), https://arxiv.org/abs/2502.10818, Proposition 4.2
    """
    if lipschitz.dim() != 1 or not bool((lipschitz >= 0).all()):
        raise ValueError(
            "`lipschitz` must hold one number >= 0 for each layer. Got shape "
            f"{tuple(lipschitz.shape)} and values {lipschitz.flatten().tolist()[:5]}."
        )
    if not norm >= 0:
        raise ValueError(f"`norm` must be >= 0. Got {norm}.")
    if norm == 0 or bool((lipschitz == 0).any()):
        return -math.inf
    return float(lipschitz.double().log10().sum()) + math.log10(norm)


def log10_energy_bound(
    lipschitz: Tensor, norm: float, num_edges: int, max_degree: int | None = None
) -> float:
    r"""Bound of the Dirichlet energy behind some layers, Proposition 4.3.

    .. math:: \mathcal{E}(f(H)) \le 2 |E| \prod_{k=1}^K \|f_k\|_\mathrm{Lip}^2
        \; \|H\|^2, \qquad
        \mathcal{E}(H) = \sum_{\{u, v\} \in E} \|h_u - h_v\|^2

    With the largest degree the sharper :math:`2 d_\mathrm{max}` stands in place of
    :math:`2 |E|`, since :math:`\mathcal{E}(H) \le \lambda_\mathrm{max}(D - A) \|H\|^2`
    and :math:`\lambda_\mathrm{max}(D - A) \le 2 d_\mathrm{max}`.

    Args:
        lipschitz: As in :func:`log10_norm_bound`.
        norm: The Frobenius norm :math:`\|H\|`.
        num_edges: Number of undirected edges :math:`|E|`.
        max_degree: Largest degree :math:`d_\mathrm{max}`, for the sharper bound.

    Returns:
        The logarithm to the base 10 of the bound, -inf for 0.

    Raises:
        ValueError: If a number is negative or NaN.

    Example:
        >>> round(log10_energy_bound(torch.full((10,), 0.1), 1.0, num_edges=50), 6)
        -18.0

    References:
        | On Vanishing Gradients, Over-Smoothing, and Over-Squashing in GNNs
        | (Arroyo et al., 2025), https://arxiv.org/abs/2502.10818, Proposition 4.3
    """
    counts = [num_edges] if max_degree is None else [num_edges, max_degree]
    if min(counts) < 0:
        raise ValueError(f"`num_edges` and `max_degree` must be >= 0. Got {counts}.")
    features = log10_norm_bound(lipschitz, norm)
    factor = 2 * min(counts)
    return 2 * features + math.log10(factor) if factor else -math.inf
