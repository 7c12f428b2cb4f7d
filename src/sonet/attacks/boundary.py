"""The Boundary attack: a walk along the decision boundary that asks for nothing but the predicted class."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from sonet.attacks.crafted import Progress
from sonet.attacks.gradients import GradientSource
from sonet.attacks.losses import Goal
from sonet.attacks.minimum import BISECTIONS, Found, MinimumNorm, Nearest
from sonet.attacks.noise import ImageNoise
from sonet.attacks.threat import Norm, Threat
from sonet.types import Images, Labels

CHECK_EVERY = 5
"""Steps from one look at the sideways move alone to the next."""
WORTHWHILE = 1e-3
"""Share of the distance that a lap must gain for another one."""
SIDEWAYS_SUCCESS, INWARD_SUCCESS = 0.5, 0.25
"""Shares of moves that should fool: on a smooth boundary every second sideways move does, if it is short enough."""


class Boundary(MinimumNorm):
    r"""Walk from an image that fools toward the clean image x, by predicted classes alone (Brendel et al. 2018); l2.

    Start: the first of `starts` images of uniform noise that fools, walked back to the boundary by bisection. Where
    none fools, the distance is infinite. Then each step proposes, from x' at distance r = ||x' - x||_2,

        sideways   s = x + (x' - x + a r v) / sqrt(1 + a^2),   v a random direction at right angles to x' - x
        inward     x'' = clip(x + (1 - b) (s - x)),            clip into [0, 1]

    and x'' replaces x' if it fools. It is nearer in any case, as clipping brings no pixel away from x. Every image has
    its own a and b; they grow and shrink with its success: a so that half of the sideways moves fool, b so that a
    quarter of the whole steps do. A lap ends when b < `settled`; another one begins with the first a and b, which helps
    out of a corner, unless the last gained less than a thousandth of the distance. A step costs one query, every fifth
    a second for the sideways move alone. Only the place of the largest logit is read. `loss` is minus the distance.

    Deviations from the paper:
    - a and b change by a small factor after every trial, not after counting over a window of trials.
    - In a share `faces` of the steps, pixels of x' that are exactly 0 or 1 stay where they are. Clipping throws away
      what a move gains beyond the box, so that in a corner of the box (an image of pixels 0 and 1) nearly no free move
      fools however short, and the walk would stop too early.
    """

    paper: ClassVar[str] = "Brendel et al. 2018, arXiv:1712.04248"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    needs_gradient: ClassVar[bool] = False

    steps: PositiveInt = Field(default=5000, description="steps of the walk at most")
    starts: PositiveInt = Field(default=100, description="noise images tried as a start at most")
    sideways_step: PositiveFloat = Field(default=0.1, le=1, description="first a, as a share of the distance")
    inward_step: PositiveFloat = Field(default=0.1, le=0.5, description="first b, as a share of the distance")
    adaptation: PositiveFloat = Field(default=0.05, description="change of log a and log b after a trial")
    settled: PositiveFloat = Field(default=1e-6, description="b below which a lap ends")
    faces: float = Field(default=0.8, ge=0, le=1, description="share of steps that leave pixels at 0 and 1")

    @property
    def work(self) -> int:
        return self.starts + self.steps

    @property
    def price(self) -> tuple[int, int]:
        return 0, 2 + self.work + BISECTIONS + -(-self.steps // CHECK_EVERY)

    def search(
        self, source: GradientSource, images: Images, labels: Labels, threat: Threat, progress: Progress | None
    ) -> Found:
        goal, nearest = Goal(labels), Nearest(images, threat)
        queries = self._start(source, images, goal, nearest, progress)
        queries += nearest.to_boundary(source, goal, BISECTIONS, nearest.going(self.stop_when_fooled))
        # Not the stream of the starts: how many an image needed must not matter to its batch-mates.
        noise = ImageNoise(images, 2 * self.seed + 1)
        trace = torch.full((self.steps, len(images)), torch.nan)
        sideways = torch.full_like(nearest.distance, self.sideways_step)
        inward = torch.full_like(nearest.distance, self.inward_step)
        lap = nearest.distance.clone()
        active = torch.arange(len(images), device=images.device)
        for step in range(self.steps):
            again = (inward < self.settled) & (nearest.distance < (1 - WORTHWHILE) * lap)
            sideways.masked_fill_(again, self.sideways_step)
            inward.masked_fill_(again, self.inward_step)
            lap = torch.where(again, nearest.distance, lap)
            going = nearest.going(self.stop_when_fooled)
            kept = (going & torch.isfinite(nearest.distance) & (inward >= self.settled))[active].nonzero().squeeze(1)
            if len(kept) < len(active):
                active, noise = active[kept], noise.keep(kept)
            if not len(active):
                break
            trace[step, active.cpu()] = -nearest.distance[active].float().cpu()
            rest, clean, here = goal.take(active), images[active], nearest.images[active]
            still = ((here == 0) | (here == 1)) & (noise.scalar() < self.faces).view(-1, 1, 1, 1)
            turned = _turned(here - clean, still, sideways[active], noise.normal(), threat)
            if step % CHECK_EVERY == 0:
                fell = rest.fooled(source.logits(torch.where(still, here, clean + turned).clamp(0.0, 1.0)))
                queries[active] += 1
                sideways[active] *= self._factor(fell, SIDEWAYS_SUCCESS, CHECK_EVERY)
                sideways.clamp_(max=1.0)
            shrunk = clean + (1 - inward[active]).view(-1, 1, 1, 1) * turned
            proposed = torch.where(still, here, shrunk).clamp(0.0, 1.0)
            fell = rest.fooled(source.logits(proposed))
            queries[active] += 1
            nearest.note(active, proposed, fell)
            inward[active] *= self._factor(fell, INWARD_SUCCESS, 1)
            inward.clamp_(max=0.5)
            if progress is not None:
                progress(len(images))
        return Found(nearest.images, nearest.distance, trace, torch.zeros_like(labels, dtype=torch.bool), queries)

    def _start(
        self, source: GradientSource, images: Images, goal: Goal, nearest: Nearest, progress: Progress | None
    ) -> Tensor:
        """Note the clean images that fool and, for the others, the first noise that does; gives the queries, (N,)."""
        queries = torch.ones(len(images), dtype=torch.int64, device=images.device)
        active = torch.arange(len(images), device=images.device)
        noise = ImageNoise(images, 2 * self.seed)
        fell = goal.fooled(source.logits(images))
        nearest.note(active, images, fell)
        for _ in range(self.starts):
            going = (~fell).nonzero().squeeze(1)
            active, noise = active[going], noise.keep(going)
            if not len(active):
                break
            drawn = noise.uniform()
            fell = goal.take(active).fooled(source.logits(drawn))
            queries[active] += 1
            nearest.note(active, drawn, fell)
            if progress is not None:
                progress(len(images))
        return queries

    def _factor(self, fell: Tensor, wanted: float, trials: int) -> Tensor:
        """exp(adaptation trials (success - wanted)): on average 1 where the share of successes is as wanted."""
        return torch.exp(self.adaptation * trials * (fell.float() - wanted))


def _turned(change: Tensor, still: Tensor, length: Tensor, normal: Tensor, threat: Threat) -> Tensor:
    """x' - x of the pixels that are not `still` after the sideways move, of the length it had; 0 in those that are."""
    change, normal = change.masked_fill(still, 0.0), normal.masked_fill(still, 0.0)
    along = threat.steepest(change)
    across = threat.steepest(normal - (normal * along).flatten(1).sum(1).view(-1, 1, 1, 1) * along)
    radius = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    length = length.view(-1, 1, 1, 1)
    turned: Tensor = (change + length * radius * across) / (1 + length.square()).sqrt()
    return turned
