"""Readers of the two binary formats the official archives use. Bytes in, arrays out: nothing is executed or unpacked
to disk, and a file must have exactly the length its header promises.
"""

from __future__ import annotations

import gzip
import math
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonet.data.errors import DataError
from sonet.data.pixels import Pixels

_RETRY = "Delete it and load again to fetch a fresh copy."


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """The array in a gzipped IDX file (LeCun, Cortes, Burges: "The MNIST database", section "File formats").

        2 zero bytes | 0x08 for uint8 | number of axes | the axes, big-endian uint32 each | the values, row by row

    Errors: DataError for a cut or damaged gzip stream, another type or number of axes, or another length.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read as a gzip file ({error}); it is cut short or damaged. {_RETRY}"
        ) from error
    start = 4 + 4 * ndim
    if len(data) < start or data[:4] != bytes((0, 0, 8, ndim)):
        raise DataError(
            f"{path}: expected an IDX file of uint8 with {ndim} axes (it begins 00 00 08 {ndim:02x}), "
            f"got {data[:4].hex(' ') or 'nothing'}. Images have 3 axes and labels 1; check that files are not swapped."
        )
    shape = tuple(int(axis) for axis in np.frombuffer(data, ">u4", ndim, offset=4))
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{path}: expected {math.prod(shape)} values for the shape {shape} in its header, got {len(data) - start}. "
            f"The file is not whole. {_RETRY}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read_idx_four(paths: Sequence[Path]) -> tuple[Pixels, Pixels]:
    """(train, test) from four IDX files: training images, training labels, test images, test labels."""
    train_images, train_labels, test_images, test_labels = paths
    return (
        Pixels(read_idx(train_images, 3), read_idx(train_labels, 1), str(train_images)),
        Pixels(read_idx(test_images, 3), read_idx(test_labels, 1), str(test_images)),
    )


def read_cifar(
    paths: Sequence[Path], *, train: Sequence[str], test: Sequence[str], label_bytes: int
) -> tuple[Pixels, Pixels]:
    """(train, test) from CIFAR's binary archive (Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html).

    Each record is `label_bytes` labels, of which the last is the finest, and 3072 bytes of pixels: 32 rows of 32 red
    values, then green, then blue. The authors' "python version" is a pickle, which can run code, and is never read.

    train, test: names of the members in order. Only these are read, in memory; whatever else the archive holds, a
    path out of it or a link among them, is passed over.
    Errors: DataError for a cut archive, a missing member, or a length that is no whole number of records.
    """
    (path,) = paths
    members = _read_members(path, (*train, *test))
    record = label_bytes + 3 * 32 * 32

    def split(names: Sequence[str], which: str) -> Pixels:
        for name in names:
            if not members[name] or len(members[name]) % record:
                raise DataError(
                    f"{path}: {name} has {len(members[name])} bytes, expected a whole number of records of {record}. "
                    f"The archive is not whole. {_RETRY}"
                )
        records = np.frombuffer(b"".join(members[name] for name in names), np.uint8).reshape(-1, record)
        images = records[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return Pixels(images, records[:, label_bytes - 1], f"{path}: {which}")

    return split(train, "train"), split(test, "test")


def _read_members(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:  # in the order of the file: going back would unpack from the start again
                if member.name in names and member.isreg():
                    content = archive.extractfile(member)
                    if content is not None:
                        found[member.name] = content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: cannot be read as a .tar.gz archive ({error}); it is cut short or damaged. {_RETRY}"
        ) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(
            f"{path}: expected the members {', '.join(names)}, got none named {', '.join(missing)}. This is another "
            "archive; take the authors' binary version (its name ends in -binary.tar.gz)."
        )
    return found
