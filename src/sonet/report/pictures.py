"""Images inside a record: an original, its adversarial version and their difference, each a small PNG in base64."""

from __future__ import annotations

import base64
import io
from typing import Annotated

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field
from torch import Tensor

from sonet.report.schema import Entry

Pixels = npt.NDArray[np.float64]
"""(H, W) or (H, W, 3), float in [0, 1]."""

_Png = Annotated[str, Field(pattern=r"^iVBORw0KGgo[A-Za-z0-9+/]*={0,2}$")]  # how every PNG starts, in base64


class Picture(Entry):
    """One test image before and after an attack. Labels and predictions are the names of classes.

    attack: free text, such as "PGD-20, frozen steps". difference: amplified, see `difference`.
    """

    model: str
    objective: str = "natural"
    seed: int
    attack: str
    eps: float = Field(ge=0)
    index: int = Field(ge=0)
    label: str
    predicted_clean: str
    predicted_adversarial: str
    original: _Png
    adversarial: _Png
    difference: _Png

    @classmethod
    def of(
        cls,
        original: Tensor | Pixels,
        adversarial: Tensor | Pixels,
        *,
        model: str,
        seed: int,
        attack: str,
        eps: float,
        index: int,
        label: str,
        predicted_clean: str,
        predicted_adversarial: str,
        objective: str = "natural",
    ) -> Picture:
        """A picture from two images (C, H, W) in [0, 1], C 1 or 3."""
        return cls(
            model=model,
            objective=objective,
            seed=seed,
            attack=attack,
            eps=eps,
            index=index,
            label=label,
            predicted_clean=predicted_clean,
            predicted_adversarial=predicted_adversarial,
            original=png(original),
            adversarial=png(adversarial),
            difference=png(difference(original, adversarial)),
        )


def png(image: Tensor | Pixels, scale: int = 4) -> str:
    """An image as a PNG in base64, each pixel drawn as a square of `scale` x `scale`.

    Shapes: (H, W) or (C, H, W) with C 1 or 3; float in [0, 1].
    Errors: ValueError for any other shape or range.
    """
    pixels = _array(image)
    if scale < 1:
        raise ValueError(f"png: expected scale >= 1, got {scale}. It is the side of one pixel in the file.")
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        raise ValueError(
            f"png: expected pixels in [0, 1], got {pixels.min():g} to {pixels.max():g}. "
            "Other values have no colour; rescale them, or use `difference` for a signed image."
        )
    levels = np.rint(pixels * 255).astype(np.uint8).repeat(scale, axis=0).repeat(scale, axis=1)
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def difference(original: Tensor | Pixels, adversarial: Tensor | Pixels) -> Pixels:
    """adversarial - original as an image: mid grey is no change, black and white the largest change in this image.

    Shapes: as given, (H, W) or (C, H, W); the result keeps the channels in front, so that `png` takes it.
    """
    before, after = _array(original), _array(adversarial)
    if before.shape != after.shape:
        raise ValueError(
            f"difference: expected two images of one shape, got {before.shape} and {after.shape}. "
            "An attack changes pixels, not sizes."
        )
    change = after - before
    largest = float(np.abs(change).max())
    image = 0.5 + change / (2 * largest) if largest > 0 else np.full_like(change, 0.5)
    image = image.clip(0, 1)
    return np.moveaxis(image, -1, 0) if image.ndim == 3 else image


def _array(image: Tensor | Pixels) -> Pixels:
    """(H, W) for grey, (H, W, 3) for colour."""
    raw = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if raw.ndim == 3 and raw.shape[0] == 1:
        raw = raw[0]
    elif raw.ndim == 3 and raw.shape[0] == 3:
        raw = np.moveaxis(raw, 0, -1)
    elif raw.ndim != 2:
        raise ValueError(
            f"png: expected an image of shape (H, W), (1, H, W) or (3, H, W), got {raw.shape}. "
            "Give one image, not a batch."
        )
    if raw.size == 0:
        raise ValueError(f"png: expected at least one pixel, got shape {raw.shape}.")
    return raw.astype(np.float64)
