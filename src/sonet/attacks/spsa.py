"""The gradient-free attack: a masked gradient does not stop it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sonet.attacks.ascent import Crafted, Progress, ascend
from sonet.attacks.attack import Attack, AttackError
from sonet.attacks.gradients import SPSAGradient
from sonet.attacks.losses import LOSSES
from sonet.attacks.noise import ImageNoise
from sonet.attacks.threat import Threat
from sonet.types import Classifier, Images, Labels


@dataclass(frozen=True)
class SPSA(Attack):
    """PGD on the gradient estimated by simultaneous perturbation (Uesato et al. 2018).

    Deviations: steps of fixed length along the estimate with momentum (linf: its sign), where the paper uses Adam.

    Args:
        steps: >= 1. samples: >= 1, random directions for one estimate; each costs two queries.
        delta: > 0, length of a probe in each pixel; default eps / 4, close to that paper's 0.01 at eps = 8/255. In l2
            eps / (4 sqrt(pixels)): there too a whole probe is a quarter of the radius long.
        step_size: default eps / 4, longer than PGD's: the signs of noisy estimates partly cancel.
        momentum: in [0, 1), averages the noise of the estimates.
        loss: "margin" (default: a saturated cross-entropy would be flat to probes too) or "ce".
        batch_size: images attacked together. chunk: probes the model sees at once.
        stop_when_fooled: an image that falls costs no more queries.
    """

    steps: int = 20
    samples: int = 64
    delta: float | None = None
    step_size: float | None = None
    momentum: float = 0.75
    loss: Literal["ce", "margin"] = "margin"
    batch_size: int = 100
    chunk: int = 512
    seed: int = 0
    stop_when_fooled: bool = True

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise AttackError(f"SPSA: loss must be one of {', '.join(LOSSES)}, got {self.loss!r}.")
        for name in ("steps", "samples", "batch_size", "chunk"):
            if getattr(self, name) < 1:
                raise AttackError(f"SPSA: {name} must be >= 1, got {getattr(self, name)}.")
        for name in ("delta", "step_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise AttackError(f"SPSA: {name} must be > 0 and finite, got {value}; default: a share of eps.")
        if not 0 <= self.momentum < 1:
            raise AttackError(f"SPSA: momentum must be in [0, 1), got {self.momentum}.")

    def craft(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        threat: Threat,
        checkpoints: Sequence[int],
        progress: Progress | None,
    ) -> Crafted:
        # A ball of radius 0 holds the image alone; the probe's length then does not matter, but must not be 0.
        share = 1.0 if threat.norm == "linf" else images[0].numel() ** -0.5
        delta = self.delta or share * threat.eps / 4 or 0.01
        return ascend(
            SPSAGradient(classifier, LOSSES[self.loss], self.samples, delta, self.chunk),
            images,
            labels,
            threat,
            start=images,
            noise=ImageNoise(images, self.seed),
            steps=self.steps,
            step_size=threat.eps / 4 if self.step_size is None else self.step_size,
            keep="best",
            stop_when_fooled=self.stop_when_fooled,
            momentum=self.momentum,
            checkpoints=checkpoints,
            progress=progress,
        )
