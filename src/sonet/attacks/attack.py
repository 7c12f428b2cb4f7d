"""What every attack does around its crafting: check the input, go through batches, check the result, judge it twice."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from sonet.attacks.crafted import Crafted, Progress
from sonet.attacks.gradients import GradientSource, as_source
from sonet.attacks.input import AttackError, check_eval_mode, check_images, check_logits
from sonet.attacks.result import AttackResult, predict
from sonet.attacks.threat import Norm, Threat
from sonet.errors import explain
from sonet.types import Classifier, Images, Labels


class Attack(BaseModel, ABC):
    """An attack is a setting; `run` applies it. Subclasses fill in `craft`, for one batch.

    Every setting is validated and unknown ones are refused with an `AttackError`.

    norms: those it works in. paper: where it is from, with the deviations in the class's docstring.
    `batch_size` matters beyond memory where a model couples the samples of a batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    needs_gradient: ClassVar[bool] = True
    paper: ClassVar[str]

    batch_size: PositiveInt = Field(default=100, description="images attacked together")
    seed: NonNegativeInt = Field(default=0, description="of its random draws, which belong to the image")
    stop_when_fooled: bool = Field(
        default=True,
        description="an image that fell costs no more; exact where batch-mates do not matter",
    )

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            known = ", ".join(type(self).model_fields)
            raise AttackError(f"{type(self).__name__}: {explain(error)}. Its settings are: {known}.") from None

    @property
    @abstractmethod
    def work(self) -> int:
        """Steps it makes of an image at most: restarts and targets included; for progress and forecasts."""

    @property
    def draws(self) -> bool:
        """Whether another seed can give another result."""
        return True

    @property
    def price(self) -> tuple[int, int]:
        """(forward and backward passes, forward passes alone) of an image at most, for forecasts."""
        return (self.work, 0) if self.needs_gradient else (0, self.work)

    def shortened(self, share: float) -> Self:
        """About `share` of the work, in (0, 1]: fewer targets first, down to three, then fewer steps, down to ten."""
        changes: dict[str, int] = {}
        targets = getattr(self, "targets", 0)
        if targets > 3:
            changes["targets"] = max(3, round(targets * share))
            share = min(1.0, share * targets / changes["targets"])
        for name in ("steps", "queries"):
            if name in type(self).model_fields:
                whole = getattr(self, name)
                changes[name] = min(whole, max(10, round(whole * share)))
        return self.model_copy(update=changes)

    @property
    def checkpoint_steps(self) -> int:
        """The last step whose iterate `checkpoints` may ask for; 0 where an attack has no such iterates."""
        return 0

    @abstractmethod
    def craft(
        self,
        source: GradientSource,
        images: Images,
        labels: Labels,
        threat: Threat,
        checkpoints: Sequence[int],
        progress: Progress | None,
    ) -> Crafted:
        """Adversarial images for one batch, with the slopes (or the logits) of `source`."""

    def run(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        threat: Threat,
        *,
        gradients_from: Classifier | GradientSource | None = None,
        judge_batch: int | None = None,
        checkpoints: Sequence[int] = (),
        progress: Progress | None = None,
    ) -> AttackResult:
        """Attack `classifier` at `images`, (N, C, H, W) in [0, 1], with true `labels`, (N,).

        gradients_from: craft on this variant of the model, or with this source of gradients; judge on `classifier`,
            which is what is deployed.
        judge_batch: batch size of judging, the deployed one; default the attack's. The result is judged again in
            batches of another size, and box and budget are checked, whatever the attack.
        checkpoints: steps after which iterates are kept besides (`PGD` and `SPSA`).
        Images that the model gets wrong by itself count as fooled, and are attacked like the others.
        A `torch.nn.Module` must be in eval mode.
        """
        source = as_source(classifier if gradients_from is None else gradients_from)
        check_eval_mode(classifier, source)
        images = check_images(images, labels)
        self.check_threat(threat)
        judge = self.batch_size if judge_batch is None else judge_batch
        if judge < 1:
            raise AttackError(f"judge_batch must be >= 1, got {judge}; leave it out for the attack's own batch size.")
        for step in checkpoints:
            if not 1 <= step <= self.checkpoint_steps:
                raise AttackError(
                    f"checkpoints must be steps of 1 .. {self.checkpoint_steps}, got {step}: "
                    f"{type(self).__name__} has no such."
                )
        start = time.perf_counter()
        check_logits(classifier, images, labels)
        batches = zip(torch.split(images, self.batch_size), torch.split(labels, self.batch_size), strict=True)
        crafted = [
            self.craft(source, part.contiguous(), label, threat, checkpoints, progress) for part, label in batches
        ]
        adversarial = torch.cat([part.images for part in crafted])
        threat.check(adversarial, images)
        minima = [part.minimum for part in crafted if part.minimum is not None]
        return AttackResult(
            adversarial=adversarial,
            labels=labels,
            threat=threat,
            clean=predict(classifier, images, judge),
            predictions=predict(classifier, adversarial, judge),
            elsewhere=predict(classifier, adversarial, other_batch(min(judge, len(images)))),
            distance=threat.distance(adversarial, images),
            minimum=torch.cat(minima) if minima else None,
            loss=join_traces([part.loss for part in crafted]),
            zero_gradients=torch.cat([part.zero_gradients for part in crafted]),
            queries_each=torch.cat([part.queries for part in crafted]),
            seconds=time.perf_counter() - start,
            checkpoints={step: torch.cat([part.checkpoints[step] for part in crafted]) for step in checkpoints},
        )

    def check_threat(self, threat: Threat) -> None:
        """`AttackError` for a norm the attack does not work in."""
        if threat.norm not in self.norms:
            raise AttackError(
                f"{type(self).__name__} works in {' and '.join(self.norms)}, got the threat {threat}. "
                "Its steps are made for that norm; take another attack for this one."
            )


def join_traces(traces: Sequence[torch.Tensor]) -> torch.Tensor:
    """Loss traces (T_i, N_i) side by side, (max T, sum N), NaN below the shorter ones."""
    longest = max(len(trace) for trace in traces)
    joined = torch.full((longest, sum(trace.shape[1] for trace in traces)), torch.nan)
    start = 0
    for trace in traces:
        joined[: len(trace), start : start + trace.shape[1]] = trace
        start += trace.shape[1]
    return joined


def other_batch(size: int) -> int:
    """Another batch size to judge in: about a third, so that nobody keeps the same batch-mates."""
    return max(1, size // 3) if size > 1 else 7
