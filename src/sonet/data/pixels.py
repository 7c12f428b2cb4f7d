"""Grey levels as archives hold them, before they become float32: the narrow place every reader goes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sonet.data.dataset import Split
from sonet.data.errors import DataError


@dataclass(frozen=True, eq=False)
class Pixels:
    """Images and labels of one split as stored.

    Shapes: images (N, H, W) or (N, H, W, C) uint8 with C 1 or 3, any strides; labels (N,) of an integer type.
    where: the file or archive and the split, for messages. white: the stored level that means 1.0.
    Errors: DataError for any other shape or type.
    """

    images: NDArray[Any]
    labels: NDArray[Any]
    where: str
    white: int = 255

    def __post_init__(self) -> None:
        shape, labels = self.images.shape, self.labels
        if self.images.dtype != np.uint8:
            raise DataError(
                f"{self.where}: expected images of type uint8 (grey levels 0 to 255), got {self.images.dtype}. The "
                "scale of other numbers would be a guess; store np.round(images * 255).astype(np.uint8) for images in "
                "[0, 1]."
            )
        if not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))):
            raise DataError(
                f"{self.where}: expected images of shape (N, H, W), or (N, H, W, C) with C 1 or 3, got {shape}. "
                "Channels come last in a file; move them with images.transpose(0, 2, 3, 1)."
            )
        if labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise DataError(
                f"{self.where}: expected labels of an integer type and shape (N,), got {labels.dtype} {labels.shape}. "
                "Store one class number for each image, counted from 0 (labels.reshape(-1) takes off a last axis of 1)."
            )
        if len(self.images) != len(labels):
            raise DataError(
                f"{self.where}: expected one label for each image, got {len(self.images)} images and {len(labels)} "
                "labels. One of the two is cut short; store both in full."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def to_split(self, n: int) -> Split:
        """The first n images, white scaled to 1, channels first: images / white, rounded once to float32."""
        stored = self.images[:n]
        stored = stored[:, None] if stored.ndim == 3 else stored.transpose(0, 3, 1, 2)
        pixels = np.empty(stored.shape, np.float32)
        # One pass from uint8 to float32 in the final layout; float64 copies of 60,000 images would cost gigabytes.
        np.divide(stored, np.float32(self.white), out=pixels, dtype=np.float32)
        try:
            return Split(torch.from_numpy(pixels), torch.from_numpy(self.labels[:n].astype(np.int64)))
        except DataError as error:
            raise DataError(f"{self.where}: {error}") from None
