"""Random crops and mirror images of a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from sonet.data.errors import DataError
from sonet.types import Images


def crop_and_flip(images: Images, *, generator: torch.Generator, padding: int = 4, flip: bool = True) -> Images:
    r"""Shift each image by up to `padding` pixels and mirror half of them.

    The augmentation of He et al. 2016 (section 4.2), with padding 4 there and in the paper's CIFAR training.

        out[n, c, i, j] = padded[n, c, r_n + i, s_n + j]              or, mirrored, j -> W - 1 - j

    with padded = images and `padding` zeros on all four sides, r_n and s_n uniform in {0, ..., 2 padding}, mirrored
    with probability 1/2; drawn for each sample on its own. The same generator state gives the same result.

    Shapes: (N, C, H, W) -> (N, C, H, W), contiguous; range and type are kept (0 may be new). The generator may live
    on another device than the images: the CPU's gives the same crops everywhere.
    Errors: DataError for other shapes or padding < 0.
    """
    if images.ndim != 4:
        raise DataError(
            f"crop_and_flip: expected images of shape (N, C, H, W), got {tuple(images.shape)}. "
            "Add the missing axis with unsqueeze."
        )
    if padding < 0:
        raise DataError(f"crop_and_flip: expected padding >= 0, got {padding}. It is a number of pixels on each side.")
    n, _, height, width = images.shape
    shifts = torch.randint(0, 2 * padding + 1, (2, n), generator=generator, device=generator.device).to(images.device)
    # (N, C, 2p + 1, 2p + 1, H, W): every window of every image, as a view; the index copies one for each image.
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    crops = windows[torch.arange(n, device=images.device), :, shifts[0], shifts[1]]
    if flip:
        mirrored = torch.randint(0, 2, (n, 1, 1, 1), generator=generator, device=generator.device).to(images.device)
        crops = torch.where(mirrored.bool(), crops.flip(3), crops)
    return crops.contiguous()
