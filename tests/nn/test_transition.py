"""Transitions against their own matrices, and their spectra against the formulas."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphfathom.nn.transition import (
    Centered,
    Dense,
    Diagonal,
    Orthogonal,
    Rotation,
    Scalar,
    Transition,
    layers_until_overflow,
    warn_if_growing,
)

WIDTH = 7
MAKERS: dict[str, Callable[..., Transition]] = {
    "Scalar": lambda **kwargs: Scalar(0.9, **kwargs),
    "Centered": lambda **kwargs: Centered(-0.3, **kwargs),
    "Diagonal": lambda **kwargs: Diagonal(low=-1.0, high=0.5, scale=2.0, **kwargs),
    "Orthogonal": lambda **kwargs: Orthogonal(0.8, seed=3, **kwargs),
    "Rotation": lambda **kwargs: Rotation(0.7, 0.1, 3.0, seed=2, **kwargs),
    "Dense": lambda **kwargs: Dense(seed=1, **kwargs),
    "Dense of a radius": lambda **kwargs: Dense(seed=1, radius=0.95, **kwargs),
}
BY_NAME = pytest.mark.parametrize("name", MAKERS)
TRAINABLE = pytest.mark.parametrize("trainable", [False, True])


def scrambled(part: Transition) -> Transition:
    """With every trainable entry away from its start."""
    with torch.no_grad():
        for value in part.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return part


def make(name: str, trainable: bool = False, channels: int = WIDTH) -> Transition:
    return scrambled(MAKERS[name](channels=channels, trainable=trainable))


def assert_same_multiset(found: Tensor, expected: Tensor) -> None:
    """Equal up to order: every value of one is matched to its nearest in the other."""
    assert found.shape == expected.shape
    rest = list(expected.tolist())
    for value in found.tolist():
        nearest = min(rest, key=lambda other: abs(other - value))
        assert abs(nearest - value) < 1e-7
        rest.remove(nearest)


@BY_NAME
@TRAINABLE
@pytest.mark.parametrize("channels", [1, 2, WIDTH])
def test_forward_is_the_matrix(name: str, trainable: bool, channels: int) -> None:
    part = make(name, trainable, channels)
    x = torch.randn(5, channels)
    assert part.matrix().shape == (channels, channels)
    torch.testing.assert_close(part(x), x @ part.matrix().mT)
    torch.testing.assert_close(part.scale * part.unscaled(x), part(x))


@BY_NAME
@TRAINABLE
@pytest.mark.parametrize("channels", [1, 2, 6, WIDTH])
def test_eigenvalues_are_those_of_the_matrix(
    name: str, trainable: bool, channels: int
) -> None:
    part = make(name, trainable, channels)
    expected = torch.linalg.eigvals(part.matrix().detach())
    assert_same_multiset(part.eigenvalues().detach(), expected)
    assert part.spectral_radius() == pytest.approx(float(expected.abs().max()))


@BY_NAME
def test_leading_dimensions(name: str) -> None:
    part, x = make(name), torch.randn(2, 3, WIDTH)
    torch.testing.assert_close(part(x)[1], part(x[1]))


@BY_NAME
def test_nothing_is_trained_unless_asked_for(name: str) -> None:
    assert not list(make(name).parameters())
    trained = make(name, trainable=True)
    assert list(trained.parameters())
    trained(torch.randn(5, WIDTH)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained.parameters())


@BY_NAME
@TRAINABLE
def test_a_new_scale_scales_the_matrix(name: str, trainable: bool) -> None:
    part = make(name, trainable)
    before = part.matrix() / part.scale
    part.set_scale(0.25)
    torch.testing.assert_close(part.matrix(), 0.25 * before)


@BY_NAME
@TRAINABLE
def test_state_dict_carries_everything(name: str, trainable: bool) -> None:
    part = make(name, trainable)
    part.set_scale(0.123456789)
    for width in (WIDTH, -1):  # a lazy one takes the width from the file
        other = MAKERS[name](channels=width, trainable=trainable)
        other.set_scale(5.0)
        other.load_state_dict(part.state_dict())
        assert other.channels == WIDTH
        assert other.scale == 0.123456789
        torch.testing.assert_close(other.matrix(), part.matrix(), rtol=0, atol=0)


@BY_NAME
def test_state_dict_survives_a_file(name: str, tmp_path: Any) -> None:
    part = make(name)
    torch.save(part.state_dict(), tmp_path / "part.pt")
    other = MAKERS[name]()
    other.load_state_dict(torch.load(tmp_path / "part.pt", weights_only=True))
    torch.testing.assert_close(other.matrix(), part.matrix(), rtol=0, atol=0)


@BY_NAME
@TRAINABLE
def test_reset_returns_to_the_seed(name: str, trainable: bool) -> None:
    part = make(name, trainable)
    part.reset_parameters()
    fresh = MAKERS[name](channels=WIDTH, trainable=trainable)
    torch.testing.assert_close(part.matrix(), fresh.matrix(), rtol=0, atol=0)


@BY_NAME
def test_the_global_generator_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    MAKERS[name](channels=WIDTH).reset_parameters()
    assert torch.equal(torch.get_rng_state(), before)


@BY_NAME
def test_lazy_width_comes_from_the_first_input(name: str) -> None:
    lazy, x = MAKERS[name](), torch.randn(5, WIDTH)
    torch.testing.assert_close(lazy(x), MAKERS[name](channels=WIDTH)(x))
    lazy.reset_parameters()
    lazy.bind(WIDTH)
    assert lazy.bind(WIDTH).channels == WIDTH
    with pytest.raises(ValueError, match=r"is made for 7 channels. Got 8: give layers"):
        lazy.bind(WIDTH + 1)
    with pytest.raises(ValueError, match=r"is made for 7 channels. Got 3"):
        lazy(torch.randn(5, 3))


@BY_NAME
def test_copies_are_independent(name: str) -> None:
    part = make(name)
    other = copy.deepcopy(part)
    part.set_scale(7.0)
    assert other.scale != 7.0


@BY_NAME
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_of_the_module(name: str, dtype: torch.dtype) -> None:
    part = make(name).to(dtype)
    assert part(torch.randn(5, WIDTH, dtype=dtype)).dtype == dtype


def test_lazy_entries_take_the_dtype_of_the_first_input() -> None:
    part = Orthogonal()
    part(torch.randn(2, WIDTH, dtype=torch.float32))
    assert part.weight.dtype == torch.float32


@BY_NAME
def test_repr_builds_it_again(name: str) -> None:
    part = MAKERS[name](channels=WIDTH)
    names = {cls.__name__: cls for cls in type(part).__bases__[0].__subclasses__()}
    other = eval(repr(part), names)  # of our own text
    torch.testing.assert_close(other.matrix(), part.matrix())


def test_repr() -> None:
    assert repr(Scalar(0.5)) == "Scalar(0.5)"
    assert repr(Scalar(1, 8, trainable=True)) == (
        "Scalar(1, channels=8, trainable=True)"
    )
    assert repr(Diagonal([1.0, 0.5])) == "Diagonal(scale=1, channels=2)"
    assert repr(Diagonal()) == "Diagonal(low=0.5, high=1, scale=1)"
    assert repr(Orthogonal(0.9, seed=4)) == "Orthogonal(0.9, seed=4)"
    assert repr(Rotation()) == "Rotation(1, low=0, high=3.14159, seed=0)"
    assert repr(Dense()) == "Dense(seed=0, scale=1)"


def test_orthogonal_is_orthogonal() -> None:
    for part in (Orthogonal(channels=32), make("Orthogonal", True)):
        part.set_scale(1.0)
        q = part.matrix()
        torch.testing.assert_close(q @ q.mT, torch.eye(part.channels))


def test_orthogonal_matrices_are_uniform() -> None:
    """Haar measure: every entry has mean 0 and mean square 1/d."""
    drawn = torch.stack([Orthogonal(seed=s, channels=4).matrix() for s in range(800)])
    torch.testing.assert_close(drawn.mean(0), torch.zeros(4, 4), rtol=0, atol=0.09)
    square = torch.full((4, 4), 0.25)
    torch.testing.assert_close(drawn.square().mean(0), square, rtol=0, atol=0.05)


def test_rotation_has_the_angles() -> None:
    part = Rotation(0.9, 0.5, 0.5, channels=5)
    expected = 0.9 * torch.exp(1j * torch.tensor([0.5, 0.5, -0.5, -0.5, 0.0]))
    assert_same_multiset(part.eigenvalues(), expected)


def test_rotations_keep_the_norm() -> None:
    x = torch.randn(5, WIDTH)
    part = Rotation(seed=5)
    for _ in range(1000):
        y = part(x)
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))


def test_dense_has_the_statistics_of_a_linear_layer() -> None:
    entries = Dense(channels=400).matrix()
    bound = 1 / math.sqrt(400)
    assert float(entries.abs().max()) <= bound
    assert float(entries.mean()) == pytest.approx(0, abs=3e-4)
    assert float(entries.var()) == pytest.approx(1 / 1200, rel=0.02)
    assert Dense(channels=400).spectral_radius() == pytest.approx(3**-0.5, rel=0.1)
    norm = torch.linalg.matrix_norm(entries, 2)
    assert float(norm) == pytest.approx(2 / 3**0.5, rel=0.05)


def test_seeds_differ() -> None:
    for cls in (Dense, Orthogonal, Rotation):
        matrices = [cls(seed=seed, channels=4).matrix() for seed in (0, 0, 1)]
        assert torch.equal(matrices[0], matrices[1])
        assert not torch.equal(matrices[0], matrices[2])


def test_centered_takes_the_mean_off() -> None:
    y = Centered(2.0)(torch.randn(5, WIDTH))
    torch.testing.assert_close(y.mean(dim=1), torch.zeros(5))


def test_diagonal_entries() -> None:
    x = torch.ones(1, 3)
    assert Diagonal([1.0, 0.5, -2.0])(x).tolist() == [[1.0, 0.5, -2.0]]
    assert Diagonal(torch.tensor([1.0, 2.0])).channels == 2
    assert Diagonal(low=0.0, high=1.0)(x).tolist() == [[0.0, 0.5, 1.0]]


def test_fixed_scale_is_exact_in_every_dtype() -> None:
    """A buffer would round 0.999 to 1 in bfloat16."""
    part = nn.Sequential(Scalar(0.999)).to(torch.bfloat16)[0]
    assert part.scale == 0.999


def test_the_plain_scalar_costs_nothing() -> None:
    x = torch.randn(2, 3)
    assert Scalar(1.0)(x) is x


def test_layers_until_overflow() -> None:
    assert layers_until_overflow(1.0) == math.inf
    assert layers_until_overflow(10.0, torch.float16) == pytest.approx(4.816, abs=1e-3)
    x, radius = torch.ones(1, 1, dtype=torch.float32), 1.2
    layers = math.floor(layers_until_overflow(radius))
    for _ in range(layers):
        x = Scalar(radius)(x)
    assert bool(x.isfinite().all())
    assert bool(Scalar(radius)(x).isinf().all())


def test_growing_states_are_warned_about() -> None:
    message = (
        r"The trainable state matrix Scalar\(1.2, channels=4, trainable=True\) has an "
        r"eigenvalue of modulus 1.2 > 1: the state overflows float32 after about 487 "
        r"layers. Lower it with `set_scale\(1\)`."
    )
    part = Scalar(1.2, 4, trainable=True).to(torch.float32)
    with pytest.warns(UserWarning, match=message):
        warn_if_growing(part)
    with pytest.warns(UserWarning, match=r"The fixed state matrix Scalar\(2, chan"):
        warn_if_growing(Scalar(2.0, 4), 2000)
    with pytest.warns(UserWarning, match=r"modulus 1.1"):
        warn_if_growing(Diagonal([1.1, 0.2], trainable=True), 3)


def test_bounded_states_are_not_warned_about() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_growing(Scalar(1.0, 4, trainable=True), 1000)
        warn_if_growing(Orthogonal(channels=64, trainable=True).float(), 1000)
        warn_if_growing(Scalar(1.2, 4), 10)
        warn_if_growing(Scalar(5.0, trainable=True))  # not in use yet


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", None])
def test_a_scale_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"`radius` must be a finite number. Got "):
        Scalar(value)
    with pytest.raises(ValueError, match=r"`scale` must be a finite number. Got "):
        Centered(1.0).set_scale(value)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`channels` of Scalar must be >= 1. Got 0."):
        Scalar(1.0, 0)
    with pytest.raises(ValueError, match=r"Scalar does not know its width: pass `cha"):
        Scalar(1.0).matrix()
    with pytest.raises(ValueError, match=r"`low` must not exceed `high`. Got 2 and 1"):
        Diagonal(low=2, high=1)
    with pytest.raises(ValueError, match=r"`low` must not exceed `high`. Got 2 and 1"):
        Rotation(1.0, 2, 1)
    with pytest.raises(ValueError, match=r"`values` must have `channels` = 3 entries"):
        Diagonal([1.0, 2.0], channels=3)
    with pytest.raises(ValueError, match=r"row of finite numbers, .* shape \(1, 2\)"):
        Diagonal(torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"row of finite numbers"):
        Diagonal([math.nan])
    with pytest.raises(ValueError, match=r"`radius` must be >= 0 or None. Got -1."):
        Dense(radius=-1.0)
    with pytest.raises(ValueError, match=r"`scale` must be 1 beside `radius`.*Got 2."):
        Dense(radius=1.0, scale=2.0)


@BY_NAME
def test_compiles(name: str) -> None:
    part, x = make(name), torch.randn(5, WIDTH)
    compiled = torch.compile(part, fullgraph=True, dynamic=True, backend="eager")
    torch.testing.assert_close(compiled(x), part(x))
