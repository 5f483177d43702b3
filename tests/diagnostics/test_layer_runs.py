"""Products taken side by side through closed forms, against one at a time."""

from __future__ import annotations

import math

import pytest
import torch
from graphs import directed_graph, isolated_node, random_graph, two_components
from layer_cases import WIDTH, network, traced
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.nn import GAT, GCN

from graphfathom.diagnostics.layer_runs import ClosedLayers, pulled, rescaled
from graphfathom.diagnostics.node_jacobian import MANY, NodeJacobian
from graphfathom.diagnostics.trace import capture
from graphfathom.problem import Problem

GRAPHS = [random_graph(), directed_graph(), two_components()]


def log10_blocks(jacobian: NodeJacobian, nodes: Tensor, vectors: Tensor) -> Tensor:
    """Logarithms of the absolute entries of all products, of shape (P, N, in)."""
    products = list(jacobian.pull(nodes, vectors))
    return torch.stack(
        [p.rows.abs().double().log10() + p.log10_scale for p in products]
    )


def both(jacobian: NodeJacobian) -> tuple[Tensor, Tensor]:
    """The same products, many together and few at a time."""
    nodes = torch.arange(max(MANY, jacobian.num_nodes)) % jacobian.num_nodes
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(nodes), jacobian.out_width, generator=generator).double()
    together = log10_blocks(jacobian, nodes, vectors)
    apart = [
        log10_blocks(jacobian, nodes[i : i + 5], vectors[i : i + 5])
        for i in range(0, len(nodes), 5)
    ]
    return together, torch.cat(apart)


@pytest.mark.parametrize("data", GRAPHS)
@pytest.mark.parametrize(
    "name",
    ["relu", "tanh", "linear", "taps", "pre-activation", "ssm", "convex", "stabilized"],
)
def test_together_and_apart(name: str, data: Data) -> None:
    together, apart = both(NodeJacobian(traced(network(name), data)))
    assert torch.equal(together.isneginf(), apart.isneginf())
    kept = apart > apart.amax() - 8
    torch.testing.assert_close(together[kept], apart[kept], rtol=0, atol=1e-6)


@pytest.mark.parametrize("data", [*GRAPHS, isolated_node()])
@pytest.mark.parametrize("roots", [[], [0], [1, 3], [0, 2, 3]])
@pytest.mark.parametrize(
    "name",
    ["relu", "sage", "graph conv, mean", "reversed", "pre-activation", "ssm, dense"],
)
def test_products_with_few_rows(name: str, roots: list[int], data: Data) -> None:
    form = ClosedLayers(traced(network(name), data)).form(2)
    assert form is not None
    nodes = torch.tensor(roots, dtype=torch.long)
    rows = torch.randn(len(roots), 3, form.out_channels, dtype=torch.float64)
    y = torch.zeros(form.num_nodes, 3, form.out_channels, dtype=torch.float64)
    expected = form.pull(y.index_copy(0, nodes, rows))
    found, where = form.pull_rows(rows, nodes)
    assert torch.equal(where, where.unique())
    made = torch.zeros_like(expected).index_copy(0, where, found)
    torch.testing.assert_close(made, expected)


def test_layers_without_a_form_are_taken_one_at_a_time() -> None:
    layers = ClosedLayers(traced(GAT(3, WIDTH, 3, 2), random_graph()))
    assert layers.runs([3, 2, 1]) == [[3], [2], [1]]
    layers = ClosedLayers(traced(network("relu"), random_graph()))
    assert layers.runs([5, 4, 3, 2, 1, 0]) == [[5], [4, 3, 2, 1], [0]]


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e3, 1e9])
def test_range_of_float32_is_never_left(scale: float) -> None:
    torch.manual_seed(0)
    model = GCN(3, WIDTH, 12, 2, act=None).float()
    data = random_graph()
    data.x = data.x.float()
    exact = both(NodeJacobian(capture(Problem(model, data))))[1]
    with torch.no_grad():
        for conv in model.convs:
            conv.lin.weight *= scale
    together, _ = both(NodeJacobian(capture(Problem(model, data), dtype=None)))
    expected = exact + 12 * math.log10(scale)
    kept = exact > exact.amax() - 3
    torch.testing.assert_close(together[kept], expected[kept], rtol=0, atol=1e-2)


def test_exponents_are_those_taken_out() -> None:
    trace = traced(network("ssm"), random_graph())
    forms = [ClosedLayers(trace).form(j) for j in (3, 2)]
    y = 1e200 * torch.randn(8, 3, WIDTH, dtype=torch.float64)
    found, exponents = pulled(y, forms)
    expected = forms[1].pull(forms[0].pull(y))
    factors = torch.tensor([2.0**e for e in exponents], dtype=torch.float64)
    torch.testing.assert_close(found * factors[:, None], expected)
    assert float(found.abs().max()) <= 2**8


def test_zeros_stay_zeros() -> None:
    trace = traced(network("relu"), random_graph())
    forms = [ClosedLayers(trace).form(j) for j in (3, 2)]
    found, exponents = pulled(torch.zeros(8, 2, WIDTH, dtype=torch.float64), forms)
    assert not found.any()
    assert exponents == [0, 0]


def test_rescaled_loses_no_digit() -> None:
    x = torch.tensor([3e-300, -1e-301], dtype=torch.float64)
    (scaled,), exponent = rescaled((x,))
    assert torch.equal(torch.ldexp(scaled, torch.tensor(exponent)), x)
    assert 0.5 <= float(scaled.abs().max()) <= 1
    for kept in (torch.zeros(2), torch.ones(2), torch.tensor([math.nan, 1.0])):
        assert rescaled((kept,))[1] == 0
