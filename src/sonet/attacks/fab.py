"""Fast Adaptive Boundary attack: steps to the linearised boundary, drawn toward the clean image."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from sonet.attacks.crafted import Progress, blind, silence
from sonet.attacks.gradients import GradientSource, Slope
from sonet.attacks.hyperplane import length, to_plane
from sonet.attacks.losses import Goal, likely_targets
from sonet.attacks.minimum import BISECTIONS, Found, MinimumNorm, Nearest
from sonet.attacks.noise import ImageNoise
from sonet.attacks.outlook import FUTILITY, Futility, Outlook
from sonet.attacks.threat import Norm, Threat
from sonet.types import Images, Labels, Logits

WINDOW = 10
"""Steps of a run after which its outlook is judged, where it is."""


class FAB(MinimumNorm):
    r"""Fast Adaptive Boundary attack, targeted (Croce and Hein 2020): the nearest image that fools, target by target.

    At x with f = z_target - z_label the boundary is taken as the plane {u: f(x) + <grad f(x), u - x> = 0}. With P the
    projection onto plane and box in the threat's norm, d = P(x) - x and d0 = P(clean) - clean, a step is

        x <- clip((1 - alpha) (x + eta d) + alpha (clean + eta d0)),
        alpha = min(|d| / (|d| + |d0|), alpha_max).

    An x that fools is noted and drawn back, x <- (1 - beta) clean + beta x. The first restart starts at the clean
    image, later ones uniformly in a ball of radius min(distance found, eps) / 2. The gradient must be in the loss's own
    scale: of a normalised one (`Average`) the plane would be misplaced.

    Deviations: one slope a step serves all. Its logits tell whether x fools, and an x drawn back takes its next step
    from the same plane; the paper looks at x first and linearises again where it was drawn to, three queries a step
    for these two. The last search toward the clean image is a bisection. Restarts go round all targets. A sample whose
    slope is 0 or not finite at an x that does not fool would stay there: it leaves that run. With `futility`, which is
    for `stop_when_fooled`, a run whose nearest image so far comes down too slowly to get within eps ends early.
    """

    paper: ClassVar[str] = "Croce and Hein 2020, arXiv:1907.02044"

    steps: PositiveInt = Field(default=100, description="steps of a run toward one target")
    restarts: PositiveInt = Field(default=1, description="runs toward each target; the first from the clean image")
    targets: PositiveInt = Field(default=9, description="likeliest wrong classes tried; fewer if there are fewer")
    alpha_max: float = Field(default=0.1, ge=0, le=1, description="the most a step is drawn toward the clean image")
    eta: float = Field(default=1.05, ge=1, description="by what factor a step goes beyond the plane")
    futility: Futility = Field(default=None, description=FUTILITY)
    beta: float = Field(default=0.9, gt=0, lt=1, description="share of the distance kept by an image that fooled")

    @property
    def work(self) -> int:
        return self.steps * self.restarts * self.targets

    @property
    def draws(self) -> bool:
        return self.restarts > 1

    @property
    def price(self) -> tuple[int, int]:
        return self.work, 2 + self.restarts * self.targets + BISECTIONS

    def search(
        self, source: GradientSource, images: Images, labels: Labels, threat: Threat, progress: Progress | None
    ) -> Found:
        hunt = Hunt(source, images, threat, self.stop_when_fooled, progress)
        likely = likely_targets(hunt.look(Goal(labels)), labels, self.targets)
        runs = self.restarts * likely.shape[1]
        hunt.rule(runs * self.steps)
        for run in range(runs):
            restart, rank = divmod(run, likely.shape[1])
            whose = hunt.standing.nonzero().squeeze(1)
            if not len(whose):
                break
            noise = ImageNoise(images, self.seed * 1009 + run).keep(whose)
            start = images[whose]
            if restart:
                start = start_near(start, hunt.nearest.distance[whose].clamp_max(threat.eps) / 2, threat.norm, noise)
            self._approach(
                hunt, whose, Goal(labels[whose], targets=likely[whose, rank]), start, noise, run * self.steps
            )
        return hunt.settle(Goal(labels))

    def _approach(self, hunt: Hunt, whose: Tensor, goal: Goal, x: Images, noise: ImageNoise, row: int) -> None:
        """One run of the samples `whose`, (M,) places, from `x` toward the targets of `goal`."""
        clean, norm = hunt.images[whose], hunt.threat.norm
        distance = torch.full((len(whose),), torch.inf, dtype=x.dtype, device=x.device)
        outlook = Outlook(self.futility, self.steps, distance)
        for step in range(self.steps):
            slope, mute = hunt.slope(row + step, whose, x, goal, noise)
            fell = goal.fooled(slope.logits)
            hunt.nearest.note(whose, x, fell)
            distance = torch.where(fell, torch.minimum(distance, hunt.threat.distance(x, clean)), distance)
            gradient, loss = slope.gradient, slope.loss
            stay = hunt.standing[whose] & (fell | ~mute)
            if self.futility is not None and step % WINDOW == 0 and step:
                stay &= ~outlook.hopeless(step, distance - hunt.threat.eps)
            if not bool(stay.all()):
                left = stay.nonzero().squeeze(1)
                if not len(left):
                    return
                whose, goal, noise = whose[left], goal.take(left), noise.keep(left)
                x, clean, fell, mute, gradient, loss = (part[left] for part in (x, clean, fell, mute, gradient, loss))
                distance = distance[left]
                outlook.keep(left)
            x = self._step(x, clean, silence(gradient, mute), loss.masked_fill(mute, 0.0), fell, norm)
        hunt.last_look(whose, x, goal)

    def _step(self, x: Images, clean: Images, gradient: Tensor, loss: Tensor, fell: Tensor, norm: Norm) -> Images:
        """The next x; a sample whose gradient is 0 only goes back."""
        here, home, normal = x.flatten(1), clean.flatten(1), gradient.flatten(1)
        back = torch.where(fell, self.beta, 1.0).to(x.dtype).unsqueeze(1)
        points = torch.stack((home + back * (here - home), home))
        value = loss.to(x.dtype) + ((points - here) * normal).sum(-1)
        moves, _ = to_plane(points, normal, value, norm)
        far, far_home = length(moves, norm)
        alpha = (far / (far + far_home).clamp_min(1e-12)).clamp_max(self.alpha_max).unsqueeze(1)
        ends = points + self.eta * moves
        return torch.lerp(ends[0], ends[1], alpha).clamp(0.0, 1.0).view_as(x)


def start_near(images: Images, radius: Tensor, norm: Norm, noise: ImageNoise) -> Images:
    """A point uniform in the ball of each image's own radius, (N,), clipped to the box."""
    offset = Threat(norm, 1.0).random_offset(noise.uniform(), noise.normal(), noise.scalar())
    return (images + radius.view(-1, 1, 1, 1) * offset).clamp(0.0, 1.0)


class Hunt:
    """The books of a search along linearised boundaries: the nearest images found, who still stands, what was spent.

    queries, (N,) int64; zero, (N,) bool, whether a gradient said nothing; loss, (T, N), the largest of each step.
    """

    def __init__(
        self, source: GradientSource, images: Images, threat: Threat, stop_when_fooled: bool, progress: Progress | None
    ) -> None:
        self.source, self.images, self.threat = source, images, threat
        self.nearest = Nearest(images, threat)
        self.everyone = torch.arange(len(images), device=images.device)
        self.queries = torch.zeros_like(self.everyone)
        self.zero = torch.zeros_like(self.everyone, dtype=torch.bool)
        self.loss = torch.empty(0, len(images))
        self._stop, self._progress = stop_when_fooled, progress

    @property
    def standing(self) -> Tensor:
        """(N,) bool: not at distance 0 and, where that is enough, not within the threat."""
        return self.nearest.going(self._stop)

    def look(self, goal: Goal) -> Logits:
        """The clean images' logits; those that fool are found at distance 0."""
        logits = self.source.logits(self.images)
        self.queries += 1
        self.nearest.note(self.everyone, self.images, goal.fooled(logits))
        return logits

    def rule(self, rows: int) -> None:
        """Make the loss ready for `rows` steps."""
        self.loss = torch.full((rows, len(self.images)), torch.nan)

    def slope(self, row: int, whose: Tensor, x: Images, goal: Goal, noise: ImageNoise) -> tuple[Slope, Tensor]:
        """The slope at `x` of the samples `whose`, (M,) places, written down; and (M,) bool, which say nothing."""
        slope = self.source(x, goal, noise)
        mute = blind(slope.gradient) | ~torch.isfinite(slope.loss)
        self.queries[whose] += slope.queries
        self.zero[whose] |= mute
        cells = row, whose.cpu()
        self.loss[cells] = torch.fmax(self.loss[cells], slope.loss.float().cpu())
        if self._progress is not None:
            self._progress(len(self.images))
        return slope, mute

    def last_look(self, whose: Tensor, x: Images, goal: Goal) -> None:
        """Whether the last step fooled."""
        self.nearest.note(whose, x, goal.fooled(self.source.logits(x)))
        self.queries[whose] += 1

    def settle(self, goal: Goal) -> Found:
        """What was found, after a bisection toward the clean image of those still standing."""
        self.queries += self.nearest.to_boundary(self.source, goal, BISECTIONS, self.standing)
        return Found(self.nearest.images, self.nearest.distance, self.loss, self.zero, self.queries)
