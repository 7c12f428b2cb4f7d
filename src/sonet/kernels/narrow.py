"""Transposed convolutions to few channels."""

from __future__ import annotations

import torch
from torch import Tensor

from sonet.kernels.calls import address, library_for, threads

LANES = {torch.float32: 16, torch.float64: 8}


def narrow_kernel(weight: Tensor, width: int) -> Tensor | None:
    """A kernel (C, Z, 3, 3) as `narrow_transpose` wants it, (3, 3, Z, C); None where it is not for such a kernel.

    width: of the images; at least 4. Z <= 4 is for colours and grey; C must be a multiple of the vector's lanes.
    """
    if weight.shape[1] > 4 or weight.shape[2:] != (3, 3) or width < 4 or weight.shape[0] % LANES[weight.dtype]:
        return None
    return weight.flip(2, 3).permute(2, 3, 1, 0).contiguous()


def narrow_transpose(values: Tensor, kernel: Tensor) -> Tensor:
    """The transposed convolution with stride 1 and padding 1 to few channels: (N, C, H, W) -> (N, Z, H, W)."""
    n, c, height, width = values.shape
    result = values.new_empty(n, height, width, kernel.shape[2]).permute(0, 3, 1, 2)
    library_for(values).narrow_transpose(
        *map(address, (values, kernel, result)), n, height, width, c, kernel.shape[2], threads()
    )
    return result
