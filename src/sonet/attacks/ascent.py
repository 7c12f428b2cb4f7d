"""The one loop of the gradient attacks: step where the loss grows, project, keep what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from sonet.attacks.gradients import GradientSource, Slope
from sonet.attacks.losses import fooled
from sonet.attacks.noise import ImageNoise
from sonet.attacks.threat import Threat
from sonet.types import Images, Labels

Keep = Literal["last", "best"]
Progress = Callable[[float], None]
"""Called with the number of image-steps just done."""


@dataclass(frozen=True)
class Crafted:
    """What crafting a batch gave.

    images: (N, C, H, W). loss: (T, N), at the images before each step, NaN after a sample stopped. zero_gradients:
    (N,) bool, whether the gradient was exactly zero (or not finite) at some step. queries: images the model saw, a
    backward pass counting as one. checkpoints: the iterates after the steps asked for.
    """

    images: Images
    loss: Tensor
    zero_gradients: Tensor
    queries: int
    checkpoints: dict[int, Images] = field(default_factory=dict)


def ascend(
    source: GradientSource,
    images: Images,
    labels: Labels,
    threat: Threat,
    *,
    start: Images,
    noise: ImageNoise,
    steps: int,
    step_size: float,
    keep: Keep,
    stop_when_fooled: bool,
    momentum: float = 0.0,
    checkpoints: Sequence[int] = (),
    progress: Progress | None = None,
) -> Crafted:
    r"""g_k = momentum g_{k-1} + gradient(x_k);  x_{k+1} = project(x_k + step_size * steepest(g_k)), k = 0 .. steps - 1.

    keep "last" returns x_steps. keep "best" returns, for each sample, an iterate that fools `source`'s own classifier
    if there was one, the one of largest loss among them, so that the result is never worse than an earlier iterate.
    A sample's gradient that is not finite counts as zero: without momentum the sample stays where it is.
    """
    current = start.clone()
    # In float64, so that it holds a loss of any precision as it is.
    best, best_loss = start.clone(), torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)
    best_fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    zero = torch.zeros_like(best_fooled)
    trace = torch.full((steps, len(images)), torch.nan)
    active = torch.arange(len(images), device=images.device)
    saved: dict[int, Images] = {}
    velocity = torch.zeros_like(start)
    queries = 0

    def note(slope: Slope) -> Tensor:
        """Remember the iterate just looked at where it beats the best so far; returns who is fooled there."""
        fell = fooled(slope.logits, labels[active])
        better = (fell & ~best_fooled[active]) | ((fell == best_fooled[active]) & (slope.loss > best_loss[active]))
        chosen = active[better]
        best[chosen], best_loss[chosen] = current[chosen], slope.loss[better].to(best_loss.dtype)
        best_fooled[chosen] = fell[better]
        return fell

    for step in range(steps):
        slope = source(current[active], labels[active], noise)
        queries += slope.queries
        trace[step, active.cpu()] = slope.loss.float().cpu()
        fell = note(slope)
        flat = slope.gradient.flatten(1)
        blind = ~torch.isfinite(flat).all(1) | (flat == 0).all(1)
        zero[active] |= blind
        if stop_when_fooled and bool(fell.any()):
            going = ~fell
            index = going.nonzero().squeeze(1)
            active, noise, gradient, blind = active[going], noise.keep(index), slope.gradient[going], blind[going]
        else:
            gradient = slope.gradient
        if not len(active):
            break
        gradient = gradient.masked_fill(blind.view(-1, 1, 1, 1), 0.0)
        if momentum:
            gradient = velocity[active] = momentum * velocity[active] + gradient
        moved = current[active] + step_size * threat.steepest(gradient)
        current[active] = threat.project(moved, images[active])
        if step + 1 in checkpoints:
            saved[step + 1] = current.clone()
        if progress is not None:
            progress(len(images))
    if keep == "best":
        if len(active):
            slope = source(current[active], labels[active], noise)
            queries += slope.queries
            note(slope)
        current = best
    for step in checkpoints:
        saved.setdefault(step, current.clone())
    return Crafted(current, trace, zero, queries, saved)
