"""Arrays in an .npz: round trips, and every way in which such a file can be wrong or hostile."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sonet.data import DataError, load

Arrays = dict[str, Any]


def arrays(shape: tuple[int, ...] = (5, 6), **changes: Any) -> Arrays:
    random = np.random.default_rng(0)
    made: Arrays = {
        "x_train": random.integers(0, 256, (7, *shape), np.uint8),
        "y_train": np.arange(7, dtype=np.uint8) % 3,
        "x_test": random.integers(0, 256, (4, *shape), np.uint8),
        "y_test": np.arange(4, dtype=np.uint8) % 3,
        **changes,
    }
    return {key: value for key, value in made.items() if value is not None}


def save(path: Path, content: Arrays) -> Path:
    np.savez(path, **content)
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip(tmp_path: Path, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(2, 3), (4, 2, 1), (3, 3, 3)]), "shape")
    label_type = data.draw(st.sampled_from([np.uint8, np.int32, np.int64, np.uint64]), "type of the labels")
    content: Arrays = {"classes": np.array(["cat", "dog", "ox"])}
    for which in ("train", "test"):
        n = data.draw(st.integers(1, 5), f"n {which}")
        content[f"x_{which}"] = data.draw(hnp.arrays(np.uint8, (n, *shape)))
        content[f"y_{which}"] = data.draw(hnp.arrays(label_type, n, elements=st.integers(0, 2)))
    loaded = load(save(tmp_path / "data.npz", content))
    for which, split in (("train", loaded.train), ("test", loaded.test)):
        images = content[f"x_{which}"]
        expected = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
        assert split.images.is_contiguous()
        assert np.array_equal(np.round(split.images.numpy() * 255).astype(np.uint8), expected)
        assert np.array_equal(split.labels.numpy(), content[f"y_{which}"])
    assert loaded.classes == ("cat", "dog", "ox")


def test_every_grey_level_is_the_float32_nearest_to_level_over_255(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    loaded = load(save(tmp_path / "levels.npz", arrays((16, 16), x_test=levels, y_test=np.zeros(1, np.uint8))))
    exact = (np.arange(256, dtype=np.float64) / 255).astype(np.float32)
    assert np.array_equal(loaded.test.images.numpy().ravel(), exact)


def test_what_a_dataset_from_a_file_says_of_itself(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz", arrays((5, 6, 3)))
    loaded = load(str(path), limit_test=2)
    assert (loaded.name, loaded.channels, loaded.size, loaded.classes) == ("mine", 3, (5, 6), ("0", "1", "2"))
    assert str(path) in loaded.source
    assert loaded.split_rule.endswith("only the first 2 test images")
    assert (len(loaded.train), len(loaded.test)) == (7, 2)
    assert torch.equal(loaded.test.images, load(path).test.images[:2])


@pytest.mark.parametrize("key", ["title", "source"])
def test_a_file_is_called_what_it_says_it_is(tmp_path: Path, key: str) -> None:
    """Under its own name and in the place of the official archives, where a reader could take it for these."""
    said: Arrays = {key: np.array("CIFAR-10 (JPEG)")}
    path = save(tmp_path / "cifar10.npz", arrays((5, 6, 3), **said))
    assert load(path).source == f"CIFAR-10 (JPEG), arrays in {path}"
    assert load("cifar10", data_dir=tmp_path).source == f"CIFAR-10 (JPEG), arrays in {path}, not checked"


@pytest.mark.parametrize(
    "title",
    [None, np.arange(3), np.array(["a", "b"]), np.array(""), np.array("a\nb"), np.array(b"a"), np.array("x" * 201)],
    ids=str,
)
def test_without_a_title_the_arrays_are_called_unchecked(tmp_path: Path, title: Any) -> None:
    path = save(tmp_path / "cifar10.npz", arrays((5, 6, 3), title=title))
    assert load("cifar10", data_dir=tmp_path).source == f"cifar10 from arrays in {path}, not checked"


REFUSED: list[tuple[Arrays, str]] = [
    (arrays(x_test=None, y_test=None), "got x_train, y_train. Without x_test, y_test"),
    (arrays(x_train=np.random.default_rng(0).random((7, 5, 6))), r"train: expected images of type uint8.*got float64"),
    (arrays(x_train=np.zeros((7, 5, 6), np.int64)), "got int64"),
    (arrays(x_test=np.zeros((4, 30), np.uint8)), r"test: expected images of shape .*got \(4, 30\)"),
    (arrays(x_test=np.zeros((4, 3, 5, 6), np.uint8)), "Channels come last"),
    (arrays(x_test=np.zeros((4, 5, 6, 3), np.uint8)), r"one shape \(C, H, W\), got \(1, 5, 6\) and \(3, 5, 6\)"),
    (arrays(x_test=np.zeros((4, 5, 0), np.uint8)), "none of them 0"),
    (arrays(x_test=np.zeros((0, 5, 6), np.uint8), y_test=np.zeros(0, np.uint8)), "test: Split: expected images"),
    (arrays(y_test=np.zeros(5, np.uint8)), "got 4 images and 5 labels"),
    (arrays(y_test=np.zeros((4, 1), np.uint8)), r"shape \(N,\), got uint8 \(4, 1\)"),
    (arrays(y_test=np.zeros(4)), "integer type .* got float64"),
    (arrays(y_test=np.array([0, 1, -1, 0])), "test: Split: label 2 is -1"),
    (arrays(y_test=np.array([0, 1, 2**31, 0])), "largest label is 2147483648"),
    (arrays(y_test=np.array([0, 1, 3, 0]), classes=np.array(["a", "b", "c"])), "test label 2 is 3, expected 0 to 2"),
    (arrays(y_train=np.zeros(7, np.uint8), y_test=np.zeros(4, np.uint8)), "two or more classes"),
    (arrays(classes=np.arange(3)), r"classes as strings of shape \(K,\), got int64"),
    (arrays(classes=np.array([["a", "b", "c"]])), r"got <U1 \(1, 3\)"),
    (arrays(classes=np.array(["a", "b", "b"])), "different names"),
    (arrays(classes=np.array(["a", "b", None])), "classes cannot be read .*could run code"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
def test_refuses(tmp_path: Path, content: Arrays, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(save(tmp_path / "data.npz", content))


class Trap:
    """Makes a folder when unpickled: a stand-in for any command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("key", ["x_train", "y_test", "classes"])
def test_a_pickle_in_an_array_is_refused_and_not_run(tmp_path: Path, key: str) -> None:
    trap = np.empty(1, object)
    trap[0] = Trap(tmp_path / "sprung")
    path = save(tmp_path / "data.npz", arrays(**{key: trap}))
    with pytest.raises(DataError, match=f"{key} cannot be read .*could run code"):
        load(path)
    assert not (tmp_path / "sprung").exists()
    np.load(path, allow_pickle=True)[key]  # the trap works where pickles are allowed
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("key", ["title", "source"])
def test_a_pickle_as_a_title_is_not_run(tmp_path: Path, key: str) -> None:
    trap = np.empty(1, object)
    trap[0] = Trap(tmp_path / "sprung")
    path = save(tmp_path / "data.npz", arrays(**{key: trap}))
    assert load(path).source == f"arrays in {path}"
    assert not (tmp_path / "sprung").exists()


def test_a_bare_pickle_named_npz_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(DataError, match="another kind of file"):
        load(path)
    assert not (tmp_path / "sprung").exists()


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "data.npz", arrays(x_train=None))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train.npy", b"not numpy's format")
    with pytest.raises(DataError, match="x_train"):
        load(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_file_is_refused(tmp_path: Path, share: float) -> None:
    path = save(tmp_path / "data.npz", arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError, match="cut short"):
        load(path)


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "data.npz", arrays((30, 30)))
    whole = bytearray(path.read_bytes())
    whole[3000] ^= 255  # among the pixels of x_train: the zip's own checksum finds it
    path.write_bytes(whole)
    with pytest.raises(DataError, match="x_train cannot be read"):
        load(path)
