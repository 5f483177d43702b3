"""Spectra of the Jacobian of a layer: Lemma 3.1, Theorem 3.2, Proposition 3.3."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "gcn_singular_values",
    "marchenko_pastur_density",
    "random_gcn_moments",
    "state_space_eigenvalues",
    "state_space_singular_value_bounds",
]


def gcn_singular_values(propagation: Tensor, weight: Tensor) -> Tensor:
    r"""All singular values of the Jacobian of a linear GCN layer, Lemma 3.1.

    .. math:: H^+ = \hat{A} H W, \qquad J = \hat{A} \otimes W^\top, \qquad
        \sigma_{ij}(J) = \sigma_i(\hat{A}) \, \sigma_j(W)

    The paper has a symmetric :math:`\hat{A}` and the eigenvalues
    :math:`\lambda_i^2 \mu_j` of :math:`J J^\top`; with singular values it holds for any
    matrix.

    Args:
        propagation: Singular values of :math:`\hat{A}`, of shape :math:`(n)`. Of a
            symmetric matrix, absolute eigenvalues.
        weight: The matrix :math:`W`, of shape :math:`(d, d')` or transposed.

    Returns:
        Descending, of shape :math:`(n \min(d, d'))`.

    Raises:
        ValueError: If a shape is not as described.

    Example:
        >>> weight = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> gcn_singular_values(torch.tensor([1.0, 0.5]), weight)
        tensor([3.0000, 1.5000, 1.0000, 0.5000])

    References:
        | On Vanishing Gradients, Over-Smoothing, and Over-Squashing in GNNs
        | (Arroyo et al., 2025), https://arxiv.org/abs/2502.10818, Lemma 3.1
    """
    _check_vector("propagation", propagation)
    _check_matrix("weight", weight)
    products = torch.outer(propagation.abs(), torch.linalg.svdvals(weight))
    return products.flatten().sort(descending=True).values


def random_gcn_moments(
    propagation: Tensor, in_channels: int, out_channels: int, variance: float
) -> tuple[Tensor, Tensor]:
    r"""Mean and variance of the squared singular values at initialisation, Theorem 3.2.

    .. math:: \gamma_{ij} = \lambda_i^2 \mu_j, \qquad
        \mathrm{E}[\gamma_{i \cdot}] = \lambda_i^2 \, m v, \qquad
        \mathrm{Var}[\gamma_{i \cdot}] = \lambda_i^4 \, m (p + 1) v^2

    for :math:`\mu_j` drawn from the eigenvalues of :math:`W^\top W`, :math:`W` of shape
    :math:`m \times p` with independent Gaussian entries of variance :math:`v`. Exact at
    any size; for large :math:`p` the variance is :math:`\lambda_i^4 m p v^2`, as the
    paper has it.

    Averaged over :math:`i`, the mean is :math:`m v \|\hat{A}\|_F^2 / n`. On a
    :math:`r`-regular graph with self-loops this is :math:`m v / (r + 1)`: the layer of
    a graph shrinks the mean square by :math:`r + 1` against that of an MLP.

    Args:
        propagation: Singular values :math:`|\lambda_i|` of the propagation matrix, of
            shape :math:`(n)`.
        in_channels: Number of rows :math:`m` of the weight.
        out_channels: Number of columns :math:`p` of the weight.
        variance: Variance :math:`v` of its entries. Glorot: :math:`2 / (m + p)`.

    Returns:
        Means and variances, of shape :math:`(n)` each.

    Raises:
        ValueError: If a size, the variance or a shape is not as described.

    Example:
        >>> mean, _ = random_gcn_moments(torch.tensor([1.0, 0.5]), 4, 4, variance=0.25)
        >>> mean
        tensor([1.0000, 0.2500])

    References:
        | On Vanishing Gradients, Over-Smoothing, and Over-Squashing in GNNs
        | (Arroyo et al., 2025), https://arxiv.org/abs/2502.10818, Theorem 3.2
    """
    _check_vector("propagation", propagation)
    for name, size in (("in_channels", in_channels), ("out_channels", out_channels)):
        if size < 1:
            raise ValueError(f"`{name}` must be an integer >= 1. Got {size}.")
    _check_positive("variance", variance)
    square = propagation.square()
    mean = square * (in_channels * variance)
    spread = in_channels * (out_channels + 1) * variance**2
    return mean, square.square() * spread


def marchenko_pastur_density(
    x: Tensor, ratio: float, variance: float = 1.0
) -> tuple[Tensor, float]:
    r"""Limit law of the eigenvalues of :math:`W^\top W`, Definition A.3.

    .. math:: f(x) = \frac{\sqrt{(x_+ - x)(x - x_-)}}{2 \pi c \sigma^2 x}, \qquad
        x_\pm = \sigma^2 (1 \pm \sqrt{c})^2

    for :math:`W` of shape :math:`m \times p`, entries of variance :math:`\sigma^2 / m`,
    :math:`p / m \to c`. For :math:`c > 1` a share :math:`1 - 1/c` of the eigenvalues is
    0, and the density is that of the rest.

    Args:
        x: Where the density is wanted, any shape.
        ratio: The ratio :math:`c`.
        variance: The variance :math:`\sigma^2`, that of an entry times :math:`m`.

    Returns:
        The density, 0 outside of :math:`[x_-, x_+]`, and the mass at 0.

    Raises:
        ValueError: If the ratio or the variance is not positive and finite.

    Example:
        >>> density, mass = marchenko_pastur_density(torch.tensor([2.0, 5.0]), ratio=1)
        >>> density, mass
        (tensor([0.1592, 0.0000]), 0.0)

    References:
        | Distribution of Eigenvalues for Some Sets of Random Matrices
        | (Marchenko and Pastur, 1967)
    """
    _check_positive("ratio", ratio)
    _check_positive("variance", variance)
    low, high = (variance * (1 + sign * math.sqrt(ratio)) ** 2 for sign in (-1, 1))
    inside = (x > low) & (x < high) & (x > 0)
    safe = torch.where(inside, x, 0.5 * (low + high))
    height = ((high - safe) * (safe - low)).clamp(min=0).sqrt()
    density = height / (2 * math.pi * ratio * variance * safe)
    return torch.where(inside, density, 0.0), max(0.0, 1 - 1 / ratio)


def state_space_singular_value_bounds(
    state: Tensor, input: Tensor, message_norm: float
) -> tuple[Tensor, Tensor]:
    r"""Bounds of the singular values of a state-space layer, Proposition 3.3.

    .. math:: J = I \otimes \Lambda + (I \otimes B) J_F, \qquad
        \sigma_i(\Lambda) - \|B\| \|J_F\| \le \sigma_i(J)
        \le \sigma_i(\Lambda) + \|B\| \|J_F\|

    The paper has the upper bound of the largest, :math:`\|\Lambda\| + \|B\| \|J_F\|`;
    by Weyl's inequality each singular value has a bound on either side.

    Args:
        state: The matrix :math:`\Lambda`, of shape :math:`(d, d)`.
        input: The matrix :math:`B`, of shape :math:`(d, d)`.
        message_norm: The norm :math:`\|J_F\|` of the Jacobian of the message.

    Returns:
        Lower and upper bounds, descending, of shape :math:`(d)` each: of ``n`` nodes
        each holds for ``n`` singular values.

    Raises:
        ValueError: If a shape is not as described or the norm is negative.

    Example:
        >>> state_space_singular_value_bounds(torch.eye(2), 0.5 * torch.eye(2), 0.4)
        (tensor([0.8000, 0.8000]), tensor([1.2000, 1.2000]))

    References:
        | On Vanishing Gradients, Over-Smoothing, and Over-Squashing in GNNs
        | (Arroyo et al., 2025), https://arxiv.org/abs/2502.10818, Proposition 3.3
    """
    _check_square("state", state)
    _check_square("input", input)
    if not message_norm >= 0:
        raise ValueError(f"`message_norm` must be >= 0. Got {message_norm}.")
    values = torch.linalg.svdvals(state)
    width = torch.linalg.matrix_norm(input, 2) * message_norm
    return (values - width).clamp(min=0), values + width


def state_space_eigenvalues(
    radius: float, propagation: Tensor, weight: Tensor, input: Tensor
) -> Tensor:
    r"""All eigenvalues of the Jacobian of a linear state-space layer.

    .. math:: H^+ = r H + \hat{A} H W B^\top, \qquad
        \lambda_{ij}(J) = r + \lambda_i(\hat{A}) \, \nu_j, \quad
        \nu_j \in \mathrm{eig}(W B^\top)

    The cloud is centred at :math:`r`: with :math:`r = 1` half of it lies outside of the
    unit circle.

    Args:
        radius: The scale :math:`r`.
        propagation: Eigenvalues of :math:`\hat{A}`, of shape :math:`(n)`.
        weight: The matrix :math:`W`, of shape :math:`(d, d)`.
        input: The matrix :math:`B`, of shape :math:`(d, d)`.

    Returns:
        Complex, of shape :math:`(n d)`.

    Raises:
        ValueError: If a shape is not as described.

    Example:
        >>> lambdas = torch.tensor([1.0, -0.5])
        >>> state_space_eigenvalues(1.0, lambdas, torch.eye(1), 0.5 * torch.eye(1)).real
        tensor([1.5000, 0.7500])
    """
    _check_vector("propagation", propagation)
    _check_square("weight", weight)
    _check_square("input", input)
    inner = torch.linalg.eigvals(weight @ input.mT)
    return radius + torch.outer(propagation.to(inner.dtype), inner).flatten()


def _check_vector(name: str, values: Tensor) -> None:
    if values.dim() != 1:
        raise ValueError(
            f"`{name}` must have shape (n,), one value for each node. Got "
            f"{tuple(values.shape)}: take torch.linalg.svdvals of a matrix."
        )


def _check_matrix(name: str, matrix: Tensor) -> None:
    if matrix.dim() != 2:
        raise ValueError(f"`{name}` must be a matrix. Got {tuple(matrix.shape)}.")


def _check_square(name: str, matrix: Tensor) -> None:
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"`{name}` must have shape (d, d). Got {tuple(matrix.shape)}.")


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be positive and finite. Got {value}.")
