"""All singular values and eigenvalues of a layer's Jacobian, where they can be had."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from scipy.sparse import csr_array, eye_array
from torch import Tensor

from graphfathom.diagnostics.exact_jacobian import TOLERANCE
from graphfathom.diagnostics.jacobian import JacobianError
from graphfathom.diagnostics.layer_map import LayerMap
from graphfathom.diagnostics.solved_forms import closed_form
from graphfathom.linalg.components import (
    is_symmetric,
    sparse_eigenvalues,
    sparse_singular_values,
)
from graphfathom.linalg.eigen import Eigenvalues, eigenvalues
from graphfathom.linalg.operator import DEFAULT_BYTE_BUDGET
from graphfathom.theory.spectra import gcn_singular_values, state_space_eigenvalues

if TYPE_CHECKING:
    from graphfathom.diagnostics.trace import Trace

__all__ = ["all_singular_values", "eigenvalue_cloud"]

DENSE_SIDE = 4_000
"""Sides up to which a dense decomposition takes seconds."""
CHUNK = 512
"""Small matrices that are decomposed at a time: 16 MB of 64 x 64."""


def all_singular_values(
    trace: Trace, k: int, *, byte_budget: int = DEFAULT_BYTE_BUDGET
) -> Tensor:
    r"""All singular values of :math:`\partial H_k / \partial H_{k-1}`.

    Of a linear layer by its closed form: for :math:`J = P \otimes M` the products of
    those of P and M (Lemma 3.1), ``n + d`` small problems instead of one of side
    ``n d``; for its state-space form :math:`J = I \otimes C + P \otimes M` with
    symmetric P those of :math:`C + \lambda_i M` for every eigenvalue of P. Of any other
    layer by a dense decomposition.

    Args:
        trace: The network, in float64.
        k: The layer, 1 to L.
        byte_budget: Largest size of a dense matrix. Default 1 GiB.

    Returns:
        Descending, of shape (min(m, n),).

    Raises:
        ValueError: If there is no such layer.
        JacobianError: If the layer is not linear and a side is above 4,000, or a matrix
            above the budget: take :func:`~graphfathom.linalg.spectral_density`.
    """
    layer = LayerMap(trace, k)
    parts = _linear_parts(layer)
    if parts is not None:
        carry, propagation, weight = parts
        if carry is None:
            values = sparse_singular_values(propagation, byte_budget=byte_budget)
            return gcn_singular_values(values.to(weight), weight)
        if is_symmetric(propagation):
            values = sparse_eigenvalues(propagation, byte_budget=byte_budget)
            found = _of_each(torch.linalg.svdvals, carry, values, weight)
            return found.sort(descending=True).values
    operator = trace.jacobian(k - 1, k)
    if max(operator.shape) > DENSE_SIDE:
        raise JacobianError(
            f"The Jacobian of `{layer.name}` is {operator.shape[0]} x "
            f"{operator.shape[1]} and not that of a linear layer: at most {DENSE_SIDE} "
            "rows and columns are decomposed densely. Take "
            "`graphfathom.linalg.spectral_density`, which needs products only."
        )
    return torch.linalg.svdvals(operator.to_dense(byte_budget=byte_budget))


def eigenvalue_cloud(
    trace: Trace,
    k: int,
    *,
    byte_budget: int = DEFAULT_BYTE_BUDGET,
    generator: torch.Generator | None = None,
) -> Eigenvalues:
    r"""Eigenvalues of :math:`\partial H_k / \partial H_{k-1}`.

    Of a linear layer :math:`J = I \otimes C + P \otimes M` all of them, those of
    :math:`C + \lambda_i M` for every eigenvalue of P, which are
    :math:`r + \lambda_i \nu_j` for :math:`C = r I`. Of any other layer those of
    :func:`~graphfathom.linalg.eigenvalues`: all of a small one, the largest of a large
    one.

    Args:
        trace: The network, in float64.
        k: The layer, 1 to L, with equal widths before and behind it.
        byte_budget: Largest size of a dense matrix. Default 1 GiB.
        generator: Source of randomness. The global one if None.

    Returns:
        Values in falling order of the modulus; the residuals are 0 in closed form.

    Raises:
        ValueError: If there is no such layer, or its Jacobian is not square.
    """
    layer, operator = LayerMap(trace, k), trace.jacobian(k - 1, k)
    parts = _linear_parts(layer) if operator.shape[0] == operator.shape[1] else None
    if parts is None:
        return eigenvalues(operator, byte_budget=byte_budget, generator=generator)
    carry, propagation, weight = parts
    lambdas = sparse_eigenvalues(propagation, byte_budget=byte_budget)
    one = torch.eye(len(weight)).to(weight)
    radius = 0.0 if carry is None else float(carry[0, 0])
    if carry is None or torch.equal(carry, radius * one):
        values = state_space_eigenvalues(radius, lambdas, weight, one)
    else:
        values = _of_each(torch.linalg.eigvals, carry, lambdas, weight)
    values = values[values.abs().argsort(descending=True)].cpu()
    return Eigenvalues(values, torch.zeros(len(values)).double(), True, 0)


def _linear_parts(layer: LayerMap) -> tuple[Tensor | None, csr_array, Tensor] | None:
    """C, P and M of a linear layer that is not more than the sum of these two."""
    form = closed_form(layer)
    if form is None or not form.is_linear or not layer.defect(form) <= TOLERANCE:
        return None
    identity = csr_array(eye_array(layer.num_nodes))
    carry, found = form.carry, []
    for propagation, m in form.terms:
        m = m if form.input is None else form.input @ m
        # Of several tensors the first takes the message.
        m = F.pad(m, (0, 0, 0, layer.out_channels - len(m)))
        if abs(propagation - identity).nnz == 0:
            carry = m if carry is None else carry + m
        else:
            found.append((propagation, m))
    return (carry, *found[0]) if len(found) == 1 else None


def _of_each(
    decompose: Callable[[Tensor], Tensor], carry: Tensor, lambdas: Tensor, m: Tensor
) -> Tensor:
    """What the small matrices C + lambda M have, for all lambda."""
    parts = lambdas.to(m.device).view(-1, 1, 1).split(CHUNK)
    return torch.cat([decompose(carry + part * m).flatten() for part in parts])
