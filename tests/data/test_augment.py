"""crop_and_flip against its definition: every output is some window of the padded input, or its mirror image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sonet.data import DataError, crop_and_flip


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(image: torch.Tensor, padding: int) -> list[torch.Tensor]:
    """All windows of one padded image (C, H, W), by slicing, row by row."""
    _, height, width = image.shape
    padded = F.pad(image, (padding,) * 4)
    steps = range(2 * padding + 1)
    return [padded[:, row : row + height, column : column + width] for row in steps for column in steps]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 4),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_every_output_is_a_window_or_its_mirror_image(
    n: int, channels: int, height: int, width: int, padding: int, flip: bool, seed: int
) -> None:
    images = torch.rand(n, channels, height, width, generator=seeded(seed))
    out = crop_and_flip(images, generator=seeded(seed + 1), padding=padding, flip=flip)
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    assert out.is_contiguous()
    for image, result in zip(images, out, strict=True):
        candidates = windows(image, padding)
        if flip:
            candidates += [candidate.flip(2) for candidate in candidates]
        assert any(torch.equal(result, candidate) for candidate in candidates)


def test_shifts_and_mirrors_are_uniform_and_drawn_for_each_sample() -> None:
    """An image of distinct pixels tells which of the 9 windows and 2 directions it was given: 18 equal cells.

    chi^2 with 17 degrees of freedom exceeds 40.8 with probability 0.001; the seed is fixed.
    """
    n, image = 3600, torch.arange(1.0, 10.0).reshape(1, 3, 3) / 10
    out = crop_and_flip(image.expand(n, 1, 3, 3), generator=seeded(1), padding=1)
    cells = [candidate for window in windows(image, 1) for candidate in (window, window.flip(2))]
    counts = torch.tensor([int((out == cell).flatten(1).all(1).sum()) for cell in cells])
    assert int(counts.sum()) == n
    assert float(((counts - n / 18) ** 2 / (n / 18)).sum()) < 40.8


def test_the_generator_decides_everything() -> None:
    images = torch.rand(8, 3, 5, 5, generator=seeded())
    generator = seeded(3)
    once, twice = crop_and_flip(images, generator=generator), crop_and_flip(images, generator=generator)
    assert torch.equal(once, crop_and_flip(images, generator=seeded(3)))
    assert not torch.equal(once, twice)


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    crop_and_flip(torch.rand(4, 1, 3, 3, generator=seeded()), generator=seeded())
    assert torch.equal(before, torch.get_rng_state())


def test_no_padding_and_no_flip_is_the_identity() -> None:
    images = torch.rand(4, 3, 5, 6, generator=seeded())
    assert torch.equal(crop_and_flip(images, generator=seeded(), padding=0, flip=False), images)


@pytest.mark.parametrize("flip", [True, False])
def test_permuted_input_gives_the_same_contiguous_output(flip: bool) -> None:
    stored = torch.rand(4, 5, 6, 3, generator=seeded())
    view = stored.permute(0, 3, 1, 2)
    out = crop_and_flip(view, generator=seeded(2), flip=flip)
    assert out.is_contiguous()
    assert torch.equal(out, crop_and_flip(view.contiguous(), generator=seeded(2), flip=flip))


def test_the_input_is_not_changed() -> None:
    images = torch.rand(4, 1, 3, 3, generator=seeded())
    copy = images.clone()
    crop_and_flip(images, generator=seeded(), padding=0).zero_()
    assert torch.equal(images, copy)


@pytest.mark.parametrize(
    ("shape", "padding", "message"),
    [((3, 5, 5), 4, r"got \(3, 5, 5\)"), ((2, 3, 5, 5), -1, "padding >= 0, got -1")],
)
def test_refuses(shape: tuple[int, ...], padding: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        crop_and_flip(torch.zeros(shape), generator=seeded(), padding=padding)
