"""One door to all data: a name, an .npz or a folder in, a checked Dataset out."""

from __future__ import annotations

import contextlib
import difflib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sonet.data.dataset import Dataset
from sonet.data.errors import DataError, first
from sonet.data.fetch import fetch
from sonet.data.folder import read_folder
from sonet.data.npz import read_npz
from sonet.data.pixels import Pixels
from sonet.data.sources import SOURCES

DATASETS: dict[str, str] = {
    "digits": "1,797 handwritten digits, 8 x 8 grey, 10 classes; comes with scikit-learn, no download",
    "mnist": "70,000 handwritten digits, 28 x 28 grey, 10 classes; 12 MB to download",
    "fashion-mnist": "70,000 pieces of clothing, 28 x 28 grey, 10 classes; 31 MB to download",
    "cifar10": "60,000 photographs, 32 x 32 RGB, 10 classes; 170 MB to download",
    "cifar100": "60,000 photographs, 32 x 32 RGB, 100 classes; 169 MB to download",
}
"""The names `load` knows, each with one line about it."""

_ALSO = "a path to an .npz (x_train, y_train, x_test, y_test) or to a folder of images by class"
_OFFICIAL = "the authors' training and test sets"
_LONGEST_TITLE = 200
_AS_STORED = "training and test arrays as stored in the file"


@dataclass(frozen=True, eq=False)
class _Parts:
    """What the readers agree on; becomes a Dataset when the limits are applied."""

    train: Pixels
    test: Pixels
    classes: tuple[str, ...]
    source: str
    split_rule: str
    title: str = ""
    official: bool = False


def load(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    limit_train: int | None = None,
    limit_test: int | None = None,
) -> Dataset:
    """Training and test images of a named dataset, an .npz of arrays, or a folder of images.

    name: one of DATASETS; or a path to an .npz with uint8 x_train, y_train, x_test, y_test (and classes); or a path
        to a folder ROOT/CLASS/*.png or ROOT/{train,test}/CLASS/*.png. A name goes before a path that is called alike:
        write ./digits for a folder of that name.
    data_dir: for names only: where archives are looked for and downloaded to (default: the user's cache folder).
        DATA_DIR/NAME.npz, where it exists, is taken instead of the official archives, and `source` says so, by the
        array `title` of the file (or `source`), one string, where it has one.
    limit_train, limit_test: only the first so many images of a split; the rule of the split says so.

    Shapes: images (N, C, H, W) float32 = grey level / 255 (digits: / 16) in [0, 1]; labels (N,) int64.
    Errors: DataError, whose one or two sentences say what was got, expected, why, and what to do.
    """
    directory = Path(data_dir) if data_dir is not None else None
    if isinstance(name, str) and name in DATASETS:
        parts, title = _named(name, directory), name
    else:
        path = _existing(name)
        if directory is not None:
            raise DataError(
                f"data_dir={str(directory)!r} was given together with the path {path}; it is where archives of named "
                f"datasets ({', '.join(DATASETS)}) lie. Leave it out, or give one of these names."
            )
        title = path.name.removesuffix(".npz") or str(path)
        if path.is_dir():
            # This reader applies the limits itself, to decode no more than is asked for.
            train, test, classes, rule = read_folder(path, limit_train=limit_train, limit_test=limit_test)
            parts = _Parts(train, test, classes, source=f"folder of images {path}", split_rule=rule)
        else:
            parts = _stored(path, *read_npz(path), otherwise=f"arrays in {path}")
    n_train = first(limit_train, len(parts.train), f"{title}: limit_train")
    n_test = first(limit_test, len(parts.test), f"{title}: limit_test")
    limits = [
        f"only the first {limit} {which} images"
        for which, limit in (("training", limit_train), ("test", limit_test))
        if limit is not None
    ]
    return Dataset(
        name=title,
        train=parts.train.to_split(n_train),
        test=parts.test.to_split(n_test),
        classes=parts.classes,
        source=parts.source,
        split_rule="; ".join([parts.split_rule, *limits]),
        title=parts.title,
        official=parts.official,
    )


def _named(name: str, data_dir: Path | None) -> _Parts:
    if data_dir is not None and data_dir.exists() and not data_dir.is_dir():
        raise DataError(f"data_dir={str(data_dir)!r} is a file, expected a folder to look for archives in.")
    classes = SOURCES[name].classes if name in SOURCES else tuple(str(digit) for digit in range(10))
    if data_dir is not None and (data_dir / f"{name}.npz").is_file():
        path = data_dir / f"{name}.npz"
        return _stored(path, *read_npz(path, classes), otherwise=f"{name} from arrays in {path}", but=", not checked")
    if name == "digits":
        return _digits(classes)
    source = SOURCES[name]
    train, test = source.read(fetch(name, source, data_dir))
    return _Parts(train, test, classes, source=f"{source.title}, SHA-256 checked", split_rule=_OFFICIAL, official=True)


def _stored(path: Path, train: Pixels, test: Pixels, classes: tuple[str, ...], otherwise: str, but: str = "") -> _Parts:
    title = _said_of(path)
    source = (f"{title}, arrays in {path}" if title else otherwise) + but
    return _Parts(train, test, classes, source, _AS_STORED, title)


def _said_of(path: Path) -> str:
    """What an .npz says its images are, in its array `title` or `source`: one string of one line; else nothing.

    Arrays of another kind under these names are left alone, like all that the file holds besides its images; one of
    Python objects is not read, since that could run code.
    """
    with zipfile.ZipFile(path) as archive:  # read_npz has read it: the file is sound
        present = set(archive.namelist())
    for key in ("title", "source"):
        if f"{key}.npy" in present:
            with contextlib.suppress(ValueError), np.load(path, allow_pickle=False) as file:
                array = file[key]
                words = str(array.reshape(-1)[0]).strip() if array.dtype.kind == "U" and array.size == 1 else ""
                if words.isprintable() and 1 <= len(words) <= _LONGEST_TITLE:
                    return words
    return ""


def _digits(classes: tuple[str, ...]) -> _Parts:
    """scikit-learn's digits (Alpaydin, Kaynak 1998), whose pixels are counts from 0 to 16."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target
    # Shuffles too, so the first n images of either split are of all classes.
    train, test = train_test_split(np.arange(len(labels)), test_size=500, stratify=labels, random_state=0)
    return _Parts(
        train=Pixels(images[train], labels[train], "digits: train", white=16),
        test=Pixels(images[test], labels[test], "digits: test", white=16),
        classes=classes,
        source="scikit-learn digits, 1797 images of 8 x 8",
        split_rule="scikit-learn train_test_split of the 1797 images, stratified by class, test_size=500, "
        "random_state=0: 1297 training and 500 test images, shuffled",
        official=True,
    )


def _existing(name: str | Path) -> Path:
    """The path of a folder or an .npz that is there; otherwise an error that says what would be accepted."""
    path = Path(name)
    if path.is_dir() or (path.is_file() and path.suffix == ".npz"):
        return path
    if path.exists():
        raise DataError(f"{path}: expected {_ALSO}, got a file of another kind. Names are: {', '.join(DATASETS)}.")
    if isinstance(name, Path) or len(path.parts) > 1 or path.suffix:
        raise DataError(f"{path}: no such file or folder. Expected a name ({', '.join(DATASETS)}) or {_ALSO}.")
    close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    raise DataError(
        f"Unknown data {name!r}{f' (did you mean {close[0]!r}?)' if close else ''}. "
        f"Expected one of {', '.join(DATASETS)}, or {_ALSO}."
    )
