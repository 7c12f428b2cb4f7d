"""The one loop of the attacks of fixed step length: step where the loss grows, project, keep what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sonet.attacks.crafted import Best, Crafted, Progress, blind, silence
from sonet.attacks.gradients import GradientSource
from sonet.attacks.losses import Goal
from sonet.attacks.noise import ImageNoise
from sonet.attacks.threat import Threat
from sonet.types import Images

Keep = Literal["last", "best"]


def ascend(
    source: GradientSource,
    images: Images,
    goal: Goal,
    threat: Threat,
    *,
    start: Images,
    noise: ImageNoise,
    steps: int,
    step_size: float,
    decay: bool = False,
    keep: Keep,
    stop_when_fooled: bool,
    whose: Tensor | None = None,
    momentum: float = 0.0,
    checkpoints: Sequence[int] = (),
    progress: Progress | None = None,
) -> Crafted:
    r"""g_k = momentum g_{k-1} + gradient(x_k);  x_{k+1} = project(x_k + step_size * steepest(g_k)), k = 0 .. steps - 1.

    decay: step k has the length step_size * (1 - k / steps).

    keep "last" returns x_steps. keep "best" returns, for each sample, an iterate that fools `source`'s own classifier
    if there was one, the one of largest loss among them, so that the result is never worse than an earlier iterate.
    whose: (M,) places of the samples to move; the others stay at their start and cost nothing.
    A sample's gradient that is not finite counts as zero: without momentum the sample stays where it is.
    """
    current, best = start.clone(), Best(start)
    zero = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    queries = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    trace = torch.full((steps, len(images)), torch.nan)
    active = torch.arange(len(images), device=images.device) if whose is None else whose
    noise = noise.keep(active)
    saved: dict[int, Images] = {}
    velocity = torch.zeros_like(start)
    for step in range(steps):
        slope = source(current[active], goal.take(active), noise)
        queries[active] += slope.queries
        trace[step, active.cpu()] = slope.loss.float().cpu()
        fell = goal.take(active).fooled(slope.logits)
        best.note(active, current[active], slope.loss, fell)
        mute = blind(slope.gradient)
        zero[active] |= mute
        gradient = slope.gradient
        if stop_when_fooled and bool(fell.any()):
            going = (~fell).nonzero().squeeze(1)
            active, noise, gradient, mute = active[going], noise.keep(going), gradient[going], mute[going]
        if not len(active):
            break
        gradient = silence(gradient, mute)
        if momentum:
            gradient = velocity[active] = momentum * velocity[active] + gradient
        length = step_size * (1 - step / steps) if decay else step_size
        moved = current[active] + length * threat.steepest(gradient)
        current[active] = threat.project(moved, images[active])
        if step + 1 in checkpoints:
            saved[step + 1] = current.clone()
        if progress is not None:
            progress(len(images))
    if keep == "best":
        if len(active):
            logits, rest = source.logits(current[active]), goal.take(active)
            queries[active] += 1
            best.note(active, current[active], rest(logits), rest.fooled(logits))
        current = best.images
    for step in checkpoints:
        saved.setdefault(step, current.clone())
    return Crafted(current, trace, zero, queries, checkpoints=saved)
