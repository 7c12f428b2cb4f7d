"""Projected gradient descent, and its single step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from sonet.attacks.ascent import Keep, ascend
from sonet.attacks.attack import Attack
from sonet.attacks.crafted import Crafted, Progress, pick
from sonet.attacks.gradients import GradientSource
from sonet.attacks.losses import LOSSES, Divergence, Goal
from sonet.attacks.noise import ImageNoise
from sonet.attacks.threat import Threat
from sonet.types import Images, Labels

LossName = Literal["ce", "log-odds", "margin", "dlr"]


class PGD(Attack):
    r"""Projected gradient descent (Madry et al. 2018): steps of fixed length along the steepest direction, projected.

        x_{k+1} = project(x_k + step_size * steepest(grad loss(x_k)))

    loss "kl" is KL(p(x) || p(x_k)), away from the network's own answer and without the label (Zhang et al. 2019). At x
    its gradient is zero, so it asks for another start: random_start, or x + start_noise * normal, projected too.

    decay: step k has the length step_size (1 - k / steps), so that the iterates come to rest: for losses that are rough
    on the scale of a step, and for batches whose samples share their steps, where each image moves all others' loss.

    stop_when_fooled is off by default here: the paper's rows count the last iterate (`keep="last"`).
    """

    paper: ClassVar[str] = "Madry et al. 2018, arXiv:1706.06083"

    steps: PositiveInt = Field(default=20, description="steps of a run")
    step_size: PositiveFloat | None = Field(default=None, description="in pixel units; default eps / 8")
    decay: bool = Field(default=False, description="steps shorten evenly to the last, which is step_size / steps")
    loss: Literal[LossName, "kl"] = Field(default="ce", description="what is driven up; kl: away from the own answer")
    random_start: bool = Field(default=False, description="start uniformly in the ball; the paper's code does not")
    start_noise: NonNegativeFloat = Field(default=0.0, description="deviation of normal noise at the start, in pixels")
    restarts: PositiveInt = Field(default=1, description="runs from random starts; for each image the best counts")
    keep: Keep = Field(default="best", description="best: an iterate that fools where there was one; last: the last")
    stop_when_fooled: bool = Field(default=False, description="an image that fell costs no more")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.random_start and self.start_noise:
            raise ValueError("random_start and start_noise are two starts; give one of them")
        if self.restarts > 1 and not self.draws:
            raise ValueError("restarts without random_start would repeat the same run; set random_start=True")
        if self.loss == "kl" and not self.draws:
            raise ValueError(
                "loss='kl' has no gradient at the image itself; set random_start=True, or start_noise (TRADES: 0.001)"
            )
        if self.stop_when_fooled and self.keep == "last":
            raise ValueError("keep='last' asks for every step; it goes with stop_when_fooled=False")
        return self

    @property
    def work(self) -> int:
        return self.steps * self.restarts

    @property
    def draws(self) -> bool:
        return self.random_start or self.start_noise > 0

    @property
    def checkpoint_steps(self) -> int:
        return self.steps

    def craft(
        self,
        source: GradientSource,
        images: Images,
        labels: Labels,
        threat: Threat,
        checkpoints: Sequence[int],
        progress: Progress | None,
    ) -> Crafted:
        goal = self._goal(source, images, labels)
        fell = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        runs, scores = [], []
        for restart in range(self.restarts):
            noise = ImageNoise(images, self.seed * 1009 + restart)
            whose = (~fell).nonzero().squeeze(1)
            if not len(whose):
                break
            run = ascend(
                source,
                images,
                goal,
                threat,
                start=self._start(images, threat, noise),
                noise=noise,
                steps=self.steps,
                step_size=threat.eps / 8 if self.step_size is None else self.step_size,
                decay=self.decay,
                keep=self.keep,
                stop_when_fooled=self.stop_when_fooled,
                whose=whose,
                checkpoints=checkpoints,
                progress=progress,
            )
            runs.append(run)
            if self.restarts > 1:
                score = torch.full((len(images),), -torch.inf, dtype=torch.float64, device=images.device)
                score[whose], fooled = _score(source, run.images[whose], goal.take(whose))
                run.queries[whose] += 1
                scores.append(score)
                if self.stop_when_fooled:
                    fell[whose] |= fooled
        if self.loss == "kl":
            runs[0].queries.add_(1)  # its reference
        return runs[0] if self.restarts == 1 else pick(runs, torch.stack(scores).argmax(0))

    def _goal(self, source: GradientSource, images: Images, labels: Labels) -> Goal:
        if self.loss == "kl":
            return Divergence(labels, reference=source.logits(images))
        return Goal(labels, LOSSES[self.loss])

    def _start(self, images: Images, threat: Threat, noise: ImageNoise) -> Images:
        if self.random_start:
            return threat.random_start(images, noise)
        return threat.project(images + self.start_noise * noise.normal(), images) if self.start_noise else images


class FGSM(Attack):
    """Fast gradient sign method (Goodfellow et al. 2015): one step of length eps; in l2 along the gradient itself."""

    paper: ClassVar[str] = "Goodfellow et al. 2015, arXiv:1412.6572"

    loss: LossName = Field(default="ce", description="what is driven up")

    @property
    def work(self) -> int:
        return 1

    @property
    def draws(self) -> bool:
        return False

    def craft(
        self,
        source: GradientSource,
        images: Images,
        labels: Labels,
        threat: Threat,
        checkpoints: Sequence[int],
        progress: Progress | None,
    ) -> Crafted:
        return ascend(
            source,
            images,
            Goal(labels, LOSSES[self.loss]),
            threat,
            start=images,
            noise=ImageNoise(images, self.seed),
            steps=1,
            step_size=threat.eps,
            keep="last",
            stop_when_fooled=self.stop_when_fooled,
            progress=progress,
        )


def _score(source: GradientSource, images: Images, goal: Goal) -> tuple[Tensor, Tensor]:
    """By which a run is the best of several: it fools, or else its loss is the largest; and who is fooled, (N,)."""
    logits = source.logits(images)
    fooled = goal.fooled(logits)
    return torch.nan_to_num(goal(logits), nan=0.0).double().clamp(-1e6, 1e6) + 1e7 * fooled, fooled
