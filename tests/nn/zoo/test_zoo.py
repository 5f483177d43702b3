"""The contract that models outside of the common frame keep.

Those on it are tested by ``test_every_model.py``.
"""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from graphfathom.nn.zoo import NAMES, DeepGCN, build
from graphfathom.nn.zoo.builders import FRAMED

IN, HIDDEN, OUT, DEPTH = 5, 8, 3, 4

MODELS = {
    **{
        f"DeepGCN {block}": lambda block=block: DeepGCN(
            IN, HIDDEN, OUT, DEPTH, block=block
        )
        for block in ("res+", "res", "dense", "plain")
    },
    "DeepGCN batch": lambda: DeepGCN(IN, HIDDEN, OUT, DEPTH, norm=nn.BatchNorm1d),
    **{
        f"built {name}": lambda name=name: _built(name)
        for name in NAMES
        if name not in FRAMED
    },
}


def _built(name: str) -> nn.Module:
    return build(name, IN, OUT, num_layers=DEPTH, hidden_channels=HIDDEN)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    return MODELS[request.param]()


def graph(num_nodes: int, seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_nodes, IN, generator=generator)
    ring = torch.stack([torch.arange(num_nodes), torch.arange(num_nodes).roll(1)])
    chord = torch.tensor([[0], [num_nodes // 2]])
    edges = torch.cat([ring, chord], dim=1)
    return Data(x=x, edge_index=torch.cat([edges, edges.flip(0)], dim=1))


def call(model: nn.Module, data: Data) -> Tensor:
    if type(model).__name__ == "MLP":
        return model(data.x)
    return model(data.x, data.edge_index)


def test_shape(model: nn.Module) -> None:
    assert call(model, graph(9, 0)).shape == (9, OUT)


def test_permutation_equivariance(model: nn.Module) -> None:
    data = graph(9, 0)
    order = torch.randperm(9)
    inverse = order.argsort()
    permuted = Data(x=data.x[order], edge_index=inverse[data.edge_index])
    model.eval()
    torch.testing.assert_close(call(model, permuted), call(model, data)[order])


def test_batch_is_the_union_of_its_graphs(model: nn.Module) -> None:
    graphs = [graph(6, 0), graph(9, 1)]
    model.eval()
    alone = torch.cat([call(model, each) for each in graphs])
    torch.testing.assert_close(call(model, Batch.from_data_list(graphs)), alone)


def test_gradients_reach_every_parameter(model: nn.Module) -> None:
    call(model, graph(9, 0)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_reset_parameters_with_a_seed_reproduces(model: nn.Module) -> None:
    data = graph(9, 0)
    before = call(model, data)
    torch.manual_seed(7)
    model.reset_parameters()
    first = call(model, data)
    torch.manual_seed(7)
    model.reset_parameters()
    assert torch.equal(call(model, data), first)
    assert not torch.equal(first, before)


def test_save_and_load(model: nn.Module) -> None:
    data = graph(9, 0)
    model.eval()
    expected = call(model, data)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    model.reset_parameters()
    model.load_state_dict(torch.load(buffer))
    assert torch.equal(call(model, data), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    data = graph(9, 0)
    data.x = data.x.to(dtype)
    assert call(model.to(dtype), data).dtype == dtype


def test_repr_names_its_widths(model: nn.Module) -> None:
    assert f"({IN}, " in repr(model)
    assert str(OUT) in repr(model)
