"""Graphs and networks of ``backward_smoothing``: paper B's layers, made of PyG's.

Glossary: P the propagation, lambda its rate (:func:`smoothing_rate`), s the norm of the
weights, L the number of layers between the features and the last one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from _claim import cora
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GCNConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

import graphfathom as gf
from graphfathom.diagnostics.facts import graph_structure
from graphfathom.diagnostics.gradients import gradient_observations, loss_gradient
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.linalg.components import sparse_eigenvalues
from graphfathom.nn.propagation import Adjacency, gcn_adjacency, shared
from graphfathom.theory.backward import LIPSCHITZ_TANH, backward_bound
from graphfathom.theory.stochastic import UNIT, Smoothing, sinkhorn, smoothing_rate

NODES, DEGREE, FEATURES, MEAN = 400, 20, 32, 0.2
"""Of the CSBM graphs. With means of norm 0.2 and noise of norm 1 in 32 directions a
linear classifier without the graph is right in 87 % of all cases."""
SPLIT = (60, 80, 200)
HOMOPHILY = {"fast": 0.8, "slow": 0.97}
"""Sinkhorn's lambda is 0.67 to 0.70, and 0.94 to 0.95."""
RIDGE = 1e-3
"""Of the fitted last layer: squared loss per row plus this times its weights."""


@dataclass(frozen=True)
class Graph:
    """A graph with its propagation, as data and as one operator."""

    data: Data
    """With P as ``edge_weight``."""
    adjacency: Adjacency
    """The same P, shared by all layers in training."""
    smoothing: Smoothing
    stochastic: bool = True


class Network(nn.Module):
    r"""Paper B's network, :math:`X_{k+1} = \rho(P X_k W_k)`, the last without rho.

    Args:
        widths: Of the features, of all states and of the output.
        num_layers: Number L of layers with activation.
        scale: Norm s of their weights, orthogonal; None for those of ``nn.Linear``.
        act: The activation.
    """

    def __init__(
        self,
        widths: tuple[int, int, int],
        num_layers: int,
        scale: float | None = 1.0,
        act: Callable[[Tensor], Tensor] = torch.tanh,
    ) -> None:
        super().__init__()
        first, width, last = widths
        self.convs = nn.ModuleList(
            _conv(width if k else first, width, bias=False) for k in range(num_layers)
        )
        self.head = _conv(width, last, bias=True)
        self.act = act
        for conv in self.convs:
            if scale is None:
                nn.init.kaiming_uniform_(conv.lin.weight, a=math.sqrt(5))
            else:
                nn.init.orthogonal_(conv.lin.weight, scale)

    def forward(
        self, x: Tensor, edge_index: Tensor, edge_weight: Tensor | None = None
    ) -> Tensor:
        """Features to outputs of the nodes."""
        for conv in self.convs:
            x = self.act(conv(x, edge_index, edge_weight))
        return self.head(x, edge_index, edge_weight)


def _conv(first: int, last: int, bias: bool) -> nn.Module:
    """PyG's GCNConv that takes P as it is, as edge weights or as one operator."""
    return shared(GCNConv(first, last, normalize=False, bias=bias))


def convolutions(model: nn.Module) -> list[GCNConv]:
    """The layers of a network, in state-space form or not, the last one at the end."""
    return [module for module in model.modules() if isinstance(module, GCNConv)]


def graph_of(name: str, seed: int) -> Graph:
    """``"fast"`` and ``"slow"`` are drawn anew for each seed; ``"cora"`` is Cora."""
    if name == "cora":
        data, _ = cora()
        data.x = data.x.double()
        matrix = gcn_operator(data)
        data = weighted(data, matrix)
        return Graph(data, operator(data), rate_of_gcn(matrix), stochastic=False)
    data = gf.datasets.csbm(
        NODES, 2, DEGREE, HOMOPHILY[name], FEATURES, MEAN, seed=seed, split=SPLIT
    )
    return stochastic_graph(data, sinkhorn(data.edge_index, NODES))


def gcn_operator(data: Data) -> csr_array:
    """The normalised adjacency of GCN, symmetric and not stochastic."""
    index, weight = gcn_norm(data.edge_index, None, data.num_nodes, dtype=torch.float64)
    shape = (data.num_nodes, data.num_nodes)
    return csr_array((weight.numpy(), tuple(index.numpy())), shape=shape)


def rate_of_gcn(matrix: csr_array) -> Smoothing:
    """As :func:`smoothing_rate`, of a matrix that is symmetric and not stochastic."""
    values = sparse_eigenvalues(matrix).real
    below = values[values.abs() < 1 - UNIT].abs()
    ends = int((values > 1 - UNIT).sum()), int((values < UNIT - 1).sum())
    return Smoothing(float(below.max()), *ends)


def weighted(data: Data, matrix: csr_array) -> Data:
    """The data with the entries of P for edges."""
    entries = matrix.tocoo()
    row, col = (torch.from_numpy(index).long() for index in entries.coords)
    found = data.clone()
    found.edge_index = torch.stack([row, col])
    found.edge_weight = torch.from_numpy(entries.data)
    return found


def stochastic_graph(data: Data, matrix: csr_array) -> Graph:
    """A symmetric stochastic P on the nodes of the data."""
    data = weighted(data, matrix)
    return Graph(data, operator(data), smoothing_rate(matrix))


def operator(data: Data) -> Adjacency:
    """The entries of P as one operator."""
    return gcn_adjacency(
        data.edge_index,
        data.edge_weight,
        data.num_nodes,
        normalize=False,
        add_self_loops=False,
        dtype=data.x.dtype,
    )


def without_edges(graph: Graph) -> Graph:
    """The same nodes with P = I: the network on it is an MLP."""
    data = graph.data.clone()
    data.edge_index = torch.arange(data.num_nodes).expand(2, -1).contiguous()
    data.edge_weight = data.x.new_ones(data.num_nodes)
    return replace(
        graph,
        data=data,
        adjacency=operator(data),
        smoothing=Smoothing(0.0, data.num_nodes, 0),
    )


def with_fitted_head(
    model: nn.Module, graph: Graph, target: Tensor, rows: Tensor, ridge: float = RIDGE
) -> nn.Module:
    r"""A copy whose last layer minimises the squared loss with ridge, in closed form.

    .. math:: \frac{1}{m} \|F W + 1 b^\top - Y\|_F^2 + \eta \|W\|_F^2
    """
    model = copy.deepcopy(model)
    head = convolutions(model)[-1]
    features: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    with hook, torch.no_grad():
        model(graph.data.x, graph.adjacency)
        f = gf.nn.propagate(graph.adjacency, features[0])[rows]
        y = target[rows]
        centred = f - f.mean(0)
        gram = centred.mT @ centred / len(f) + ridge * torch.eye(f.shape[1])
        w = torch.linalg.solve(gram, centred.mT @ (y - y.mean(0)) / len(f))
        head.lin.weight.copy_(w.mT)
        head.bias.copy_(y.mean(0) - f.mean(0) @ w)
    return model


@dataclass(frozen=True)
class Measured:
    """A network under the squared loss, before any training."""

    loss: float
    constant: float
    """The loss of the best constant."""
    gradients: list[float]
    """log10 of the norm of the gradient of the weights of each layer but the last."""
    deviations: list[float]
    """Share of the error signal of states 0 to L that differs between nodes."""
    kept: float
    """Factor by which a layer multiplies what differs, their geometric mean."""
    bound: float | None
    """Equation (6.6), log10 of the largest gradient; None where it does not apply."""


def measured(model: nn.Module, graph: Graph, target: Tensor, rows: Tensor) -> Measured:
    """The gradients of a network under the squared loss on some rows."""
    problem = gf.Problem(
        model, graph.data, loss=F.mse_loss, target=target, mask=rows, mode="eval"
    )
    trace = capture(problem)
    table = Observations(gradient_observations(trace, graph_structure(problem)))
    norms = table.series("gradient.state")[1]
    shares = table.series("error.deviation.constant")[1]
    layers = len(convolutions(model)) - 1
    ends = (norms[k] + _log10(shares[k]) for k in (0, layers))
    y = target[rows]
    return Measured(
        float(F.mse_loss(trace.output[rows], y)),
        float((y - y.mean(0)).square().mean()),
        table.series("gradient.weights")[1][:layers],
        shares[: layers + 1],
        10 ** ((next(ends) - next(ends)) / layers),
        _bound(model, graph, trace),
    )


def at_fitted_head(
    model: nn.Module, graph: Graph, target: Tensor, rows: Tensor, ridge: float = RIDGE
) -> Measured:
    """Fit the last layer to the squared loss on some rows, then measure."""
    model = with_fitted_head(model, graph, target, rows, ridge)
    return measured(model, graph, target, rows)


def _log10(share: float) -> float:
    return math.log10(share) if share > 0 else math.nan


def _bound(model: nn.Module, graph: Graph, trace: Trace) -> float | None:
    """Equation (6.6) where P is stochastic, its graph connected and rho is tanh."""
    error = loss_gradient(trace)
    if error is None or not isinstance(model, Network) or model.act is not torch.tanh:
        return None
    if not graph.stochastic or graph.smoothing.multiplicity != 1:
        return None
    x = trace.states[0].main
    nodes = len(x)
    found = backward_bound(
        graph.smoothing.rate,
        torch.stack([spectral_norm(conv.lin.weight) for conv in convolutions(model)]),
        lipschitz=LIPSCHITZ_TANH,
        num_nodes=nodes,
        feature_norm=float(x.norm()),
        feature_deviation=float((x - x.mean(0)).norm()) / math.sqrt(nodes),
        mean_error=math.sqrt(nodes) * float(error.mean(0).norm()),
        error_deviation=float((error - error.mean(0)).norm()),
    )
    return float(found.gradient[:-1].max())


def spectral_norm(weight: Tensor) -> Tensor:
    """The largest singular value."""
    return torch.linalg.matrix_norm(weight.detach(), 2)
