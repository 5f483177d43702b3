r"""Backward oversmoothing: how errors smooth on their way to the input.

For layers :math:`X^{(k+1)} = \rho(H^{(k)})`, :math:`H^{(k)} = P X^{(k)} W^{(k)}`,
:math:`k = 0, \dots, L`, of which the last has no activation. P is symmetric and
stochastic, so that constants are kept and all else shrinks by :math:`\lambda`; the
activation has :math:`\rho(0) = 0`, slopes of at most 1, and slopes that change by at
most :math:`L_1` per unit (:data:`LIPSCHITZ_TANH` for tanh; ReLU has none).

Glossary:
    Pi, Q: mean over the nodes, :math:`\Pi = 1 1^\top / n`, and the rest,
        :math:`Q = I - \Pi`.
    e: deviation from the mean, :math:`e(X) = \|Q X\|_F / \sqrt{n}`.
    B: the error signal, :math:`B^{(k)} = \partial \mathcal{L} / \partial H^{(k)}`.
    F: what the weights see, :math:`F^{(k)} = P X^{(k)}`, so that
        :math:`\partial \mathcal{L} / \partial W^{(k)} = F^{(k)\top} B^{(k)}`.
    s: norm of the weights, :math:`s_k = \|W^{(k)}\|_2`.
    u, v: mean and rest of the error signal,
        :math:`u_k = \|\Pi B^{(k)}\|_F`, :math:`v_k = \|Q B^{(k)}\|_F`.

Logarithms are to the base 10: over many layers the bounds leave the range of floats.
The equations are derived, and numbered as in ``math.md``, section 6.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

__all__ = [
    "LIPSCHITZ_TANH",
    "BackwardBound",
    "GradientSplit",
    "backward_bound",
    "deviation_factors",
    "gradient_split",
    "log10_deviation_bounds",
    "mean_error_bound",
]

LIPSCHITZ_TANH = 4 / (3 * math.sqrt(3))
r"""Largest slope of the slope of tanh, :math:`4 / (3 \sqrt{3}) = 0.77`."""


@dataclasses.dataclass(frozen=True, eq=False)
class GradientSplit:
    r"""The gradient of a weight matrix in two parts, equation (6.4).

    .. math:: F^\top B = (\Pi F)^\top \Pi B + (Q F)^\top Q B
    """

    mean: Tensor
    r"""The part :math:`n \bar{f}^\top \bar{b}` of the means."""
    deviation: Tensor
    """The part of what differs between nodes."""


@dataclasses.dataclass(frozen=True, eq=False)
class BackwardBound:
    """Bounds behind every layer, as logarithms of shape (L + 1,); -inf for 0."""

    mean: Tensor
    """Of :math:`u_k`, the mean part of the error signal."""
    deviation: Tensor
    """Of :math:`v_k`, the rest of it."""
    gradient: Tensor
    r"""Of :math:`\|\partial \mathcal{L} / \partial W^{(k)}\|_F`."""


def gradient_split(features: Tensor, errors: Tensor) -> GradientSplit:
    r"""Split the gradient of a weight matrix into means and deviations.

    Args:
        features: What the weights see, :math:`F`, of shape (n, d).
        errors: The error signal :math:`B` of the same layer, of shape (n, d').

    Raises:
        ValueError: If they have not the same number of rows, at least 1.

    Example:
        >>> f, b = torch.randn(5, 3), torch.randn(5, 2)
        >>> split = gradient_split(f, b)
        >>> torch.allclose(split.mean + split.deviation, f.T @ b, atol=1e-6)
        True
    """
    if features.dim() != 2 or errors.dim() != 2 or len(features) != len(errors):
        raise ValueError(
            "`features` and `errors` must have one row for each node. Got shapes "
            f"{tuple(features.shape)} and {tuple(errors.shape)}."
        )
    if not len(features):
        raise ValueError("`features` must have at least one row. Got none.")
    f, b = features.mean(0, keepdim=True), errors.mean(0, keepdim=True)
    mean = len(features) * f.mT @ b
    return GradientSplit(mean, (features - f).mT @ (errors - b))


def log10_deviation_bounds(eigenvalue: float, scales: Tensor, start: float) -> Tensor:
    r"""Bounds of :math:`e(X^{(k)})`, the forward smoothing of equation (6.1).

    .. math:: e(X^{(k)}) \le \prod_{j<k} \lambda s_j \; e(X^{(0)})

    Args:
        eigenvalue: Largest modulus :math:`\lambda` of the eigenvalues of P beside the
            one of the constants.
        scales: Norms of the weights, of shape (L + 1,).
        start: The deviation :math:`e(X^{(0)})`.

    Returns:
        For k = 0 to L + 1.

    Raises:
        ValueError: If a number is negative or NaN, or the eigenvalue above 1.

    Example:
        >>> log10_deviation_bounds(0.5, torch.tensor([2.0, 2.0]), start=1.0)
        tensor([0., 0., 0.], dtype=torch.float64)
    """
    _check(eigenvalue, scales, deviation=start)
    steps = (eigenvalue * scales.double()).log10().cumsum(0)
    return torch.cat([steps.new_zeros(1), steps]) + _log10(start)


def mean_error_bound(
    gradient: float,
    mean_feature: float,
    feature_deviation: float,
    error_deviation: float,
    num_nodes: int,
) -> float:
    r"""Bound of the mean output error once the last layer is trained, equation (6.5).

    .. math:: \|\bar{b}^{(L)}\| \le \frac{\|\partial \mathcal{L} / \partial W^{(L)}\|_F
        + \|Q F^{(L)}\|_F \|Q B^{(L)}\|_F}{n \|\bar{f}^{(L)}\|}

    A head with a trained bias has :math:`\bar{b}^{(L)} = 0` exactly.

    Args:
        gradient: Norm of the gradient of the last weights.
        mean_feature: Norm of the mean row :math:`\|\bar{f}^{(L)}\|`.
        feature_deviation: :math:`\|Q F^{(L)}\|_F`.
        error_deviation: :math:`\|Q B^{(L)}\|_F`.
        num_nodes: Number of nodes n.

    Returns:
        The bound; inf where the mean feature vanishes and says nothing.

    Raises:
        ValueError: If a number is negative or NaN, or there are no nodes.

    Example:
        >>> mean_error_bound(0.0, 1.0, 1e-6, 2.0, num_nodes=100)
        2e-08
    """
    given = (gradient, mean_feature, feature_deviation, error_deviation)
    if not all(value >= 0 for value in given) or num_nodes < 1:
        raise ValueError(
            "Norms must be >= 0 and `num_nodes` >= 1. Got "
            f"{', '.join(map(str, given))} and {num_nodes}."
        )
    if mean_feature == 0:
        return math.inf
    top = gradient + feature_deviation * error_deviation
    return top / (num_nodes * mean_feature)


def backward_bound(
    eigenvalue: float,
    scales: Tensor,
    *,
    lipschitz: float,
    num_nodes: int,
    feature_norm: float,
    feature_deviation: float,
    mean_error: float,
    error_deviation: float,
) -> BackwardBound:
    r"""Bounds of all error signals and gradients, equations (6.2), (6.3) and (6.6).

    .. math::
        u_k \le s_{k+1} u_{k+1} + r_k \sqrt{u_{k+1}^2 + v_{k+1}^2}, \qquad
        v_k \le \lambda s_{k+1} v_{k+1} + r_k \sqrt{u_{k+1}^2 + v_{k+1}^2}, \\
        r_k = L_1 s_{k+1} \sqrt{n}\, e(H^{(k)}), \qquad
        \|\partial \mathcal{L} / \partial W^{(k)}\|_F \le
        \|\Pi F^{(k)}\|_F\, u_k + \|Q F^{(k)}\|_F\, v_k

    where the forward quantities are bounded by :func:`log10_deviation_bounds`. With
    :math:`a = \lambda s < 1` and :math:`s \le 1` all gradients below the last layer are
    of the order of :math:`u_L + L a^L v_L`: once the head is trained, :math:`u_L = 0`,
    and the whole network is at a stationary point, whatever its loss. The recursion is
    evaluated as it stands, which is sharper than that order and needs no constant.
    Where :math:`\lambda^L` is near 1 the bounds say nothing.

    Args:
        eigenvalue: As in :func:`log10_deviation_bounds`.
        scales: Norms of all weights, of shape (L + 1,).
        lipschitz: The number :math:`L_1` of the activation.
        num_nodes: Number of nodes n.
        feature_norm: :math:`\|X^{(0)}\|_F`.
        feature_deviation: :math:`e(X^{(0)})`.
        mean_error: :math:`u_L = \sqrt{n} \|\bar{b}^{(L)}\|`.
        error_deviation: :math:`v_L`.

    Raises:
        ValueError: If a number is negative or NaN, or the eigenvalue above 1.

    Example:
        >>> bound = backward_bound(
        ...     0.5, torch.ones(65), lipschitz=LIPSCHITZ_TANH, num_nodes=100,
        ...     feature_norm=10.0, feature_deviation=1.0, mean_error=0.0,
        ...     error_deviation=1.0,
        ... )
        >>> bool((bound.gradient < -12).all())
        True
    """
    _check(
        eigenvalue,
        scales,
        lipschitz=lipschitz,
        feature_norm=feature_norm,
        deviation=feature_deviation,
        mean_error=mean_error,
        error_deviation=error_deviation,
    )
    root = math.log10(num_nodes) / 2
    logs = scales.double().log10()
    forward = log10_deviation_bounds(eigenvalue, scales, feature_deviation)
    damping = _log10(eigenvalue)
    u, v = [_double(mean_error)], [_double(error_deviation)]
    for k in range(len(scales) - 2, -1, -1):
        size = torch.logaddexp2(2 * u[0] / LOG2, 2 * v[0] / LOG2) * LOG2 / 2
        # e(H^(k)) has the bound of e(X^(k+1)): the activation comes after it.
        rest = _log10(lipschitz) + logs[k + 1] + root + forward[k + 1] + size
        u.insert(0, _sum(logs[k + 1] + u[0], rest))
        v.insert(0, _sum(damping + logs[k + 1] + v[0], rest))
    norms = torch.cat([logs.new_zeros(1), logs.cumsum(0)[:-1]]) + _log10(feature_norm)
    spread = damping + root + forward[:-1]
    mean, deviation = torch.stack(u), torch.stack(v)
    return BackwardBound(mean, deviation, _sum(norms + mean, spread + deviation))


def deviation_factors(
    carry: float, eigenvalue: float, scale: float, input_norm: float
) -> tuple[float, float]:
    r"""What a state-space layer makes of differing errors, equation (6.8).

    .. math:: \|Q G^{(k)}\| / \|Q G^{(k+1)}\| \in
        [r - \lambda s \|B\|,\; r + \lambda s \|B\|]

    for :math:`H^{(k+1)} = r H^{(k)} + \rho(P H^{(k)} W) B^\top`, up to the forward
    smoothness of equation (6.2), where a layer without state has at most
    :math:`\lambda s`. With r near 1 errors keep their differences on average.

    Args:
        carry: The number r.
        eigenvalue: The number :math:`\lambda`.
        scale: The norm s of the weights.
        input_norm: The norm of B.

    Returns:
        The lower bound, 0 if it is negative, and the upper bound.

    Raises:
        ValueError: If a number is negative or NaN, or the eigenvalue above 1.

    Example:
        >>> deviation_factors(1.0, 0.5, 1.0, input_norm=0.5)
        (0.75, 1.25)
    """
    _check(eigenvalue, torch.tensor([scale]), carry=carry, input_norm=input_norm)
    reach = eigenvalue * scale * input_norm
    return max(carry - reach, 0.0), carry + reach


LOG2 = math.log10(2)


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """Logarithm of a sum of numbers of which the logarithms are given."""
    return torch.logaddexp2(a / LOG2, b / LOG2) * LOG2


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf


def _double(value: float) -> Tensor:
    return torch.tensor(_log10(value), dtype=torch.float64)


def _check(eigenvalue: float, scales: Tensor, **values: float) -> None:
    if not 0 <= eigenvalue <= 1:
        raise ValueError(
            "`eigenvalue` must be in [0, 1], as those of a symmetric stochastic matrix "
            f"are in modulus. Got {eigenvalue}."
        )
    if scales.dim() != 1 or not len(scales) or not bool((scales >= 0).all()):
        raise ValueError(
            "`scales` must hold one norm >= 0 for each layer. Got shape "
            f"{tuple(scales.shape)} and values {scales.flatten().tolist()[:5]}."
        )
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"`{name}` must be >= 0. Got {value}.")
