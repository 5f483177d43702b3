"""Unitary graph convolutions, which keep the norm of what they propagate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import glorot

from graphfathom.nn.adjacency import Adjacency, gcn_adjacency
from graphfathom.nn.frame import Act, GraphNetwork
from graphfathom.nn.model_parts import check_choice
from graphfathom.nn.propagation import propagate

__all__ = ["LieUnitaryConv", "SeparableUnitaryConv", "UnitaryGCN", "group_sort"]

FORMS = ("separable", "lie")


def group_sort(x: Tensor) -> Tensor:
    """Sort each pair of channels, the larger one to the first half of the width.

    Raises:
        ValueError: If the width is odd.

    Example:
        >>> group_sort(torch.tensor([[1.0, 5.0, 2.0, 4.0]]))
        tensor([[2., 5., 1., 4.]])
    """
    if x.size(-1) % 2:
        raise ValueError(
            f"`x` must have an even width to be sorted in pairs. Got {x.size(-1)}: "
            "choose even `hidden_channels`, or another `act`."
        )
    a, b = x.chunk(2, dim=-1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=-1)


class SeparableUnitaryConv(nn.Module):
    r"""The layer :math:`\sigma(e^{i \hat{A}} Z U + b)` of complex features.

    .. math:: U = e^G, \qquad G = \tfrac{1}{2} (M - M^\top)
        + \tfrac{i}{2} (M + M^\top)

    Any unitary :math:`U` is of this form with a real matrix :math:`M`, which is what is
    trained. Real and imaginary part of :math:`Z` are two tensors, on each of which
    :math:`\sigma` acts.

    Args:
        channels: Width of the features.
        act: The activation.
        num_terms: Degree of the Taylor polynomial of the exponential of
            :math:`i \hat{A}`.
        bias: Whether to add :math:`b`, which is complex.

    Shapes:
        - **input:** real and imaginary part, each :math:`(N, F)`, an adjacency
        - **output:** real and imaginary part, each :math:`(N, F)`
    """

    def __init__(
        self, channels: int, act: Act, num_terms: int = 10, bias: bool = True
    ) -> None:
        super().__init__()
        self.act = act
        self.num_terms = num_terms
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.real_bias = _bias(channels) if bias else None
        self.imag_bias = _bias(channels) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        glorot(self.weight)
        _zero(self.real_bias, self.imag_bias)

    def unitary(self) -> Tensor:
        """The matrix :math:`U`, of shape (F, F), complex."""
        m = self.weight
        return torch.matrix_exp(torch.complex(m - m.t(), m + m.t()) / 2)

    def forward(
        self, real: Tensor, imag: Tensor, adjacency: Adjacency
    ) -> tuple[Tensor, Tensor]:
        """The next state."""
        u = self.unitary()
        real, imag = real @ u.real - imag @ u.imag, real @ u.imag + imag @ u.real

        def generator(z: Tensor) -> Tensor:
            real, imag = z.chunk(2, dim=-1)
            return propagate(adjacency, torch.cat([-imag, real], dim=-1))

        z = _exponential(generator, torch.cat([real, imag], dim=-1), self.num_terms)
        real, imag = z.chunk(2, dim=-1)
        real, imag = _add(real, self.real_bias), _add(imag, self.imag_bias)
        return self.act(real), self.act(imag)


class LieUnitaryConv(nn.Module):
    r"""The layer :math:`\sigma(e^g(X) + b)` with :math:`g(X) = \hat{A} X W`.

    .. math:: W = \tfrac{1}{2} (M - M^\top)

    so that :math:`W + W^\top = 0`; the real matrix :math:`M` is trained.

    Args:
        channels: Width of the features.
        act: The activation.
        num_terms: Degree of the Taylor polynomial of :math:`e^g`.
        bias: Whether to add :math:`b`.

    Shapes:
        - **input:** node features :math:`(N, F)`, an adjacency
        - **output:** node features :math:`(N, F)`
    """

    def __init__(
        self, channels: int, act: Act, num_terms: int = 10, bias: bool = True
    ) -> None:
        super().__init__()
        self.act = act
        self.num_terms = num_terms
        self.weight = nn.Parameter(torch.empty(channels, channels))
        self.bias = _bias(channels) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        glorot(self.weight)
        _zero(self.bias)

    def forward(self, x: Tensor, adjacency: Adjacency) -> Tensor:
        """Node features to node features."""
        w = (self.weight - self.weight.t()) / 2
        x = _exponential(lambda y: propagate(adjacency, y @ w), x, self.num_terms)
        return self.act(_add(x, self.bias))


CONVS: dict[str, Callable[..., nn.Module]] = {
    "separable": SeparableUnitaryConv,
    "lie": LieUnitaryConv,
}


class UnitaryGCN(GraphNetwork):
    r"""Network of unitary graph convolutions.

    .. math::
        \text{separable:} \quad Z^+ = \sigma(e^{i \hat{A}} Z U + b), \qquad
        \text{Lie:} \quad X^+ = \sigma(e^g(X) + b), \quad g(X) = \hat{A} X W

    with :math:`U` unitary, :math:`W + W^\top = 0` and :math:`\hat{A} = D^{-1/2} A
    D^{-1/2}` of a graph to which no self-loops are added. Without bias and with
    :func:`group_sort` a layer keeps the Frobenius norm, but for the rest of the Taylor
    series: relative to the norm at most :math:`r^{T+1} e^r / (T+1)!` for :math:`T`
    terms, with :math:`r = \lVert \hat{A} \rVert \le 1` in the separable form and
    :math:`r \le \lVert W \rVert` in that of Lie.

    In the separable form the features are complex and the state is their real and
    imaginary part; it begins with the imaginary part 0, and the real part is read out.

    Args:
        in_channels: As the frame has it.
        hidden_channels: As the frame has it.
        out_channels: As the frame has it.
        num_layers: As the frame has it.
        form: ``"separable"`` or ``"lie"``.
        num_terms: Degree :math:`T` of the Taylor polynomials.
        bias: Whether to add :math:`b`.
        act: The activation :math:`\sigma`. The default keeps the norm; on complex
            features it acts on real and imaginary part by themselves.
        kwargs: Options of :class:`~graphfathom.nn.frame.GraphNetwork`.

    Raises:
        ValueError: If a number or a choice is not as described, or the graph is
            directed: both forms are unitary for a symmetric :math:`\hat{A}` only.
            Under ``torch.compile`` the graph is not looked at.

    Example:
        >>> UnitaryGCN(9, 64, 10, num_layers=20, form="lie")
        UnitaryGCN(9, 64, 10, num_layers=20, form=lie, num_terms=10)

    References:
        | Unitary Convolutions for Learning on Graphs and Groups (Kiani et al., 2024)
        | https://arxiv.org/abs/2410.05499

    Differs from the paper:
        The official code only starts with an orthogonal :math:`U` and then trains it
        without constraint; ours is unitary at every step. Its bias of the separable
        form acts before the exponential. Its form of Lie also exists for complex
        features, with :math:`i W` for a Hermitian :math:`W`; ours is the real one.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        form: str = "separable",
        *,
        num_terms: int = 10,
        bias: bool = True,
        act: str | Act | None = group_sort,
        **kwargs: Any,
    ) -> None:
        check_choice("form", form, FORMS)
        _check(num_terms, hidden_channels, act)

        def layer(k: int, act: Act) -> nn.Module:
            return CONVS[form](hidden_channels, act, num_terms, bias)

        super().__init__(
            in_channels,
            hidden_channels,
            out_channels,
            num_layers,
            layer,
            act=act,
            options={"form": form, "num_terms": num_terms},
            **kwargs,
        )
        self.form = form

    def graph(
        self, x: Tensor, edge_index: Any, given: dict[str, Any]
    ) -> tuple[Adjacency, dict[str, Any]]:
        """The adjacency without self-loops."""
        if not isinstance(edge_index, Adjacency):
            weight = given["edge_weight"]
            edge_index = gcn_adjacency(
                edge_index, weight, x.size(0), add_self_loops=False, dtype=x.dtype
            )
        _check_symmetric(edge_index)
        return edge_index, given

    def start(self, x: Tensor, graph: Any, given: dict[str, Any]) -> tuple[Tensor, ...]:
        """Real and imaginary part of the encoded features, or the features."""
        return (x, torch.zeros_like(x)) if self.form == "separable" else (x,)


def _exponential(g: Callable[[Tensor], Tensor], x: Tensor, num_terms: int) -> Tensor:
    """The Taylor polynomial of the exponential of a linear map, applied to x."""
    total = term = x
    for k in range(1, num_terms + 1):
        term = g(term) / k
        total = total + term
    return total


def _bias(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(channels))


def _add(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


def _zero(*biases: nn.Parameter | None) -> None:
    for bias in biases:
        if bias is not None:
            nn.init.zeros_(bias)


def _check(num_terms: Any, hidden_channels: Any, act: Any) -> None:
    whole = isinstance(num_terms, int) and not isinstance(num_terms, bool)
    if not whole or num_terms < 1:
        raise ValueError(f"`num_terms` must be an integer >= 1. Got {num_terms!r}.")
    if act is group_sort and isinstance(hidden_channels, int) and hidden_channels % 2:
        raise ValueError(
            "`hidden_channels` must be even for group_sort, which sorts pairs. Got "
            f"{hidden_channels}: choose an even number, or another `act`."
        )


@torch.no_grad()
def _check_symmetric(adjacency: Adjacency) -> None:
    """Refuse a directed graph, by the products with one vector from both sides."""
    if adjacency.symmetric or torch.compiler.is_compiling():
        return
    value = adjacency.value
    probe = torch.arange(adjacency.num_nodes, device=value.device, dtype=value.dtype)
    probe = probe.add(1).sqrt().cos().unsqueeze(1)
    right, left = propagate(adjacency, probe), propagate(adjacency.t(), probe)
    tolerance = 100 * torch.finfo(value.dtype).eps
    if not torch.allclose(right, left, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ValueError(
            "`edge_index` must be undirected, with equal weights both ways, for a "
            "UnitaryGCN. Got a directed graph: apply "
            "torch_geometric.utils.to_undirected."
        )
