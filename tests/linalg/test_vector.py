import math

import pytest
import torch

from graphfathom.linalg import stable_norm
from graphfathom.linalg.vector import gaussian_vector, rademacher_vector


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-170, 1.0, 1e170, 1e307])
def test_stable_norm_at_any_scale(scale):
    tensor = torch.tensor([[3.0, 0.0], [4.0, 0.0]], dtype=torch.float64) * scale
    assert float(stable_norm(tensor)) == pytest.approx(5 * scale, rel=1e-14)


def test_stable_norm_of_nothing_zero_and_nan():
    assert float(stable_norm(torch.ones(0))) == 0.0
    assert float(stable_norm(torch.zeros(3))) == 0.0
    assert math.isnan(float(stable_norm(torch.tensor([1.0, math.nan]))))
    assert math.isnan(float(stable_norm(torch.tensor([1.0, math.inf]))))


@pytest.mark.parametrize("draw", [gaussian_vector, rademacher_vector])
@pytest.mark.parametrize("seed", range(3))
def test_draws(draw, seed):
    cpu, before = torch.device("cpu"), torch.get_rng_state()
    sample = draw(
        4000, torch.float64, cpu, generator=torch.Generator().manual_seed(seed)
    )
    single = draw(
        4000, torch.float32, cpu, generator=torch.Generator().manual_seed(seed)
    )
    assert torch.equal(sample.float(), single)
    # Five standard errors of the mean and of the mean square of 4,000 samples.
    assert abs(float(sample.mean())) < 5 / 4000**0.5
    assert abs(float(sample.square().mean()) - 1) < 5 * (2 / 4000) ** 0.5
    assert torch.equal(torch.get_rng_state(), before)


def test_rademacher_values():
    sample = rademacher_vector(100, torch.float64, torch.device("cpu"))
    assert sample.unique().tolist() == [-1.0, 1.0]
