"""Whether a network can take some images: asked before any work, so that the answer is a sentence."""

from __future__ import annotations

import torch
from torch import nn

from sonet.data import DataError
from sonet.types import Images


def check_fits(model: nn.Module, images: Images, name: str) -> None:
    """`DataError` unless `model` gives logits for the first of `images`; the model is left in eval mode."""
    wanted, (channels, height, width) = model.config.in_channels, images.shape[1:]  # type: ignore[union-attr]
    if channels != wanted:
        raise DataError(
            f"{name} has images with {channels} channels, and the network takes {wanted}. "
            "Give data of the kind it was trained on, or train one on these."
        )
    model.eval()
    try:
        with torch.no_grad():
            model(images[:1])
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{name} has images of {height} x {width} pixels, which this network cannot take ({error}). "
            "Every stage of stride 2 halves them: give larger images, or train a network with fewer such stages."
        ) from None
