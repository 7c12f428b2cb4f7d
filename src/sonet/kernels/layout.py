"""How tensors lie in memory: the kernels take dense ones, of one dtype and layout."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(values: Tensor) -> Tensor:
    """Dense, the channel running fastest."""
    return values.contiguous(memory_format=torch.channels_last)


def dense(values: Tensor) -> bool:
    """Whether a sample's numbers lie together in memory, sample after sample, in whatever order."""
    return values.is_contiguous() or (values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last))


def alike(*tensors: Tensor) -> bool:
    """Whether all are dense, of one shape, dtype and layout in memory."""
    first = tensors[0]
    return dense(first) and all(
        other.shape == first.shape and other.stride() == first.stride() and other.dtype == first.dtype
        for other in tensors[1:]
    )
