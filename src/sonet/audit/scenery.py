"""What a reader looks at: the loss around an image, and images before and after."""

from __future__ import annotations

import torch
from torch import Tensor

from sonet.attacks.losses import fooled, margin
from sonet.attacks.noise import ImageNoise
from sonet.attacks.result import predict
from sonet.audit.siege import without_batch
from sonet.audit.subject import Subject
from sonet.report.audit_record import Outcome, Surface
from sonet.report.pictures import Picture

GRID = 21
"""Points along each axis of the surface, from -1 to 1 radius."""
PICTURES = 8


def surface(subject: Subject) -> Surface | None:
    """The margin of one image along its gradient's step and a random one, in radii; None without a right image.

    The image: the first that stood under plain attacks and fell to another, else the first that is right. Each point is
    asked for by itself where batch-mates matter.
    """
    stages = subject.stages
    told = (stages.plain_standing & ~stages.standing).nonzero().squeeze(1)
    places = told if len(told) else subject.right.nonzero().squeeze(1)
    if not len(places):
        return None
    place = int(places[0])
    image, label = subject.images[place : place + 1], subject.labels[place : place + 1]
    gradient, _ = subject.gradient(image, label, "margin")
    eps, threat = subject.threat.eps, subject.threat
    along = threat.steepest(gradient.nan_to_num(0.0, 0.0, 0.0))
    across = threat.steepest(ImageNoise(image, subject.seed + 3).normal())
    steps = torch.linspace(-1, 1, GRID, dtype=image.dtype, device=image.device)
    grid = eps * (steps.view(-1, 1, 1, 1, 1) * along + steps.view(1, -1, 1, 1, 1) * across)
    points = (image + grid.flatten(0, 1)).clamp(0.0, 1.0)
    labels = label.expand(len(points))
    source = without_batch(subject, subject.classifier)
    logits = torch.cat([source.logits(part) for part in points.split(subject.batch)])  # type: ignore[no-untyped-call]
    loss = margin(logits, labels).nan_to_num(0.0, 0.0, 0.0).view(GRID, GRID)
    wrong = fooled(logits, labels).view(GRID, GRID)
    axis = [float(step) for step in steps]
    return Surface(index=place, attack=axis, random=axis, loss=loss.double().tolist(), wrong=wrong.tolist())


def outcomes(subject: Subject, classes: list[str]) -> list[Outcome]:
    """An entry an image: how it fared."""
    plain = subject.stages.plain_standing.tolist()
    pairs = zip(subject.labels.tolist(), subject.clean.tolist(), subject.right.tolist(), strict=True)
    return [
        Outcome(
            index=index,
            label=_name(label, classes),
            predicted=_name(clean, classes),
            fell_to=subject.stages.fell_to.get(index, "none") if right else "no attack",
            plain_stood=plain[index],
        )
        for index, (label, clean, right) in enumerate(pairs)
    ]


def pictures(subject: Subject, model: str, classes: list[str]) -> list[Picture]:
    """Some images that fell, those first that plain attacks left; none of images that are neither grey nor coloured."""
    if subject.images.shape[1] not in (1, 3):
        return []
    stages = subject.stages
    plain = stages.plain_standing
    fell = sorted(stages.fell_to, key=lambda index: (not bool(plain[index]), index))[:PICTURES]
    after = predict(subject.deployed, stages.worst, subject.batch)
    return [
        Picture.of(
            _image(subject.images[index]),
            _image(stages.worst[index]),
            model=model,
            seed=subject.seed,
            attack=stages.fell_to[index],
            eps=subject.threat.eps,
            index=index,
            label=_name(int(subject.labels[index]), classes),
            predicted_clean=_name(int(subject.clean[index]), classes),
            predicted_adversarial=_name(int(after[index]), classes),
        )
        for index in fell
    ]


def _image(image: Tensor) -> Tensor:
    return image.detach().float().cpu()


def _name(label: int, classes: list[str]) -> str:
    return "no answer" if label < 0 else classes[label] if label < len(classes) else str(label)
