"""Classifiers about which everything is known, and the images and labels to attack them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sonet.attacks import LOSSES, Threat

SHAPE = (2, 3, 3)


def images(n: int, seed: int = 0, low: float = 0.0, high: float = 1.0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    drawn = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * drawn


def weights(classes: int, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    size = shape[0] * shape[1] * shape[2]
    return torch.randn(classes, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows_times(rows: Tensor, weight: Tensor) -> Tensor:
    """`rows @ weight.T`, summed the same for one row as for many: on some processors the rounding of a matrix product
    depends on the number of rows, and at a boundary rounding decides."""
    return (rows[:, None, :] * weight).sum(2)


@dataclass(frozen=True)
class Linear:
    """logits = W x + b."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return rows_times(x.flatten(1), self.weight) + self.bias


def linear(classes: int = 2, seed: int = 0, like: Tensor | None = None) -> Linear:
    """Random weights; the bias puts the boundary in the middle of the images `like` these."""
    weight = weights(classes, seed)
    bias = torch.zeros(classes, dtype=torch.float64) if like is None else -(like.flatten(1) @ weight.T).mean(0)
    return Linear(weight, bias)


def predicted(classifier: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return classifier(x).argmax(1)


class Wavy(nn.Module):
    """A smooth classifier with many hills: a linear map, a fast sine, a linear map. Samples are independent."""

    def __init__(self, classes: int = 3, speed: float = 6.0, seed: int = 0) -> None:
        super().__init__()
        self.speed = speed
        self.register_buffer("inner", weights(8, seed) / 3)
        self.register_buffer("outer", weights(classes, seed + 1)[:, :8])
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return rows_times(torch.sin(self.speed * rows_times(x.flatten(1), self.inner)), self.outer)


class _Count(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counter: Counting) -> Tensor:
        ctx.counter = counter
        counter.forward_images += len(x)
        counter.batches.append(len(x))
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ctx.counter.backward_images += len(gradient)
        return gradient, None


class Counting:
    """Counts the images that go forward and backward through a classifier."""

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier
        self.forward_images = self.backward_images = 0
        self.batches: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        return self.classifier(_Count.apply(x, self))

    @property
    def queries(self) -> int:
        return self.forward_images + self.backward_images


def hand_pgd(
    classifier: Any, x: Tensor, labels: Tensor, threat: Threat, sizes: Sequence[float], loss: str
) -> list[Tensor]:
    """Projected gradient descent by steps of these sizes, written out image by image; every iterate from x_0 on."""
    columns = []
    for image, label in zip(x, labels, strict=True):
        current, iterates = image.clone(), [image.clone()]
        for size in sizes:
            leaf = current.clone()[None].requires_grad_(True)
            LOSSES[loss](classifier(leaf), label[None]).sum().backward()
            gradient = leaf.grad[0]  # type: ignore[index]
            if threat.norm == "linf":
                moved = current + size * gradient.sign()
                moved = torch.max(torch.min(moved, image + threat.eps), image - threat.eps)
            else:
                offset = current + size * gradient / gradient.square().sum().sqrt() - image
                length = offset.square().sum().sqrt().item()
                moved = image + (offset * threat.eps / length if length > threat.eps else offset)
            current = moved.clamp(0, 1)
            iterates.append(current)
        columns.append(iterates)
    return [torch.stack([iterates[step] for iterates in columns]) for step in range(len(sizes) + 1)]
