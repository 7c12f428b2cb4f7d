"""Which samples hold nothing but finite numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from sonet.kernels import all_finite, dense, usable
from sonet.types import State


def finite_samples(tensors: State) -> Tensor:
    """(N,) bool: whether all of a sample's numbers are finite."""
    return torch.stack([_finite(part) for part in tensors]).all(0)


def _finite(part: Tensor) -> Tensor:
    if dense(part) and usable(part):
        return all_finite(part)
    return torch.isfinite(part).reshape(len(part), -1).all(1)
