"""Official archives, by tiny ones of the same format: reading, checksums and mirrors."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from sonet.data import DATASETS, DataError, load
from sonet.data.sources import SOURCES, Archive

NOWHERE = "http://127.0.0.1:9/"  # the discard port: nothing listens, the connection is refused at once


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes())


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


RANDOM = np.random.default_rng(0)
DIGITS = {
    "x_train": RANDOM.integers(0, 256, (9, 28, 28), np.uint8),
    "y_train": RANDOM.integers(0, 10, 9, np.uint8),
    "x_test": RANDOM.integers(0, 256, (5, 28, 28), np.uint8),
    "y_test": RANDOM.integers(0, 10, 5, np.uint8),
}
PHOTOS = RANDOM.integers(0, 256, (12, 3, 32, 32), np.uint8)
FINE = RANDOM.integers(0, 10, 12, np.uint8)


def records(rows: slice, label_bytes: int) -> bytes:
    coarse = np.full((len(FINE[rows]), label_bytes - 1), 77, np.uint8)  # must not be taken for the label
    pixels = PHOTOS[rows].reshape(len(FINE[rows]), -1)
    return np.concatenate([coarse, FINE[rows, None], pixels], axis=1).tobytes()


def contents(name: str) -> list[bytes]:
    """The bytes of tiny archives, in the order of the source's own."""
    if name in ("mnist", "fashion-mnist"):
        return [idx(array) for array in DIGITS.values()]
    if name == "cifar10":
        batches = {f"data_batch_{k + 1}.bin": records(slice(2 * k, 2 * k + 2), 1) for k in range(5)}
        batches |= {"test_batch.bin": records(slice(10, 12), 1), "batches.meta.txt": b"airplane\n"}
        return [tar({f"cifar-10-batches-bin/{file}": content for file, content in batches.items()})]
    halves = {"train.bin": records(slice(0, 10), 2), "test.bin": records(slice(10, 12), 2)}
    return [tar({f"cifar-100-binary/{file}": content for file, content in halves.items()})]


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Path]]:
    """Replaces a source's archives by given bytes and their checksums, and writes them to a folder."""

    def planted(
        name: str, folder: Path, content: list[bytes] | None = None, mirrors: tuple[str, ...] = (NOWHERE,)
    ) -> list[Path]:
        content = contents(name) if content is None else content
        source = SOURCES[name]
        archives = tuple(
            Archive(archive.file, hashlib.sha256(data).hexdigest())
            for archive, data in zip(source.archives, content, strict=True)
        )
        monkeypatch.setitem(SOURCES, name, dataclasses.replace(source, archives=archives, mirrors=mirrors))
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / archive.file for archive in archives]
        for path, data in zip(paths, content, strict=True):
            path.write_bytes(data)
        return paths

    return planted


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(URL, folder): a web server on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
        thread.join()


def test_the_table_of_sources() -> None:
    assert set(SOURCES) == set(DATASETS) - {"digits"}
    for source in SOURCES.values():
        assert all(len(bytes.fromhex(archive.sha256)) == 32 for archive in source.archives)
        assert all(mirror.endswith("/") for mirror in source.mirrors)
        assert len({archive.file for archive in source.archives}) == len(source.archives)
    every = [archive.sha256 for source in SOURCES.values() for archive in source.archives]
    assert len(set(every)) == len(every)
    assert [len(source.classes) for source in SOURCES.values()] == [10, 10, 10, 100]
    assert list(SOURCES["cifar100"].classes) == sorted(set(SOURCES["cifar100"].classes))  # the authors' order


@pytest.mark.parametrize("subfolder", ["mnist", "."])
def test_idx_archives(tmp_path: Path, plant: Callable[..., list[Path]], subfolder: str) -> None:
    plant("mnist", tmp_path / subfolder)
    data = load("mnist", data_dir=tmp_path)
    assert np.array_equal(data.train.images.numpy()[:, 0], DIGITS["x_train"].astype(np.float32) / np.float32(255))
    assert np.array_equal(data.test.labels.numpy(), DIGITS["y_test"])
    assert (data.name, data.num_classes, data.channels, data.size) == ("mnist", 10, 1, (28, 28))
    assert "SHA-256 checked" in data.source


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_archives(tmp_path: Path, plant: Callable[..., list[Path]], name: str, classes: int) -> None:
    plant(name, tmp_path)
    data = load(name, data_dir=tmp_path, limit_train=8)
    expected = PHOTOS.astype(np.float32) / np.float32(255)
    assert np.array_equal(data.train.images.numpy(), expected[:8])
    assert np.array_equal(data.test.images.numpy(), expected[10:])
    assert np.array_equal(data.train.labels.numpy(), FINE[:8])
    assert data.num_classes == classes
    assert data.train.images.is_contiguous()


def test_another_checksum_is_refused_and_the_file_left_alone(tmp_path: Path, plant: Callable[..., list[Path]]) -> None:
    path = plant("cifar10", tmp_path)[0]
    data = path.read_bytes()[:-1]
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"expected SHA-256 .*delete it") as caught:
        load("cifar10", data_dir=tmp_path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == data


def test_files_of_the_same_name_of_another_dataset_are_not_taken(
    tmp_path: Path, plant: Callable[..., list[Path]]
) -> None:
    other = [idx(255 - array if array.ndim == 3 else array) for array in DIGITS.values()]
    other[1], other[3] = idx((DIGITS["y_train"] + 1) % 10), idx((DIGITS["y_test"] + 1) % 10)
    plant("fashion-mnist", tmp_path / "fashion-mnist", other)
    plant("mnist", tmp_path)
    fashion = load("fashion-mnist", data_dir=tmp_path)
    assert np.array_equal(fashion.test.labels.numpy(), (DIGITS["y_test"] + 1) % 10)
    assert np.array_equal(load("mnist", data_dir=tmp_path).test.labels.numpy(), DIGITS["y_test"])
    for archive in SOURCES["fashion-mnist"].archives:
        (tmp_path / "fashion-mnist" / archive.file).unlink()
    with pytest.raises(DataError, match="could not be downloaded"):  # and not: wrong checksum of MNIST's file
        load("fashion-mnist", data_dir=tmp_path)


def test_offline_the_error_says_what_was_tried_and_what_to_do(tmp_path: Path, plant: Callable[..., list[Path]]) -> None:
    plant("cifar10", tmp_path)[0].unlink()
    with pytest.raises(DataError) as caught:
        load("cifar10", data_dir=tmp_path)
    message = str(caught.value)
    assert f"tried {NOWHERE}cifar-10-binary.tar.gz (ConnectionError)" in message
    assert "--data-dir" in message
    assert SOURCES["cifar10"].archives[0].sha256 in message
    assert "\n" not in message


def test_the_next_mirror_is_asked_and_the_download_kept(
    tmp_path: Path, plant: Callable[..., list[Path]], server: tuple[str, Path]
) -> None:
    url, folder = server
    (path,) = plant("cifar10", folder, mirrors=(NOWHERE, url + "missing/", url))
    data = load("cifar10", data_dir=tmp_path / "new" / "folder")
    assert len(data.train) == 10
    path.unlink()  # a second load needs no server
    assert len(load("cifar10", data_dir=tmp_path / "new" / "folder").train) == 10
    assert [file.name for file in (tmp_path / "new" / "folder" / "cifar10").iterdir()] == ["cifar-10-binary.tar.gz"]


def test_a_mirror_with_other_content_is_refused(
    tmp_path: Path, plant: Callable[..., list[Path]], server: tuple[str, Path]
) -> None:
    url, folder = server
    (path,) = plant("cifar10", folder, mirrors=(url, url + "missing/"))
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"\(another SHA-256\) and .*\(HTTP 404\)"):
        load("cifar10", data_dir=tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.gz")) == []


def test_the_default_place_is_the_cache_folder(
    tmp_path: Path, plant: Callable[..., list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pooch

    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    plant("cifar10", tmp_path / "sonet" / "cifar10")
    assert len(load("cifar10").test) == 2


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_a_named_npz_in_data_dir_is_taken_and_named_as_the_source(tmp_path: Path, name: str) -> None:
    photos = np.moveaxis(PHOTOS, 1, 3)
    np.savez(tmp_path / f"{name}.npz", x_train=photos[:10], y_train=FINE[:10], x_test=photos[10:], y_test=FINE[10:])
    data = load(name, data_dir=tmp_path)
    assert np.array_equal(data.test.images.numpy(), PHOTOS[10:].astype(np.float32) / np.float32(255))
    assert (data.name, data.num_classes) == (name, 10)  # all ten, though the labels may not reach 9
    assert f"{name}.npz" in data.source
    assert "SHA-256 checked" not in data.source


def test_images_and_labels_that_do_not_match(tmp_path: Path, plant: Callable[..., list[Path]]) -> None:
    content = contents("mnist")
    plant("mnist", tmp_path, [*content[:3], content[1]])
    with pytest.raises(DataError, match="got 5 images and 9 labels"):
        load("mnist", data_dir=tmp_path)
