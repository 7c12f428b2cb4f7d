"""The attack inside training: images crafted on a network as it will be deployed, which is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from sonet.attacks import Attack, Backpropagation, GradientSource, Progress, Threat
from sonet.attacks.ascent import ascend
from sonet.attacks.crafted import Crafted
from sonet.attacks.losses import Divergence
from sonet.attacks.noise import ImageNoise
from sonet.types import Images, Labels

START = 0.001
"""Standard deviation of the noise from which the KL is climbed: at the image itself its gradient is zero."""


class DivergencePGD(Attack):
    """The inner attack of TRADES (Zhang et al. 2019): PGD away from the network's own answer at the clean image.

        x_0 = x + 0.001 normal,   x_{k+1} = project(x_k + step_size * steepest(grad KL(p(x) || p(x_k))))

    The last iterate is kept. Deviation: x_0 too is projected into budget and box, which the authors' code leaves.
    """

    paper: ClassVar[str] = "Zhang et al. 2019, arXiv:1901.08573"

    steps: PositiveInt = Field(default=10, description="steps of a run")
    step_size: PositiveFloat | None = Field(default=None, description="in pixel units; default eps / 4")
    stop_when_fooled: bool = Field(default=False, description="an image that fell costs no more")

    @property
    def work(self) -> int:
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
        noise = ImageNoise(images, self.seed)
        return ascend(
            source,
            images,
            Divergence(labels, reference=source.logits(images)),
            threat,
            start=threat.project(images + START * noise.normal(), images),
            noise=noise,
            steps=self.steps,
            step_size=threat.eps / 4 if self.step_size is None else self.step_size,
            keep="last",
            stop_when_fooled=self.stop_when_fooled,
            checkpoints=checkpoints,
            progress=progress,
        )


def craft(model: nn.Module, attack: Attack, images: Images, labels: Labels, threat: Threat, seed: int) -> Images:
    """`attack`'s images alone: none of the checks and judgements of `Attack.run`, which would cost at every step.

    seed: of the draws, which belong to (seed, image): the same in any batch and in any process.
    """
    attack = attack.model_copy(update={"seed": seed})
    with as_deployed(model):
        return attack.craft(Backpropagation(model), images, labels, threat, (), None).images


@contextmanager
def as_deployed(model: nn.Module) -> Iterator[None]:
    """In eval mode, so that batch statistics hold still, with frozen weights, whose gradients would only cost.

    Afterwards, also after an exception, every module and every weight is as it was.
    """
    modes = [(module, module.training) for module in model.modules()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in learning:
            parameter.requires_grad_(True)
