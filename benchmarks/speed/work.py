"""What is timed: a forward pass, an attack step and a training step; and how calls are timed in turn."""

from __future__ import annotations

import copy
import gc
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def forward(model: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [model(images)]


def attack(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The gradient of the cross-entropy to the images; the weights of `model` are frozen."""
    leaf = images.clone().requires_grad_(True)
    logits = model(leaf)
    return [logits.detach(), torch.autograd.grad(F.cross_entropy(logits, _labels(images)), leaf)[0]]


def train(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The gradient of the cross-entropy to every weight."""
    logits = model(images)
    return [logits.detach(), *torch.autograd.grad(F.cross_entropy(logits, _labels(images)), list(model.parameters()))]


WORK: dict[str, Callable[[nn.Module, Tensor], list[Tensor]]] = {"forward": forward, "attack": attack, "train": train}


def ready(model: nn.Module, work: str) -> nn.Module:
    """For an attack, the weights frozen, as any attack on a trained network may have them."""
    return copy.deepcopy(model).requires_grad_(False) if work == "attack" else model


def _labels(images: Tensor) -> Tensor:
    return torch.arange(len(images), device=images.device) % 10


@dataclass(frozen=True)
class Timing:
    """Seconds of `first` and `second` in turn. growth: of the process's memory over the repeats, MiB."""

    first: tuple[float, ...]
    second: tuple[float, ...]
    growth: float

    @property
    def ratio(self) -> float:
        return median(self.second) / median(self.first)

    @property
    def spread(self) -> tuple[float, float]:
        pairs = sorted(b / a for a, b in zip(self.first, self.second, strict=True))
        return pairs[0], pairs[-1]


def interleaved(first: Callable[[], object], second: Callable[[], object], repeats: int) -> Timing:
    """Of both, as `in_turn`."""
    (one, other), growth = in_turn((first, second), repeats)
    return Timing(one, other, growth)


def in_turn(calls: Sequence[Callable[[], object]], repeats: int) -> tuple[list[tuple[float, ...]], float]:
    """Wall times of each, one after the other, every other round backwards, after one call of each that is not counted;
    and the growth of the process's memory over the rounds, MiB."""
    for call in calls:
        call()
    gc.collect()
    before = resident()
    times: list[list[float]] = [[] for _ in calls]
    for number in range(repeats):
        for which in range(len(calls)) if number % 2 == 0 else reversed(range(len(calls))):
            start = time.perf_counter()
            calls[which]()
            times[which].append(time.perf_counter() - start)
    return [tuple(seconds) for seconds in times], resident() - before


def resident() -> float:
    """Memory of this process now, MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
