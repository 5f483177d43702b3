"""The bound of backward oversmoothing, above what is measured, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from graphs import random_graph
from smoothing_networks import WIDTH, Vanilla, graph, identity
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GCN

from graphfathom.diagnostics.gradients import gradient_observations
from graphfathom.diagnostics.last_layer import refit_head
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.stationarity_bounds import bound_observations
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem
from graphfathom.theory.stochastic import sinkhorn


@pytest.mark.parametrize("depth", [3, 20, 40])
@pytest.mark.parametrize("avg_degree", [6, 20])
def test_the_bound_holds_and_says_when_it_is_empty(
    avg_degree: float, depth: int
) -> None:
    data, _ = graph(sinkhorn, avg_degree)
    torch.manual_seed(0)
    trace = capture(Problem(Vanilla(depth), data))
    table = Observations(bound_observations(trace))
    bounds = table.series("theory.gradient.weights", "refit")[1]
    refit = capture(refit_head(trace).problem)
    gradients = Observations(gradient_observations(refit)).series("gradient.weights")[1]
    assert len(bounds) == depth
    slack = [b - g for b, g in zip(bounds, gradients, strict=True)]
    assert min(slack) > 0
    is_vacuous = depth == 3 or (avg_degree, depth) == (6, 20)
    assert table.value("bound.vacuous", run="refit") == float(is_vacuous)
    if (avg_degree, depth) == (20, 40):
        assert slack[-1] < 0.5
        assert min(bounds[:-1]) < -8


def test_the_bound_of_a_network_whose_last_layer_is_the_head() -> None:
    class Bare(Vanilla):
        def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
            for conv in self.convs[:-1]:
                x = conv(x, edge_index, edge_weight).tanh()
            return self.convs[-1](x, edge_index, edge_weight)

    data, _ = graph(sinkhorn, 20)
    trace = capture(Problem(Bare(6), data))
    bounds = Observations(bound_observations(trace))
    refit = capture(refit_head(trace).problem)
    gradients = Observations(gradient_observations(refit))
    for k in range(1, 7):
        bound = bounds.value("theory.gradient.weights", f"layer:{k}", "refit")
        assert bound >= gradients.value("gradient.weights", f"layer:{k}") - 1e-9


def bare(**options: object) -> nn.Module:
    return GCN(3, 4, 3, 2, **{"bias": False, "act": "tanh", **options})


HYPOTHESES: dict[str, tuple[Callable[[], tuple[nn.Module, Data]], str]] = {
    "a bias": (
        lambda: (randomised(bare(bias=True)), random_graph()),
        "has a bias or another activation",
    ),
    "ReLU": (lambda: (bare(act="relu"), random_graph()), "another activation"),
    "attention": (lambda: (Net(), random_graph()), "is not act"),
    "not stochastic": (lambda: (bare(), random_graph()), "rows that sum to 1"),
    "components": (lambda: (Vanilla(3), graph(identity, 20)[0]), "100 components"),
}


def randomised(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


class Net(nn.Module):
    """Attention, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.gat, self.head = GAT(3, 4, 2, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.head(self.gat(x, edge_index))


@pytest.mark.parametrize(("build", "match"), HYPOTHESES.values(), ids=HYPOTHESES.keys())
def test_each_hypothesis_is_checked(
    build: Callable[[], tuple[nn.Module, Data]], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        bound_observations(capture(Problem(*build())))


def test_a_bipartite_graph_alternates_and_layers_propagate_alike() -> None:
    ring = torch.arange(8)
    edges = torch.stack([ring, (ring + 1) % 8])
    data = Data(
        x=torch.randn(8, WIDTH),
        edge_index=torch.cat([edges, edges.flip(0)], 1),
        edge_weight=torch.full((16,), 0.5),
        y=ring % 2,
    )
    with pytest.raises(ValueError, match="eigenvalue -1"):
        bound_observations(capture(Problem(Vanilla(3), data)))

    class Mixed(Vanilla):
        def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
            for k, conv in enumerate(self.convs):
                x = conv(x, edge_index, edge_weight * (k + 1) / 4).tanh()
            return self.head(x)

    with pytest.raises(ValueError, match="the same matrix"):
        bound_observations(capture(Problem(Mixed(3), data)))
