"""Section 9 of the mathematics, items 8 and 9, on an instance of the same kind.

40 nodes with 16 Gaussian features and 2 Gaussian targets, seed 1 of torch's generator:
the best constant has the loss of the specification, 1.0669. The graphs are the CSBM
graphs whose lambda is nearest to the specification's; weights are drawn for each seed.
"""

from __future__ import annotations

import torch
from _backward_networks import (
    RIDGE,
    Graph,
    Measured,
    Network,
    at_fitted_head,
    stochastic_graph,
    without_edges,
)
from torch import Tensor, nn

import graphfathom as gf
from graphfathom.theory.stochastic import sinkhorn

NODES, FEATURES, TARGETS = 40, 16, 2
GRAPHS = {0.44: (15.0, 1), 0.87: (5.5, 3)}
"""lambda -> mean degree and seed of the CSBM graph, without communities."""
PUBLISHED: dict[str, dict[int, float]] = {
    "0.44": {4: 5.8e-3, 8: 5.5e-6, 16: 7.7e-12, 32: 2.1e-23},
    "0.87": {5: 6.9e-2, 10: 7.7e-2, 20: 3.4e-2, 40: 1.5e-4},
}
"""Item 8: lambda, L -> largest gradient of all layers but the last."""
PUBLISHED_MLP = (0.36, 0.41)
PUBLISHED_LOSS = 1.0669
PUBLISHED_EXAMPLE = {
    "mlp": {3: 0.4725, 10: 0.4725, 30: 0.4725},
    "gnn": {3: 1.5e-1, 10: 2.5e-6, 30: 4.8e-10},
}
"""Item 9: gradient of the first weights."""


def graph(rate: float) -> tuple[Graph, Tensor]:
    """The graph with that lambda, and the targets of its nodes."""
    degree, seed = GRAPHS[rate]
    data = gf.datasets.csbm(NODES, 2, degree, 0.5, FEATURES, seed=seed)
    generator = torch.Generator().manual_seed(1)
    data.x, target = (
        torch.randn(NODES, width, generator=generator, dtype=torch.float64)
        for width in (FEATURES, TARGETS)
    )
    return stochastic_graph(data, sinkhorn(data.edge_index, NODES)), target


def item_8(rate: float, layers: int, seed: int, *, mlp: bool = False) -> Measured:
    """Tanh, orthogonal weights, a last layer fitted with ridge and bias."""
    on, target = graph(rate)
    torch.manual_seed(seed)
    network = Network((FEATURES, FEATURES, TARGETS), layers)
    return at_fitted_head(network, without_edges(on) if mlp else on, target, _all(on))


def item_9(rate: float, layers: int, *, mlp: bool) -> Measured:
    """ReLU, generic first weights, the identity behind, a fitted last layer.

    The MLP has plain least squares; the GNN, of which less and less is left to fit, the
    ridge of item 8.
    """
    on, target = graph(rate)
    network = Network((FEATURES, FEATURES, TARGETS), layers, act=torch.relu)
    generator = torch.Generator().manual_seed(1)
    first, *others = (conv.lin.weight for conv in network.convs)
    nn.init.normal_(first, std=FEATURES**-0.5, generator=generator)
    for weight in others:
        nn.init.eye_(weight)
    on = without_edges(on) if mlp else on
    return at_fitted_head(network, on, target, _all(on), ridge=0.0 if mlp else RIDGE)


def _all(graph: Graph) -> Tensor:
    return torch.ones(graph.data.num_nodes, dtype=torch.bool)
