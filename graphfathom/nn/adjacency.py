"""The normalised adjacency of a graph in CSR form, built once for all layers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.utils.num_nodes import maybe_num_nodes

__all__ = ["Adjacency", "compressed", "gcn_adjacency", "gcn_entries", "is_edge_index"]

FLOWS = ("source_to_target", "target_to_source")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Adjacency:
    r"""A square sparse matrix :math:`A` in CSR form, with its transpose at hand.

    .. math:: (A X)_i = \sum_{e = \mathrm{rowptr}_i}^{\mathrm{rowptr}_{i+1} - 1}
        \mathrm{value}_e X_{\mathrm{col}_e}

    Row :math:`i` is the node that receives; entries may repeat. The tensors are leaves
    of a pytree, so :func:`torch.compile`, :func:`torch.export.export` and
    :mod:`torch.func` see plain tensors. Built by :func:`gcn_adjacency`.

    Args:
        rowptr: Where the entries of each row begin, of shape :math:`(N + 1)`.
        col: Column of each entry, of shape :math:`(E)`.
        value: Value of each entry, of shape :math:`(E)`.
        t_rowptr: ``rowptr`` of :math:`A^\top`. None states that :math:`A` is constant
            and symmetric, and needs no second copy.
        t_col: ``col`` of :math:`A^\top`, None likewise.
        t_value: ``value`` of :math:`A^\top`, None likewise.

    Example:
        >>> path = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> adjacency = gcn_adjacency(path)
        >>> adjacency
        Adjacency(num_nodes=3, num_entries=7, symmetric=True, dtype=torch.float32)
        >>> adjacency.to_dense()
        tensor([[0.5000, 0.4082, 0.0000],
                [0.4082, 0.3333, 0.4082],
                [0.0000, 0.4082, 0.5000]])
    """

    # No name begins another: torch.export replaces them in its code as plain text.
    rowptr: Tensor
    col: Tensor
    value: Tensor
    t_rowptr: Tensor | None = None
    t_col: Tensor | None = None
    t_value: Tensor | None = None

    @property
    def num_nodes(self) -> int:
        """Number of nodes :math:`N`."""
        return self.rowptr.shape[0] - 1

    @property
    def symmetric(self) -> bool:
        """Whether the matrix serves as its own transpose."""
        return self.t_rowptr is None

    @property
    def row(self) -> Tensor:
        """Row of each entry, of shape :math:`(E)`."""
        nodes = torch.arange(self.num_nodes, device=self.rowptr.device)
        counts = self.rowptr.diff()
        return nodes.repeat_interleave(counts, output_size=self.col.shape[0])

    def t(self) -> Adjacency:
        """The transpose, which shares all tensors."""
        if self.t_rowptr is None or self.t_col is None or self.t_value is None:
            return self
        return Adjacency(
            self.t_rowptr, self.t_col, self.t_value, self.rowptr, self.col, self.value
        )

    def to(self, *args: Any, **kwargs: Any) -> Adjacency:
        """The matrix with its values as :meth:`torch.Tensor.to` would have them."""
        value = self.value.to(*args, **kwargs)
        if value is self.value:
            return self
        indices = {
            name: index.to(value.device)
            for name in ("rowptr", "col", "t_rowptr", "t_col")
            if (index := getattr(self, name)) is not None
        }
        if self.t_value is not None:
            indices["t_value"] = self.t_value.to(*args, **kwargs)
        return Adjacency(value=value, **indices)

    def to_dense(self) -> Tensor:
        """The matrix as a tensor of shape :math:`(N, N)`, repeated entries added."""
        size = self.num_nodes
        dense = self.value.new_zeros(size * size)
        places = self.row * size + self.col
        return dense.index_add(0, places, self.value).view(size, size)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_nodes={self.num_nodes}, "
            f"num_entries={self.col.shape[0]}, symmetric={self.symmetric}, "
            f"dtype={self.value.dtype})"
        )


torch.export.register_dataclass(
    Adjacency, serialized_type_name="graphfathom.nn.Adjacency"
)


def gcn_adjacency(
    edge_index: Tensor,
    edge_weight: Tensor | None = None,
    num_nodes: int | None = None,
    *,
    improved: bool = False,
    add_self_loops: bool | None = None,
    normalize: bool = True,
    flow: str = "source_to_target",
    dtype: torch.dtype | None = None,
) -> Adjacency:
    r"""The matrix that :class:`~torch_geometric.nn.conv.GCNConv` multiplies with.

    .. math:: \hat{D}^{-1/2} (A + I) \hat{D}^{-1/2}

    Equal to PyG's ``gcn_norm``, also where that surprises: self-loops already there
    keep their weight, and ``improved`` has no effect without edge weights. Two
    differences: degrees in half precision are added in float32 (PyG's stop growing at
    256 in bfloat16), and the gradient of the weights at a node of degree 0 is 0, where
    PyG's is NaN.

    A matrix without edge weights is looked at, and if it is symmetric it gets no
    transposed copy. Under :func:`torch.compile` it cannot be looked at.

    Args:
        edge_index: Edges, of shape :math:`(2, E)`.
        edge_weight: Weights, of shape :math:`(E)`, differentiable. All 1 if None.
        num_nodes: Number of nodes. The largest index plus one if None.
        improved: Add :math:`2 I` in place of :math:`I`.
        add_self_loops: Whether to add :math:`I`. As ``normalize`` if None.
        normalize: Whether to normalise; if not, the matrix is :math:`A`.
        flow: ``"source_to_target"``, where the second row of ``edge_index``
            receives, or ``"target_to_source"``.
        dtype: Precision where there are no edge weights. torch's default if None.

    Raises:
        TypeError: If ``edge_index`` is not a dense tensor of integers or
            ``edge_weight`` not one of floats.
        ValueError: If a shape, an index or a choice is not as described.

    Example:
        >>> cycle = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> gcn_adjacency(cycle, normalize=False).to_dense()
        tensor([[0., 0., 1.],
                [1., 0., 0.],
                [0., 1., 0.]])
    """
    entries = gcn_entries(
        edge_index,
        edge_weight,
        num_nodes,
        improved=improved,
        add_self_loops=add_self_loops,
        normalize=normalize,
        flow=flow,
        dtype=dtype,
    )
    return compressed(*entries, constant=edge_weight is None)


def gcn_entries(
    edge_index: Tensor,
    edge_weight: Tensor | None = None,
    num_nodes: int | None = None,
    *,
    improved: bool = False,
    add_self_loops: bool | None = None,
    normalize: bool = True,
    flow: str = FLOWS[0],
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Source, target and value of each entry, and the number of nodes.

    Arguments and errors are those of :func:`gcn_adjacency`.
    """
    loops = normalize if add_self_loops is None else add_self_loops
    _check_choices(loops, normalize, flow)
    _check_graph(edge_index, edge_weight)
    if isinstance(edge_index, EdgeIndex):
        edge_index = edge_index.as_tensor()
    size = maybe_num_nodes(edge_index, num_nodes)
    source, target = edge_index.flip(0) if flow == FLOWS[1] else edge_index
    if not torch.compiler.is_compiling():  # there the sort below looks at the range
        _check_range(edge_index, size)
    weight = edge_weight
    if weight is None:
        weight = torch.ones(source.shape, dtype=dtype, device=source.device)
    narrow = weight.dtype
    weight = weight.to(torch.promote_types(narrow, torch.float32))
    if loops:
        fill = 2.0 if improved and edge_weight is not None else 1.0
        weight = _with_loops(source, target, weight, size, fill)
        nodes = torch.arange(size, device=source.device)
        source, target = torch.cat([source, nodes]), torch.cat([target, nodes])
    if normalize:
        degree = weight.new_zeros(size).index_add(0, target, weight)
        # The root of an infinite degree is 0 and has the slope 0.
        root = torch.where(degree == 0, torch.inf, degree).pow(-0.5)
        weight = _at(root, source) * weight * _at(root, target)
    return source, target, weight.to(narrow), size


def compressed(
    source: Tensor, target: Tensor, value: Tensor, size: int, *, constant: bool
) -> Adjacency:
    """The matrix of these entries.

    Args:
        source: Column of each entry.
        target: Row of each entry.
        value: Value of each entry.
        size: Number of nodes.
        constant: Whether nothing is differentiated by the values. Only then may a
            symmetric matrix be its own transpose: else there are derivatives in
            directions that are not symmetric.
    """
    rowptr, col, order, t_rowptr, t_col, t_order = _compress(source, target, size)
    value = _at(value, order)
    look = constant and not torch.compiler.is_compiling()
    if look and torch.equal(rowptr, t_rowptr) and torch.equal(col, t_col):
        return Adjacency(rowptr, col, value)
    return Adjacency(rowptr, col, value, t_rowptr, t_col, _at(value, t_order))


def is_edge_index(edge_index: Any) -> bool:
    """Whether this is a list of edges, and not some sparse matrix."""
    return (
        isinstance(edge_index, Tensor)
        and edge_index.layout == torch.strided
        and edge_index.dtype in (torch.int64, torch.int32)
    )


def _with_loops(
    source: Tensor, target: Tensor, weight: Tensor, num_nodes: int, fill: float
) -> Tensor:
    """Weights of the edges, then of one loop per node; loops among the edges get 0.

    To drop these would make the number of entries depend on the data, which
    ``torch.compile`` does not allow.
    """
    is_loop = source == target
    if not torch.compiler.is_compiling() and not is_loop.any():
        return torch.cat([weight, weight.new_full((num_nodes,), fill)])
    # What is no loop is written to one place more, which is cut off.
    place = torch.where(is_loop, source, num_nodes)
    loops = weight.new_full((num_nodes + 1,), fill).index_put((place,), weight)
    return torch.cat([torch.where(is_loop, 0.0, weight), loops[:num_nodes]])


@torch.library.custom_op("graphfathom::compress", mutates_args=())
def _compress(
    source: Tensor, target: Tensor, num_nodes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``rowptr``, ``col`` and the order of the edges, then these of the transpose.

    The order of the transpose is of entries of the matrix, not of edges. Columns ascend
    within each row of both, so a symmetric matrix has equal ``rowptr`` and ``col``.
    """
    _check_range(source, num_nodes)
    _check_range(target, num_nodes)
    if source.device.type == "cpu":
        return _counted(source, target, num_nodes)
    order = source.sort(stable=True).indices
    order = _at(order, _at(target, order).sort(stable=True).indices)
    row, col = _at(target, order).long(), _at(source, order).long()
    t_order = col.sort(stable=True).indices
    rowptr, t_rowptr = _pointer(row, num_nodes), _pointer(col, num_nodes)
    return rowptr, col, order, t_rowptr, _at(row, t_order), t_order


def _counted(
    source: Tensor, target: Tensor, num_nodes: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same on a CPU, where SciPy counts while torch sorts: 0.4 of the time."""
    # SciPy would turn long indices into short ones itself, in three times the time.
    short = np.int32 if max(num_nodes, len(source)) < 2**31 else np.int64
    shape, numbers = (num_nodes, num_nodes), np.arange(len(source), dtype=short)
    places = (target.numpy().astype(short), source.numpy().astype(short))
    edges = sparse.coo_array((numbers, places), shape=shape)
    edges.has_canonical_format = True  # or SciPy would add repeated entries up
    # Each change of the format sorts by one index and keeps the order of the other.
    matrix = edges.tocsc().tocsr()
    turned = sparse.csr_array((numbers, matrix.indices, matrix.indptr), shape=shape)
    return (*_parts(matrix), *_parts(turned.tocsc()))


def _parts(matrix: Any) -> tuple[Tensor, Tensor, Tensor]:
    rowptr, index, order = (
        torch.from_numpy(part.astype(np.int64))
        for part in (matrix.indptr, matrix.indices, matrix.data)
    )
    return rowptr, index, order


@_compress.register_fake
def _(source: Tensor, target: Tensor, num_nodes: int) -> tuple[Tensor, ...]:
    lengths = (num_nodes + 1, source.shape[0], source.shape[0]) * 2
    return tuple(source.new_empty(length, dtype=torch.long) for length in lengths)


def _check_range(index: Tensor, num_nodes: int) -> None:
    if index.device.type != "cpu" or not index.numel():
        return  # other devices check their indices, and reading one would wait for them
    low, high = (int(end) for end in index.aminmax())
    if low < 0 or high >= num_nodes:
        raise ValueError(
            f"`edge_index` must hold nodes from 0 to {num_nodes - 1}, as `num_nodes` "
            f"says. Got {low if low < 0 else high}."
        )


def _at(values: Tensor, places: Tensor) -> Tensor:
    """``values[places]`` in a quarter of the time."""
    return values.index_select(0, places)


def _pointer(index: Tensor, size: int) -> Tensor:
    ends = torch.zeros(size + 1, dtype=torch.long, device=index.device)
    torch.cumsum(torch.bincount(index, minlength=size), 0, out=ends[1:])
    return ends


def _check_choices(add_self_loops: bool, normalize: bool, flow: str) -> None:
    if add_self_loops and not normalize:
        raise ValueError(
            "`add_self_loops` must be False if `normalize` is. Got True: put the loops "
            "into `edge_index` if you want them without a norm."
        )
    if flow not in FLOWS:
        raise ValueError(f"`flow` must be one of {', '.join(FLOWS)}. Got {flow!r}.")


def _check_graph(edge_index: Any, edge_weight: Any) -> None:
    if not is_edge_index(edge_index):
        raise TypeError(
            "`edge_index` must be a dense tensor of integers. Got "
            f"{_kind(edge_index)}: turn a sparse matrix into edges, floats into int64."
        )
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise ValueError(
            f"`edge_index` must have shape (2, E). Got {tuple(edge_index.shape)}."
        )
    if edge_weight is None:
        return
    if not isinstance(edge_weight, Tensor) or not edge_weight.is_floating_point():
        raise TypeError(
            f"`edge_weight` must be a tensor of floats. Got {_kind(edge_weight)}."
        )
    if edge_weight.shape != edge_index.shape[1:]:
        raise ValueError(
            f"`edge_weight` must have shape ({edge_index.shape[1]},), one weight for "
            f"each edge. Got {tuple(edge_weight.shape)}."
        )


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"a tensor of {value.dtype}, layout {value.layout}"
