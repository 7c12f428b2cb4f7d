"""Randomness that belongs to the image: the same image and seed give the same noise in any batch and any order."""

from __future__ import annotations

import hashlib
import math
from typing import Literal

import torch
from torch import Tensor

from sonet.types import Images

_GOLDEN, _MIX_1, _MIX_2 = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


Directions = Literal["independent", "orthogonal"]
"""How random directions of one image lie to each other."""


class ImageNoise:
    """A stream of random numbers for each image, from a hash of its pixels and `seed`, drawn for all images at once.

    The stream is SplitMix64 (Steele, Lea, Flood 2014) in integer arithmetic, the same on every device. Images that are
    equal pixel by pixel get the same numbers.
    """

    def __init__(self, images: Images, seed: int) -> None:
        self._shape, self._dtype = images.shape[1:], images.dtype
        keys = []
        for image in images.detach().cpu().contiguous().to(torch.float32):
            digest = hashlib.blake2b(image.numpy().tobytes(), digest_size=8, key=str(seed).encode()).digest()
            keys.append(int.from_bytes(digest, "little", signed=True))
        self._keys = torch.tensor(keys, dtype=torch.int64, device=images.device)
        self._drawn = self._rows = 0

    def keep(self, index: Tensor) -> ImageNoise:
        """Go on with some of the images only."""
        kept = object.__new__(ImageNoise)
        kept._shape, kept._dtype = self._shape, self._dtype
        kept._keys, kept._drawn, kept._rows = self._keys[index], self._drawn, self._rows
        return kept

    def catch_up(self, kept: ImageNoise) -> None:
        """Go on behind what `kept`, which came from `keep`, has drawn meanwhile."""
        self._drawn, self._rows = max(self._drawn, kept._drawn), max(self._rows, kept._rows)

    def uniform(self, *shape: int) -> Tensor:
        """(N, *shape) in [0, 1), multiples of 2^-24; the shape of an image if none is given."""
        return self._uniform(shape or tuple(self._shape))

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape), standard normal (Box and Muller 1958); the shape of an image if none is given."""
        radius = (-2 * torch.log1p(-self.uniform(*shape))).sqrt()
        return radius * torch.cos(2 * math.pi * self.uniform(*shape))

    def scalar(self) -> Tensor:
        """(N,) in [0, 1)."""
        return self._uniform(())

    def integers(self, high: int) -> Tensor:
        """(N,) int64, uniform in 0 .. high - 1, for high up to 2^20."""
        return (self._words(1)[:, 0] >> 21 & 0x7FFFFFFFFFF) * high >> 43

    def signs(self, *shape: int) -> Tensor:
        """(N, *shape, C, H, W) of -1 and +1, each with probability one half: one bit each."""
        whole = (*shape, *self._shape)
        count = math.prod(whole)
        return self._as_signs(self._words(-(-count // 64)), count).view(-1, *whole)

    def directions(self, count: int, kind: Directions) -> Tensor:
        """(N, count, C, H, W): `count` directions in {-1, +1}^d, by `signs` or by `orthogonal_signs`."""
        return self.signs(count) if kind == "independent" else self.orthogonal_signs(count)

    def orthogonal_signs(self, count: int) -> Tensor:
        """(N, count, C, H, W) of -1 and +1: v_k = s h_k for the next `count` of k = 0, 1, 2, ..., pixel by pixel.

        h_k is row k mod n of Sylvester's Hadamard matrix, h_k[j] = (-1)^popcount(k and j), n = 2^p >= d = C H W; s is
        the image's own random signs, always the same. Each v_k alone is uniform in {-1, +1}^d, and any n in a row have
        sum_k v_k v_k^T = n I exactly, where n independent ones miss that by sqrt(d / n).
        """
        pixels = math.prod(self._shape)
        order = 1 << (pixels - 1).bit_length()
        device = self._keys.device
        rows = torch.arange(self._rows, self._rows + count, device=device) % order
        self._rows += count
        shared = rows[:, None] & torch.arange(pixels, device=device)
        for shift in (16, 8, 4, 2, 1):  # the parity of the bits moves into the last of them
            shared ^= shared >> shift
        hadamard = 1 - 2 * (shared & 1).to(self._dtype)
        own = self._as_signs(self._mixed(-torch.arange(1, -(-pixels // 64) + 1, device=device)), pixels)
        return (own[:, None] * hadamard).view(-1, count, *self._shape)

    def _as_signs(self, words: Tensor, count: int) -> Tensor:
        """The first `count` bits of (N, words) as (N, count) of -1 and +1."""
        bits = (words[:, :, None] >> torch.arange(64, device=words.device) & 1).flatten(1)[:, :count]
        return bits.to(self._dtype) * 2 - 1

    def _uniform(self, shape: tuple[int, ...]) -> Tensor:
        words = self._words(math.prod(shape)).view(-1, *shape)
        return (words >> 40 & 0xFFFFFF).to(self._dtype) * 2.0**-24

    def _words(self, count: int) -> Tensor:
        """(N, count) int64, every bit random."""
        places = torch.arange(self._drawn + 1, self._drawn + count + 1, device=self._keys.device)
        self._drawn += count
        return self._mixed(places)

    def _mixed(self, places: Tensor) -> Tensor:
        """(N, places) int64: the words at these places of each stream; those below 0 are never drawn in passing."""
        x = self._keys[:, None] + places * _GOLDEN
        x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * _MIX_1
        x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * _MIX_2
        return x ^ (x >> 31 & 0x1FFFFFFFF)
