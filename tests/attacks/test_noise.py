"""The noise that belongs to an image: its stream against a reference, its distributions, and what may not change it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import linalg, stats
from torch import Tensor
from toy_classifiers import images

from sonet.attacks.noise import ImageNoise

SHAPE = (2, 3, 3)


def noise(n: int = 4000, seed: int = 0) -> ImageNoise:
    return ImageNoise(images(n), seed)


def splitmix(state: int, count: int) -> list[int]:
    """The published generator, in Python's integers."""
    mask, drawn = 2**64 - 1, []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        drawn.append(z ^ (z >> 31))
    return drawn


def test_the_stream_is_splitmix64() -> None:
    """Against the values published for the seed 1234567, and a loop in Python for keys of either sign."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert splitmix(1234567, 3) == published
    drawn = noise(3)
    drawn._keys = torch.tensor([1234567, -1, 2**62])
    words = torch.cat([drawn._words(2), drawn._words(1)], 1)  # in two goes
    for row, key in zip(words.tolist(), (1234567, 2**64 - 1, 2**62), strict=True):
        assert [word % 2**64 for word in row] == splitmix(key, 3)


def chi_square(values: Tensor, bins: int) -> float:
    """The p-value of `values`, in 0 .. bins - 1, being uniform."""
    counts = torch.bincount(values.flatten(), minlength=bins).double()
    expected = values.numel() / bins
    return float(stats.chi2.sf(float(((counts - expected) ** 2 / expected).sum()), bins - 1))


def test_uniform_draws_are_uniform() -> None:
    drawn = noise().uniform()
    assert drawn.shape == (4000, *SHAPE)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    flat, n = drawn.flatten(), drawn.numel()
    assert abs(flat.mean().item() - 1 / 2) < 4 * (1 / 12 / n) ** 0.5
    assert abs(flat.var().item() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    assert 1e-3 < chi_square((64 * flat).long(), 64) < 1 - 1e-3
    assert 1e-3 < chi_square((2**24 * flat).long() % 64, 64) < 1 - 1e-3  # the last bits too


@pytest.mark.parametrize("seed", [0, 1])
def test_draws_do_not_depend_on_each_other(seed: int) -> None:
    """Not on the next pixel, the next draw, the next image or the next seed."""
    source = noise(seed=seed)
    first, second = source.uniform().flatten(1) - 0.5, source.uniform().flatten(1) - 0.5
    other = noise(seed=seed + 1).uniform().flatten(1) - 0.5
    bound = 4 / 12 / (first.numel() - 4000) ** 0.5
    for one, two in (
        (first[:, 1:], first[:, :-1]),
        (first, second),
        (first[1:], first[:-1]),
        (first, other),
    ):
        assert abs((one * two).mean().item()) < bound


def test_normal_draws_are_normal() -> None:
    drawn = noise().normal()
    flat, n = drawn.flatten(), drawn.numel()
    assert drawn.shape == (4000, *SHAPE)
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(flat.pow(power).mean().item() - expected) < 4 * (variance / n) ** 0.5
    assert stats.kstest(flat.numpy(), "norm").pvalue > 1e-3
    assert torch.isfinite(noise().normal(7)).all()


def test_a_uniform_of_zero_and_one_short_of_one_make_finite_normals() -> None:
    source = noise(1)
    for value in (0.0, 1 - 2.0**-24):
        source.uniform = lambda *shape, value=value: torch.full((1, 2), value)  # type: ignore[method-assign, misc]
        drawn = source.normal(2)
        assert torch.isfinite(drawn).all()
        assert drawn.abs().max() <= (48 * math.log(2)) ** 0.5 + 1e-6


def test_scalars_are_uniform() -> None:
    source = noise()
    drawn = torch.stack([source.scalar() for _ in range(10)])
    assert drawn.shape == (10, 4000)
    assert 1e-3 < chi_square((50 * drawn).long(), 50) < 1 - 1e-3


def test_signs_are_balanced_and_independent() -> None:
    """Over 70 directions, so that more than one word of 64 bits is used for each."""
    source = noise(300)
    signs = source.signs(70)
    assert signs.shape == (300, 70, *SHAPE)
    assert signs.abs().eq(1).all()
    n = signs.numel()
    assert abs(signs.mean().item()) < 4 / n**0.5
    flat = signs.flatten(2)
    again = source.signs(70).flatten(2)
    for one, two in (
        (flat[1:], flat[:-1]),
        (flat[:, 1:], flat[:, :-1]),
        (flat[:, :, 1:], flat[:, :, :-1]),
        (flat, again),
    ):
        assert abs((one * two).mean().item()) < 4 / one.numel() ** 0.5
    each = flat.flatten(1).mean(0).abs().max().item()  # of every pixel of every direction, over the images
    assert each < 5 / 300**0.5
    assert source.signs().shape == (300, *SHAPE)


def test_any_order_of_orthogonal_signs_in_a_row_are_a_frame() -> None:
    """sum v v^T = n I, whichever of the sequence comes first, drawn in one go or in several."""
    whole = noise(5).orthogonal_signs(96)
    assert whole.shape == (5, 96, *SHAPE)
    source = noise(5)
    parts = torch.cat([source.orthogonal_signs(count) for count in (1, 40, 55)], 1)
    assert torch.equal(parts, whole)
    assert torch.equal(whole[:, :32], whole[:, 32:64])  # 18 pixels: order 32
    for first in (0, 1, 17, 64):
        rows = whole[:, first : first + 32].flatten(2)
        gram = rows.transpose(1, 2) @ rows
        assert torch.equal(gram, 32 * torch.eye(18, dtype=gram.dtype).expand(5, 18, 18))


@pytest.mark.parametrize(("shape", "order"), [((1, 1, 1), 1), ((1, 1, 2), 2), ((1, 4, 4), 16), ((1, 28, 28), 1024)])
def test_orthogonal_signs_are_those_of_sylvester_s_matrix(shape: tuple[int, ...], order: int) -> None:
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    rows = ImageNoise(x, 0).orthogonal_signs(order).flatten(2)
    signs = rows[:, :1]  # row 0 of the matrix is ones
    expected = torch.from_numpy(linalg.hadamard(order))[:, : signs.shape[-1]]
    assert torch.equal(rows * signs, expected.expand_as(rows).to(rows.dtype))


def test_orthogonal_signs_are_fair_and_draw_nothing_else() -> None:
    n, source = 4000, noise()
    drawn = source.orthogonal_signs(3).flatten(2)
    assert drawn.abs().eq(1).all()
    assert drawn.mean(0).abs().max() < 5 / n**0.5  # of every pixel of every direction, over the images
    assert abs((drawn[1:] * drawn[:-1]).mean().item()) < 4 / (n * 18) ** 0.5  # image by image independent
    assert abs((drawn[:, 0, 1:] * drawn[:, 0, :-1]).mean().item()) < 4 / (n * 17) ** 0.5
    assert torch.equal(source.uniform(), noise().uniform())
    assert abs((drawn[:, 0] * noise().signs().flatten(1)).mean().item()) < 4 / (n * 18) ** 0.5


@pytest.mark.parametrize("high", [1, 2, 3, 10, 28, 1000])
def test_integers_are_uniform_and_in_range(high: int) -> None:
    source = noise()
    drawn = torch.stack([source.integers(high) for _ in range(10)])
    assert drawn.dtype == torch.int64
    assert drawn.unique().tolist() == list(range(high))
    if high > 1:
        assert 1e-3 < chi_square(drawn, high) < 1 - 1e-3


def test_integers_stay_in_range_up_to_the_largest() -> None:
    drawn = noise().integers(2**20)
    assert drawn.min() >= 0
    assert 2**20 * 0.999 < drawn.max() < 2**20
    assert drawn.double().mean().item() == pytest.approx(2**19, rel=0.03)


def draw_all(source: ImageNoise) -> list[Tensor]:
    return [
        source.uniform(),
        source.normal(2, 2),
        source.scalar(),
        source.integers(100),
        source.signs(3),
        source.uniform(5),
        source.orthogonal_signs(2),
    ]


def test_the_same_image_has_the_same_noise_in_any_batch() -> None:
    x = images(8)
    whole = draw_all(ImageNoise(x, 3))
    order = torch.tensor([5, 0, 7, 2, 1, 6, 3, 4])
    for index in (order, order[:3], order[3:4]):
        for one, two in zip(draw_all(ImageNoise(x[index], 3)), whole, strict=True):
            assert torch.equal(one, two[index])
    for one, two in zip(draw_all(ImageNoise(x, 4)), whole, strict=True):
        assert not torch.equal(one, two)
    equal = draw_all(ImageNoise(x[:1].expand(2, *SHAPE), 3))
    assert all(torch.equal(drawn[0], drawn[1]) for drawn in equal)


@pytest.mark.parametrize("index", [torch.tensor([4, 1]), torch.arange(6) % 2 == 0, torch.arange(6)], ids=str)
def test_who_is_kept_goes_on_with_the_same_stream(index: Any) -> None:
    x = images(6)
    whole, source = ImageNoise(x, 1), ImageNoise(x, 1)
    assert torch.equal(whole.normal(), source.normal())
    kept = source.keep(index)
    for one, two in zip(draw_all(kept), draw_all(whole), strict=True):
        assert torch.equal(one, two[index])
    source.catch_up(kept)
    assert torch.equal(source.uniform(), whole.uniform())
    source.catch_up(kept)  # which is behind now
    assert torch.equal(source.scalar(), whole.scalar())


def test_float32_and_float64_images_have_the_same_noise() -> None:
    x = images(5).float()
    single, double = draw_all(ImageNoise(x, 0)), draw_all(ImageNoise(x.double(), 0))
    for place, (one, two) in enumerate(zip(single, double, strict=True)):
        assert one.dtype == (torch.int64 if place == 3 else torch.float32)
        assert two.dtype == (torch.int64 if place == 3 else torch.float64)
        if place == 1:  # a logarithm and a cosine, rounded differently
            torch.testing.assert_close(one.double(), two, rtol=0, atol=1e-5)
        else:
            assert torch.equal(one.double(), two.double())


def test_drawing_leaves_torch_s_own_generator_alone() -> None:
    state = torch.get_rng_state()
    draw_all(noise(3))
    assert torch.equal(torch.get_rng_state(), state)
