"""Diagnosis on a CUDA device: same numbers as on the CPU, nothing left behind.

Run by ``python -m pytest -m gpu tests/test_gpu.py`` on a machine that has one.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.nn import GCN

import graphfathom as gf
from graphfathom.datasets import csbm
from graphfathom.nn.zoo import build

pytestmark = pytest.mark.gpu

NAMES = ("gcn", "gat", "gin", "sage", "gcnii", "res+")


@pytest.fixture
def graph(float32_default: None) -> Data:
    """A graph in torch's own precision, as a user has it."""
    return csbm(200, 3, avg_degree=4, homophily=0.8, seed=0)


def network(name: str, graph: Data, num_layers: int) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(name, graph.num_features, 3, num_layers, 16)


@pytest.mark.parametrize("name", NAMES)
def test_verdict_and_numbers_are_those_of_the_cpu(name: str, graph: Data) -> None:
    model = network(name, graph, 16)
    here = gf.diagnose(model, graph)
    there = gf.diagnose(copy.deepcopy(model).cuda(), graph.clone().cuda())
    assert there.verdict.name == here.verdict.name
    for row in here.observations:
        twin = there.observations.get(row.name, row.place, row.run)
        assert twin is not None
        if row.dtype == "float64" and math.isfinite(row.value):
            # Sums in another order; 16 layers amplify the last bits.
            assert twin.value == pytest.approx(row.value, rel=1e-6, abs=1e-6), row


def test_model_on_the_device_is_bit_identical_afterwards(graph: Data) -> None:
    model = network("gcn", graph, 8).cuda()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random_state = torch.cuda.get_rng_state()
    gf.diagnose(model, graph.cuda(), controls="trained")
    assert torch.equal(random_state, torch.cuda.get_rng_state())
    for key, value in model.state_dict().items():
        assert value.is_cuda
        assert torch.equal(value, before[key])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_model_and_data_on_different_devices_are_refused(graph: Data) -> None:
    with pytest.raises(ValueError, match=r"model is on cuda:0 and the data on cpu"):
        gf.diagnose(network("gcn", graph, 2).cuda(), graph)


def test_half_precision_is_judged_as_it_runs(graph: Data) -> None:
    model = GCN(graph.num_features, 16, 32, 3).cuda().half()
    data = graph.cuda()
    data.x = data.x.half()
    report = gf.diagnose(model, data)
    rows = report.observations.select("exact_zeros")
    assert {row.dtype for row in rows} == {"float16"}
