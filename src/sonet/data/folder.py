"""A folder of image files, one subfolder for each class."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sonet.data.errors import DataError, first
from sonet.data.pixels import Pixels

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
_CHANNELS = {"L": 1, "RGB": 3}
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow's decoders raise on a damaged file."""

_Labelled = list[tuple[Path, int]]


def read_folder(
    root: Path, *, limit_train: int | None = None, limit_test: int | None = None
) -> tuple[Pixels, Pixels, tuple[str, ...], str]:
    """(train, test, classes, split rule) from ROOT/train/CLASS/* and ROOT/test/CLASS/*, or from ROOT/CLASS/*.

    In the second case every fifth file of a class, in sorted order, is a test image. Classes are numbered in sorted
    order. Each split is then shuffled by a fixed seed, so that its first n images are of all classes; only as many
    as the limits ask for are decoded. Files are .png, .jpg, .jpeg or .bmp, all of one size and mode (grey or RGB),
    their pixels as stored; hidden files are passed over.

    Errors: DataError for any other file or mode, mixed sizes, a damaged image (each names the file), a class without
    images, or different classes in train and test.
    """
    has = [(root / which).is_dir() for which in ("train", "test")]
    if any(has):
        if not all(has):
            raise DataError(
                f"{root}: expected both a train and a test folder, got only {'train' if has[0] else 'test'}. Add the "
                "other, or put the class folders directly under the root for a split of every fifth file."
            )
        train_files, test_files = _class_files(root / "train"), _class_files(root / "test")
        if train_files.keys() != test_files.keys():
            differing = sorted(train_files.keys() ^ test_files.keys())
            raise DataError(
                f"{root}: expected the same classes in train and test, but only one of them has "
                f"{', '.join(differing)}. Labels would not agree; add or remove these folders."
            )
        rule = "training images from the folder train, test images from the folder test"
    else:
        train_files, test_files = {}, {}
        for name, files in _class_files(root).items():
            if len(files) < 5:
                raise DataError(
                    f"{root / name}: expected 5 images or more, got {len(files)}. Every fifth is a test image, so this "
                    "class would have none; add images, or make train and test folders."
                )
            test_files[name] = files[4::5]
            train_files[name] = [file for index, file in enumerate(files) if index % 5 != 4]
        rule = "every fifth file of each class, in sorted order, is a test image"
    classes = tuple(train_files)
    train = _shuffled(train_files)[: _count(train_files, limit_train, f"{root}: train")]
    test = _shuffled(test_files)[: _count(test_files, limit_test, f"{root}: test")]
    return (
        _decode(train, f"{root}: train"),
        _decode(test, f"{root}: test"),
        classes,
        f"{rule}; each split shuffled by numpy's RandomState(0)",
    )


def _class_files(root: Path) -> dict[str, list[Path]]:
    """The sorted image files of each class folder, classes sorted. Nothing but images may lie in a class folder."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise DataError(
            f"{root}: expected a folder for each class, such as {root / 'cat' / '1.png'}, got none. "
            "The name of its folder is an image's label; sort the images into folders."
        )
    classes: dict[str, list[Path]] = {}
    for folder in folders:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        for path in files:
            if path.suffix.lower() not in _SUFFIXES or not path.is_file():
                raise DataError(
                    f"{path}: expected an image file ({', '.join(_SUFFIXES)}) in a class folder. Leaving it out "
                    "silently would change the data; convert it or move it away."
                )
        if not files:
            raise DataError(
                f"{folder}: expected images in this class folder, got none. Add some, or remove the folder."
            )
        classes[folder.name] = files
    return classes


def _count(classes: dict[str, list[Path]], limit: int | None, what: str) -> int:
    return first(limit, sum(len(files) for files in classes.values()), what)


def _shuffled(classes: dict[str, list[Path]]) -> _Labelled:
    labelled = [(path, label) for label, files in enumerate(classes.values()) for path in files]
    order = np.random.RandomState(0).permutation(len(labelled))  # a stream numpy has frozen, unlike default_rng's
    return [labelled[index] for index in order]


def _decode(files: Sequence[tuple[Path, int]], where: str) -> Pixels:
    reference = files[0][0]
    image = _decode_one(reference)
    images = np.empty((len(files), *image.shape), np.uint8)
    for index, (path, _) in enumerate(files):
        image = _decode_one(path)
        if image.shape != images.shape[1:]:
            raise DataError(
                f"{path}: expected (H, W, C) = {images.shape[1:]} like {reference}, got {image.shape}. All images "
                "become one tensor; resize or convert them to one size and mode."
            )
        images[index] = image
    return Pixels(images, np.array([label for _, label in files], np.int64), where)


def _decode_one(path: Path) -> NDArray[np.uint8]:
    """(H, W, C) uint8."""
    try:
        with Image.open(path) as image:
            mode, array = image.mode, np.asarray(image)
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be decoded as an image ({error}). Replace it or remove it.") from error
    if mode not in _CHANNELS:
        raise DataError(
            f"{path}: expected a grey (L) or RGB image, got mode {mode}. What its other values mean is not known "
            "here; convert it with Pillow's image.convert('RGB')."
        )
    return array.reshape(*array.shape[:2], _CHANNELS[mode])
