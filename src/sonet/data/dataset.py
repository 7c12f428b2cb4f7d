"""What every other room gets: a split is images and labels, a dataset is a training and a test split with names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

from sonet.data.errors import DataError, first
from sonet.types import Images, Labels


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images with their labels, checked once here so that nobody has to check again.

    Shapes: images (N, C, H, W) float32 in [0, 1]; labels (N,) int64, each >= 0; N, C, H, W >= 1. Both are stored
    contiguous: a permuted view is copied once here instead of in every convolution.

    Errors: DataError for any other shape, type or range; a pixel that is not a number names its image.
    """

    images: Images
    labels: Labels

    def __post_init__(self) -> None:
        _check_images(self.images)
        _check_labels(self.labels, len(self.images))
        object.__setattr__(self, "images", self.images.contiguous())
        object.__setattr__(self, "labels", self.labels.contiguous())

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the bytes of the images, float32 little-endian, followed by those of the labels, int64."""
        digest = hashlib.sha256()
        digest.update(self.images.detach().cpu().numpy().astype("<f4", copy=False).data)
        digest.update(self.labels.cpu().numpy().astype("<i8", copy=False).data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        return f"Split({len(self)} images of shape {tuple(self.images.shape[1:])})"

    def take(self, n: int) -> Split:
        """The first n samples. Errors: DataError unless 1 <= n <= len(self)."""
        n = first(n, len(self), "images")
        return Split(self.images[:n], self.labels[:n])

    def batches(self, size: int) -> Iterator[tuple[Images, Labels]]:
        """All samples in order, `size` at a time (the last batch may be smaller); contiguous views, no copies."""
        if size < 1:
            raise DataError(f"Split.batches: expected a size >= 1, got {size}. It is the number of images in a batch.")
        starts = range(0, len(self), size)
        return ((self.images[start : start + size], self.labels[start : start + size]) for start in starts)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split of the same task, and the sentences that let a reader find the same images again.

    source: where the images came from. split_rule: how training and test images were told apart. title: what an .npz
    says its images are. official: whether `load(name)` gives these images on any machine.
    Errors: DataError where the splits differ in shape, a label has no class, or there are fewer than two classes.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    source: str
    split_rule: str
    title: str = ""
    official: bool = False

    def __post_init__(self) -> None:
        shapes = tuple(self.train.images.shape[1:]), tuple(self.test.images.shape[1:])
        if shapes[0] != shapes[1]:
            raise DataError(
                f"{self.name}: expected training and test images of one shape (C, H, W), got {shapes[0]} and "
                f"{shapes[1]}. One network sees both; resize one of them."
            )
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise DataError(
                f"{self.name}: expected two or more classes with different names, got {list(self.classes)[:5]}. "
                "With one class there is nothing to confuse; give the data with all its classes."
            )
        for which, split in (("train", self.train), ("test", self.test)):
            if int(split.labels.max()) >= len(self.classes):
                index = int((split.labels >= len(self.classes)).int().argmax())
                raise DataError(
                    f"{self.name}: {which} label {index} is {int(split.labels[index])}, expected 0 to "
                    f"{len(self.classes) - 1} for {len(self.classes)} classes. Number the classes from 0, or name all "
                    "of them."
                )

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.train.images.shape[2], self.train.images.shape[3]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def describe(self) -> dict[str, str | int | list[int]]:
        """What a record says about the data; every value can be written as JSON.

        test_sha256 and train_sha256 are those of the splits: two records with the same values speak of the same images.
        """
        return {
            "name": self.name,
            "title": self.title,
            "official": self.official,
            "source": self.source,
            "split_rule": self.split_rule,
            "n_train": len(self.train),
            "n_test": len(self.test),
            "shape": [self.channels, *self.size],
            "num_classes": self.num_classes,
            "train_sha256": self.train.sha256,
            "test_sha256": self.test.sha256,
        }


def _check_images(images: Images) -> None:
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(
            f"Split: expected images of shape (N, C, H, W), none of them 0, got {tuple(images.shape)}. "
            "Add the channel axis with images.unsqueeze(1), or move it with images.permute(0, 3, 1, 2)."
        )
    if images.dtype != torch.float32:
        raise DataError(
            f"Split: expected float32 images, got {images.dtype}. Attack radii are measured in [0, 1]; "
            "convert with images.float(), and divide grey levels by 255."
        )
    low, high = torch.aminmax(images)  # one pass without a copy; not-a-number passes through
    if float(low) >= 0 and float(high) <= 1:  # false for NaN, too
        return
    finite = images.isfinite().flatten(1).all(dim=1)
    if not finite.all():
        raise DataError(
            f"Split: image {int((~finite).int().argmax())} has a pixel that is NaN or infinite (in all "
            f"{int((~finite).sum())} of {len(images)} images do); expected numbers in [0, 1]. "
            "Every gradient through it would be NaN; remove or repair these images."
        )
    outside = ((images < 0) | (images > 1)).flatten(1).any(dim=1)
    raise DataError(
        f"Split: expected pixels in [0, 1], got {float(low):g} to {float(high):g}, first in image "
        f"{int(outside.int().argmax())}. Attack radii are measured in [0, 1]; divide grey levels by 255, and leave "
        "mean and variance to the model."
    )


def _check_labels(labels: Labels, n: int) -> None:
    if tuple(labels.shape) != (n,):
        raise DataError(
            f"Split: expected one label for each of {n} images, shape ({n},), got {tuple(labels.shape)}. "
            "Turn one-hot labels into numbers with labels.argmax(1)."
        )
    if labels.dtype != torch.int64:
        raise DataError(f"Split: expected int64 labels, got {labels.dtype}. Losses index with them; use labels.long().")
    if int(labels.min()) < 0:
        index = int((labels < 0).int().argmax())
        raise DataError(
            f"Split: label {index} is {int(labels[index])}, expected numbers from 0 on. "
            "Leave unlabelled images out, or number the classes from 0."
        )
