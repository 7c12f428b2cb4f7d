"""The attack of Carlini and Wagner: the rounds of Adam that its l2 and linf forms share, and the l2 form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from sonet.attacks.crafted import Progress, blind, silence
from sonet.attacks.gradients import GradientSource, Slope
from sonet.attacks.losses import LOSSES, Goal
from sonet.attacks.minimum import BISECTIONS, Found, MinimumNorm, Nearest
from sonet.attacks.noise import ImageNoise
from sonet.attacks.threat import Norm, Threat
from sonet.types import Images, Labels, Logits


class Trade(ABC):
    """How each image weighs its distance against its margin: cost(x' - x) + gain max(kappa - margin(x'), 0).

    gain: (N,), the paper's c.
    """

    gain: Tensor

    @abstractmethod
    def cost(self, whose: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """Of the changes x' - x, (M, C, H, W), of the images `whose`, (M,) places: (M,); and its gradient."""

    @abstractmethod
    def start(self, images: Images, nearest: Nearest, last: Images) -> Images:
        """Where a round starts, given the clean images, the nearest that fooled, the last of the round before."""

    @abstractmethod
    def enough(self, whose: Tensor, change: Tensor) -> Tensor:
        """(M,) bool: whose round may end, if it fools with this change."""

    @abstractmethod
    def adapt(self, hit: Tensor, last: Tensor, nearest: Nearest) -> None:
        """New constants after a round. hit, last: (N,) bool, who fooled in some step of it, who in its last."""


class CW(MinimumNorm):
    r"""Minimise cost(x' - x) + c max(kappa - margin(x'), 0) over x' in [0, 1], in rounds of Adam with changing c.

    `margin`: the largest other logit minus the label's; x' counts where it reaches kappa. Every image has its own c,
    state of Adam, step size and end of a round. Of all steps the nearest image that counts is the result, walked back
    toward the clean one by bisection.

    Deviations from the paper:
    - Adam runs on the pixels, clipped to [0, 1] after each step (the paper's section V.B, projected gradient descent),
      not on w with x' = (tanh(w) + 1) / 2: that cannot move a pixel that is exactly 0 or 1.
    - The first c and the step sizes are in units of the problem, so that scaling the logits changes nothing. With g the
      margin's gradient at x, u = g / ||g||_2 (l2) or sign(g) (linf), and d = (kappa - margin(x)) / <g, u>, a linear
      model's nearest image is x + d u. The first step of a round is `learning_rate` times the largest change of a pixel
      in d u, later in the nearest image found; threefold after each round that found none. It falls exponentially to a
      hundredth within the round, so that the last iterates settle.
    - An image's round ends when its objective fell by less than 0.01 % in a tenth of the steps.
    """

    paper: ClassVar[str] = "Carlini and Wagner 2017, arXiv:1608.04644"

    steps: PositiveInt = Field(default=200, description="steps of a round at most, two queries each")
    learning_rate: PositiveFloat = Field(
        default=0.1, description="first step of a round, as a share of the largest change of a pixel expected"
    )
    initial_const: PositiveFloat = Field(default=1.0, description="first c, in units of the gradients' ratio")
    confidence: NonNegativeFloat = Field(default=0.0, description="kappa, the margin to reach, in units of the logits")
    abort_early: bool = Field(default=True, description="end an image's round when it makes no progress")

    @property
    @abstractmethod
    def rounds(self) -> int:
        """How often Adam starts anew, at most."""

    @property
    def work(self) -> int:
        return self.rounds * self.steps

    @property
    def draws(self) -> bool:
        return False

    @property
    def price(self) -> tuple[int, int]:
        return 1 + self.work, 1 + BISECTIONS

    @abstractmethod
    def trade(self, gradient: Tensor, away: Tensor) -> Trade:
        """First constants, given g, (N, C, H, W), 0 where it says nothing, and d, (N,)."""

    def search(
        self, source: GradientSource, images: Images, labels: Labels, threat: Threat, progress: Progress | None
    ) -> Found:
        goal, nearest = Sure(labels, LOSSES["margin"], kappa=self.confidence), Nearest(images, threat)
        seen = _Seen(source, goal, nearest, images, self.work)
        slope, _ = seen.look(torch.arange(len(images), device=images.device), images, ImageNoise(images, self._seed(0)))
        gradient = silence(slope.gradient, blind(slope.gradient))
        along = threat.steepest(gradient)
        rise = (gradient * along).flatten(1).sum(1)
        away = ((self.confidence - slope.loss) / torch.where(rise > 0, rise, 1.0)).nan_to_num(0.0, 0.0, 0.0)
        reach = (away.view(-1, 1, 1, 1) * along).flatten(1).abs().amax(1).clamp(1e-3, 1.0)
        trade = self.trade(gradient, away)
        last = images
        for turn in range(self.rounds):
            if not bool(nearest.going(self.stop_when_fooled).any()):
                break
            last = self._round(seen, trade, trade.start(images, nearest, last).clone(), reach, turn, progress)
            largest = (nearest.images - images).flatten(1).abs().amax(1)
            reach = torch.where(torch.isfinite(nearest.distance), largest, (3 * reach).clamp_max(1.0))
        seen.queries += nearest.to_boundary(source, goal, BISECTIONS, nearest.going(self.stop_when_fooled))
        return Found(nearest.images, nearest.distance, seen.trace, seen.zero, seen.queries)

    def _round(
        self, seen: _Seen, trade: Trade, current: Images, reach: Tensor, turn: int, progress: Progress | None
    ) -> Images:
        """One run of Adam from `current`, in place; gives its last iterates and adapts the constants."""
        images, nearest = seen.images, seen.nearest
        active = nearest.going(self.stop_when_fooled).nonzero().squeeze(1)
        noise = ImageNoise(images, self._seed(1 + turn)).keep(active)
        adam = Adam(images)
        hit, last = torch.zeros_like(seen.zero), torch.zeros_like(seen.zero)
        lowest = torch.full_like(nearest.distance, torch.inf)
        checked = lowest.clone()
        for step in range(self.steps):
            slope, fell = seen.look(active, current[active], noise, turn * self.steps + step)
            hit[active] |= fell
            last[active] = fell
            change, gain = current[active] - images[active], trade.gain[active]
            cost, gradient = trade.cost(active, change)
            objective = cost + (gain * (self.confidence - slope.loss)).masked_fill(fell, 0.0)
            lowest[active] = torch.minimum(lowest[active], objective)
            gradient = gradient - gain.view(-1, 1, 1, 1) * silence(slope.gradient, blind(slope.gradient) | fell)
            over = fell & trade.enough(active, change)
            if self.stop_when_fooled:
                over |= nearest.within[active]
            if self.abort_early and (step + 1) % max(self.steps // 10, 1) == 0:
                over |= lowest[active] >= 0.9999 * checked[active]
                checked[active] = lowest[active]
            if bool(over.any()):
                going = (~over).nonzero().squeeze(1)
                active, noise, gradient = active[going], noise.keep(going), gradient[going]
            if not len(active):
                break
            size = self.learning_rate * 0.01 ** (step / self.steps) * reach[active].view(-1, 1, 1, 1)
            current[active] = (current[active] - size * adam.step(active, gradient, step)).clamp(0.0, 1.0)
            if progress is not None:
                progress(len(images))
        trade.adapt(hit, last, nearest)
        return current

    def _seed(self, use: int) -> int:
        return self.seed * 1009 + use


class CWL2(CW):
    r"""Minimise ||x' - x||_2^2 + c max(kappa - margin(x'), 0) (Carlini and Wagner 2017, l2); `CW` says how.

    Every round starts at the clean image. c is searched by bisection: smaller after a round that fooled, larger after
    one that did not, tenfold while none has. The first c is `initial_const` times 2 d / ||g||_2, the ratio of the two
    gradients' norms at a linear model's nearest image: there it would be the least c that fools.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)

    binary_search_steps: PositiveInt = Field(default=9, description="rounds, each with another c")
    initial_const: PositiveFloat = Field(default=3.0, description="first c, in units of 2 d / ||g||_2")

    @property
    def rounds(self) -> int:
        return self.binary_search_steps

    def trade(self, gradient: Tensor, away: Tensor) -> Trade:
        length = gradient.flatten(1).norm(dim=1, dtype=torch.float64)
        ratio = 2 * away / torch.where(length > 0, length, 1.0)
        return _Squared((self.initial_const * ratio).to(gradient.dtype))


class _Squared(Trade):
    def __init__(self, gain: Tensor) -> None:
        self.gain = gain
        self._low, self._high = torch.zeros_like(gain), torch.full_like(gain, torch.inf)

    def cost(self, whose: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        return change.square().flatten(1).sum(1), 2 * change

    def start(self, images: Images, nearest: Nearest, last: Images) -> Images:
        return images

    def enough(self, whose: Tensor, change: Tensor) -> Tensor:
        return torch.zeros(len(whose), dtype=torch.bool, device=whose.device)

    def adapt(self, hit: Tensor, last: Tensor, nearest: Nearest) -> None:
        self._high, self._low = torch.where(hit, self.gain, self._high), torch.where(hit, self._low, self.gain)
        middle = (self._low + self._high) / 2
        self.gain = torch.where(torch.isfinite(middle), middle, 10 * self.gain)


class Adam:
    """Adam (Kingma and Ba 2015, beta 0.9 and 0.999) for images that may leave: its state belongs to the image."""

    def __init__(self, images: Images) -> None:
        self._mean, self._square = torch.zeros_like(images), torch.zeros_like(images)

    def step(self, whose: Tensor, gradient: Tensor, number: int) -> Tensor:
        """The direction to go against, about 1 in each pixel, in step `number`, from 0, of the images `whose`."""
        self._mean[whose] = mean = 0.9 * self._mean[whose] + 0.1 * gradient
        self._square[whose] = square = 0.999 * self._square[whose] + 0.001 * gradient.square()
        spread = (square / (1 - 0.999 ** (number + 1))).sqrt()
        return mean / (1 - 0.9 ** (number + 1)) / spread.clamp_min(1e-12)


@dataclass(frozen=True)
class Sure(Goal):
    """The goal of a margin of at least kappa."""

    kappa: float = 0.0

    def fooled(self, logits: Logits) -> Tensor:
        fell = super().fooled(logits)
        return fell & ~(self(logits) < self.kappa) if self.kappa else fell

    def take(self, index: Tensor) -> Sure:
        return Sure(self.labels[index], self.loss, kappa=self.kappa)


class _Seen:
    """The books of a search: who is nearest, what it cost, how it went."""

    def __init__(self, source: GradientSource, goal: Goal, nearest: Nearest, images: Images, rows: int) -> None:
        self._source, self._goal, self.nearest, self.images = source, goal, nearest, images
        self.queries = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        self.zero = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.trace = torch.full((rows, len(images)), torch.nan)

    def look(self, whose: Tensor, at: Images, noise: ImageNoise, row: int | None = None) -> tuple[Slope, Tensor]:
        """The slopes of the images `whose`, now `at`, and (M,) bool, who fooled."""
        rest = self._goal.take(whose)
        slope = self._source(at, rest, noise)
        fell = rest.fooled(slope.logits)
        self.queries[whose] += slope.queries
        self.zero[whose] |= blind(slope.gradient)
        self.nearest.note(whose, at, fell)
        if row is not None:
            self.trace[row, whose.cpu()] = slope.loss.float().cpu()
        return slope, fell
