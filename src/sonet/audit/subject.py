"""What is audited: a classifier with images, a threat and an effort; and what many checks ask for, measured once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from sonet.attacks.gradients import Backpropagation, GradientSource
from sonet.attacks.losses import LOSSES, Goal
from sonet.attacks.noise import ImageNoise
from sonet.attacks.pgd import LossName
from sonet.attacks.result import predict
from sonet.attacks.threat import Threat
from sonet.audit.dial import Dial, find_dial
from sonet.audit.effort import Effort
from sonet.audit.sources import Counted, LogOfProbabilities, Mean, Vote
from sonet.audit.stages import Stages
from sonet.report.audit_record import Ladder, Matrix
from sonet.types import Classifier, Images, Labels, Logits, Proportion

BATCH = 100
"""Images judged together, unless said otherwise."""
SAME = 1e-3
"""Share of the logits' spread by which rounding may move a logit. Shared step sizes move them by tens of per cent."""


@dataclass
class Subject:
    """A model under audit. Images that it gets wrong by itself count against it, and are not attacked.

    model: (N, C, H, W) in [0, 1] -> logits. batch: images judged together, as deployed. backbone: of a defence, the
    undefended network, where there is one.
    """

    model: Classifier
    images: Images
    labels: Labels
    threat: Threat
    effort: Effort
    seed: int = 0
    batch: int = BATCH
    backbone: Classifier | None = None

    def __post_init__(self) -> None:
        self.classifier = Counted(self.model)
        self.ladders: dict[str, Ladder] = {}
        self.not_run: dict[str, str] = {}
        self.matrix: Matrix | None = None

    @property
    def passes(self) -> int:
        """Images that the model has seen so far, forward or backward."""
        made: list[Dial | Counted | None] = [self.__dict__.get(name) for name in ("dial", "in_float64")]
        return self.classifier.passes + sum(other.passes for other in made if other is not None)

    @cached_property
    def answers(self) -> tuple[Logits, Logits]:
        """The logits of the first batch, asked for twice, (B, classes) each."""
        first = self.images[: self.batch]
        with torch.no_grad():
            return self.classifier(first.contiguous()), self.classifier(first.contiguous())

    @cached_property
    def spread(self) -> float:
        """Standard deviation of the finite logits: the scale on which a change of logits counts. Never 0."""
        logits = self.answers[0]
        finite = logits[torch.isfinite(logits)]
        return max(float(finite.std(correction=0)), 1e-12) if len(finite) else 1e-12

    def moved(self, one: Logits, other: Logits) -> Tensor:
        """(N,) the largest change of a logit, in `spread`; infinite where only one of them is finite."""
        change = (one - other).abs().amax(1) / self.spread
        finite = torch.isfinite(one).all(1), torch.isfinite(other).all(1)
        return torch.where(finite[0] == finite[1], change.nan_to_num(0.0), torch.inf)

    @cached_property
    def random(self) -> bool:
        """Whether the same batch, asked for again, has other logits."""
        return bool((self.moved(*self.answers) > SAME).any())

    @cached_property
    def alone(self) -> Logits:
        """The logits of the first probes of the first batch, each asked for by itself."""
        with torch.no_grad():
            some = self.images[: min(self.batch, max(16, self.effort.probes))]
            return torch.cat([self.classifier(image.contiguous()) for image in some.split(1)])  # type: ignore[no-untyped-call]

    @cached_property
    def coupled(self) -> bool:
        """Whether batch-mates move an image's logits by more than rounding."""
        if self.random:
            return False
        return bool((self.moved(self.alone, self.answers[0][: len(self.alone)]) > 10 * SAME).any())

    @cached_property
    def own_steps(self) -> Classifier | None:
        """The model with each image's own steps, where so it answers as if asked for one image at a time; else None."""
        if self.dial is None or not self.dial.adaptive:
            return None
        variant = self.dial.variant(scope="sample")
        try:
            with torch.no_grad():
                together = variant(self.images[: len(self.alone)].contiguous())
        except Exception:  # a solver that cannot be turned so: one image at a time it is
            return None
        return variant if bool((self.moved(self.alone, together) <= 10 * SAME).all()) else None

    @cached_property
    def leaks(self) -> bool:
        """Whether other samples' losses have a gradient at a sample's pixels, beyond a thousandth of all."""
        from sonet.audit.leak import own_gradient_share

        images, labels = self.take(min(16, self.batch))
        return len(images) > 1 and bool((own_gradient_share(self.classifier, images, labels) < 0.999).any())

    @property
    def shared(self) -> bool:
        """Whether images of a batch are in each other's way: by their answers or by their gradients."""
        return self.coupled or self.leaks

    @cached_property
    def deployed(self) -> Classifier:
        """Who judges: the model, or, of a random one, the majority of several calls."""
        return Vote(self.classifier, self.effort.calls) if self.random else self.classifier

    @cached_property
    def shown(self) -> Classifier:
        """What attacks without gradients look at: the model, or, of a random one, the mean of several calls.

        Where it answers with probabilities, their logarithms: beyond a margin of 16 they are 1 and 0 in float32.
        """
        seen: Classifier = Mean(self.classifier, self.effort.calls) if self.random else self.classifier
        return LogOfProbabilities(seen) if self.probabilities else seen

    @cached_property
    def probabilities(self) -> bool:
        """Whether every answer lies in [0, 1] and sums to 1."""
        logits = self.answers[0].double()
        return bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all())

    @cached_property
    def dial(self) -> Dial | None:
        """The way to the model's ODE solver, if it has one."""
        return find_dial(self.model, self.images[:2])

    @property
    def solver(self) -> Dial:
        """`dial` of a model that has one, which checks that need a solver may take for granted."""
        assert self.dial is not None, "no ODE solver was found: the check says needs='solver'"
        return self.dial

    @cached_property
    def clean(self) -> Tensor:
        """(N,) predicted classes without attack."""
        return predict(self.deployed, self.images, self.batch)

    @cached_property
    def right(self) -> Tensor:
        """(N,) bool."""
        return torch.eq(self.clean, self.labels)

    @property
    def natural(self) -> Proportion:
        return Proportion(int(self.right.sum()), len(self.labels))

    @cached_property
    def own(self) -> GradientSource:
        """The model's own gradient, as deployed: of the summed loss of a batch."""
        return Backpropagation(self.classifier)

    @cached_property
    def stages(self) -> Stages:
        """The attacks, one after the other."""
        return Stages(self)

    def take(self, count: int) -> tuple[Images, Labels]:
        """The first `count` images that the model gets right, with labels; fewer if there are fewer."""
        places = self.right.nonzero().squeeze(1)[:count]
        return self.images[places].contiguous(), self.labels[places]

    def gradient(
        self, images: Images, labels: Labels, loss: LossName = "ce", source: GradientSource | None = None
    ) -> tuple[Tensor, Tensor]:
        """Gradient, (N, C, H, W), and loss, (N,), at some images."""
        slope = (source or self.own)(images, Goal(labels, LOSSES[loss]), ImageNoise(images, self.seed))
        return slope.gradient, slope.loss

    @cached_property
    def in_float64(self) -> Counted | None:
        """The model in float64, where it is a module that runs so and answers the same."""
        from sonet.audit.sources import Doubled

        if not isinstance(self.model, nn.Module) or self.random:
            return None
        try:
            doubled = Counted(Doubled(self.model))
            with torch.no_grad():
                other = doubled(self.images[: self.batch].contiguous())
        except Exception:
            return None
        return doubled if bool((self.moved(self.answers[0], other.to(self.answers[0])) < 0.1).all()) else None
