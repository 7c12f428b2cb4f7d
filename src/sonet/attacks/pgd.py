"""Projected gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sonet.attacks.ascent import Crafted, Keep, Progress, ascend
from sonet.attacks.attack import Attack, AttackError
from sonet.attacks.gradients import Backpropagation
from sonet.attacks.losses import LOSSES, fooled
from sonet.attacks.noise import ImageNoise
from sonet.attacks.threat import Threat
from sonet.types import Classifier, Images, Labels


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient descent (Madry et al. 2018): steps of fixed length along the steepest direction, projected.

    Args:
        steps: >= 1. step_size: > 0 in pixel units; default eps / 8, the length in every table of ours.
        loss: "ce" or "margin". random_start: uniform in the ball; the paper has none.
        restarts: >= 1; more need a random start, and keep for each sample the best of all.
        keep: "best" returns an iterate that fools where there was one, "last" the last one as the paper's code does.
        batch_size: images attacked together. seed: of the random starts, which belong to the image.
        stop_when_fooled: samples stop when they fall; exact only where batch-mates do not matter.
    """

    steps: int = 20
    step_size: float | None = None
    loss: Literal["ce", "margin"] = "ce"
    random_start: bool = False
    restarts: int = 1
    keep: Keep = "best"
    batch_size: int = 100
    seed: int = 0
    stop_when_fooled: bool = False

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise AttackError(f"PGD: loss must be one of {', '.join(LOSSES)}, got {self.loss!r}.")
        if self.keep not in ("best", "last"):
            raise AttackError(f"PGD: keep must be best or last, got {self.keep!r}.")
        for name in ("steps", "restarts", "batch_size"):
            if getattr(self, name) < 1:
                raise AttackError(f"PGD: {name} must be >= 1, got {getattr(self, name)}.")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise AttackError(f"PGD: step_size must be > 0 and finite, got {self.step_size}; leave it out for eps / 8.")
        if self.restarts > 1 and not self.random_start:
            raise AttackError("PGD: restarts without random_start would repeat the same run; set random_start=True.")
        if self.stop_when_fooled and self.keep == "last":
            raise AttackError("PGD: keep='last' asks for every step; it goes with stop_when_fooled=False.")

    def craft(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        threat: Threat,
        checkpoints: Sequence[int],
        progress: Progress | None,
    ) -> Crafted:
        source = Backpropagation(classifier, LOSSES[self.loss])
        runs = []
        for restart in range(self.restarts):
            noise = ImageNoise(images, self.seed * 1009 + restart)
            start = images
            if self.random_start:
                offset = threat.random_offset(noise.uniform(), noise.normal(), noise.scalar())
                start = threat.project(images + offset, images)
            runs.append(
                ascend(
                    source,
                    images,
                    labels,
                    threat,
                    start=start,
                    noise=noise,
                    steps=self.steps,
                    step_size=threat.eps / 8 if self.step_size is None else self.step_size,
                    keep=self.keep,
                    stop_when_fooled=self.stop_when_fooled,
                    checkpoints=checkpoints,
                    progress=progress,
                )
            )
        return runs[0] if len(runs) == 1 else _best_of(runs, classifier, labels, self.loss)


def _best_of(runs: Sequence[Crafted], classifier: Classifier, labels: Labels, loss: str) -> Crafted:
    """For each sample the run that fools, or else that of the largest loss."""
    scores = []
    for run in runs:
        with torch.no_grad():
            logits = classifier(run.images)
        score = torch.nan_to_num(LOSSES[loss](logits, labels), nan=0.0).clamp(-1e6, 1e6)
        scores.append(score + 1e7 * fooled(logits, labels))
    choice = torch.stack(scores).argmax(0)
    pick = torch.arange(len(labels), device=labels.device)
    return Crafted(
        images=torch.stack([run.images for run in runs])[choice, pick],
        loss=torch.stack([run.loss for run in runs], 2)[:, pick.cpu(), choice.cpu()],
        zero_gradients=torch.stack([run.zero_gradients for run in runs]).any(0),
        queries=sum(run.queries for run in runs) + len(runs) * len(labels),
        checkpoints={
            step: torch.stack([run.checkpoints[step] for run in runs])[choice, pick] for step in runs[0].checkpoints
        },
    )
