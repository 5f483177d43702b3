import math

import networkx as nx
import pytest
import torch

from graphfathom.diagnostics.structure import GraphStructure


def edges_of(structure: GraphStructure) -> dict[tuple[int, int], float]:
    ends = zip(structure.source.tolist(), structure.target.tolist(), strict=True)
    return dict(zip(ends, structure.weight.tolist(), strict=True))


def structure_of(
    edges: list[tuple[int, int]], num_nodes: int, weights: list[float] | None = None
) -> GraphStructure:
    edge_index = torch.tensor(edges, dtype=torch.long).reshape(-1, 2).T
    return GraphStructure.from_edge_index(
        edge_index, num_nodes, None if weights is None else torch.tensor(weights)
    )


@pytest.mark.parametrize(
    ("edges", "weights", "expected"),
    [
        ([(0, 1), (1, 0)], None, {(0, 1): 1.0}),
        ([(1, 0)], None, {(0, 1): 1.0}),
        ([(0, 1), (0, 1)], None, {(0, 1): 2.0}),
        ([(0, 1), (0, 1), (1, 0), (1, 0)], None, {(0, 1): 2.0}),
        ([(0, 1), (1, 0)], [2.0, 4.0], {(0, 1): 3.0}),
        ([(2, 1)], [5.0], {(1, 2): 5.0}),
        ([(0, 0), (0, 1), (1, 1)], None, {(0, 1): 1.0}),
        ([(0, 1), (1, 2)], [0.0, 1.0], {(1, 2): 1.0}),
        ([(0, 1), (1, 0)], [0.0, 4.0], {(0, 1): 4.0}),
        ([], None, {}),
        ([(2, 2)], None, {}),
    ],
    ids=[
        "both directions",
        "one direction",
        "parallel, directed",
        "parallel, both directions",
        "mean of directions",
        "weighted, directed",
        "self-loops",
        "weight 0",
        "weight 0 in one direction",
        "no edges",
        "only a self-loop",
    ],
)
def test_symmetrised_graph(edges, weights, expected):
    structure = structure_of(edges, 3, weights)
    assert edges_of(structure) == expected
    degree = torch.ones(3, dtype=torch.float64)
    for (u, v), weight in expected.items():
        degree[u] += weight
        degree[v] += weight
    assert torch.allclose(structure.root_degree**2, degree)
    assert structure.weight.dtype == torch.float64


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("directed", [False, True])
def test_against_networkx(seed, directed):
    graph = nx.gnp_random_graph(40, 0.03, seed=seed, directed=directed)
    undirected = graph.to_undirected()
    pairs = list(graph.edges) + ([] if directed else [(v, u) for u, v in graph.edges])
    structure = structure_of(pairs, 40)
    assert set(edges_of(structure)) == {(min(e), max(e)) for e in undirected.edges}
    degree = torch.tensor([1 + undirected.degree(u) for u in range(40)]).double()
    assert torch.allclose(structure.root_degree**2, degree)
    components = list(nx.connected_components(undirected))
    assert structure.num_components == len(components)
    for nodes in components:
        assert len(structure.component[list(nodes)].unique()) == 1
    assert structure.component.unique().tolist() == list(range(len(components)))


def test_one_node():
    structure = structure_of([], 1)
    assert structure.num_components == 1
    assert structure.root_degree.tolist() == [1.0]


def test_other_integer_types():
    edge_index = torch.tensor([[0, 1], [1, 2]], dtype=torch.int32)
    assert edges_of(GraphStructure.from_edge_index(edge_index, 3)) == {
        (0, 1): 1.0,
        (1, 2): 1.0,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_edge_index_of_wrong_dtype(dtype):
    with pytest.raises(TypeError, match=r"`edge_index` must hold integers\. Got torch"):
        GraphStructure.from_edge_index(torch.ones(2, 3, dtype=dtype), 3)


def test_edge_index_of_wrong_shape():
    with pytest.raises(ValueError, match=r"must have shape \(2, E\)\. Got \(3, 2\)"):
        GraphStructure.from_edge_index(torch.zeros(3, 2, dtype=torch.long), 3)


@pytest.mark.parametrize("edge", [(0, 3), (-1, 0)])
def test_edge_index_out_of_range(edge):
    match = (
        rf"must lie in \[0, 2\], the nodes\. Got values in \[{min(edge)}, {max(edge)}"
    )
    with pytest.raises(ValueError, match=match):
        structure_of([edge], 3)


def test_no_nodes():
    with pytest.raises(ValueError, match=r"`num_nodes` must be at least 1\. Got 0\."):
        structure_of([], 0)


def test_edge_weight_of_wrong_shape():
    with pytest.raises(ValueError, match=r"`edge_weight` must have shape \(1,\)"):
        structure_of([(0, 1)], 2, [1.0, 2.0])


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_edge_weight_out_of_range(weight):
    with pytest.raises(ValueError, match="`edge_weight` must be finite and >= 0"):
        structure_of([(0, 1)], 2, [weight])
