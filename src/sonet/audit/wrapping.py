"""Images that a model may be waiting for, instead of (N, C, H, W) in [0, 1], each with the code that makes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sonet.types import Images


@dataclass(frozen=True)
class Change:
    """A change to images x in [0, 1] that some model may need. code: an expression in x that makes it."""

    words: str
    code: str
    apply: Callable[[Images], Tensor]


def wrap(code: str, after: str = "") -> str:
    """How to put `code`, an expression in x, between the images and the model, and `after` behind the model."""
    return f"Wrap it, `def wrapped(x): return model({code}){after}`, and audit `wrapped`"


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels, as torchvision's weights expect them."""
_SIDES = (224, 32, 28, 64, 96, 299, 384)
"""Usual heights and widths: ImageNet, CIFAR and padded MNIST, MNIST, Tiny ImageNet, STL-10, Inception, large ViTs."""


def ranges(channels: int) -> tuple[Change, ...]:
    """Other ranges of pixels than [0, 1]. ImageNet's needs three channels, MNIST's one."""
    some = [Change("pixels in [-1, 1]", "2 * x - 1", lambda x: 2 * x - 1)]
    if channels == 3:
        some.append(_standardised("ImageNet's", _MEAN, _STD))
    if channels == 1:
        some.append(_standardised("MNIST's", (0.1307,), (0.3081,)))
    return (
        *some,
        Change("pixels in [0, 255]", "255 * x", lambda x: 255 * x),
        Change("inverted pixels", "1 - x", lambda x: 1 - x),
    )


def forms(channels: int, height: int, width: int) -> tuple[Change, ...]:
    """Other types and shapes than float32 (N, C, H, W); the simplest first."""
    types = [_cast(name, kind) for name, kind in (("half", torch.float16), ("bfloat16", torch.bfloat16))]
    types.append(_cast("double", torch.float64))
    shapes = [Change("flattened images", "x.flatten(1)", lambda x: x.flatten(1))]
    shapes.append(Change("channels last", "x.permute(0, 2, 3, 1)", lambda x: x.permute(0, 2, 3, 1).contiguous()))
    colours = _colours(channels)
    sizes = [_resized(side) for side in _SIDES if (side, side) != (height, width)]
    both = [_after(colour, size) for size in sizes for colour in colours]
    return *types, *shapes, *colours, *sizes, *both


def _cast(name: str, kind: torch.dtype) -> Change:
    return Change(f"images of {kind}", f"x.{name}()", lambda x: x.to(kind))


def _colours(channels: int) -> list[Change]:
    if channels == 1:
        return [Change("three channels", "x.repeat(1, 3, 1, 1)", lambda x: x.repeat(1, 3, 1, 1))]
    return [Change("one channel", "x.mean(1, keepdim=True)", lambda x: x.mean(1, keepdim=True))]


def _resized(side: int) -> Change:
    def apply(x: Images) -> Tensor:
        return nn.functional.interpolate(x, size=(side, side), mode="bilinear")

    code = f"torch.nn.functional.interpolate(x, size=({side}, {side}), mode='bilinear')"
    return Change(f"{side} x {side} pixels", code, apply)


def _after(first: Change, then: Change) -> Change:
    code = then.code.replace("(x,", f"({first.code},")
    return Change(f"{first.words} and {then.words}", code, lambda x: then.apply(first.apply(x)))


def _standardised(whose: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Change:
    def apply(x: Images) -> Tensor:
        return (x - x.new_tensor(mean).view(-1, 1, 1)) / x.new_tensor(std).view(-1, 1, 1)

    code = f"(x - x.new_tensor({list(mean)}).view(-1, 1, 1)) / x.new_tensor({list(std)}).view(-1, 1, 1)"
    return Change(f"{whose} normalisation", code, apply)
