"""The gradient attack whose gradient is estimated from outputs: a masked gradient does not stop it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, PositiveFloat, PositiveInt

from sonet.attacks.ascent import ascend
from sonet.attacks.attack import Attack
from sonet.attacks.crafted import Crafted, Progress
from sonet.attacks.gradients import GradientSource, SPSAGradient
from sonet.attacks.losses import LOSSES, Goal
from sonet.attacks.noise import Directions, ImageNoise
from sonet.attacks.pgd import LossName
from sonet.attacks.threat import Threat
from sonet.types import Images, Labels


class SPSA(Attack):
    """PGD on the gradient estimated by simultaneous perturbation (Uesato et al. 2018).

    Deviations: steps of fixed length along the estimate with momentum (linf: its sign), where the paper uses Adam. The
    margin is the default loss: a saturated cross-entropy would be flat to probes too.

    An estimate is noise in all but a share of about m / (m + d) of its square, d pixels, so that a run ends short of
    PGD by as much. Where that decides, take directions="orthogonal" and decay=True, about d pairs within the steps that
    `momentum` averages, 1 / (1 - momentum): for MNIST samples=256, momentum=0.75, steps=50 or more.
    """

    paper: ClassVar[str] = "Uesato et al. 2018, arXiv:1802.05666"
    needs_gradient: ClassVar[bool] = False

    steps: PositiveInt = Field(default=20, description="steps of a run")
    samples: PositiveInt = Field(default=64, description="random directions of one estimate, two queries each")
    directions: Directions = Field(
        default="independent", description="orthogonal: rows of a Hadamard matrix, without the noise of their overlap"
    )
    delta: PositiveFloat | None = Field(
        default=None,
        description="length of a probe in each pixel; default eps / 4 in linf (that paper: 0.01 at 8/255), in l2 "
        "eps / (4 sqrt(pixels)): there too a whole probe is a quarter of the radius long",
    )
    step_size: PositiveFloat | None = Field(
        default=None, description="default eps / 4, longer than PGD's: the signs of noisy estimates partly cancel"
    )
    decay: bool = Field(default=False, description="steps shorten evenly to the last, which is step_size / steps")
    momentum: float = Field(default=0.75, ge=0, lt=1, description="averages the noise of the estimates")
    loss: LossName = Field(default="margin", description="what is driven up")
    chunk: PositiveInt = Field(default=512, description="probes the model sees at once")

    @property
    def work(self) -> int:
        return self.steps

    @property
    def price(self) -> tuple[int, int]:
        return 0, self.steps * (1 + 2 * self.samples)

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
        # A ball of radius 0 holds the image alone; the probe's length then does not matter, but must not be 0.
        share = 1.0 if threat.norm == "linf" else images[0].numel() ** -0.5
        delta = self.delta or share * threat.eps / 4 or 0.01
        return ascend(
            SPSAGradient(source, self.samples, delta, self.chunk, self.directions),
            images,
            Goal(labels, LOSSES[self.loss]),
            threat,
            start=images,
            noise=ImageNoise(images, self.seed),
            steps=self.steps,
            step_size=threat.eps / 4 if self.step_size is None else self.step_size,
            decay=self.decay,
            keep="best",
            stop_when_fooled=self.stop_when_fooled,
            momentum=self.momentum,
            checkpoints=checkpoints,
            progress=progress,
        )
