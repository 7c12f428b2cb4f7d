"""What crafting a batch leaves behind, and the bookkeeping of the best image seen so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sonet.types import Images

Progress = Callable[[float], None]
"""Called with the number of image-steps just done."""


@dataclass(frozen=True)
class Crafted:
    """What crafting a batch gave.

    images: (N, C, H, W), inside the threat. loss: (T, N), of each step, NaN after a sample stopped. zero_gradients:
    (N,) bool, whether the gradient was exactly zero (or not finite) at some step. queries: (N,) int64, images the model
    saw, a backward pass counting as one. minimum: (N,) distance of the nearest image found that fools, whatever eps,
    infinite where none was; None for attacks that look inside the threat only. checkpoints: the iterates after the
    steps asked for.
    """

    images: Images
    loss: Tensor
    zero_gradients: Tensor
    queries: Tensor
    minimum: Tensor | None = None
    checkpoints: dict[int, Images] = field(default_factory=dict)


class Best:
    """For each sample the best image seen: one that fools before one that does not, then that of the larger loss."""

    def __init__(self, start: Images) -> None:
        self.images = start.clone()
        # In float64, so that it holds a loss of any precision as it is.
        self.loss = torch.full((len(start),), -torch.inf, dtype=torch.float64, device=start.device)
        self.fooled = torch.zeros(len(start), dtype=torch.bool, device=start.device)

    def note(self, whose: Tensor, images: Images, loss: Tensor, fell: Tensor) -> Tensor:
        """Compare the samples `whose`, (M,) places, with `images`, (M, C, H, W); gives (M,) bool, which are better."""
        loss = loss.to(self.loss.dtype)
        better = (fell & ~self.fooled[whose]) | ((fell == self.fooled[whose]) & (loss > self.loss[whose]))
        chosen = whose[better]
        self.images[chosen], self.loss[chosen] = images[better], loss[better]
        self.fooled[chosen] = fell[better]
        return better


def blind(gradient: Tensor) -> Tensor:
    """(N,) bool: a gradient that is exactly zero or not finite, and so says nothing."""
    flat = gradient.flatten(1)
    return ~torch.isfinite(flat).all(1) | (flat == 0).all(1)


def silence(gradient: Tensor, mute: Tensor) -> Tensor:
    """The gradient with 0 for the samples `mute`, (N,) bool."""
    return gradient.masked_fill(mute.view(-1, 1, 1, 1), 0.0)


def pick(runs: Sequence[Crafted], choice: Tensor) -> Crafted:
    """For each sample images and trace of run `choice`, (N,), of runs of one length; queries, zero gradients of all."""
    places = torch.arange(len(choice), device=choice.device)
    return Crafted(
        images=torch.stack([run.images for run in runs])[choice, places],
        loss=torch.stack([run.loss for run in runs], 2)[:, places.cpu(), choice.cpu()],
        zero_gradients=torch.stack([run.zero_gradients for run in runs]).any(0),
        queries=torch.stack([run.queries for run in runs]).sum(0),
        checkpoints={
            step: torch.stack([run.checkpoints[step] for run in runs])[choice, places] for step in runs[0].checkpoints
        },
    )
