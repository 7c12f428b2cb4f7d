"""Split and Dataset: what they accept, what they refuse and in which words."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from sonet.data import DataError, Dataset, Split


def split(n: int = 6, shape: tuple[int, int, int] = (1, 4, 5), classes: int = 3) -> Split:
    return Split(torch.rand(n, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(n) % classes)


def dataset(**changes: object) -> Dataset:
    fields: dict[str, object] = {
        "name": "toy",
        "train": split(9),
        "test": split(6),
        "classes": ("a", "b", "c"),
        "source": "made here",
        "split_rule": "none",
    }
    return Dataset(**{**fields, **changes})  # type: ignore[arg-type]


def with_pixel(value: float, image: int = 4) -> torch.Tensor:
    images = torch.rand(6, 1, 4, 5)
    images[image, 0, 1, 2] = value
    return images


LABELS = torch.zeros(6, dtype=torch.int64)

REFUSED = [
    (torch.rand(6, 4, 5), LABELS, r"shape \(N, C, H, W\).*got \(6, 4, 5\)"),
    (torch.rand(0, 1, 4, 5), LABELS[:0], r"none of them 0, got \(0, 1, 4, 5\)"),
    (torch.rand(6, 1, 0, 5), LABELS, "none of them 0"),
    (torch.rand(6, 1, 4, 5).double(), LABELS, "float32 images, got torch.float64"),
    ((torch.rand(6, 1, 4, 5) * 255).byte(), LABELS, "got torch.uint8"),
    (with_pixel(float("nan")), LABELS, "image 4 has a pixel that is NaN"),
    (with_pixel(float("inf")), LABELS, "image 4 has a pixel that is NaN or infinite"),
    (with_pixel(-0.01), LABELS, r"\[0, 1\], got -0.01 to .* first in image 4"),
    (with_pixel(255.0), LABELS, "to 255, first in image 4"),
    (torch.rand(6, 1, 4, 5), LABELS[:5], r"one label for each of 6 images.*got \(5,\)"),
    (torch.rand(6, 1, 4, 5), LABELS[:, None].expand(6, 3), r"got \(6, 3\)"),
    (torch.rand(6, 1, 4, 5), LABELS.int(), "int64 labels, got torch.int32"),
    (torch.rand(6, 1, 4, 5), LABELS.float(), "int64 labels, got torch.float32"),
    (torch.rand(6, 1, 4, 5), torch.tensor([0, 1, -1, 0, -7, 0]), "label 2 is -1"),
]


@pytest.mark.parametrize(("images", "labels", "message"), REFUSED)
def test_split_refuses(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Split(images, labels)


def test_split_names_the_first_of_several_bad_images() -> None:
    images = torch.rand(6, 1, 4, 5)
    images[2:5, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match=r"image 2 has .*3 of 6 images"):
        Split(images, LABELS)


def test_split_makes_permuted_and_strided_inputs_contiguous_without_changing_them() -> None:
    images, labels = torch.rand(6, 4, 5, 3), torch.arange(12)[::2]
    made = Split(images.permute(0, 3, 1, 2), labels)
    assert made.images.is_contiguous()
    assert made.labels.is_contiguous()
    assert torch.equal(made.images, images.movedim(3, 1))
    assert torch.equal(made.labels, torch.tensor([0, 2, 4, 6, 8, 10]))


def test_split_copies_nothing_that_is_contiguous() -> None:
    images = torch.rand(6, 1, 4, 5)
    assert Split(images, LABELS).images.data_ptr() == images.data_ptr()


def test_closed_range_is_accepted() -> None:
    assert len(Split(torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)]), LABELS[:2])) == 2


def test_take() -> None:
    whole = split(6)
    assert torch.equal(whole.take(4).images, whole.images[:4])
    assert torch.equal(whole.take(6).labels, whole.labels)
    for n in (0, -1, 7):
        with pytest.raises(DataError, match=f"between 1 and 6 .*got {n}"):
            whole.take(n)


@pytest.mark.parametrize("size", [1, 4, 6, 100])
def test_batches_are_the_split_in_order(size: int) -> None:
    whole = split(6)
    batches = list(whole.batches(size))
    assert [len(labels) for _, labels in batches] == [size] * (6 // size) + [6 % size] * (6 % size > 0)
    assert torch.equal(torch.cat([images for images, _ in batches]), whole.images)
    assert torch.equal(torch.cat([labels for _, labels in batches]), whole.labels)
    assert all(images.is_contiguous() and labels.is_contiguous() for images, labels in batches)


def test_batches_refuse_a_size_at_once_and_not_at_the_first_batch() -> None:
    with pytest.raises(DataError, match="size >= 1, got 0"):
        split().batches(0)


def test_repr_does_not_print_the_pixels() -> None:
    assert repr(split(6)) == "Split(6 images of shape (1, 4, 5))"
    assert len(repr(dataset())) < 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test": split(6, (3, 4, 5))}, r"one shape .*\(1, 4, 5\) and \(3, 4, 5\)"),
        ({"classes": ("a", "b")}, "train label 2 is 2, expected 0 to 1 for 2 classes"),
        ({"train": split(9, classes=2), "classes": ("a", "b")}, "test label 2 is 2"),
        ({"classes": ("a",)}, "two or more classes"),
        ({"classes": ("a", "b", "a")}, "different names"),
    ],
)
def test_dataset_refuses(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataset(**changes)


def test_properties_and_description() -> None:
    data = dataset()
    assert (data.channels, data.size, data.num_classes) == (1, (4, 5), 3)
    described = json.loads(json.dumps(data.describe()))
    train_bytes, test_bytes = (
        split.images.numpy().tobytes() + split.labels.numpy().tobytes() for split in (data.train, data.test)
    )
    assert described == {
        "name": "toy",
        "title": "",
        "official": False,
        "source": "made here",
        "split_rule": "none",
        "n_train": 9,
        "n_test": 6,
        "shape": [1, 4, 5],
        "num_classes": 3,
        "train_sha256": hashlib.sha256(train_bytes).hexdigest(),
        "test_sha256": hashlib.sha256(test_bytes).hexdigest(),
    }


def test_description_tells_test_sets_apart_by_pixels_labels_and_order() -> None:
    base = split(6)
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    variants = [
        base,
        Split((base.images * 0.999), base.labels),
        Split(base.images, (base.labels + 1) % 3),
        Split(base.images[order], base.labels[order]),
        base.take(5),
    ]
    assert len({dataset(test=variant).describe()["test_sha256"] for variant in variants}) == len(variants)
    assert dataset(train=split(3)).describe()["test_sha256"] == dataset().describe()["test_sha256"]
