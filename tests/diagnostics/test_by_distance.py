"""Sensitivity by distance against dense blocks, and beside PyG's own influence."""

from __future__ import annotations

import math
from typing import Any

import graphs
import pytest
import torch
from chains import ScaledChain, ring
from checks import check_estimator
from torch import Tensor
from torch.func import jacrev
from torch.testing import assert_close
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GAT, GCN, GIN
from torch_geometric.utils import influence as peer

from graphfathom.diagnostics import by_distance as module
from graphfathom.diagnostics.by_distance import influence, sensitivity_by_distance
from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.sensitivity import sensitivity_of
from graphfathom.diagnostics.trace import capture
from graphfathom.linalg import Estimate
from graphfathom.problem import Problem

GRAPHS = {
    "random": graphs.random_graph,
    "directed": graphs.directed_graph,
    "two components": graphs.two_components,
    "isolated node": graphs.isolated_node,
    "one node": graphs.one_node,
    "no edges": graphs.no_edges,
}
by_graph = pytest.mark.parametrize("graph", GRAPHS)


def made(graph: str = "random", depth: int = 2, kind: Any = GCN) -> tuple[Any, Data]:
    return kind(3, 4, depth, 2, act="tanh").eval(), GRAPHS[graph]()


def jacobian_of(model: Any, data: Data, **options: Any) -> NodeJacobian:
    return NodeJacobian(capture(Problem(model, data), **options))


def squares(model: Any, data: Data) -> Tensor:
    """Squared Frobenius norms of all dense blocks, shape (N, N)."""
    blocks = jacrev(lambda x: model(x, data.edge_index))(data.x)
    return blocks.detach().square().sum((1, 3))


@by_graph
def test_the_exact_means_are_those_of_the_dense_blocks(graph: str) -> None:
    model, data = made(graph)
    jacobian = jacobian_of(model, data)
    distance = jacobian.distances(torch.arange(data.num_nodes), backward=True)
    found = sensitivity_by_distance(jacobian)
    groups = sorted({*distance.reshape(-1).tolist()}, key=lambda r: (r < 0, r))
    assert found.hops.tolist() == groups
    assert found.pairs.tolist() == [int((distance == r).sum()) for r in groups]
    truth = squares(model, data)
    expected = torch.stack([truth[distance == r].mean() for r in groups])
    assert_close(found.log10, expected.log10() / 2)
    assert not found.stderr.any()


def test_given_roots_are_the_population() -> None:
    model, data = made("directed")
    jacobian = jacobian_of(model, data)
    truth = squares(model, data)[[1, 4]]
    distance = jacobian.distances(torch.tensor([1, 4]), backward=True)
    found = sensitivity_by_distance(jacobian, [1, 4])
    for r, value in zip(found.hops.tolist(), found.log10.tolist(), strict=True):
        mean = float(truth[distance == r].mean())
        expected = math.log10(mean) / 2 if mean else -math.inf
        assert value == pytest.approx(expected)


@pytest.mark.parametrize("hop", [0, 1, 2])
@pytest.mark.parametrize(
    ("num_roots", "num_samples"), [(None, 4), (6, None), (6, 2), (6, 1)]
)
def test_it_is_unbiased_and_its_standard_error_covers_the_truth(
    hop: int, num_roots: int | None, num_samples: int | None
) -> None:
    """Of mean squares, by 100 seeds; a tenth of the nodes or all of them."""
    data = graphs.ring_graph(60 if num_roots else 6)
    jacobian = jacobian_of(GCN(3, 4, 2, 2, act="tanh"), data)
    truth = 10 ** (2 * float(sensitivity_by_distance(jacobian).log10[hop]))

    def estimate(generator: torch.Generator) -> Estimate:
        found = sensitivity_by_distance(
            jacobian,
            num_roots=num_roots,
            num_samples=num_samples,
            generator=generator,
        )
        value = 10 ** (2 * float(found.log10[hop]))
        return Estimate(value, value * 2 * math.log(10) * float(found.stderr[hop]))

    check_estimator(estimate, truth)


def test_one_sample_of_all_roots_overstates_its_error() -> None:
    jacobian = jacobian_of(*made())
    truth = sensitivity_by_distance(jacobian).log10
    covered = [
        (found.log10 - truth).abs() <= 2 * found.stderr
        for seed in range(50)
        for found in [
            sensitivity_by_distance(
                jacobian, num_samples=1, generator=torch.Generator().manual_seed(seed)
            )
        ]
    ]
    assert torch.stack(covered)[:, :3].double().mean() > 0.95


def test_signs_are_exact_for_one_output() -> None:
    model, data = GCN(3, 4, 2, 1, act="tanh"), graphs.random_graph()
    jacobian = jacobian_of(model, data)
    found = sensitivity_by_distance(jacobian, num_samples=2)
    assert_close(found.log10, sensitivity_by_distance(jacobian).log10)
    assert (found.stderr < 1e-9).all()


def test_a_distance_that_no_drawn_root_has_is_unknown() -> None:
    data = graphs.make_graph(6, [(0, 1), (1, 2)])
    jacobian = jacobian_of(GCN(3, 4, 2, 2), data)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        found = sensitivity_by_distance(jacobian, num_roots=2, generator=generator)
        assert found.hops.tolist() == [0, 1, 2, -1]
        assert found.pairs.tolist() == [6, 2, 1, 27]
        assert bool(found.log10[2].isnan()) == (2 not in found.roots)
        assert torch.equal(found.stderr.isnan(), found.log10.isnan())
        assert found.log10[3] == -math.inf


@pytest.mark.parametrize("kind", [GCN, GAT, GIN])
@pytest.mark.parametrize("graph", ["random", "directed", "two components"])
def test_influence_is_that_of_pyg_beyond_the_layers(graph: str, kind: Any) -> None:
    """PyG's own sum over the roots is in float32 only."""
    model, data = made(graph, depth=2, kind=kind)
    found = influence(jacobian_of(model, data), max_hops=3)
    expected = torch.stack(
        [
            peer.jacobian_l1_agg_per_hop(model, data, 3, v, "cpu")
            for v in range(data.num_nodes)
        ]
    )
    assert_close(10**found.log10, expected)
    assert_close(found.normalized, peer.avg_total_influence(expected))
    assert_close(10**found.mean, peer.avg_total_influence(expected, normalize=False))
    breadth = peer.influence_weighted_receptive_field(expected.float())
    assert found.breadth == pytest.approx(breadth, rel=1e-6)


def test_a_node_that_only_hears_itself() -> None:
    found = influence(jacobian_of(*made("isolated node")), 4)
    assert found.log10.shape == (1, 1)
    assert (found.breadth, found.normalized.tolist()) == (0.0, [1.0])


def test_pyg_measures_another_network_below_the_layers() -> None:
    """On a star its subgraph of one hop around a leaf is a single edge."""
    data = graphs.undirected(9, [(0, leaf) for leaf in range(1, 9)])
    model = GCN(3, 4, 4, 2, act="tanh").eval()
    found = influence(jacobian_of(model, data), 1, max_hops=1)
    theirs = peer.jacobian_l1_agg_per_hop(model, data, 1, 1, "cpu")
    truth = jacrev(lambda x: model(x, data.edge_index)[1])(data.x).detach()
    assert_close(10 ** found.log10[0], truth.abs().sum((0, 2))[[1, 0]])
    assert (theirs / 10 ** found.log10[0]).max() > 1.5


def test_pyg_has_no_number_where_the_plain_product_underflows() -> None:
    data = ring(6)
    model = ScaledChain(2, 512, 0.3).float()
    data.x = data.x.float()
    assert peer.total_influence(model, data, 3)[0].isnan().all()
    found = influence(jacobian_of(model, data, dtype=None), 0, max_hops=3)
    # After many steps on a ring each node counts the same; two are 1 and 2 hops away.
    expected = torch.tensor([1.0, 2.0, 2.0, 1.0], dtype=torch.float64)
    assert_close(found.normalized, expected, rtol=1e-4, atol=0)
    assert found.mean[0] == pytest.approx(512 * math.log10(0.3) + math.log10(2 / 6))
    assert found.breadth == pytest.approx(1.5, rel=1e-4)


def test_influence_adds_up_sensitivities() -> None:
    batch = Batch.from_data_list([graphs.random_graph(5), graphs.path_graph(3)])
    jacobian = jacobian_of(GCN(3, 4, 3, 2), batch)
    table = sensitivity_of(jacobian, norm="l1")
    found = influence(jacobian)
    assert found.log10.shape == (8, int(table.distance.max()) + 1)
    assert_close((10**found.log10).sum(1), (10**table.log10).sum(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_roots": 9}, r"`num_roots` must be in \[1, 8\].* Got 9"),
        ({"num_roots": 0}, r"`num_roots` must be in \[1, 8\].* Got 0"),
        ({"num_roots": 1}, r"`num_roots` must be at least 2.* Got 1: draw more"),
        ({"roots": 3, "num_samples": 1}, r"at least 2, or there is no standard error"),
        ({"num_samples": 0}, r"`num_samples` must be at least 1. Got 0"),
        ({"product_budget": 15}, r"`product_budget` must be at least 16 "),
        ({"byte_budget": 9}, r"`byte_budget` must be at least .* Got 9: raise it"),
        ({"roots": [8]}, r"`roots` must be nodes, 0 to 7. Got 8"),
    ],
)
def test_bad_input(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sensitivity_by_distance(jacobian_of(*made()), **options)


def test_bad_input_of_influence(monkeypatch: pytest.MonkeyPatch) -> None:
    jacobian = jacobian_of(*made())
    with pytest.raises(ValueError, match=r"`max_hops` must be >= 0. Got -1"):
        influence(jacobian, max_hops=-1)
    with pytest.raises(ValueError, match=r"`product_budget` must be at least 16 "):
        influence(jacobian, product_budget=15)
    with pytest.raises(ValueError, match=r"`byte_budget` must be at least .* Got 9"):
        influence(jacobian, byte_budget=9)
    monkeypatch.setattr(module, "SEARCH_BUDGET", 10)
    with pytest.raises(ValueError, match=r"`roots` must be fewer: counting the pairs"):
        sensitivity_by_distance(jacobian)
