"""load: the digits that need no network, and what it says to a name it does not know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sonet.data import DATASETS, DataError, Dataset, load


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


def test_digits(digits: Dataset) -> None:
    assert (len(digits.train), len(digits.test)) == (1297, 500)
    assert (digits.channels, digits.size, digits.num_classes) == (1, (8, 8), 10)
    assert digits.source == "scikit-learn digits, 1797 images of 8 x 8"
    assert "random_state=0" in digits.split_rule


def test_digits_are_all_of_scikit_learns_each_in_one_split(digits: Dataset) -> None:
    bunch = load_digits()

    def sorted_rows(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        rows = np.concatenate([images.reshape(len(labels), -1), labels[:, None]], axis=1)
        return rows[np.lexsort(rows.T)]

    images = torch.cat([digits.train.images, digits.test.images]).numpy() * 16
    labels = torch.cat([digits.train.labels, digits.test.labels]).numpy()
    assert np.array_equal(sorted_rows(images, labels), sorted_rows(bunch.images, bunch.target))


def test_digits_are_stratified_and_shuffled(digits: Dataset) -> None:
    share = digits.test.labels.bincount() / (digits.test.labels.bincount() + digits.train.labels.bincount())
    assert (share - 500 / 1797).abs().max() < 0.01
    assert digits.test.take(50).labels.unique().tolist() == list(range(10))
    assert digits.train.take(100).labels.unique().tolist() == list(range(10))


def test_the_digits_split_never_changes(digits: Dataset) -> None:
    """Records made with one version must speak of the same images in the next."""
    assert digits.describe()["test_sha256"] == "ac01c7fbb93434d19f491d787b99aaf4abf1ba9ac9027c18e16e14f539c74992"


def test_limits(digits: Dataset) -> None:
    part = load("digits", limit_train=20, limit_test=30)
    assert torch.equal(part.train.images, digits.train.images[:20])
    assert torch.equal(part.test.labels, digits.test.labels[:30])
    assert part.split_rule == f"{digits.split_rule}; only the first 20 training images; only the first 30 test images"
    for limit in (0, 501):
        with pytest.raises(DataError, match=f"digits: limit_test: .*between 1 and 500 .*got {limit}"):
            load("digits", limit_test=limit)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "Unknown data 'mnits' .did you mean 'mnist'.*digits, mnist, fashion-mnist, cifar10, cifar100"),
        ("CIFAR-10", "did you mean 'cifar10'"),
        ("imagenet", r"Unknown data 'imagenet'\. Expected one of .*or a path to an .npz"),
        ("some/where.npz", "no such file or folder"),
        ("where.npz", "no such file or folder"),
        (Path("where"), "no such file or folder"),
        (Path(__file__), "file of another kind"),
    ],
)
def test_unknown_names(name: str | Path, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(name)


def test_a_name_goes_before_a_folder_called_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(load("digits").test) == 500
    with pytest.raises(DataError, match="a folder for each class"):
        load("./digits")


def test_data_dir_is_not_ignored_silently(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="together with the path"):
        load(tmp_path, data_dir=tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(DataError, match="is a file, expected a folder"):
        load("mnist", data_dir=file)


def test_every_name_has_one_line() -> None:
    assert list(DATASETS) == ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"]
    assert all(line and "\n" not in line for line in DATASETS.values())


def test_importing_the_room_imports_neither_the_downloader_nor_scikit_learn() -> None:
    code = "import sys, sonet.data; sys.exit(bool({'pooch', 'requests', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
