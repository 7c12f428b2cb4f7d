"""The IDX and CIFAR readers on damaged and hostile files."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from sonet.data import DataError
from sonet.data.readers import read_cifar, read_idx


def idx(*shape: int, values: int, kind: int = 8) -> bytes:
    """An IDX file, before it is compressed, that promises `shape` and holds `values` values."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + bytes(range(values))


def write(folder: Path, content: bytes) -> Path:
    path = folder / "archive.gz"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("content", "axes", "message"),
    [
        (idx(5, values=5), 3, "with 3 axes .*got 00 00 08 01"),
        (idx(5, 1, 1, values=5), 1, "with 1 axes .*got 00 00 08 03"),
        (idx(5, values=5, kind=9), 1, "got 00 00 09 01"),
        (b"", 1, "got nothing"),
        (idx(5, values=0)[:6], 1, "expected an IDX file"),
        (idx(6, values=5), 1, r"expected 6 values for the shape \(6,\) in its header, got 5"),
        (idx(4, values=5), 1, "expected 4 values .*got 5"),
        (idx(2**32 - 1, 2**32 - 1, 2**32 - 1, values=0), 3, f"expected {(2**32 - 1) ** 3} values .*got 0"),
    ],
)
def test_idx_with_a_wrong_header_or_length(tmp_path: Path, content: bytes, axes: int, message: str) -> None:
    path = write(tmp_path, gzip.compress(content))
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, axes)
    assert str(path) in str(caught.value)


def test_idx_that_is_no_whole_gzip_file(tmp_path: Path) -> None:
    whole = gzip.compress(idx(100, values=100))
    for content in (whole[:-1], whole[:50], whole[:12], b"not gzip", whole[:60] + b"?" + whole[61:]):
        with pytest.raises(DataError, match="cut short or damaged"):
            read_idx(write(tmp_path, content), 1)


def test_a_good_idx_file(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(idx(2, 3, 4, values=24)))
    assert np.array_equal(read_idx(path, 3), np.arange(24).reshape(2, 3, 4))


TRAIN, TEST = "cifar-100-binary/train.bin", "cifar-100-binary/test.bin"
RECORDS = bytes((7, 1)) + bytes(3072) + bytes((7, 2)) + bytes(3072)
GOOD = {TRAIN: RECORDS, TEST: RECORDS}


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def read(path: Path) -> list[int]:
    """The labels of both splits."""
    train, test = read_cifar([path], train=(TRAIN,), test=(TEST,), label_bytes=2)
    return [*train.labels.tolist(), *test.labels.tolist()]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({TRAIN: RECORDS}, "none named cifar-100-binary/test.bin"),
        ({"cifar-100-python/train": b"a pickle", "cifar-100-python/test": b"a pickle"}, "binary version"),
        ({TRAIN: RECORDS, TEST: RECORDS[:-1]}, "test.bin has 6147 bytes, expected a whole number of records of 3074"),
        ({TRAIN: RECORDS, TEST: b""}, "test.bin has 0 bytes"),
        ({f"../{TRAIN}": RECORDS, f"/{TEST}": RECORDS}, "none named"),
    ],
)
def test_cifar_with_wrong_members(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    path = write(tmp_path, tar(members))
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_cifar_that_is_no_whole_archive(tmp_path: Path) -> None:
    random = np.random.default_rng(0)  # noise: zeros would shrink to an archive too small to cut
    whole = tar({TRAIN: random.bytes(2 * 3074), TEST: random.bytes(2 * 3074)})
    assert len(read(write(tmp_path, whole))) == 4
    for content in (whole[:4000], whole[:9000], b"no archive", b""):
        with pytest.raises(DataError, match="cut short or damaged"):
            read(write(tmp_path, content))


def test_members_outside_the_folder_are_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    path = write(folder, tar({"../escaped": b"x", f"{tmp_path}/absolute": b"x", f"../{TRAIN}": b"x", **GOOD}))
    assert read(path) == [1, 2, 1, 2]
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["archive.gz", "here"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(RECORDS)
    path = tmp_path / "archive.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (TRAIN, TEST):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, str(secret)
            archive.addfile(link)
    with pytest.raises(DataError, match="none named"):
        read(path)
