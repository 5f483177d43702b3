"""All singular values and eigenvalues of layers, against dense decompositions."""

from __future__ import annotations

import pytest
import torch
from graphs import directed_graph, isolated_node, one_node, random_graph
from layer_cases import WIDTH, Stack, network, traced
from torch import Tensor
from torch_geometric.nn import GAT, GCN, GCNConv, GraphConv

import graphfathom as gf
from graphfathom.diagnostics import (
    JacobianError,
    all_singular_values,
    eigenvalue_cloud,
)

LINEAR = {
    "gcn": lambda: GCN(3, WIDTH, 4, 2, act=None),
    "directed weights": lambda: GCN(3, WIDTH, 4, 2, act=None, normalize=False),
    "ssm": lambda: linear_state_space(gf.nn.Scalar(0.9)),
    "ssm, rotation": lambda: linear_state_space(gf.nn.Orthogonal(0.9, seed=1)),
    "ssm, centred": lambda: linear_state_space(gf.nn.Scalar(1.0), gf.nn.Centered(0.5)),
}
GRAPHS = {
    "random": random_graph(),
    "directed": directed_graph(),
    "isolated": isolated_node(),
    "one node": one_node(),
}


def linear_state_space(state, input=None):
    return gf.nn.GNNSSM(
        3,
        WIDTH,
        2,
        num_layers=3,
        conv=GCNConv,
        act=None,
        state=state,
        input=input or gf.nn.Scalar(0.5),
    )


def same_cloud(values: Tensor, expected: Tensor) -> None:
    """Equal as sets: every eigenvalue has a partner of its own."""
    from scipy.optimize import linear_sum_assignment

    distance = (values[:, None] - expected[None]).abs()
    rows, columns = linear_sum_assignment(distance.numpy())
    assert float(distance[rows, columns].max()) <= 1e-6 * float(expected.abs().max())


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", LINEAR)
def test_linear_layer(name: str, graph: str) -> None:
    torch.manual_seed(0)
    trace = traced(LINEAR[name](), GRAPHS[graph])
    dense = trace.jacobian(1, 2).to_dense()
    torch.testing.assert_close(
        all_singular_values(trace, 2), torch.linalg.svdvals(dense), rtol=1e-9, atol=1e-9
    )
    cloud = eigenvalue_cloud(trace, 2)
    assert cloud.complete
    same_cloud(cloud.values, torch.linalg.eigvals(dense))


def test_layer_with_a_root_weight_is_of_the_same_kind() -> None:
    trace = traced(Stack(lambda: GraphConv(WIDTH, WIDTH)), random_graph())
    dense = trace.jacobian(1, 2).to_dense()
    torch.testing.assert_close(
        all_singular_values(trace, 2), torch.linalg.svdvals(dense), rtol=1e-9, atol=1e-9
    )


def test_width_that_changes() -> None:
    trace = traced(GCN(3, WIDTH, 4, 2, act=None), random_graph())
    for k in (1, 4):
        dense = trace.jacobian(k - 1, k).to_dense()
        values = all_singular_values(trace, k)
        torch.testing.assert_close(values, torch.linalg.svdvals(dense))
    with pytest.raises(ValueError, match="`operator` must be square"):
        eigenvalue_cloud(trace, 4)


@pytest.mark.parametrize(
    "model", [lambda: network("relu"), lambda: GAT(3, WIDTH, 3, 2)]
)
def test_other_layers_are_decomposed_densely(model) -> None:
    trace = traced(model(), random_graph())
    dense = trace.jacobian(1, 2).to_dense()
    values = all_singular_values(trace, 2)
    torch.testing.assert_close(values, torch.linalg.svdvals(dense))
    same_cloud(eigenvalue_cloud(trace, 2).values, torch.linalg.eigvals(dense))


def test_large_layer_is_refused_with_a_way_out() -> None:
    data = gf.datasets.csbm(1100, 2, avg_degree=3, homophily=0.8, seed=0)
    trace = traced(GCN(data.num_features, WIDTH, 3, 2), data)
    with pytest.raises(JacobianError, match="Take `graphfathom"):
        all_singular_values(trace, 2)
    cloud = eigenvalue_cloud(trace, 2, generator=torch.Generator().manual_seed(0))
    assert not cloud.complete
    assert float(cloud.residuals.max()) < 1e-6
