"""What every attack does around its crafting: check the input, go through batches, check the result, judge it twice."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from sonet.attacks.ascent import Crafted, Progress
from sonet.attacks.result import AttackResult, predict
from sonet.attacks.threat import Threat
from sonet.types import Classifier, Images, Labels


class AttackError(ValueError):
    """An attack's input or setting makes no sense; says got, expected, why, remedy."""


class Attack(ABC):
    """An attack is a setting; `run` applies it. Subclasses fill in `craft`, for one batch.

    `steps` is how many iterates it makes of an image. `batch_size` is how many images are attacked together; it matters
    where a model couples the samples of a batch.
    """

    steps: int
    batch_size: int

    @abstractmethod
    def craft(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        threat: Threat,
        checkpoints: Sequence[int],
        progress: Progress | None,
    ) -> Crafted:
        """Adversarial images for one batch, with gradients (or losses) of `classifier`."""

    def run(
        self,
        classifier: Classifier,
        images: Images,
        labels: Labels,
        threat: Threat,
        *,
        gradients_from: Classifier | None = None,
        judge_batch: int | None = None,
        checkpoints: Sequence[int] = (),
        progress: Progress | None = None,
    ) -> AttackResult:
        """Attack `classifier` at `images`, (N, C, H, W) in [0, 1], with true `labels`, (N,).

        gradients_from: craft on this variant of the model, judge on `classifier`, which is what is deployed.
        judge_batch: batch size of judging, the deployed one; default the attack's. The result is judged again in
            batches of another size, and box and budget are checked, whatever the attack.
        checkpoints: steps, of 1 .. `steps`, after which iterates are kept besides.
        Images that the model gets wrong by itself count as fooled, and are attacked like the others.
        A `torch.nn.Module` must be in eval mode.
        """
        source = classifier if gradients_from is None else gradients_from
        for model in (classifier, source):
            if isinstance(model, torch.nn.Module) and any(module.training for module in model.modules()):
                raise AttackError(
                    f"{type(model).__name__} is in train mode, expected eval mode: batch statistics and dropout would "
                    "change under attack. Call model.eval() first."
                )
        images = check_images(images, labels)
        judge = self.batch_size if judge_batch is None else judge_batch
        if judge < 1:
            raise AttackError(f"judge_batch must be >= 1, got {judge}; leave it out for the attack's own batch size.")
        for step in checkpoints:
            if not 1 <= step <= self.steps:
                raise AttackError(f"checkpoints must be steps of 1 .. {self.steps}, got {step}: there is no such.")
        start = time.perf_counter()
        with torch.no_grad():
            logits = classifier(images[:1])
        if logits.dim() != 2 or int(labels.max()) >= logits.shape[1]:
            raise AttackError(
                f"expected logits (N, classes) with classes > {int(labels.max())}, the largest label, "
                f"got {tuple(logits.shape)}."
            )
        batches = list(zip(torch.split(images, self.batch_size), torch.split(labels, self.batch_size), strict=True))
        crafted = [
            self.craft(source, part.contiguous(), label, threat, checkpoints, progress) for part, label in batches
        ]
        adversarial = torch.cat([part.images for part in crafted])
        threat.check(adversarial, images)
        return AttackResult(
            adversarial=adversarial,
            labels=labels,
            threat=threat,
            clean=predict(classifier, images, judge),
            predictions=predict(classifier, adversarial, judge),
            elsewhere=predict(classifier, adversarial, other_batch(min(judge, len(images)))),
            distance=threat.distance(adversarial, images),
            loss=torch.cat([part.loss for part in crafted], 1),
            zero_gradients=torch.cat([part.zero_gradients for part in crafted]),
            queries=sum(part.queries for part in crafted),
            seconds=time.perf_counter() - start,
            checkpoints={step: torch.cat([part.checkpoints[step] for part in crafted]) for step in checkpoints},
        )


def other_batch(size: int) -> int:
    """Another batch size to judge in: about a third, so that nobody keeps the same batch-mates."""
    return max(1, size // 3) if size > 1 else 7


def check_images(images: Images, labels: Labels) -> Images:
    """Contiguous images, or `AttackError` saying which image is unfit."""
    if images.dim() != 4 or len(images) == 0 or labels.shape != images.shape[:1]:
        raise AttackError(
            f"expected images (N, C, H, W), N >= 1, and labels (N,), got {tuple(images.shape)} and "
            f"{tuple(labels.shape)}."
        )
    if images.dtype not in (torch.float32, torch.float64):
        raise AttackError(
            f"expected float32 or float64 images in [0, 1], got {images.dtype}; divide uint8 images by 255. "
            "Half precision is coarser than a budget of a few grey levels."
        )
    for bad, what in (
        (~torch.isfinite(images), "is not finite (NaN or infinite)"),
        ((images < 0) | (images > 1), "has pixels outside [0, 1]"),
    ):
        which = bad.flatten(1).any(1)
        if bool(which.any()):
            raise AttackError(
                f"image {int(which.nonzero()[0])} {what}; expected pixels in [0, 1]. "
                "Put any normalisation inside the model, so that eps is in pixel units."
            )
    if labels.dtype != torch.int64 or int(labels.min()) < 0:
        raise AttackError(f"expected labels int64 >= 0, got {labels.dtype} from {int(labels.min())}.")
    return images.detach().contiguous()
