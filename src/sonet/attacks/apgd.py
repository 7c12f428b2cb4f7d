"""APGD: projected gradient descent that finds its own step lengths."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from sonet.attacks.attack import Attack
from sonet.attacks.crafted import Best, Crafted, Progress, blind, silence
from sonet.attacks.gradients import GradientSource
from sonet.attacks.losses import LOSSES, TARGETED_LOSSES, Goal, fooled, likely_targets
from sonet.attacks.noise import ImageNoise
from sonet.attacks.outlook import FUTILITY, Futility, Outlook, check_futility
from sonet.attacks.threat import Threat
from sonet.types import Images, Labels, Logits


class APGD(Attack):
    r"""Auto-PGD (Croce and Hein 2020): momentum, and for each image a step that halves where the loss stops rising.

        z       = project(x_k + h_k steepest(g(x_k)))
        x_{k+1} = project(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1}))

    h_0 = 2 eps. At checkpoints w_j = ceil(p_j steps), p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03,
    0.06): where the loss rose in fewer than `rho` of the steps since the last one, or neither step length nor best loss
    changed since then, h halves and the search goes on from the best image so far. With `futility` the run's `Outlook`
    is judged there too.

    Deviations: cross-entropy is followed through its logit, `log-odds`, which has the same direction and does not
    saturate; an image leaves as soon as it falls; the last iterate costs a forward pass only.
    """

    paper: ClassVar[str] = "Croce and Hein 2020, arXiv:2003.01690"

    steps: PositiveInt = Field(default=100, description="steps of a run")
    restarts: PositiveInt = Field(default=1, description="runs, each from a random start of its own")
    loss: Literal["log-odds", "ce", "dlr", "margin"] = Field(default="log-odds", description="what is driven up")
    futility: Futility = Field(default=None, description=FUTILITY)
    rho: float = Field(default=0.75, gt=0, le=1, description="share of steps that must raise the loss to keep h")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        check_futility(self.futility, self.loss)
        return self

    @property
    def work(self) -> int:
        return self.steps * self.restarts

    def craft(
        self,
        source: GradientSource,
        images: Images,
        labels: Labels,
        threat: Threat,
        checkpoints: Sequence[int],
        progress: Progress | None,
    ) -> Crafted:
        best, logits = Best(images), source.logits(images)
        everyone = torch.arange(len(images), device=images.device)
        # A random start may lead away from an image that is wrong by itself, or of larger loss than all that follow.
        best.note(everyone, images, self._at_start(logits, labels), fooled(logits, labels))
        zero = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        queries = torch.ones(len(images), dtype=torch.int64, device=images.device)
        traces: list[Tensor] = []
        for number, goal in enumerate(self._goals(logits, labels, traces)):
            whose = everyone[~best.fooled] if self.stop_when_fooled else everyone
            run = _Run(self, source, images, goal, threat, best, zero, queries)
            noise = ImageNoise(images, self.seed * 1009 + number)
            traces.append(run.climb(whose, noise.keep(whose), progress))
        return Crafted(best.images, torch.cat(traces), zero, queries)

    def _at_start(self, logits: Logits, labels: Labels) -> Tensor:
        """(N,) the loss of the clean images."""
        return LOSSES[self.loss](logits, labels).nan_to_num(nan=-torch.inf)

    def _goals(self, logits: Logits, labels: Labels, traces: list[Tensor]) -> Iterator[Goal]:
        """The goal of each run; `traces` holds the losses of the runs before."""
        for _ in range(self.restarts):
            yield Goal(labels, LOSSES[self.loss])


class APGDCE(APGD):
    """APGD on cross-entropy."""


class APGDDLR(APGD):
    """APGD on the difference of logits ratio, which does not depend on the scale of the logits."""

    loss: Literal["log-odds", "ce", "dlr", "margin"] = Field(default="dlr", description="what is driven up")


class APGDT(APGD):
    """APGD on the targeted difference of logits ratio, one run for each of the likeliest wrong classes.

    `loss` names the targeted form; `ce` is the target's log-probability. Deviation: `encores`, further runs from new
    starts toward the target that came nearest, for maps that are rough, where the start decides.
    """

    loss: Literal["ce", "dlr", "margin"] = Field(default="dlr", description="what is driven up, in its targeted form")
    targets: PositiveInt = Field(default=9, description="wrong classes aimed at, likeliest first; fewer if there are")
    encores: NonNegativeInt = Field(default=0, description="further runs toward the target that came nearest")

    @property
    def work(self) -> int:
        return self.steps * (self.restarts * self.targets + self.encores)

    def _at_start(self, logits: Logits, labels: Labels) -> Tensor:
        # The losses of several targets have no common scale.
        return torch.full_like(labels, -torch.inf, dtype=logits.dtype)

    def _goals(self, logits: Logits, labels: Labels, traces: list[Tensor]) -> Iterator[Goal]:
        targets, targeted = likely_targets(logits, labels, self.targets), TARGETED_LOSSES[self.loss]
        for _ in range(self.restarts):
            for target in targets.unbind(1):
                yield Goal(labels, targets=target, targeted=targeted)
        if self.encores:
            reached = torch.stack([trace.nan_to_num(nan=-torch.inf).amax(0) for trace in traces])
            nearest = reached.view(self.restarts, -1, len(labels)).amax(0).argmax(0).to(labels.device)
            for _ in range(self.encores):
                yield Goal(labels, targets=targets.gather(1, nearest[:, None])[:, 0], targeted=targeted)


class _Run:
    """One run from one start; `best`, `zero` and `queries` of the whole batch are filled as it goes."""

    def __init__(
        self,
        setting: APGD,
        source: GradientSource,
        images: Images,
        goal: Goal,
        threat: Threat,
        best: Best,
        zero: Tensor,
        queries: Tensor,
    ) -> None:
        self.setting, self.source, self.images, self.goal, self.threat = setting, source, images, goal, threat
        self.best, self.zero, self.queries = best, zero, queries

    def climb(self, whose: Tensor, noise: ImageNoise, progress: Progress | None) -> Tensor:
        """Run the samples `whose`, (M,) places; gives the losses, (steps + 1, N)."""
        setting, threat = self.setting, self.threat
        trace = torch.full((setting.steps + 1, len(self.images)), torch.nan)
        if not len(whose):
            return trace
        clean, goal = self.images[whose], self.goal.take(whose)
        x = threat.random_start(clean, noise)
        before = x  # x_{k-1}
        gradient, loss, fell = self._look(x, whose, goal, noise, False, trace[0])
        size = torch.full((len(whose), 1, 1, 1), 2 * threat.eps, dtype=x.dtype, device=x.device)
        top = _Top(x, gradient, loss)
        rises, halved, reference = torch.zeros_like(loss), torch.ones_like(fell), loss.clone()
        last_check, checks = 0, set(_checkpoints(setting.steps))
        leaving = fell if setting.stop_when_fooled else torch.zeros_like(fell)
        outlook = Outlook(setting.futility, setting.steps, -loss)
        for step in range(setting.steps):
            if bool(leaving.any()):
                stay = (~leaving).nonzero().squeeze(1)
                if not len(stay):
                    break
                whose, noise, goal = whose[stay], noise.keep(stay), goal.take(stay)
                clean, x, before, gradient, loss = clean[stay], x[stay], before[stay], gradient[stay], loss[stay]
                size, rises, halved, reference = size[stay], rises[stay], halved[stay], reference[stay]
                top = top.take(stay)
                outlook.keep(stay)
            inertia = 0.75 if step else 1.0
            z = threat.project(x + size * threat.steepest(gradient), clean)
            moved = threat.project(x + inertia * (z - x) + (1 - inertia) * (x - before), clean) if step else z
            before, x, earlier = x, moved, loss
            gradient, loss, fell = self._look(x, whose, goal, noise, step + 1 == setting.steps, trace[step + 1])
            rises += loss > earlier
            top.note(x, gradient, loss)
            leaving = fell if setting.stop_when_fooled else torch.zeros_like(fell)
            if step + 1 in checks:
                leaving = leaving | outlook.hopeless(step + 1, -top.loss)
                span, last_check = step + 1 - last_check, step + 1
                slow = rises < setting.rho * span
                stuck = ~halved & (top.loss <= reference)
                halved = slow | stuck
                reference, rises = top.loss.clone(), torch.zeros_like(rises)
                back = halved.view(-1, 1, 1, 1)
                size = torch.where(back, size / 2, size)
                x, gradient = torch.where(back, top.x, x), torch.where(back, top.gradient, gradient)
                loss = torch.where(halved, top.loss, loss)
            if progress is not None:
                progress(len(self.images))
        return trace

    def _look(
        self, x: Images, whose: Tensor, goal: Goal, noise: ImageNoise, last: bool, row: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient, loss and who is fooled at x; remembered in `best`. The last look needs no gradient."""
        if last:
            logits = self.source.logits(x)
            loss, gradient = goal(logits), torch.zeros_like(x)
            self.queries[whose] += 1
        else:
            slope = self.source(x, goal, noise)
            logits, loss = slope.logits, slope.loss
            mute = blind(slope.gradient)
            gradient = silence(slope.gradient, mute)
            self.zero[whose] |= mute
            self.queries[whose] += slope.queries
        row[whose.cpu()] = loss.float().cpu()
        fell = goal.fooled(logits)
        loss = loss.nan_to_num(nan=-torch.inf)
        self.best.note(whose, x, loss, fell)
        return gradient, loss, fell


class _Top:
    """The image of the largest loss in this run, with its gradient: where a search that stalled goes on."""

    def __init__(self, x: Images, gradient: Tensor, loss: Tensor) -> None:
        self.x, self.gradient, self.loss = x, gradient, loss

    def take(self, index: Tensor) -> _Top:
        return _Top(self.x[index], self.gradient[index], self.loss[index])

    def note(self, x: Images, gradient: Tensor, loss: Tensor) -> None:
        higher = loss > self.loss
        wide = higher.view(-1, 1, 1, 1)
        self.x, self.gradient = torch.where(wide, x, self.x), torch.where(wide, gradient, self.gradient)
        self.loss = torch.where(higher, loss, self.loss)


def _checkpoints(steps: int) -> Iterator[int]:
    """ceil(p_j steps) for j >= 1."""
    before, now = 0.0, 0.22
    while now <= 1:
        yield math.ceil(round(now * steps, 9))
        before, now = now, now + max(now - before - 0.03, 0.06)
