"""gLSTM against its equations without levels, and what it remembers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from graphs import make_graph, path_graph
from shells import hop_distances, with_shells
from torch import Tensor, nn
from torch_geometric.data import Data

from graphfathom.nn.adjacency import gcn_adjacency
from graphfathom.nn.zoo.glstm import GLSTM, GLSTMConv


def network(num_layers: int = 4, **options: Any) -> GLSTM:
    torch.manual_seed(0)
    model = GLSTM(3, 4, 2, num_layers, memory_channels=3, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


def call(model: nn.Module, data: Data) -> Tensor:
    return model(
        data.x, data.edge_index, shell_index=data.shell_index, shell_hop=data.shell_hop
    )


def layer(
    conv: Any, x: Tensor, C: Tensor, n: Tensor, shell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer; C of shape (N, H, M, M), values in rows, n of shape (N, H, M)."""
    heads, width = conv.heads
    z = conv.norm(x)
    forget, gate = conv.gates(z).exp().chunk(2, dim=-1)
    key = conv.key(z).view(-1, heads, width) / math.sqrt(width)
    value = conv.value(z).view(-1, heads, width)
    query = conv.query(torch.cat([z, shell @ z], dim=-1)).view(-1, heads, width)
    heard = shell + torch.eye(len(x))
    C = forget[..., None, None] * C
    C = C + torch.einsum("uv,vh,vhi,vhj->uhij", heard, gate, value, key)
    n = forget[..., None] * n + torch.einsum("uv,vh,vhj->uhj", heard, gate, key)
    size = torch.einsum("uhj,uhj->uh", n, query).abs().clamp(min=1)
    read = torch.einsum("uhij,uhj->uhi", C, query) / size[..., None]
    read = conv.head_norm(conv.out_gate(z).sigmoid() * read.flatten(1))
    return x + torch.tanh(conv.out(read)), C, n


@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize("khop", [False, True])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("num_heads", [1, 2])
def test_forward_is_the_equation(
    share_weights: bool, khop: bool, norm: bool, num_heads: int
) -> None:
    data = with_shells(path_graph(6), 5)
    options = {"share_weights": share_weights, "norm": norm}
    model = network(khop=khop, num_heads=num_heads, **options)
    distance = hop_distances(data).T
    x = model.encoder(data.x)
    C, n = torch.zeros(6, num_heads, 3, 3), torch.ones(6, num_heads, 3)
    for step in range(4):
        conv = model.layers[0 if share_weights else step]
        shell = (distance == (step + 1 if khop else 1)).double()
        x, C, n = layer(conv, x, C, n, shell)
    torch.testing.assert_close(call(model, data), model.head(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("level", [-40.0, 3.0, 40.0])
def test_the_level_of_the_memory_changes_nothing(level: float) -> None:
    data = path_graph(6)
    conv = network(khop=False).layers[0]
    adjacency = gcn_adjacency(data.edge_index, normalize=False)
    x, memory = torch.randn(6, 4), torch.randn(6, 12)
    at_zero = conv(x, memory, torch.zeros(6, 1), adjacency, step=1)
    scaled = torch.full((6, 1), level)
    x_out, out, out_level = conv(x, memory * math.exp(-level), scaled, adjacency, 1)
    torch.testing.assert_close(x_out, at_zero[0])
    torch.testing.assert_close(out * (out_level - at_zero[2]).exp(), at_zero[1])


@pytest.mark.parametrize("bias", [-20.0, 20.0])
def test_gates_may_leave_the_range_of_the_precision(bias: float) -> None:
    data = with_shells(path_graph(6), 1)
    model = network(num_layers=64, khop=False)
    with torch.no_grad():
        for conv in model.layers:
            conv.gates.bias.fill_(bias)
    expected = call(model, data)
    data.x = data.x.float()
    found = call(model.float(), data)
    assert found.isfinite().all()
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_a_question_of_zero_finds_nothing_at_any_level() -> None:
    data = path_graph(6)
    conv: Any = network(khop=False, norm=False).layers[0]
    nn.init.zeros_(conv.query.weight)
    nn.init.zeros_(conv.query.bias)
    adjacency = gcn_adjacency(data.edge_index, normalize=False)
    x, memory = torch.randn(6, 4), torch.randn(6, 12)
    out, _, _ = conv(x, memory, torch.full((6, 1), 1000.0), adjacency, step=1)
    assert torch.equal(out, x + torch.tanh(conv.out.bias))


def test_a_nan_stays_in_its_graph() -> None:
    data = with_shells(make_graph(4, [(0, 1), (1, 0), (2, 3), (3, 2)]), 4)
    data.x[0] = math.nan
    assert call(network(), data).isnan().any(1).tolist() == [True, True, False, False]


def test_recalls_the_value_of_a_neighbour_by_its_key() -> None:
    """A star whose centre asks; features are key, value and question."""
    width, leaves = 4, 4
    conv = GLSTMConv(3 * width, 1, width, norm=False, act=nn.Identity())
    one, none = torch.eye(width), torch.zeros(width, width)
    x = torch.zeros(leaves + 1, 3 * width)
    x[1:, :width], values = one, torch.randn(leaves, width)
    x[1:, width : 2 * width] = values
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.zero_()
        conv.gates.bias[0] = -1000  # forget what was stored
        conv.out_gate.bias.fill_(1000)
        conv.key.weight.copy_(torch.cat([one, none, none], 1) * math.sqrt(width))
        conv.value.weight.copy_(torch.cat([none, one, none], 1))
        conv.query.weight[:, 2 * width : 3 * width] = one
        conv.out.weight[:width] = one
    edges = torch.stack([torch.arange(1, leaves + 1), torch.zeros(leaves).long()])
    adjacency = gcn_adjacency(edges, num_nodes=leaves + 1, normalize=False)
    start = torch.zeros(leaves + 1, (width + 1) * width), torch.zeros(leaves + 1, 1)
    for leaf in range(leaves):
        asked = x.clone()
        asked[0, 2 * width + leaf] = 1
        out, _, _ = conv(asked, *start, adjacency, step=1)
        torch.testing.assert_close(out[0, :width], values[leaf])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 0}, r"`num_heads` must be an integer >= 1. Got 0."),
        ({"memory_channels": 0}, r"`memory_channels` must be an integer >= 1. Got 0."),
    ],
)
def test_bad_numbers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GLSTM(3, 4, 2, 4, **options)


def test_shells_are_needed_only_for_hops() -> None:
    data = path_graph()
    with pytest.raises(ValueError, match=r"apply `KHopShells\(4\)`"):
        network()(data.x, data.edge_index)
    assert network(khop=False)(data.x, data.edge_index).isfinite().all()
