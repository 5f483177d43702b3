"""Theorem 5.1 against dense Jacobians and dense powers."""

from __future__ import annotations

import math
from typing import Any

import graphs
import pytest
import torch
from torch import Tensor
from torch.func import jacrev
from torch.testing import assert_close

from graphfathom.theory import sensitivity_bound

GRAPHS = {
    "random": graphs.random_graph(7).edge_index,
    "directed": graphs.directed_graph().edge_index,
    "twice the same": torch.tensor([[0, 0, 0, 1, 1, 4], [1, 1, 2, 0, 1, 4]]),
    "no edges": torch.empty(2, 0, dtype=torch.long),
}
BY_GRAPH = pytest.mark.parametrize("graph", GRAPHS)
SIZE, WIDTH = 7, 3


def matrix_of(graph: str, weight: Tensor | None = None) -> Tensor:
    source, target = GRAPHS[graph]
    values = torch.ones(len(source)) if weight is None else weight
    dense = torch.zeros(SIZE, SIZE).double()
    return dense.index_put((target, source), values.double(), accumulate=True)


@BY_GRAPH
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("num_layers", [0, 1, 4])
def test_the_topology_term_is_the_power(
    graph: str, weighted: bool, num_layers: int
) -> None:
    weight = torch.randn(GRAPHS[graph].shape[1]).double() if weighted else None
    matrix = matrix_of(graph, None if weight is None else weight.abs())
    operator = 0.5 * torch.eye(SIZE).double() + 0.25 * matrix
    options = {"residual": 0.5, "message": 0.25, "edge_weight": weight}
    sizes = {"max_weight": 1.0, "channels": 1}
    for root in range(SIZE):
        bound = sensitivity_bound(
            GRAPHS[graph], SIZE, root, num_layers, **sizes, **options
        )
        expected = torch.linalg.matrix_power(operator, num_layers)[:, root]
        assert bound.model == 0
        assert_close(10**bound.log10, expected)
        assert torch.equal(bound.topology.isneginf(), expected == 0)


@BY_GRAPH
@pytest.mark.parametrize("act", [torch.tanh, torch.relu])
def test_no_network_exceeds_the_bound(graph: str, act: Any) -> None:
    num_layers, matrix = 4, matrix_of(graph)
    weights = torch.randn(num_layers, 2, WIDTH, WIDTH).double()

    def network(h: Tensor) -> Tensor:
        for own, other in weights:
            h = act(0.5 * h @ own.mT + 0.25 * matrix @ h @ other.mT)
        return h

    blocks = jacrev(network)(torch.randn(SIZE, WIDTH).double())
    columns = blocks.abs().sum(1).amax(-1)  # (v, a, u, b) -> (v, u)
    top = float(weights.abs().max())
    for root in range(SIZE):
        bound = sensitivity_bound(
            GRAPHS[graph],
            SIZE,
            root,
            num_layers,
            max_weight=top,
            channels=WIDTH,
            residual=0.5,
            message=0.25,
        )
        assert bool((columns[:, root] <= 10**bound.log10 * (1 + 1e-12)).all())


def test_the_bound_is_attained_by_equal_weights() -> None:
    """Linear layers whose weights are all w: every entry adds up with one sign."""
    matrix, weight = matrix_of("random"), torch.full((WIDTH, WIDTH), 0.5).double()

    def network(h: Tensor) -> Tensor:
        for _ in range(3):
            h = matrix @ h @ weight.mT
        return h

    blocks = jacrev(network)(torch.randn(SIZE, WIDTH).double())
    bound = sensitivity_bound(
        GRAPHS["random"], SIZE, 2, 3, max_weight=0.5, channels=WIDTH
    )
    assert_close(10**bound.log10, blocks.abs().sum(1).amax(-1)[:, 2])


def test_a_thousand_steps_of_a_path_stay_finite() -> None:
    """One walk leads to the end, and its weight is far below the least float."""
    nodes = torch.arange(1000)
    path = torch.stack([nodes, nodes + 1])
    bound = sensitivity_bound(
        path, 1001, 0, 1000, max_weight=0.1, channels=2, message=0.01
    )
    assert float(bound.topology[-1]) == pytest.approx(-2000)
    assert bound.model == pytest.approx(1000 * math.log10(0.2))
    assert bool(bound.topology[:-1].isneginf().all())
    lazy = sensitivity_bound(
        path, 1001, 0, 1000, max_weight=0.1, channels=2, message=0.01, residual=1.0
    )
    expected = [
        (math.lgamma(1001) - math.lgamma(k + 1) - math.lgamma(1001 - k)) / math.log(10)
        - 2 * k
        for k in (0, 10, 500, 1000)
    ]
    assert lazy.topology[[0, 10, 500, 1000]].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": 7}, r"`root` must be a node, 0 to 6. Got 7"),
        ({"num_layers": -1}, r"`num_layers` must be >= 0 .* Got -1 and 3"),
        ({"channels": 0}, r"`channels` >= 1. Got 2 and 0"),
        ({"max_weight": math.inf}, r"`max_weight` must be >= 0 and finite. Got inf"),
        ({"residual": -1.0}, r"`residual` must be >= 0 and finite. Got -1.0"),
        ({"edge_weight": torch.tensor([math.nan])}, r"`edge_weight` must hold"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    usual = {"num_nodes": SIZE, "root": 0, "num_layers": 2}
    usual |= {"max_weight": 1.0, "channels": 3}
    with pytest.raises(ValueError, match=message):
        sensitivity_bound(GRAPHS["random"], **(usual | options))
