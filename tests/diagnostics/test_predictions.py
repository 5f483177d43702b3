"""What theory predicts, beside what is measured: every bound holds."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from graphs import (
    directed_graph,
    isolated_node,
    no_edges,
    one_node,
    path_graph,
    random_graph,
    ring_graph,
    two_components,
)
from layer_cases import network, traced
from problems import CATALOGUE
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GCN, GCNConv, GraphConv

import graphfathom as gf
from graphfathom.diagnostics.distances import distance_observations
from graphfathom.diagnostics.energy import energy_observations
from graphfathom.diagnostics.node_jacobian import NodeJacobian
from graphfathom.diagnostics.observations import Observations
from graphfathom.diagnostics.predictions import (
    prediction_observations,
    prediction_products,
)
from graphfathom.diagnostics.segments import Segment
from graphfathom.diagnostics.sensitivity import sensitivity_of
from graphfathom.diagnostics.structure import GraphStructure
from graphfathom.diagnostics.trace import Trace, capture
from graphfathom.problem import Problem

GRAPHS = {
    "random": random_graph,
    "directed": directed_graph,
    "two components": two_components,
    "isolated node": isolated_node,
    "no edges": no_edges,
    "one node": one_node,
}
SHAPE = (3, 4, 4, 2)


def state_space(**options) -> nn.Module:
    return gf.nn.GNNSSM(3, 4, 2, num_layers=4, conv=GCNConv, **options)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: GCN(*SHAPE),
    "relu, bias": lambda: with_bias(GCN(*SHAPE)),
    "tanh": lambda: GCN(*SHAPE, act="tanh"),
    "linear": lambda: GCN(*SHAPE, act=None),
    "sigmoid": lambda: GCN(*SHAPE, act="sigmoid"),
    "raw": lambda: network("raw"),
    "mean, no root": lambda: network("no root"),
    "root": lambda: network("graph conv"),
    "ssm, scalar": lambda: state_space(
        act="tanh", state=gf.nn.Scalar(0.9), input=gf.nn.Scalar(0.3)
    ),
    "ssm, orthogonal": lambda: state_space(
        act="tanh", state=gf.nn.Orthogonal(0.9, seed=1), input=gf.nn.Scalar(0.5)
    ),
    "ssm, centred": lambda: state_space(input=gf.nn.Centered(0.5)),
    "ssm, bias": lambda: with_bias(state_space(input=gf.nn.Centered(0.5))),
    "stabilized": lambda: network("stabilized"),
    "gcn2": lambda: network("gcn2"),
}
by_network = pytest.mark.parametrize("name", NETWORKS)
by_graph = pytest.mark.parametrize("graph", GRAPHS)


def with_bias(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return model


def structure_of(data: Data) -> GraphStructure:
    return GraphStructure.from_edge_index(data.edge_index, data.num_nodes)


def predicted(trace: Trace, data: Data, seed: int = 0) -> Observations:
    generator = torch.Generator().manual_seed(seed)
    return Observations(prediction_observations(trace, structure_of(data), generator))


def made(name: str, data: Data) -> tuple[Trace, Observations]:
    trace = traced(NETWORKS[name](), data)
    return trace, predicted(trace, data)


def singular_values(trace: Trace, k: int) -> Tensor:
    return torch.linalg.svdvals(trace.jacobian(k - 1, k).to_dense())


@by_graph
@by_network
def test_no_singular_value_is_above_its_bound(name: str, graph: str) -> None:
    trace, table = made(name, GRAPHS[graph]())
    layers, bounds = table.series("theory.largest_singular_value")
    # The first layer of GCNII reads one tensor twice.
    assert layers == list(range(1 + (name == "gcn2"), trace.num_layers + 1))
    for k, bound in zip(layers, bounds, strict=True):
        assert float(singular_values(trace, k)[0]) <= bound * (1 + 1e-9)


def test_the_bound_of_a_linear_layer_is_reached() -> None:
    trace, table = made("linear", random_graph())
    for k in range(1, 5):
        bound = table.value("theory.largest_singular_value", f"layer:{k}")
        assert bound == pytest.approx(float(singular_values(trace, k)[0]))


@by_graph
@by_network
def test_features_and_energies_stay_below_their_bounds(name: str, graph: str) -> None:
    data = GRAPHS[graph]()
    trace, table = made(name, data)
    states = [state.main for state in trace.states]
    energies = Observations(energy_observations(states, structure_of(data)))
    name = "theory.dirichlet_energy.combinatorial"
    measured = energies.series("dirichlet_energy.combinatorial")[1]
    for k, bound in zip(*table.series("theory.feature_norm"), strict=True):
        assert float(states[k].norm().log10()) <= bound + 1e-9
    for k, bound in zip(*table.series(name), strict=True):
        assert measured[k] <= bound + 1e-9


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *((name, 4) for name in ("relu", "tanh", "linear", "ssm, scalar")),
        *((name, 4) for name in ("ssm, orthogonal", "ssm, centred")),
        *((name, 0) for name in ("relu, bias", "sigmoid", "ssm, bias")),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_only_layers_that_map_0_to_0_bound_features(
    name: str, count: int, seed: int
) -> None:
    torch.manual_seed(seed)
    table = made(name, random_graph(seed=seed))[1]
    assert table.series("theory.feature_norm")[0] == list(range(1, count + 1))


def test_bounds_of_features_end_at_the_first_bias() -> None:
    model = GCN(*SHAPE)
    model.convs[2].bias.data[1] = 1e-3
    data = random_graph()
    found = predicted(traced(model, data), data).series("theory.feature_norm")[0]
    assert found == [1, 2]


def test_a_bias_that_shrinks_features_is_a_bias() -> None:
    """At these features the bound holds, at others it need not."""
    data = random_graph()
    model = GCN(3, 4, 1, act=None)
    with torch.no_grad():
        model.convs[0].lin.weight.abs_()
        data.x.abs_()
        model.convs[0].bias.fill_(-1e-3)
    trace = traced(model, data)
    ratio = trace.states[1].main.norm() / trace.states[0].main.norm()
    table = predicted(trace, data)
    assert float(ratio) < table.value("theory.largest_singular_value", "layer:1")
    assert "theory.feature_norm" not in table.names()


def test_weights_of_edges_leave_the_energy_unbounded() -> None:
    data = random_graph()
    weight = torch.full((data.num_edges,), 0.5)
    structure = GraphStructure.from_edge_index(data.edge_index, 8, weight)
    trace = traced(NETWORKS["relu"](), data)
    for given in (structure, None):
        names = Observations(prediction_observations(trace, given)).names()
        assert "theory.feature_norm" in names
        assert "theory.dirichlet_energy.combinatorial" not in names


@by_graph
@by_network
def test_sensitivities_stay_below_theorem_5_1(name: str, graph: str) -> None:
    data = GRAPHS[graph]()
    trace, table = made(name, data)
    jacobian = NodeJacobian(trace, 0, trace.num_layers)
    found = sensitivity_of(jacobian)
    series = table.series("theory.sensitivity")
    assert bool(series[0]) == (name not in ("root", "gcn2"))
    for r, bound in zip(*series, strict=True):
        squares = 10 ** (2 * found.log10[found.distance == r])
        value = float(squares.mean().log10()) / 2
        assert value <= bound + 1e-9
        parts = table.value("theory.sensitivity.topology", f"distance:{r}")
        parts += table.value("theory.sensitivity.model")
        assert bound == pytest.approx(parts)


def test_theorem_5_1_is_reached_by_one_channel() -> None:
    """Linear layers of one channel with one weight: nothing is estimated."""
    data = path_graph(6)
    data.x = data.x[:, :1]
    model = GCN(1, 1, 5, act=None)
    for conv in model.convs:
        conv.lin.weight.data.fill_(-0.7)
    trace = traced(model, data)
    table = predicted(trace, data)
    found = sensitivity_of(NodeJacobian(trace, 0, 5))
    for r in range(6):
        squares = 10 ** (2 * found.log10[found.distance == r])
        bound = table.value("theory.sensitivity", f"distance:{r}")
        assert bound == pytest.approx(float(squares.mean().log10()) / 2)


def test_nodes_are_drawn_in_large_graphs() -> None:
    """On a ring all are alike, so that the mean over some is that over all."""
    data = ring_graph(80)
    data.x = data.x[:, :1]
    model = GCN(1, 1, 3, act=None)
    for conv in model.convs:
        conv.lin.weight.data.fill_(0.5)
    trace = traced(model, data)
    generator = torch.Generator().manual_seed(3)
    measured = Observations(distance_observations(trace, generator))
    table = predicted(trace, data)
    for r in range(4):
        value = measured.value("sensitivity", f"distance:{r}")
        assert table.value("theory.sensitivity", f"distance:{r}") == pytest.approx(
            value
        )


def test_a_state_without_messages_has_no_bound_by_walks() -> None:
    model = state_space(input=gf.nn.Scalar(0.3))
    for conv in model.convs:
        nn.init.zeros_(conv.lin.weight)
    data = random_graph()
    table = predicted(traced(model, data), data)
    assert "theory.sensitivity" not in table.names()
    largest = table.series("theory.largest_singular_value")[1]
    assert largest == pytest.approx([1.0] * len(largest))


def test_densities_are_given_for_plain_layers_only() -> None:
    for name, plain in (("relu", True), ("ssm, scalar", False), ("gcn2", False)):
        names = made(name, random_graph())[1].names()
        assert ("theory.density.log10=0.0" in names) == plain
        assert ("theory.mean_squared_gain" in names) == plain


def test_layers_without_the_form_are_left_out() -> None:
    entry = next(entry for entry in CATALOGUE if entry.name == "GCN batch norm")
    case = entry.case()
    table = predicted(capture(case.problem()), case.data)
    assert table.series("theory.largest_singular_value")[0] == [3]
    assert "theory.sensitivity" not in table.names()


def test_a_network_without_the_form_is_refused() -> None:
    data = random_graph()
    with pytest.raises(ValueError, match="no layer is act"):
        predicted(traced(GAT(*SHAPE), data), data)


def test_messages_both_ways_leave_sensitivities_out() -> None:
    """No hops can be counted, so nothing was measured either."""
    data, model = random_graph(), GCN(*SHAPE)
    model.convs[1].flow = "target_to_source"
    table = predicted(traced(model, data), data)
    assert "theory.feature_norm" in table.names()
    assert "theory.sensitivity" not in table.names()


def test_weights_that_are_not_finite_have_no_form() -> None:
    model, data = GCN(*SHAPE), random_graph()
    model.convs[1].lin.weight.data[0, 0] = math.nan
    table = predicted(traced(model, data), data)
    assert 2 not in table.series("theory.largest_singular_value")[0]
    assert "theory.feature_norm" not in table.names()


def test_a_propagation_with_constant_rows_is_not_taken_for_its_norm() -> None:
    """Rows that sum to 0.2, an eigenvalue, on a ring whose largest is 1.8."""
    size = 8
    nodes = torch.arange(size)
    edges = torch.stack([nodes.repeat(2), torch.cat([nodes, (nodes + 1) % size])])
    weight = torch.cat([torch.full((size,), 1.0), torch.full((size,), -0.8)])
    data = Data(x=torch.randn(size, 3), edge_index=edges, edge_weight=weight)
    model = Weighted()
    trace = traced(model, data)
    bound = predicted(trace, data).value("theory.largest_singular_value", "layer:1")
    assert bound == pytest.approx(1.8)
    assert float(singular_values(trace, 1)[0]) == pytest.approx(1.8)


class Weighted(nn.Module):
    """Messages alone, by the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GCNConv(3, 3, normalize=False, bias=False)
        self.conv.lin.weight.data = torch.eye(3)

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        return self.conv(x, edge_index, edge_weight)


@pytest.mark.parametrize("name", ["relu", "ssm, centred", "root"])
def test_the_price(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, taken = random_graph(), []
    trace = traced(NETWORKS[name](), data)
    for kind in ("vjp", "jvp"):
        product = getattr(Segment, kind)
        monkeypatch.setattr(
            Segment, kind, lambda *a, f=product: [taken.append(1), f(*a)][1]
        )
    predicted(trace, data)
    assert len(taken) <= prediction_products(trace)


def test_single_precision() -> None:
    tables = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model, data = GCN(*SHAPE).to(dtype), random_graph()
        data.x = data.x.to(dtype)
        trace = capture(Problem(model, data), dtype=None)
        assert trace.dtype == dtype
        tables.append(predicted(trace, data))
    for name in ("theory.largest_singular_value", "theory.feature_norm"):
        found, exact = (table.series(name)[1] for table in tables)
        assert found == pytest.approx(exact, abs=1e-4)


def test_graph_conv_bounds_are_sums() -> None:
    """Two terms: the norms of both add up."""
    data = random_graph()
    conv = GraphConv(3, 3, bias=False)
    conv.lin_rel.weight.data = 0.5 * torch.eye(3)
    conv.lin_root.weight.data = 2 * torch.eye(3)
    trace = traced(conv, data)
    bound = predicted(trace, data).value("theory.largest_singular_value", "layer:1")
    adjacency = torch.zeros(8, 8)
    adjacency[data.edge_index[1], data.edge_index[0]] = 1
    norm = float(torch.linalg.matrix_norm(adjacency, 2))
    assert bound == pytest.approx(2 + norm / 2)
