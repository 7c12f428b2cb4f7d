"""A model that wants other images, pixels or numbers than it is given: found out, and the remedy tried."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from preflight_models import GOOD, N, X, Y, from_sentence, look, only_blocker, only_note
from torch import Tensor, nn

from sonet.audit.planted import SHAPE
from sonet.types import Classifier, Images, Proportion


# The input it wants: (model, images, labels, what is said)
def flat(x: Tensor) -> Tensor:
    assert x.dim() == 2, f"expected flattened images, got {x.dim()} dimensions"
    return GOOD(x.view(-1, *SHAPE))


def three_channels(x: Tensor) -> Tensor:
    return GOOD(nn.functional.conv2d(x, torch.full((1, 3, 1, 1), 1 / 3)))


def of_side(side: int, channels: int) -> Callable[[Tensor], Tensor]:
    def model(x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != (channels, side, side):
            raise ValueError(f"wants {channels} x {side} x {side}\nand more lines")
        return GOOD(nn.functional.adaptive_avg_pool2d(x, (8, 8)).mean(1, keepdim=True))

    return model


def channels_last(x: Tensor) -> Tensor:
    assert x.shape[-1] == SHAPE[0], "channels last"
    return GOOD(x.permute(0, 3, 1, 2))


SHAPES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "flat": (flat, "It takes flattened images. Wrap it, `def wrapped(x): return model(x.flatten(1))`"),
    "channels": (three_channels, "expected input[8, 1, 8, 8] to have 3 channels"),
    "size": (of_side(32, 1), "(ValueError: wants 1 x 32 x 32). It takes 32 x 32 pixels."),
    "both": (of_side(224, 3), "It takes three channels and 224 x 224 pixels."),
    "channels last": (channels_last, "It takes channels last."),
}


@pytest.mark.parametrize("name", SHAPES)
def test_images_of_another_shape_are_quoted_and_the_remedy_works(name: str) -> None:
    model, said = SHAPES[name]
    sentence = only_blocker(look(model))
    assert sentence.startswith("the model fails at images (8, 1, 8, 8) of torch.float32 in [0, 1] (")
    assert said in sentence
    assert look(from_sentence(sentence, model)).blockers == ()


def test_colour_images_for_a_grey_model() -> None:
    weight = torch.ones(1, 1, 1, 1)
    sentence = only_blocker(look(lambda x: GOOD(nn.functional.conv2d(x, weight)), X.repeat(1, 3, 1, 1)))
    assert "It takes one channel. Wrap it, `def wrapped(x): return model(x.mean(1, keepdim=True))`" in sentence


def test_a_model_that_always_fails_is_quoted() -> None:
    def broken(x: Tensor) -> Tensor:
        raise KeyError("layer7")

    sentence = only_blocker(look(broken))
    assert "(KeyError: 'layer7')" in sentence
    assert "It takes none of the usual sizes" in sentence


# Ranges of pixels
def sees(change: Callable[[Tensor], Tensor], channels: int) -> tuple[Classifier, Tensor, Tensor]:
    """A model that finds the brightest of four quarters in pixels changed so, and gives class 0 to others' range."""
    images = 0.5 * torch.rand(80, channels, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(80) % 4
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 4 * (label // 2) :][:, :4, 4 * (label % 2) :][:, :, :4] += 0.5
    wanted = change(images)
    mean, std = wanted.mean(), wanted.std()

    def model(x: Tensor) -> Tensor:
        quarters = nn.functional.avg_pool2d(x.mean(1), 4).flatten(1)
        off = ((x.mean((1, 2, 3)) - mean).abs() + (x.std((1, 2, 3)) - std).abs()) > 0.3 * std
        return torch.where(off[:, None], torch.tensor([1.0, 0, 0, 0]), quarters)

    return model, images, labels


MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
RANGES: dict[str, tuple[Callable[[Tensor], Tensor], int, str]] = {
    "symmetric": (lambda x: (x - 0.5) / 0.5, 3, "pixels in [-1, 1]"),
    "ImageNet": (lambda x: (x - MEAN) / STD, 3, "ImageNet's normalisation"),
    "MNIST": (lambda x: (x - 0.1307) / 0.3081, 1, "MNIST's normalisation"),
    "grey levels": (lambda x: 255 * x, 1, "pixels in [0, 255]"),
}


@pytest.mark.parametrize("name", RANGES)
def test_another_range_is_named_and_the_remedy_works(name: str) -> None:
    change, channels, said = RANGES[name]
    model, images, labels = sees(change, channels)
    sentence = only_blocker(look(model, images, labels))
    assert "it gets 20 of 80 images right without attack" in sentence
    assert f"With {said} it gets 80 of 80 right" in sentence
    assert look(from_sentence(sentence, model), images, labels).natural == Proportion(80, 80)


def test_inverted_pixels() -> None:
    model, images, labels = sees(lambda x: x, 1)
    sentence = only_blocker(look(lambda x: model(1 - x), images, labels))
    assert "With inverted pixels it gets 80 of 80 right" in sentence


def test_poor_but_no_guess_is_a_note() -> None:
    _, images, labels = sees(lambda x: 2 * x - 1, 1)

    def half(x: Tensor) -> Tensor:
        """Right in [0, 1] for classes 0 and 1 alone."""
        logits = nn.functional.avg_pool2d(x.mean(1), 4).flatten(1)
        return torch.where((x.amin((1, 2, 3)) >= 0)[:, None], logits.index_fill(1, torch.tensor([2, 3]), -1), logits)

    note = only_note(look(half, images, labels))
    assert note.startswith("It gets 40 of 80 images right without attack. With pixels in [-1, 1] it gets 80 of 80")


def test_a_little_better_is_not_named() -> None:
    model, images, labels = sees(lambda x: 2 * x - 1, 1)
    labels = torch.where(torch.arange(80) < 16, labels, (labels + 1) % 4)
    assert "With" not in " ".join((*look(model, images, labels).blockers, *look(model, images, labels).notes))


@pytest.mark.parametrize(("right", "blocked"), [(0, True), (8, True), (11, True), (12, False), (24, False)])
def test_guessing_is_no_accuracy(right: int, blocked: bool) -> None:
    """1/3 + 1.64 sqrt(2/9/24) = 0.491: up to 11.8 of 24."""
    labels = torch.where(torch.arange(N) < right, Y, (Y + 1) % 3)
    found = look(GOOD, labels=labels)
    assert found.natural == Proportion(right, N)
    assert ("so would 1 of 20 who guess among 3 classes" in " ".join(found.blockers)) is blocked


def test_one_class_for_all_is_noted() -> None:
    found = look(lambda x: 0 * GOOD(x) + torch.tensor([0.0, 1.0, 0.0]))
    assert "All 24 images get class 1: it may not look at them at all." in found.notes


# Type and device of weights
class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)
        self.linear.weight.data, self.linear.bias.data = GOOD.weight.clone(), GOOD.bias.clone()

    def forward(self, x: Images) -> Tensor:
        return self.linear(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_type(kind: torch.dtype) -> None:
    model = Net().eval().to(kind)
    sentence = only_blocker(look(model))
    assert f"its weights are {kind}. Audit it in the precision of the images, model.float()" in sentence
    assert look(model.float()).blockers == ()
    of_a_function = only_blocker(look(lambda x: model.to(kind)(x)))
    assert f"It takes images of {kind}." in of_a_function
    assert look(from_sentence(of_a_function, model.to(kind))).blockers == ()


def test_half_precision_that_runs_is_noted() -> None:
    model = Net().eval().to(torch.bfloat16)

    class Casting(Net):
        def forward(self, x: Images) -> Tensor:
            return model(x.bfloat16()).float()  # type: ignore[no-any-return]

    assert "It computes in bfloat16" in only_note(look(lambda x: model(x.bfloat16())))
    assert "It computes in bfloat16" in only_note(look(Casting().eval().to(torch.bfloat16)))


def test_weights_on_another_device() -> None:
    """Of the meta device, which every machine has."""
    sentence = only_blocker(look(Net().eval().to("meta")))
    assert "its weights are on meta, the images on cpu. Move it there, model.to('cpu')." in sentence
