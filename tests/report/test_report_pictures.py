"""Pictures: what goes into the PNG comes out of it."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from report_fixture import synthetic_record

from sonet.report import Picture, difference, png


def _pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_grey_keeps_its_levels_and_grows_by_the_scale() -> None:
    pixels = _pixels(png(torch.tensor([[[0.0, 1.0], [0.5, 0.2]]]), scale=3))
    assert pixels.shape == (6, 6)
    assert pixels[::3, ::3].tolist() == [[0, 255], [128, 51]]


def test_colour_keeps_its_channels() -> None:
    image = torch.zeros(3, 4, 5)
    image[2] = 1
    pixels = _pixels(png(image, scale=1))
    assert pixels.shape == (4, 5, 3)
    assert pixels[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 1, 4, 4), (4,), (1, 0, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="png: expected"):
        png(torch.zeros(shape))


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_pixels_without_a_colour_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]"):
        png(torch.full((1, 2, 2), value))


def test_a_scale_is_at_least_one() -> None:
    with pytest.raises(ValueError, match="scale >= 1"):
        png(torch.zeros(1, 2, 2), scale=0)


def test_a_difference_is_amplified_around_mid_grey() -> None:
    before = torch.tensor([[[0.5, 0.5, 0.5, 0.5]]], dtype=torch.float64)
    after = torch.tensor([[[0.5, 0.6, 0.4, 0.55]]], dtype=torch.float64)
    assert difference(before, after).ravel() == pytest.approx([0.5, 1.0, 0.0, 0.75])
    assert (difference(before, before) == 0.5).all()
    colour = torch.rand(3, 4, 5)
    assert difference(colour, 1 - colour).shape == (3, 4, 5)
    with pytest.raises(ValueError, match="one shape"):
        difference(before, after[..., :2])


def test_a_picture_holds_pngs_only() -> None:
    picture = synthetic_record(seeds=1).pictures[0]
    with pytest.raises(ValidationError, match="pattern"):
        Picture.model_validate({**picture.model_dump(), "original": '"><script>'})
