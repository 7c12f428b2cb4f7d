"""From a source to files on this disk: a copy already there, or a download; either way checked by SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sonet.data.errors import DataError
from sonet.data.sources import SOURCES, Archive, Source

_TIMEOUT = 30.0
"""Seconds without an answer after which a mirror is given up."""


def fetch(name: str, source: Source, data_dir: Path | None) -> list[Path]:
    """The paths of a source's archives, in order, every one with the right SHA-256.

    A file is looked for in DIR/NAME/ and, if data_dir is given, in DIR itself; else it is downloaded to DIR/NAME/.
    DIR is data_dir, or the user's cache folder of sonet. (MNIST and Fashion-MNIST name their files alike, hence NAME.)

    Errors: DataError for a file with another checksum, or where no mirror can be reached.
    """
    import pooch  # here, because it is slow to import and not needed for data that is already there

    root = data_dir if data_dir is not None else Path(pooch.os_cache("sonet"))
    places = [root / name, root] if data_dir is not None else [root / name]
    return [_find(archive, places) or _download(name, archive, source, root / name) for archive in source.archives]


def _find(archive: Archive, places: list[Path]) -> Path | None:
    others = {other.sha256 for source in SOURCES.values() for other in source.archives} - {archive.sha256}
    for place in places:
        path = place / archive.file
        if not path.is_file():
            continue
        got = _sha256(path)
        if got == archive.sha256:
            return path
        if got in others:  # whole, but another dataset's file of the same name
            continue
        raise DataError(
            f"{path}: expected SHA-256 {archive.sha256}, got {got}. The file is cut short or not the official one; "
            "delete it and load again to fetch a fresh copy."
        )
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(name: str, archive: Archive, source: Source, folder: Path) -> Path:
    import pooch

    tried: list[str] = []
    for mirror in source.mirrors:
        try:
            path = pooch.retrieve(
                mirror + archive.file,
                known_hash=f"sha256:{archive.sha256}",
                fname=archive.file,
                path=folder,
                downloader=pooch.HTTPDownloader(timeout=_TIMEOUT),
            )
        except (OSError, ValueError) as error:  # no network, no such page, no room on the disk; or another checksum
            tried.append(f"{mirror}{archive.file} ({_reason(error)})")
        else:
            return Path(path)
    raise DataError(
        f"{archive.file} is not in {folder} and could not be downloaded; tried {' and '.join(tried)}. "
        f"Without a network, put the file (SHA-256 {archive.sha256}), or {name}.npz with arrays x_train, y_train, "
        "x_test, y_test (and title, in words, where they are not the official images), into a folder and give it by "
        "--data-dir (data_dir=...)."
    )


def _reason(error: OSError | ValueError) -> str:
    """A few words: network libraries put whole connection objects into their messages."""
    if isinstance(error, OSError):
        status = getattr(getattr(error, "response", None), "status_code", None)
        return f"HTTP {status}" if status is not None else error.strerror or type(error).__name__
    return "another SHA-256" if "hash" in str(error) else str(error)
