"""Folders of images by class: round trips, the fixed split, and errors that name the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sonet.data import DataError, load


def write(path: Path, value: int, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> Path:
    """An image of (W, H) = size whose first pixel is `value`, so that each can be told apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.full((size[1], size[0], *channels), value, np.uint8)
    pixels[1, 2] = 255 - value  # not constant: a transposed image would show
    Image.fromarray(pixels).save(path)
    return path


def by_class(root: Path, counts: dict[str, int], mode: str = "RGB") -> Path:
    """ROOT/CLASS/00.png, ...; the k-th image of class c has the value 20 c + k."""
    for label, (name, count) in enumerate(counts.items()):
        for k in range(count):
            write(root / name / f"{k:02d}.png", 20 * label + k, mode)
    return root


def values(images: torch.Tensor) -> list[int]:
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_every_fifth_file_of_each_class_is_a_test_image(tmp_path: Path, mode: str, channels: int) -> None:
    data = load(by_class(tmp_path / "pets", {"cat": 11, "dog": 7}, mode))
    assert (data.name, data.classes, data.channels, data.size) == ("pets", ("cat", "dog"), channels, (5, 6))
    assert dict(zip(values(data.test.images), data.test.labels.tolist(), strict=True)) == {4: 0, 9: 0, 24: 1}
    expected = {k: 0 for k in range(11) if k not in (4, 9)} | {20 + k: 1 for k in range(7) if k != 4}
    assert dict(zip(values(data.train.images), data.train.labels.tolist(), strict=True)) == expected
    for image, value in zip(data.train.images, values(data.train.images), strict=True):
        assert (image[:, 1, 2] * 255).round().int().tolist() == [255 - value] * channels
    assert "every fifth file" in data.split_rule


def test_train_and_test_folders(tmp_path: Path) -> None:
    by_class(tmp_path / "train", {"cat": 3, "dog": 2})
    by_class(tmp_path / "test", {"cat": 1, "dog": 1})
    data = load(tmp_path)
    assert sorted(values(data.train.images)) == [0, 1, 2, 20, 21]
    assert sorted(values(data.test.images)) == [0, 20]
    assert "folder test" in data.split_rule


def test_order_is_fixed_and_mixes_the_classes(tmp_path: Path) -> None:
    first = load(by_class(tmp_path / "one", {"cat": 20, "dog": 20}))
    again = load(by_class(tmp_path / "two", {"cat": 20, "dog": 20}))
    assert torch.equal(first.train.images, again.train.images)
    assert first.describe()["test_sha256"] == again.describe()["test_sha256"]
    assert first.train.take(8).labels.unique().tolist() == [0, 1]


def test_limits_take_the_first_images_and_decode_no_others(tmp_path: Path) -> None:
    root = by_class(tmp_path, {"cat": 20, "dog": 20})
    whole = load(root)
    kept = set(values(whole.train.take(3).images)) | set(values(whole.test.take(2).images))
    for label, name in enumerate(("cat", "dog")):
        for k in range(20):
            if 20 * label + k not in kept:
                (root / name / f"{k:02d}.png").write_bytes(b"damaged")
    part = load(root, limit_train=3, limit_test=2)
    assert torch.equal(part.train.images, whole.train.images[:3])
    assert torch.equal(part.test.labels, whole.test.labels[:2])
    assert part.split_rule.endswith("only the first 3 training images; only the first 2 test images")
    with pytest.raises(DataError, match=r"between 1 and 32 .*got 33"):
        load(root, limit_train=33)


def test_jpeg_and_bmp_and_hidden_files(tmp_path: Path) -> None:
    root = by_class(tmp_path, {"cat": 4, "dog": 4})
    write(root / "cat" / "99.JPG", 200)
    write(root / "dog" / "99.bmp", 200)
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / ".cache").mkdir()
    (root / "README.txt").write_text("about these images")
    assert values(load(root).test.images) == pytest.approx([200, 200], abs=6)  # JPEG is lossy


def spoil_size(root: Path) -> Path:
    return write(root / "dog" / "03.png", 1, size=(6, 6))


def spoil_mode(root: Path) -> Path:
    return write(root / "dog" / "03.png", 1, mode="L")


def spoil_alpha(root: Path) -> Path:
    return write(root / "dog" / "03.png", 1, mode="RGBA")


def spoil_bytes(root: Path) -> Path:
    path = root / "dog" / "03.png"
    path.write_bytes(path.read_bytes()[:60])
    return path


def spoil_kind(root: Path) -> Path:
    path = root / "dog" / "03.png"
    path.write_text("no image")
    return path


def spoil_stray(root: Path) -> Path:
    path = root / "dog" / "notes.txt"
    path.write_text("hello")
    return path


def spoil_nesting(root: Path) -> Path:
    return write(root / "dog" / "puppies" / "00.png", 1).parent


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_size, r"\(H, W, C\) = "),
        (spoil_mode, r"\(H, W, C\) = "),
        (spoil_alpha, "got mode RGBA"),
        (spoil_bytes, "cannot be decoded"),
        (spoil_kind, "cannot be decoded"),
        (spoil_stray, "expected an image file"),
        (spoil_nesting, "expected an image file"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, spoil: object, message: str) -> None:
    root = by_class(tmp_path, {"cat": 6, "dog": 6})
    bad = spoil(root)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as caught:
        load(root)
    assert str(bad) in str(caught.value)


def test_a_folder_without_a_proper_structure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder for each class"):
        load(tmp_path)
    by_class(tmp_path, {"cat": 6})
    with pytest.raises(DataError, match="two or more classes"):
        load(tmp_path)
    by_class(tmp_path, {"cat": 6, "dog": 4})
    with pytest.raises(DataError, match="dog: expected 5 images or more, got 4"):
        load(tmp_path)
    (tmp_path / "eel").mkdir()
    with pytest.raises(DataError, match="eel: expected images in this class folder"):
        load(tmp_path)


def test_train_and_test_must_have_the_same_classes(tmp_path: Path) -> None:
    by_class(tmp_path / "train", {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match="got only train"):
        load(tmp_path)
    by_class(tmp_path / "test", {"cat": 2, "eel": 2})
    with pytest.raises(DataError, match="only one of them has dog, eel"):
        load(tmp_path)
