"""Inputs at the edge of what the measures of smoothness accept, and beyond it."""

import math

import pytest
import torch
from torch.testing import assert_close

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

PATH = torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]])


def gaussian(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_graph_without_nodes_in_a_batch():
    x, batch = gaussian(3, 2), torch.tensor([0, 2, 2])
    none = torch.zeros(2, 0, dtype=torch.long)
    assert dirichlet_energy(x, none, batch=batch).tolist() == [0.0, 0.0, 0.0]
    per_node = dirichlet_energy(x, none, batch=batch, normalization="per-node")
    assert per_node.isnan().tolist() == [False, True, False]
    assert feature_rms(x, batch).isnan().tolist() == [False, True, False]
    assert effective_rank(x, batch)[1] == 0.0


def test_no_edges():
    x, none = gaussian(4, 2), torch.zeros(2, 0, dtype=torch.long)
    assert float(dirichlet_energy(x, none)) == 0.0
    assert float(dirichlet_energy(x, none, log10=True)) == -math.inf
    assert math.isnan(float(dirichlet_energy(x, none, normalization="per-edge")))
    assert float(rayleigh_quotient(x, none)) == 0.0
    assert float(component_deviation(x, none)) == 0.0


def test_zero_features():
    x, edge_index = torch.zeros(7, 3), PATH
    assert float(dirichlet_energy(x, edge_index)) == 0.0
    assert float(dirichlet_energy(x, edge_index, log10=True)) == -math.inf
    assert float(feature_rms(x)) == 0.0
    assert float(feature_rms(x, log10=True)) == -math.inf
    assert float(effective_rank(x)) == 0.0
    assert float(dead_units(x)) == 1.0
    assert math.isnan(float(rayleigh_quotient(x, edge_index)))
    assert math.isnan(float(component_deviation(x, edge_index)))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite(bad):
    x = gaussian(7, 3)
    x[6, 0] = bad
    edge_index = PATH[:, :4]  # the bad node has no edge
    for value in (
        dirichlet_energy(x, edge_index),
        dirichlet_energy(x, edge_index, variant="normalized", log10=True),
        rayleigh_quotient(x, edge_index),
        component_deviation(x, edge_index),
        component_deviation(x, edge_index, kind="degree"),
        effective_rank(x),
        feature_rms(x),
    ):
        assert math.isnan(float(value))
    batch = torch.tensor([0] * 5 + [1] * 2)
    energies = dirichlet_energy(x, edge_index, batch=batch)
    assert energies.isnan().tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_is_measured_in_float64(dtype):
    x = (1e-3 * gaussian(7, 4)).to(dtype)
    edge_index = PATH
    for measure in (dirichlet_energy, rayleigh_quotient, component_deviation):
        assert measure(x, edge_index).dtype == torch.float64
        assert_close(measure(x, edge_index), measure(x.double(), edge_index))
    assert_close(effective_rank(x), effective_rank(x.double()))


def test_measures_leave_their_input_alone():
    x, edge_index = gaussian(7, 4).requires_grad_(), PATH
    before, old_edges = x.detach().clone(), edge_index.clone()
    assert not dirichlet_energy(x, edge_index, variant="normalized").requires_grad
    assert not effective_rank(x).requires_grad
    assert torch.equal(x, before)
    assert torch.equal(edge_index, old_edges)


def test_dead_units():
    x = gaussian(5, 4)
    x[:, 1] = 0
    x[2, 3] = 0
    x[:, 2] = -0.0
    assert float(dead_units(x)) == 0.5
    x[0, 1] = math.nan
    x[0, 2] = 1e-320
    assert float(dead_units(x)) == 0.0


def test_observations_refuse_states_of_another_graph():
    structure = GraphStructure.from_edge_index(PATH, 7)
    match = r"`states\[1\]` must have shape \(7, F\), one row per node\. Got \(6, 2\)\."
    with pytest.raises(ValueError, match=match):
        energy_observations([gaussian(7, 2), gaussian(6, 2)], structure)
    with pytest.raises(ValueError, match=r"`states\[0\]` must have shape \(7, F\)"):
        energy_observations([gaussian(7, 2, 2)], structure)


@pytest.mark.parametrize("shape", [(7,), (7, 2, 2), (0, 3), (7, 0)])
def test_features_of_wrong_shape(shape):
    with pytest.raises(
        ValueError, match=r"`x` must have shape \(N, F\) with N, F >= 1"
    ):
        effective_rank(torch.ones(shape))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_features_of_wrong_dtype(dtype):
    with pytest.raises(TypeError, match="`x` must be a real floating-point tensor"):
        feature_rms(torch.ones(3, 2, dtype=dtype))
    with pytest.raises(TypeError, match="`x` must be a real floating-point tensor"):
        dead_units(torch.ones(3, 2, dtype=dtype))


@pytest.mark.parametrize(
    "batch", [torch.zeros(2).long(), torch.zeros(3), torch.tensor([0, -1, 0])]
)
def test_bad_batch(batch):
    with pytest.raises(ValueError, match="`batch` must hold one graph index >= 0"):
        effective_rank(torch.ones(3, 2), batch)


def test_batch_that_cuts_an_edge():
    with pytest.raises(ValueError, match="`batch` must not cut edges"):
        dirichlet_energy(
            torch.ones(2, 1), torch.tensor([[0], [1]]), batch=torch.tensor([0, 1])
        )


def test_bad_choices():
    x, edge_index = gaussian(7, 2), PATH
    with pytest.raises(ValueError, match=r"`variant` must be one of .*Got 'random'"):
        dirichlet_energy(x, edge_index, variant="random")
    with pytest.raises(
        ValueError, match=r"`normalization` must be one of .*Got 'mean'"
    ):
        dirichlet_energy(x, edge_index, normalization="mean")
    with pytest.raises(ValueError, match=r"`kind` must be one of .*Got 'mean'"):
        component_deviation(x, edge_index, kind="mean")
