"""Randomness that belongs to the image: the same image and seed give the same noise in any batch and any order."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from sonet.types import Images


class ImageNoise:
    """One generator for each image, seeded by a hash of its pixels and `seed`.

    Draws are made on the CPU, so that they do not depend on the device either.
    """

    def __init__(self, images: Images, seed: int) -> None:
        self._shape, self._device, self._dtype = images.shape[1:], images.device, images.dtype
        self._generators = []
        for image in images.detach().cpu().contiguous().to(torch.float32):
            digest = hashlib.blake2b(image.numpy().tobytes(), digest_size=7, key=str(seed).encode()).digest()
            self._generators.append(torch.Generator().manual_seed(int.from_bytes(digest, "little")))

    def keep(self, index: Tensor) -> ImageNoise:
        """Go on with some of the images only."""
        kept = object.__new__(ImageNoise)
        kept._shape, kept._device, kept._dtype = self._shape, self._device, self._dtype
        kept._generators = [self._generators[i] for i in index.tolist()]
        return kept

    def uniform(self) -> Tensor:
        """(N, C, H, W) in [0, 1)."""
        return self._draw(lambda g: torch.rand(self._shape, generator=g))

    def normal(self) -> Tensor:
        """(N, C, H, W), standard normal."""
        return self._draw(lambda g: torch.randn(self._shape, generator=g))

    def scalar(self) -> Tensor:
        """(N,) in [0, 1)."""
        return self._draw(lambda g: torch.rand((), generator=g))

    def signs(self, samples: int) -> Tensor:
        """(N, samples, C, H, W) of -1 and +1, each with probability one half."""
        return self._draw(lambda g: torch.randint(0, 2, (samples, *self._shape), generator=g)) * 2 - 1

    def _draw(self, one: object) -> Tensor:
        drawn = torch.stack([one(generator) for generator in self._generators])  # type: ignore[operator]
        return drawn.to(self._device, self._dtype)
