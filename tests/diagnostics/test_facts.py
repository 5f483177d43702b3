"""What is known of the data and of the outputs before any layer is looked at."""

from __future__ import annotations

import math
from typing import Any

import graphs
import pytest
import torch
from graphs import make_graph, random_graph, undirected
from scipy.sparse import coo_array
from scipy.sparse.csgraph import shortest_path
from stubborn import gcn
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from graphfathom.diagnostics.facts import (
    accuracy_observations,
    data_observations,
    diameter_bound,
    graph_structure,
    loss_observations,
)
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.problem import Problem


def structure(data: Data) -> GraphStructure:
    """The graph of the data."""
    return GraphStructure.from_edge_index(data.edge_index, data.num_nodes)


def diameter(data: Data) -> int:
    """The largest distance within a component, by SciPy."""
    source, target = data.edge_index.numpy()
    n = data.num_nodes
    adjacency = coo_array(([1] * len(source), (source, target)), shape=(n, n))
    distance = shortest_path(adjacency.tocsr(), directed=False, unweighted=True)
    return int(distance[distance < math.inf].max())


def tree(num_nodes: int, seed: int) -> Data:
    """Each node hangs on an earlier one."""
    generator = torch.Generator().manual_seed(seed)
    parents = [
        int(torch.randint(0, i, (1,), generator=generator)) for i in range(1, num_nodes)
    ]
    return undirected(num_nodes, list(zip(parents, range(1, num_nodes), strict=True)))


@pytest.mark.parametrize("seed", range(5))
def test_the_diameter_of_a_tree_is_exact(seed: int) -> None:
    data = tree(40, seed)
    assert diameter_bound(structure(data)) == diameter(data)


@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_the_diameter_of_paths_and_rings_is_exact(n: int) -> None:
    assert diameter_bound(structure(graphs.path_graph(n))) == n - 1
    assert diameter_bound(structure(graphs.ring_graph(n))) == n // 2


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_is_a_lower_bound_of_at_least_half(seed: int) -> None:
    data = random_graph(30, seed)
    bound, exact = diameter_bound(structure(data)), diameter(data)
    # The second sweep starts at the far end of the first: no eccentricity is smaller
    # than half of the diameter.
    assert exact / 2 <= bound <= exact


def test_the_largest_component_counts() -> None:
    # A ring of 5 beside a path of 4: the ring has more nodes, the path is longer.
    ring = [(i, (i + 1) % 5) for i in range(5)]
    data = undirected(9, [*ring, (5, 6), (6, 7), (7, 8)])
    assert diameter_bound(structure(data)) == 2


@pytest.mark.parametrize("build", [graphs.one_node, graphs.no_edges])
def test_without_edges_there_is_no_distance(build: Any) -> None:
    assert diameter_bound(structure(build())) == 0


def test_a_dense_adjacency_is_read_as_a_graph() -> None:
    data = random_graph()
    dense = Data(x=data.x, y=data.y)
    dense.adj = torch.zeros(8, 8).index_put(tuple(data.edge_index), torch.ones(()))
    found = graph_structure(Problem(nn.Identity(), dense, lambda m, d: d.adj @ d.x))
    expected = structure(data)
    assert found is not None
    assert torch.equal(found.source, expected.source)
    assert torch.equal(found.target, expected.target)
    dense.adj = dense.adj.to_sparse()
    found = graph_structure(Problem(nn.Identity(), dense, lambda m, d: d.adj @ d.x))
    assert found is not None
    assert torch.equal(found.source, expected.source)


def test_weights_are_those_of_the_data_where_they_can_be() -> None:
    data = random_graph()
    data.edge_weight = torch.rand(data.num_edges, 1)
    expected = GraphStructure.from_edge_index(
        data.edge_index, 8, data.edge_weight.view(-1)
    )
    found = graph_structure(Problem(gcn(), data))
    assert found is not None
    assert torch.equal(found.weight, expected.weight)
    for unusable in (-torch.ones(data.num_edges), torch.rand(data.num_edges, 2)):
        data.edge_weight = unusable
        found = graph_structure(Problem(nn.Identity(), data, lambda m, d: d.x))
        assert found is not None
        assert torch.equal(found.weight, torch.ones(len(found.source)))


def test_several_graphs_between_the_nodes_are_none() -> None:
    data = graphs.hetero_graph()
    assert graph_structure(Problem(nn.Identity(), data, lambda m, d: d)) is None
    two = random_graph()
    call = ((two.x, two.edge_index, two.edge_index.flip(0)), {})
    assert graph_structure(Problem(nn.Identity(), call)) is None


def facts_of(problem: Problem) -> dict[str, float]:
    """Name to value."""
    rows = data_observations(problem, graph_structure(problem))
    assert all(row.place == "model" for row in rows)
    return {row.name: row.value for row in rows}


def test_the_data_are_counted() -> None:
    data = graphs.two_components()
    data.x[:, 1] = 7
    assert facts_of(Problem(gcn(), data)) == {
        "data.nodes": 6,
        "data.edges": 10,
        "data.components": 2,
        "data.diameter": 1,
        "features.varying": 2,
        "labels.distinct": 2,
    }


def test_only_labels_that_enter_the_loss_are_counted() -> None:
    data = random_graph()
    data.y = torch.arange(8)
    assert facts_of(Problem(gcn(), data))["labels.distinct"] == 8
    data.train_mask = torch.arange(8) < 3
    assert facts_of(Problem(gcn(), data))["labels.distinct"] == 3
    del data.y
    assert "labels.distinct" not in facts_of(Problem(gcn(), data))


@pytest.mark.parametrize(
    ("x", "varying"),
    [
        (torch.ones(8, 3), 0),
        (torch.ones(8, 3).cumsum(0), 3),
        (torch.arange(8) % 5, 1),
        (torch.zeros(8).long(), 0),
    ],
)
def test_columns_that_vary_are_counted(x: Tensor, varying: int) -> None:
    data = random_graph()
    data.x = x
    problem = Problem(nn.Embedding(5, 2), data, lambda m, d: d.x)
    assert facts_of(problem)["features.varying"] == varying


def losses(problem: Problem, output: Tensor) -> dict[str, float]:
    """Name to value."""
    return {row.name: row.value for row in loss_observations(problem, output)}


LABELS = {
    "classes": (torch.tensor([0, 0, 0, 1, 1, 2, 0, 1]), 3),
    "a class that does not occur": (torch.tensor([0, 0, 0, 1, 1, 0, 0, 1]), 3),
    "two classes in one column": (torch.tensor([0, 0, 0, 1, 1, 0, 0, 1]), 1),
    "multi-hot": (torch.tensor([[1.0, 0], [1, 1], [0, 0], [1, 0]] * 2), 2),
    "real": (torch.linspace(-1, 3, 16).view(8, 2), 2),
}


@pytest.mark.parametrize(("y", "columns"), LABELS.values(), ids=LABELS.keys())
def test_no_constant_has_a_smaller_loss_than_the_best(y: Tensor, columns: int) -> None:
    data = random_graph()
    data.y = y
    data.train_mask = torch.arange(8) != 2
    problem = Problem(gcn(), data)
    best = losses(problem, torch.randn(8, columns))["loss.constant"]
    for _ in range(200):
        row = 3 * torch.randn(1, columns)
        loss = problem.loss_of(row.expand(8, columns))
        assert loss is not None
        assert loss.item() >= best - 1e-12
    # And one is as small: a convex problem, solved by descent.
    row = torch.zeros(1, columns, requires_grad=True)
    optimizer = torch.optim.LBFGS([row], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss_of(row.expand(8, columns))
        assert loss is not None
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() == pytest.approx(best, abs=1e-5)


def test_the_loss_is_that_of_the_output() -> None:
    problem = Problem(gcn(), random_graph())
    output = problem.run()
    loss = problem.loss_of(output)
    assert loss is not None
    assert losses(problem, output)["loss"] == pytest.approx(loss.item(), rel=1e-12)


def test_an_unknown_loss_has_no_best_constant() -> None:
    problem = Problem(gcn(), random_graph(), loss=lambda out, y: out.square().sum())
    assert losses(problem, torch.ones(8, 2)) == {"loss": 16.0}


def test_a_control_has_no_best_constant() -> None:
    problem = Problem(gcn(), random_graph())
    rows = loss_observations(problem, torch.ones(8, 2), run="mlp")
    assert [(row.name, row.run) for row in rows] == [("loss", "mlp")]


def test_no_labels_no_loss() -> None:
    data = random_graph()
    del data.y
    assert loss_observations(Problem(gcn(), data), torch.ones(8, 2)) == []
    assert accuracy_observations(Problem(gcn(), data), torch.ones(8, 2)) == []


def accuracies(data: Data, output: Tensor) -> Observations:
    """All accuracies of an output."""
    return Observations(accuracy_observations(Problem(gcn(), data), output))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_accuracies_are_shares_of_right_classes(dtype: torch.dtype) -> None:
    data = random_graph()
    data.y = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0])
    data.train_mask = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0]).to(dtype)
    data.val_mask = torch.zeros(8).to(dtype)
    data.test_mask = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]).to(dtype)
    output = torch.eye(2)[torch.tensor([0, 1, 0, 1, 1, 1, 1, 1])]
    table = accuracies(data, output)
    assert table.value("accuracy.train") == 0.5
    assert table.value("accuracy.test") == 0.75
    assert math.isnan(table.value("accuracy.val"))
    # Of the rows of the test mask three of four have class 1.
    assert table.value("accuracy.majority") == 0.75


def test_the_first_of_several_splits_is_judged() -> None:
    data = random_graph()
    data.train_mask = torch.eye(8, 3, dtype=torch.bool)
    right = torch.eye(2)[data.y]
    assert accuracies(data, right).value("accuracy.train") == 1
    assert accuracies(data, -right).value("accuracy.train") == 0


def test_without_masks_there_is_no_accuracy() -> None:
    assert len(accuracies(random_graph(), torch.randn(8, 2))) == 0


@pytest.mark.parametrize("columns", [1, 2])
def test_real_targets_have_no_accuracy(columns: int) -> None:
    data = random_graph()
    data.y = torch.randn(8, columns)
    data.train_mask = torch.ones(8, dtype=torch.bool)
    assert len(accuracies(data, torch.randn(8, columns))) == 0


def test_graphs_of_a_batch_have_no_node_accuracy() -> None:
    data = Batch.from_data_list([make_graph(3, [(0, 1)]), make_graph(4, [(1, 2)])])
    data.y = torch.tensor([0, 1])
    data.train_mask = torch.ones(7, dtype=torch.bool)
    problem = Problem(gcn(), data, lambda m, d: torch.eye(2), mask=torch.ones(2).bool())
    assert accuracy_observations(problem, torch.eye(2)) == []


def test_best_constant_of_squared_errors_has_the_variance() -> None:
    data = random_graph()
    data.y = torch.randn(8, 2)
    found = losses(Problem(gcn(), data), torch.randn(8, 2))["loss.constant"]
    expected = (data.y - data.y.mean(0)).square().mean()
    assert found == pytest.approx(float(expected), abs=1e-10)


@pytest.mark.parametrize("rows", [8, 3])
def test_best_constant_of_cross_entropy_has_the_entropy(rows: int) -> None:
    data = random_graph()
    data.y = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0])
    data.train_mask = torch.arange(8) < rows
    share = data.y[:rows].bincount(minlength=2).double() / rows
    expected = float(torch.special.entr(share).sum())
    found = losses(Problem(gcn(), data), torch.randn(8, 2))["loss.constant"]
    assert found == pytest.approx(expected, abs=1e-8)


def test_best_constant_without_labels_is_unknown() -> None:
    data = random_graph()
    del data.y
    assert losses(Problem(gcn(), data), torch.randn(8, 2)) == {}


COMPONENT_LABELS = {
    "classes": (torch.tensor([0, 1, 1, 0, 0, 1]), 2),
    "one column": (torch.tensor([0, 1, 1, 0, 0, 1]), 1),
    "multi-hot": (torch.tensor([[1.0, 0], [1, 1], [0, 0]] * 2), 2),
    "real": (torch.linspace(-1, 3, 12).view(6, 2), 2),
}


@pytest.mark.parametrize(
    ("y", "columns"), COMPONENT_LABELS.values(), ids=COMPONENT_LABELS.keys()
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_best_constants_of_components(
    y: Tensor, columns: int, dtype: torch.dtype
) -> None:
    data = graphs.two_components()
    data.y, data.train_mask = y, torch.arange(6) != 1
    problem = Problem(gcn(), data)
    structure = graph_structure(problem)
    assert structure is not None
    output = torch.zeros(6, columns, dtype=dtype)
    rows = loss_observations(problem, output, structure=structure)
    assert len(rows) == 3
    best = Observations(rows).value("loss.constant.component")
    constants = torch.zeros(2, columns, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [constants], max_iter=500, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = problem.loss_of(constants[structure.component])
        assert loss is not None
        loss.backward()
        return loss

    optimizer.step(closure)
    assert closure().item() == pytest.approx(best, abs=1e-5)
    assert best <= Observations(rows).value("loss.constant")


def test_components_without_labels_do_not_matter() -> None:
    data = graphs.isolated_node()
    data.train_mask = torch.arange(5) < 4
    problem = Problem(gcn(), data)
    structure = graph_structure(problem)
    assert structure is not None
    rows = loss_observations(problem, torch.zeros(5, 2), structure=structure)
    table = Observations(rows)
    assert table.value("loss.constant.component") == pytest.approx(math.log(2))
    assert table.value("loss.constant") == pytest.approx(math.log(2))
