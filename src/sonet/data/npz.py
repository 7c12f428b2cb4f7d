"""An .npz of arrays, the format to bring one's own images in."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonet.data.errors import DataError
from sonet.data.pixels import Pixels

_KEYS = ("x_train", "y_train", "x_test", "y_test")
_MOST_CLASSES = 65_536
"""More classes than this are taken for a mistake: labels such as 2^31 would otherwise name two billion classes."""


def read_npz(path: Path, classes: tuple[str, ...] | None = None) -> tuple[Pixels, Pixels, tuple[str, ...]]:
    """(train, test, classes) from x_train, y_train, x_test, y_test and, optionally, classes.

    Shapes: images uint8 (N, H, W) or (N, H, W, C) with C 1 or 3; labels integers (N,); classes strings (K,).
    Where the file names no classes they are those given here, else "0", "1", ... up to the largest label.
    Object arrays are refused, since reading them would unpickle and so could run code from the file.

    Errors: DataError for another kind of file, missing keys, wrong types or shapes.
    """
    present = _names(path)
    missing = [key for key in _KEYS if key not in present]
    if missing:
        raise DataError(
            f"{path}: expected the arrays {', '.join(_KEYS)}, got {', '.join(sorted(present)) or 'none'}. "
            f"Without {', '.join(missing)} nothing can be trained and tested; add them with np.savez."
        )
    arrays = {key: _read_array(path, key) for key in (*_KEYS, "classes") if key in present}
    train = Pixels(arrays["x_train"], arrays["y_train"], f"{path}: train")
    test = Pixels(arrays["x_test"], arrays["y_test"], f"{path}: test")
    if "classes" in arrays:
        classes = _class_names(path, arrays["classes"])
    return train, test, classes or _numbered(path, train, test)


def _names(path: Path) -> set[str]:
    """The arrays an .npz holds, from the zip's table: numpy itself would take a bare pickle for a file of its own."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{path}: expected an .npz (a zip of arrays), got another kind of file or one cut short ({error}). "
            "Write it with np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)."
        ) from error


def _read_array(path: Path, key: str) -> NDArray[np.generic]:
    try:
        with np.load(path, allow_pickle=False) as file:
            array = file[key]
    except (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: {key} cannot be read ({error}). Expected a plain array of numbers or strings in a whole file; "
            "arrays of Python objects are refused, since reading them could run code."
        ) from error
    if not isinstance(array, np.ndarray):  # numpy hands out a member that is no .npy as its bytes
        raise DataError(f"{path}: {key} is not an array. Expected a file written by np.savez; write it again.")
    return array


def _class_names(path: Path, names: NDArray[np.generic]) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"{path}: expected classes as strings of shape (K,), got {names.dtype} {names.shape}. "
            "Store np.array(['cat', 'dog', ...]), or leave classes out."
        )
    return tuple(str(name) for name in names)


def _numbered(path: Path, *splits: Pixels) -> tuple[str, ...]:
    largest = max((int(split.labels.max()) for split in splits if len(split)), default=0)
    if largest >= _MOST_CLASSES:
        raise DataError(
            f"{path}: the largest label is {largest}, expected less than {_MOST_CLASSES}. Labels are class numbers "
            "counted from 0 without gaps; renumber them."
        )
    return tuple(str(number) for number in range(largest + 1))
