r"""The propagation :math:`\hat{A} X` of GCN as one operator over a shared adjacency.

PyG's :class:`~torch_geometric.nn.conv.GCNConv` normalises the graph in every layer and
stores one message per edge. Here :func:`gcn_adjacency` normalises it once per forward
pass, and :func:`propagate` multiplies without storing a message. It is an operator of
its own because torch's sparse CSR tensors break :func:`torch.func.vmap`, forward-mode
differentiation and :func:`torch.compile`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
import torch_geometric.nn
from torch import Tensor, nn
from torch_geometric.nn import Linear
from torch_geometric.typing import OptTensor

from graphfathom.nn.adjacency import (
    Adjacency,
    compressed,
    gcn_adjacency,
    gcn_entries,
    is_edge_index,
)
from graphfathom.nn.modes import is_observed
from graphfathom.nn.padded import PaddedAdjacency, multiply, padded, pays
from graphfathom.nn.spmm import affine, spmm

__all__ = [
    "Adjacency",
    "AnyAdjacency",
    "GCNConv",
    "PaddedAdjacency",
    "adjacency_for",
    "gcn_adjacency",
    "propagate",
    "propagate_linear",
    "share_adjacency",
    "shared",
]

AnyAdjacency = Adjacency | PaddedAdjacency
"""What stands for a graph in :func:`propagate` and :class:`GCNConv`."""


def propagate(adjacency: AnyAdjacency, x: Tensor) -> Tensor:
    r"""The product :math:`A X`, with derivatives of any order, backward and forward.

    Under :func:`torch.compile` and :func:`torch.export.export` it is one call of
    ``torch.ops.graphfathom.spmm``. Elsewhere the same kernel sits in an autograd
    function, because an operator of ``torch.library`` has no rule for forward mode;
    so :func:`torch.func.jvp` of it does not compile.

    Args:
        adjacency: The matrix :math:`A`, sparse or padded.
        x: Features :math:`X`, of shape :math:`(*, N, F)`.

    Returns:
        Of the shape of ``x``, in the wider precision of the two.

    Raises:
        TypeError: If ``adjacency`` is not an :class:`Adjacency` or ``x`` not a tensor
            of floats.
        ValueError: If ``x`` does not have one row for each node, or the values of a
            symmetric adjacency require a gradient.

    Example:
        >>> cycle = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> adjacency = gcn_adjacency(cycle, normalize=False)
        >>> propagate(adjacency, torch.tensor([[1.0], [2.0], [3.0]])).T
        tensor([[3., 1., 2.]])
    """
    _check(adjacency, x)
    dtype = torch.promote_types(adjacency.value.dtype, x.dtype)
    adjacency, x = adjacency.to(dtype), x.to(dtype)
    if x.dim() == 2:
        return _product(adjacency, x)
    x = x.movedim(-2, 0)
    return _product(adjacency, x.flatten(1)).reshape(x.shape).movedim(0, -2)


def _product(adjacency: AnyAdjacency, x: Tensor) -> Tensor:
    if isinstance(adjacency, PaddedAdjacency):
        return multiply(adjacency, x)
    return spmm(adjacency, x)


def propagate_linear(
    adjacency: AnyAdjacency, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    r"""The layer :math:`A X W^\top + b` of GCN in one step.

    Equal to ``propagate(adjacency, F.linear(x, weight)) + bias``, with one node in the
    autograd graph and no copies on the way.

    Args:
        adjacency: The matrix :math:`A`.
        x: Features :math:`X`, of shape :math:`(*, N, F)`.
        weight: Weights :math:`W`, of shape :math:`(F', F)`.
        bias: Bias :math:`b`, of shape :math:`(F')`.

    Returns:
        Of shape :math:`(*, N, F')`.

    Raises:
        TypeError: As :func:`propagate`.
        ValueError: As :func:`propagate`.

    Example:
        >>> cycle = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> adjacency = gcn_adjacency(cycle, normalize=False)
        >>> x, weight = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[2.0]])
        >>> propagate_linear(adjacency, x, weight).T
        tensor([[6., 2., 4.]])
    """
    _check(adjacency, x)
    given = (x, weight) if bias is None else (x, weight, bias)
    alike = all(tensor.dtype == adjacency.value.dtype for tensor in given)
    plain = x.dim() == 2 and not torch.is_autocast_enabled(x.device.type)
    if isinstance(adjacency, Adjacency) and plain and alike:
        return affine(adjacency, x, weight, bias)
    out = propagate(adjacency, F.linear(x, weight))
    return out if bias is None else out + bias


class GCNConv(torch_geometric.nn.GCNConv):
    r"""PyG's :class:`~torch_geometric.nn.conv.GCNConv` that also takes an adjacency.

    .. math:: X' = \hat{A} X \Theta + b

    Constructor, parameters and keys of the state dict are PyG's. Called with an
    ``edge_index``, it is PyG's layer; called with an :class:`Adjacency`, the flags
    ``improved``, ``add_self_loops``, ``normalize`` and ``flow`` have no effect: they
    are those the adjacency was built with. It then sends no messages, so hooks and
    explainers that watch ``message`` see none.

    Shapes:
        - **input:** node features :math:`(N, F_\mathrm{in})`, an adjacency of
          :math:`N` nodes or edge indices :math:`(2, E)`, edge weights :math:`(E)`
          *(optional, with edge indices only)*
        - **output:** node features :math:`(N, F_\mathrm{out})`

    Raises:
        ValueError: If an adjacency comes with edge weights, which it has itself, or
            the layer does not add its messages.

    Example:
        >>> conv = GCNConv(2, 3)
        >>> conv
        GCNConv(2, 3)
        >>> x, path = torch.randn(3, 2), torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
        >>> torch.allclose(conv(x, gcn_adjacency(path)), conv(x, path))
        True

    References:
        | Semi-Supervised Classification with Graph Convolutional Networks (Kipf and
          Welling, 2017)
        | https://arxiv.org/abs/1609.02907
    """

    # PyG reads it from the source of the class, which it looks up by the bare name.
    propagate_type: ClassVar = {"x": Tensor, "edge_weight": OptTensor}

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        edge_weight: Tensor | None = None,
    ) -> Tensor:
        """Node features to node features."""
        if not isinstance(edge_index, AnyAdjacency):
            return super().forward(x, edge_index, edge_weight)
        if edge_weight is not None:
            raise ValueError(
                "`edge_weight` must be None beside an Adjacency, which carries the "
                "weights. Got a tensor: pass it to gcn_adjacency instead."
            )
        if not _adds(self):
            raise ValueError(
                "`aggr` must be 'add' and `node_dim` -2 for an Adjacency. Got "
                f"{self.aggr!r} and {self.node_dim}: pass the edge indices instead."
            )
        if _is_bare(self.lin) and not is_observed():
            return propagate_linear(edge_index, x, self.lin.weight, self.bias)
        x = propagate(edge_index, self.lin(x))
        return x if self.bias is None else x + self.bias


def shared(conv: nn.Module) -> nn.Module:
    """A layer that takes an adjacency and holds the very parameters of ``conv``.

    Only a plain PyG :class:`~torch_geometric.nn.conv.GCNConv` that adds its messages
    and caches no graph has such a twin; any other module is returned as it is. The
    twin starts in the mode of ``conv``, with its hooks.

    Example:
        >>> conv = torch_geometric.nn.GCNConv(2, 3)
        >>> shared(conv).bias is conv.bias
        True
    """
    if type(conv) is not torch_geometric.nn.GCNConv or not _is_plain(conv):
        return conv
    twin = GCNConv.__new__(GCNConv)
    # As nn.Module's own replicas are made: the constructor would draw random weights.
    twin.__dict__ = {
        name: value.copy() if isinstance(value, dict) else value
        for name, value in conv.__dict__.items()
    }
    return twin


def adjacency_for(
    convs: Iterable[nn.Module],
    edge_index: Any,
    edge_weight: Tensor | None = None,
    num_nodes: int | None = None,
    dtype: torch.dtype | None = None,
    batch: Tensor | None = None,
) -> AnyAdjacency | None:
    """The one adjacency that all of these layers would build from a graph.

    Args:
        convs: Layers, of which all must be a :class:`GCNConv` with the same flags.
        edge_index: Edges, or an adjacency, which is returned as it is.
        edge_weight: Weights of the edges.
        num_nodes: Number of nodes. The largest index plus one if None.
        dtype: Precision where there are no edge weights. The parameters' if None.
        batch: Graph of each node. With it the adjacency is a :class:`PaddedAdjacency`
            where that is faster.

    Returns:
        None if there is no such adjacency: then pass the layers the graph itself.
    """
    convs = list(convs)
    if not convs or not all(isinstance(conv, GCNConv) for conv in convs):
        return None
    if isinstance(edge_index, AnyAdjacency):
        return edge_index
    first: Any = convs[0]
    flags = _flags(first)
    alike = all(_is_plain(conv) and _flags(conv) == flags for conv in convs)
    if not alike or not is_edge_index(edge_index):
        return None
    if dtype is None:
        dtype = first.lin.weight.dtype
    entries = gcn_entries(edge_index, edge_weight, num_nodes, dtype=dtype, **flags)
    source, target, value, size = entries
    if pays(batch, size, value.shape[0], value.dtype):
        blocks = padded(source, target, value, batch)  # pyright: ignore
        if blocks is not None:
            return blocks
    return compressed(*entries, constant=edge_weight is None)


def share_adjacency(
    convs: Iterable[nn.Module], x: Tensor, edge_index: Any, given: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """What layers are called with: the adjacency they share, or what was given.

    Args:
        convs: The layers.
        x: Features of the nodes.
        edge_index: The graph.
        given: ``edge_weight`` and ``batch``, and what else there is, by name.

    Returns:
        What to pass in the place of ``edge_index``, and by name: without the weights,
        where an adjacency has them.
    """
    weight, batch = given["edge_weight"], given["batch"]
    adjacency = adjacency_for(convs, edge_index, weight, x.size(0), x.dtype, batch)
    if adjacency is None:
        return edge_index, given
    return adjacency, given | {"edge_weight": None}


# Checks -------------------------------------------------------------------------------


def _check(adjacency: Any, x: Any) -> None:
    if not isinstance(adjacency, AnyAdjacency):
        raise TypeError(
            "`adjacency` must be an Adjacency. Got "
            f"{type(adjacency).__name__}: build one by gcn_adjacency(edge_index)."
        )
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"`x` must be a tensor of floats. Got {kind}.")
    if x.dim() < 2 or x.shape[-2] != adjacency.num_nodes:
        raise ValueError(
            f"`x` must have shape (*, {adjacency.num_nodes}, F), one row for each node "
            f"of the adjacency. Got {tuple(x.shape)}."
        )
    if adjacency.symmetric and adjacency.value.requires_grad:
        raise ValueError(
            "`adjacency.value` must not require a gradient where the adjacency has no "
            "transposed copy. Got one that does: pass the weights to gcn_adjacency."
        )


def _flags(conv: Any) -> dict[str, Any]:
    names = ("improved", "add_self_loops", "normalize", "flow")
    return {name: getattr(conv, name) for name in names}


def _adds(conv: Any) -> bool:
    return conv.aggr in ("add", "sum") and conv.node_dim == -2


def _is_bare(lin: nn.Module) -> bool:
    """Whether a linear map is its weight and nothing else, so that it may be fused."""
    hooks = (
        lin._forward_hooks,
        lin._forward_pre_hooks,  # those of a lazy width and of spectral_norm, too
        lin._backward_hooks,
        lin._backward_pre_hooks,
    )
    return type(lin) is Linear and lin.bias is None and not any(hooks)


def _is_plain(conv: Any) -> bool:
    return _adds(conv) and not conv.cached
