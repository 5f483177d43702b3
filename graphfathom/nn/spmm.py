"""The product of an adjacency with features as an operator of its own.

With a backward pass of any order, forward mode, :func:`torch.func.vmap` and a fake
kernel, which torch's sparse CSR tensors lack.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from graphfathom.nn.adjacency import Adjacency

__all__ = ["affine", "spmm"]

CHUNK = 2**24
"""Products of two features that the gradient of the edge weights forms at once."""
SUM = 0
"""How an embedding bag adds its entries up."""


def _kernel(
    rowptr: Tensor,
    col: Tensor,
    value: Tensor,
    x: Tensor,
    t_rowptr: Tensor | None,
    t_col: Tensor | None,
    t_value: Tensor | None,
) -> Tensor:
    if col.numel() == 0 or x.numel() == 0:
        return x.new_zeros(rowptr.shape[0] - 1, x.shape[1])
    # Against torch's CSR product on a CPU: three times as fast in float32, as fast in
    # float64; half precision, which that lacks, is added up in float32. F.embedding_bag
    # would prepare a backward pass of its own.
    out, *_ = torch.ops.aten._embedding_bag_forward_only(
        x.contiguous(),
        col,
        rowptr,
        mode=SUM,
        per_sample_weights=value.contiguous(),
        include_last_offset=True,
    )
    return out


_operator = torch.library.custom_op("graphfathom::spmm", _kernel, mutates_args=())


@_operator.register_fake
def _(rowptr: Tensor, col: Tensor, value: Tensor, x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(rowptr.shape[0] - 1, x.shape[1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_forward(*inputs)
    rowptr, col, value, x, *transpose = inputs
    # A deep stack would hold the features of all layers, and seldom needs them.
    x = x if ctx.needs_input_grad[2] else None
    ctx.save_for_backward(rowptr, col, value, x, *transpose)


def _backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
    rowptr, col, value, x, *transpose = ctx.saved_tensors
    adjacency = Adjacency(rowptr, col, value, *transpose)
    grad_value = grad_x = None
    if ctx.needs_input_grad[2]:
        grad_value = _sampled(adjacency.row, col, grad_outputs[0], x)
    if ctx.needs_input_grad[3]:
        grad_x = spmm(adjacency.t(), grad_outputs[0])
    return None, None, grad_value, grad_x, None, None, None


def _sampled(row: Tensor, col: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Of ``left @ right.T`` the entries at ``row, col``."""
    width = left.shape[1]
    if torch.compiler.is_compiling() or row.shape[0] * width <= CHUNK:
        return (left[row] * right[col]).sum(dim=1)
    size = max(1, CHUNK // width)
    parts = zip(row.split(size), col.split(size), strict=True)
    return torch.cat([(left[i] * right[j]).sum(dim=1) for i, j in parts])


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    if all((dim is None) != (place == 3) for place, dim in enumerate(in_dims)):
        rowptr, col, value, x, *transpose = args
        x = x.movedim(in_dims[3], 1)
        out = spmm(Adjacency(rowptr, col, value, *transpose), x.flatten(1))
        return out.unflatten(1, x.shape[1:]), 1
    # Matrices that differ make one block-diagonal matrix.
    rowptr, col, value, x, *transpose = (
        _batched(arg, dim, info.batch_size)
        for arg, dim in zip(args, in_dims, strict=True)
    )
    blocks = _blocks(rowptr, col, value, x.shape[1])
    t_rowptr, t_col, t_value = transpose
    if t_rowptr is not None:
        blocks += _blocks(t_rowptr, t_col, t_value, rowptr.shape[1] - 1)
    out = spmm(Adjacency(*blocks), x.flatten(0, 1))
    return out.unflatten(0, (info.batch_size, rowptr.shape[1] - 1)), 0


def _batched(arg: Any, dim: int | None, size: int) -> Any:
    if arg is None:
        return None
    return arg.expand(size, *arg.shape) if dim is None else arg.movedim(dim, 0)


def _blocks(
    rowptr: Tensor, col: Tensor, value: Tensor, num_columns: int
) -> tuple[Tensor, ...]:
    block = torch.arange(rowptr.shape[0], device=rowptr.device)[:, None]
    ends = rowptr[:, 1:] + block * col.shape[1]
    rowptr = torch.cat([ends.new_zeros(1), ends.flatten()])
    return rowptr, (col + block * num_columns).flatten(), value.flatten()


_operator.register_autograd(_backward, setup_context=_setup_context)
_operator.register_vmap(_vmap)


def _forward(*args: Any) -> Tensor:
    return _kernel(*args)


# Autograd functions look their signature up in every call, which took 30 microseconds.
_forward.__signature__ = inspect.signature(_forward)  # pyright: ignore[reportFunctionMemberAccess]


class _Spmm(torch.autograd.Function):
    """The operator with a rule for forward mode."""

    forward = staticmethod(_forward)
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_backward)
    vmap = staticmethod(_vmap)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        rowptr, col, value, x, t_rowptr, t_col, t_value = ctx.saved_tensors
        _, _, d_value, d_x, _, _, d_value_t = tangents
        terms = []
        if d_x is not None:
            adjacency = Adjacency(rowptr, col, value, t_rowptr, t_col, t_value)
            terms.append(spmm(adjacency, d_x))
        if d_value is not None:
            adjacency = Adjacency(rowptr, col, d_value, t_rowptr, t_col, d_value_t)
            terms.append(spmm(adjacency, x))
        return _sum(terms)


def spmm(adjacency: Adjacency, x: Tensor) -> Tensor:
    """Matrix times features of shape (N, F), of one dtype, without checks."""
    call = _operator if torch.compiler.is_compiling() else _Spmm.apply
    return call(
        adjacency.rowptr,
        adjacency.col,
        adjacency.value,
        x,
        adjacency.t_rowptr,
        adjacency.t_col,
        adjacency.t_value,
    )


class _Affine(torch.autograd.Function):
    """Linear map, product and bias with one node in the graph in place of four."""

    @staticmethod
    def forward(
        ctx: Any, adjacency: Adjacency, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        # Not kept as it is: of saved tensors torch notices that they were changed.
        saved = (x, weight, *vars(adjacency).values())
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)
        out = _product(adjacency, x @ weight.t())
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        x, weight, *parts = ctx.saved_tensors
        _, x_wanted, weight_wanted, bias_wanted = ctx.needs_input_grad
        grad_x = grad_weight = None
        if x_wanted or weight_wanted:
            arrived = _product(Adjacency(*parts).t(), grad)
            grad_x = arrived @ weight if x_wanted else None
            grad_weight = arrived.t() @ x if weight_wanted else None
        return None, grad_x, grad_weight, _column_sums(grad) if bias_wanted else None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        x, weight, *parts = ctx.saved_tensors
        _, d_x, d_weight, d_bias = tangents
        terms = [] if d_x is None else [d_x @ weight.t()]
        terms += [] if d_weight is None else [x @ d_weight.t()]
        out = [spmm(Adjacency(*parts), _sum(terms))] if terms else []
        out += [] if d_bias is None else [d_bias.expand(len(x), -1)]
        return _sum(out)


def _column_sums(x: Tensor) -> Tensor:
    """As ``x.sum(0)``, which takes three times as long where rows are not aligned."""
    if x.shape[1] % 8 == 0 or x.element_size() < 4:
        return x.sum(0)
    return x.new_ones(len(x)) @ x


def _product(adjacency: Adjacency, x: Tensor) -> Tensor:
    """As :func:`spmm`, without the cost of a graph where there is none."""
    if torch.is_grad_enabled() or _is_transformed():
        return spmm(adjacency, x)
    return _kernel(adjacency.rowptr, adjacency.col, adjacency.value, x, *(None,) * 3)


def _is_transformed() -> bool:
    return torch._C._are_functorch_transforms_active()


def affine(
    adjacency: Adjacency, x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """``A (x weight.T) + bias`` for features of shape (N, F), all of one dtype.

    The values of ``adjacency`` are constants to the fast path; where they are not, or
    :mod:`torch.func` or the compiler looks on, it is composed of its parts.
    """
    if (
        torch.compiler.is_compiling()
        or _is_transformed()
        or adjacency.value.requires_grad
        or forward_ad.unpack_dual(adjacency.value).tangent is not None
    ):
        out = spmm(adjacency, F.linear(x, weight))
        return out if bias is None else out + bias
    return _Affine.apply(adjacency, x, weight, bias)


def _sum(terms: list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)
