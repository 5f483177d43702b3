import math

import networkx as nx
import numpy as np
import pytest
import scipy.sparse
import torch
from torch.testing import assert_close
from torch_geometric.nn import GCNConv
from torch_geometric.utils import from_networkx

from graphfathom.diagnostics.energy import (
    GraphStructure,
    component_deviation,
    dead_units,
    dirichlet_energy,
    effective_rank,
    energy_observations,
    feature_rms,
    rayleigh_quotient,
)

SEEDS = range(3)
VARIANTS = ["combinatorial", "normalized"]
GRAPHS = {
    "path": nx.path_graph(7),
    "ring": nx.cycle_graph(8),
    "star": nx.star_graph(6),
    "complete": nx.complete_graph(5),
    "random": nx.gnp_random_graph(20, 0.2, seed=1),
    "two components": nx.disjoint_union(nx.star_graph(4), nx.path_graph(3)),
    "isolated": nx.disjoint_union(nx.path_graph(3), nx.empty_graph(2)),
    "no edges": nx.empty_graph(4),
    "one node": nx.empty_graph(1),
}
graphs = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())


def edges(graph: nx.Graph) -> torch.Tensor:
    edge_index = from_networkx(graph).edge_index
    return edge_index if edge_index is not None else torch.zeros(2, 0).long()


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def laplacian(graph: nx.Graph, variant: str) -> torch.Tensor:
    """Dense Laplacian by NetworkX, the second implementation."""
    nodes = sorted(graph)
    if variant == "combinatorial":
        return torch.from_numpy(nx.laplacian_matrix(graph, nodes).toarray()).double()
    looped = nx.to_scipy_sparse_array(graph, nodes, dtype=float)
    looped = looped + scipy.sparse.eye_array(len(nodes))
    root = scipy.sparse.diags_array(looped.sum(axis=0) ** -0.5)
    return torch.from_numpy(np.eye(len(nodes)) - (root @ looped @ root).toarray())


def values_at(rows: list, place: str) -> dict[str, float]:
    return {row.name: row.value for row in rows if row.place == place}


@graphs
@pytest.mark.parametrize("variant", VARIANTS)
def test_energy_is_the_trace(graph, variant):
    x = gaussian(len(graph), 3)
    expected = (x.T @ laplacian(graph, variant) @ x).trace()
    energy = dirichlet_energy(x, edges(graph), variant=variant)
    assert_close(energy, expected, rtol=1e-12, atol=1e-12)
    quotient = rayleigh_quotient(x, edges(graph), variant=variant)
    assert_close(quotient, expected / x.square().sum(), rtol=1e-12, atol=1e-12)


def test_normalised_energy_is_that_of_pygs_gcn():
    graph, x = GRAPHS["random"], gaussian(20, 4)
    conv = GCNConv(4, 4, bias=False).double()
    with torch.no_grad():
        conv.lin.weight.copy_(torch.eye(4))
        expected = (x * (x - conv(x, edges(graph)))).sum()
    assert_close(dirichlet_energy(x, edges(graph), variant="normalized"), expected)


@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("path", torch.arange(7.0), 6.0),
        ("ring", torch.tensor([1.0, -1.0] * 4), 32.0),
        ("star", torch.tensor([1.0] + [0.0] * 6), 6.0),
        ("complete", torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]), 4.0),
    ],
)
def test_closed_forms(name, x, expected):
    edge_index = edges(GRAPHS[name])
    energy = dirichlet_energy(x.unsqueeze(1), edge_index)
    assert float(energy) == pytest.approx(expected)
    per_node = dirichlet_energy(x.unsqueeze(1), edge_index, normalization="per-node")
    assert float(per_node) == pytest.approx(expected / len(x))
    per_edge = dirichlet_energy(x.unsqueeze(1), edge_index, normalization="per-edge")
    assert float(per_edge) == pytest.approx(expected / (edge_index.shape[1] // 2))


@pytest.mark.parametrize("k", range(1, 5))
def test_rayleigh_quotient_of_an_eigenvector(k):
    x = torch.cos(2 * math.pi * k * torch.arange(8.0) / 8).unsqueeze(1)
    expected = 2 - 2 * math.cos(2 * math.pi * k / 8)
    ring = edges(GRAPHS["ring"])
    assert float(rayleigh_quotient(x, ring)) == pytest.approx(expected)
    # On a regular graph of degree 2 the normalised Laplacian is a third of it.
    normalized = rayleigh_quotient(x, ring, variant="normalized")
    assert float(normalized) == pytest.approx(expected / 3)


@graphs
def test_kernels(graph):
    structure = GraphStructure.from_edge_index(edges(graph), len(graph))
    levels = gaussian(structure.num_components, 3)[structure.component]
    rooted = structure.root_degree.unsqueeze(1) * levels
    for x, variant, kind in (
        (levels, "combinatorial", "constant"),
        (rooted, "normalized", "degree"),
    ):
        assert float(dirichlet_energy(x, edges(graph), variant=variant)) < 1e-28
        assert float(component_deviation(x, edges(graph), kind=kind)) < 1e-15


def test_exact_constants_have_an_exactly_zero_energy():
    x = torch.full((7, 2), 0.1)
    energy = dirichlet_energy(x, edges(GRAPHS["path"]), log10=True)
    assert float(energy) == -math.inf


@graphs
@pytest.mark.parametrize("kind", ["constant", "degree"])
def test_deviation_is_a_projection(graph, kind):
    x = gaussian(len(graph), 3)
    base = torch.ones(len(graph), dtype=torch.float64)
    if kind == "degree":
        base = (
            torch.tensor([1 + graph.degree(u) for u in sorted(graph)]).double().sqrt()
        )
    columns = []
    for nodes in nx.connected_components(graph):
        column = torch.zeros_like(base)
        column[list(nodes)] = base[list(nodes)]
        columns.append(column)
    Q, _ = torch.linalg.qr(torch.stack(columns, dim=1))
    expected = (x - Q @ (Q.T @ x)).norm() / x.norm()
    actual = component_deviation(x, edges(graph), kind=kind)
    assert_close(actual, expected, rtol=1e-12, atol=1e-15)


def test_deviation_of_orthogonal_features_is_one():
    x = torch.tensor([[1.0], [-1.0]] * 4)
    assert float(component_deviation(x, edges(GRAPHS["ring"]))) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e-30, 1e30, 1e170])
@pytest.mark.parametrize("variant", VARIANTS)
def test_scaling_laws(scale, variant):
    x, edge_index = gaussian(20, 5), edges(GRAPHS["random"])
    tiny = scale * x
    for log10 in (
        lambda z: dirichlet_energy(z, edge_index, variant=variant, log10=True) / 2,
        lambda z: feature_rms(z, log10=True),
    ):
        assert_close(log10(tiny), log10(x) + math.log10(scale), rtol=1e-12, atol=0)
    for free in (
        lambda z: rayleigh_quotient(z, edge_index, variant=variant),
        lambda z: component_deviation(z, edge_index),
        effective_rank,
    ):
        assert_close(free(tiny), free(x), rtol=1e-12, atol=0)


def test_energy_of_moderate_scale_is_quadratic():
    x, edge_index = gaussian(20, 5), edges(GRAPHS["random"])
    scaled = dirichlet_energy(1e-100 * x, edge_index)
    assert_close(scaled * 1e200, dirichlet_energy(x, edge_index), rtol=1e-12, atol=0)
    assert float(dirichlet_energy(1e-170 * x, edge_index)) == 0.0  # documented


def test_energy_is_the_power_of_its_logarithm():
    x, edge_index = gaussian(20, 5), edges(GRAPHS["random"])
    for normalization in ("none", "per-node", "per-edge"):
        plain = dirichlet_energy(x, edge_index, normalization=normalization)
        log = dirichlet_energy(x, edge_index, normalization=normalization, log10=True)
        assert_close(10**log, plain)
    assert_close(10 ** feature_rms(x, log10=True), feature_rms(x))
    assert_close(feature_rms(x), x.square().mean().sqrt())


@pytest.mark.parametrize("seed", SEEDS)
def test_node_permutation(seed):
    graph = GRAPHS["two components"]
    x, edge_index = gaussian(len(graph), 3, seed=seed), edges(graph)
    order = torch.randperm(len(graph), generator=torch.Generator().manual_seed(seed))
    inverse = order.argsort()
    for measure in (dirichlet_energy, rayleigh_quotient, component_deviation):
        assert_close(measure(x[order], inverse[edge_index]), measure(x, edge_index))
    assert_close(effective_rank(x[order]), effective_rank(x))


def test_batch_is_the_list_of_its_graphs():
    names = ["star", "two components", "one node", "no edges", "path"]
    parts = [GRAPHS[name] for name in names]
    xs = [10.0 ** (40 * i) * gaussian(len(g), 3, seed=i) for i, g in enumerate(parts)]
    starts = np.cumsum([0] + [len(g) for g in parts])
    shifted = zip(parts, starts, strict=False)
    edge_index = torch.cat([edges(g) + int(start) for g, start in shifted], dim=1)
    batch = torch.arange(len(parts)).repeat_interleave(
        torch.tensor([len(g) for g in parts])
    )
    pairs = list(zip(xs, map(edges, parts), strict=True))
    x, kinds = torch.cat(xs), {"equal_nan": True, "rtol": 1e-12, "atol": 1e-12}
    for measure in (
        lambda x, e, b: dirichlet_energy(x, e, batch=b, log10=True),
        lambda x, e, b: dirichlet_energy(
            x, e, batch=b, normalization="per-edge", variant="normalized"
        ),
        lambda x, e, b: rayleigh_quotient(x, e, batch=b),
        lambda x, e, b: component_deviation(x, e, batch=b, kind="degree"),
        lambda x, e, b: effective_rank(x, b),
        lambda x, e, b: feature_rms(x, b, log10=True),
    ):
        expected = torch.stack([measure(part, e, None) for part, e in pairs])
        assert_close(measure(x, edge_index, batch), expected, **kinds)
        shuffled = torch.randperm(len(x))
        back = shuffled.argsort()
        mixed = measure(x[shuffled], back[edge_index], batch[shuffled])
        assert_close(mixed, expected, **kinds)


def test_energy_of_a_union_is_the_sum():
    graph = GRAPHS["two components"]
    x, batch = gaussian(8, 2), torch.tensor([0] * 5 + [1] * 3)
    parts = dirichlet_energy(x, edges(graph), batch=batch)
    assert parts.shape == (2,)
    assert_close(parts.sum(), dirichlet_energy(x, edges(graph)))


def test_directed_weighted_parallel_edges_and_loops():
    x = torch.tensor([[0.0], [1.0], [3.0]])
    edge_index = torch.tensor([[0, 1, 2, 1, 1], [1, 2, 1, 2, 1]])
    weight = torch.tensor([2.0, 1.0, 5.0, 2.0, 9.0])
    # 0-1: 2 in one direction. 1-2: 1 + 2 one way and 5 the other, 4 in the mean.
    assert float(dirichlet_energy(x, edge_index, weight)) == pytest.approx(2 + 4 * 4)
    expected = 2 * (1 / 7**0.5) ** 2 + 4 * (1 / 7**0.5 - 3 / 5**0.5) ** 2
    energy = dirichlet_energy(x, edge_index, weight, variant="normalized")
    assert float(energy) == pytest.approx(expected)
    per_edge = dirichlet_energy(x, edge_index, weight, normalization="per-edge")
    assert float(per_edge) == pytest.approx(9.0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0], 1.0),
        ([1.0] * 4, 4.0),
        ([2.0, 1.0], math.exp(-2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3))),
        ([1.0, 1e-12], 1.0 + 1e-12 * (1 + 12 * math.log(10))),
    ],
)
@pytest.mark.parametrize("shape", [(9, 5), (5, 9)])
def test_effective_rank_of_a_prescribed_spectrum(values, expected, shape):
    U, _ = torch.linalg.qr(gaussian(shape[0], len(values)))
    V, _ = torch.linalg.qr(gaussian(shape[1], len(values), seed=1))
    x = U @ torch.tensor(values, dtype=torch.float64).diag() @ V.T
    # Rounding puts 1e-16 on each other direction, whose entropy is 40 times that.
    assert float(effective_rank(x)) == pytest.approx(expected, abs=1e-13, rel=5e-14)


@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_blocks_do_not_change_the_energy(block, monkeypatch):
    x, edge_index = gaussian(20, 3), edges(GRAPHS["random"])
    expected = dirichlet_energy(x, edge_index)
    monkeypatch.setattr("graphfathom.diagnostics.energy.BLOCK_ENTRIES", block)
    assert_close(dirichlet_energy(x, edge_index), expected)


def test_observations_agree_with_the_measures():
    graph = GRAPHS["two components"]
    edge_index = edges(graph)
    states = [gaussian(8, 6), gaussian(8, 3).float(), torch.zeros(8, 2)]
    structure = GraphStructure.from_edge_index(edge_index, 8)
    rows = energy_observations(states, structure, run="mlp")
    assert len(rows) == 30
    assert {row.run for row in rows} == {"mlp"}
    assert {row.name for row in rows if row.unit == "log10"} == {
        "feature_rms",
        "feature_norm",
        "dirichlet_energy.combinatorial",
        "dirichlet_energy.normalized",
    }
    for k, x in enumerate(states):
        expected = {
            "feature_rms": feature_rms(x, log10=True),
            "feature_norm": x.double().norm().log10(),
            "effective_rank": effective_rank(x),
            "deviation.constant": component_deviation(x, edge_index),
            "deviation.degree": component_deviation(x, edge_index, kind="degree"),
            "dead_units": dead_units(x),
        }
        for variant in VARIANTS:
            energy = dirichlet_energy(x, edge_index, variant=variant, log10=True)
            expected[f"dirichlet_energy.{variant}"] = energy
            quotient = rayleigh_quotient(x, edge_index, variant=variant)
            expected[f"rayleigh_quotient.{variant}"] = quotient
        actual = values_at(rows, f"state:{k}")
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert actual[name] == pytest.approx(float(value), nan_ok=True), name


def test_observations_of_a_thousand_layers():
    """Features that shrink by 0.68 per layer, as in a deep GCN: 1e-166 after 1,000."""
    x, structure = (
        gaussian(7, 3),
        GraphStructure.from_edge_index(edges(GRAPHS["path"]), 7),
    )
    rows = energy_observations([x, x * 1e-166], structure)
    first, last = values_at(rows, "state:0"), values_at(rows, "state:1")
    for name, value in first.items():
        powers = {"feature_rms": 1, "feature_norm": 1, "dirichlet_energy": 2}
        shift = 166 * powers.get(name.split(".")[0], 0)
        assert last[name] == pytest.approx(value - shift, rel=1e-12), name
