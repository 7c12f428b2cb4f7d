"""Indicators of attack failure (Pintor et al. 2022) and AutoAttack's flags, so that theirs stand beside ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from sonet.attacks.result import predict
from sonet.audit.behaviour import NO_ATTACK, reference
from sonet.audit.check import Measured, check
from sonet.audit.overestimate import OVERESTIMATE
from sonet.audit.subject import Subject
from sonet.types import Images, Proportion

SQUARE_GAIN = 0.002
"""AutoAttack's own allowance for Square beyond the gradient attacks."""


@check(
    "silent-success",
    "attack",
    "Fooled on the way, not at the end",
    raised_if="more than 5 % of the images were fooled by some iterate of PGD and not by the last, with the lower end",
    means="An attack that returns its last iterate threw away what it had found; its figure is too high.",
    remedy="Keep the iterate that fools (keep=best, the default here).",
    source="Pintor et al. 2022, indicator 3 (silent success)",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def silent_success(subject: Subject) -> Measured:
    made = reference(subject)
    if made is None:
        return Measured.silent(NO_ATTACK)
    if made.last is None:
        return Measured.silent("The last iterates were not kept.")
    best = made.fooled
    last = (predict(subject.deployed, made.last, subject.batch) != subject.labels) & subject.right
    lost = Proportion(int((best & ~last).sum()), len(best))
    return Measured.share(
        f"PGD fooled the model on {int(best.sum())} of {lost.n} images, with its last iterate on {int(last.sum())}; "
        f"{lost.count} successes are lost that way.",
        lost,
        lost.interval[0] > OVERESTIMATE,
    )


@check(
    "transfer-failure",
    "attack",
    "What fools the attacked form, not the deployed one",
    raised_if="more than 5 % of the images fool the form of the model they were crafted on and not the deployed one, "
    "lower end",
    means="The attack solved another problem than the one that is judged: other batch-mates, another solver.",
    remedy="Judge each step on the deployed model (Guided gradients), or craft in the deployed batch.",
    source="Pintor et al. 2022, indicator 5 (transfer failure)",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def transfer_failure(subject: Subject) -> Measured:
    made, dial = subject.stages.named("apgd-frozen"), subject.dial
    if made is None or dial is None:
        return Measured.silent("Attacks were made on the deployed model itself.")
    surrogate = dial.variant(scope="sample", step_gradient="frozen")
    there = (predict(surrogate, made.adversarial, subject.batch) != subject.labels) & made.tried & subject.right
    lost = Proportion(int((there & ~made.fooled).sum()), len(there))
    return Measured.share(
        f"With frozen steps of its own {int(there.sum())} images are fooled, as deployed {int(made.fooled.sum())}; "
        f"{lost.count} of {lost.n} do not transfer.",
        lost,
        lost.interval[0] > OVERESTIMATE,
    )


@check(
    "autoattack-flags",
    "attack",
    "What AutoAttack would warn of",
    bears="note",
    raised_if="AutoAttack's own conditions would warn: a random model, probabilities, zero gradients, Square better "
    "than gradient attacks, or gradients taken inside the forward pass",
    means="The five warnings of the standard tool. It is silent on leaks between batch-mates and on step sizes.",
    remedy="Read the finding of the same topic here.",
    source="AutoAttack's flags_doc.md (Croce and Hein 2020)",
    unit="flags",
    threshold=0.0,
    needs=("image",),
)
def autoattack_flags(subject: Subject) -> Measured:
    images, labels = subject.take(subject.batch)
    gradient, _ = subject.gradient(images, labels)
    stages = subject.stages
    square = stages.fell_by({"square"}) / len(stages.standing)
    conditions = {
        "randomised": subject.random,
        "probabilities": subject.probabilities,
        "zero gradients": bool((gradient == 0).flatten(1).all(1).any()),
        "Square better than gradient attacks": square > SQUARE_GAIN,
        "gradients inside the forward pass": optimises(subject, images[:2]),
    }
    raised = [name for name, there in conditions.items() if there]
    return Measured(
        f"It would warn of: {', '.join(raised)}." if raised else "It would warn of nothing.", bool(raised), len(raised)
    )


@check(
    "backbone-transfer",
    "attack",
    "Crafted on the undefended network",
    raised_if="images crafted on the backbone fell more than 5 % of the images beyond the attacks before, with the "
    "lower end",
    means="A stranger's gradient does better than the defence's own: the defence hides its gradient and nothing else.",
    remedy="Add the transfer attack to your evaluation (--transfer-from).",
    source="Papernot et al. 2017; Athalye et al. 2018, section 3.1",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def backbone_transfer(subject: Subject) -> Measured:
    if subject.backbone is None:
        return Measured.silent("No backbone was given; --backbone names the undefended network of a defence.")
    made = subject.stages.named("apgd-backbone")
    if made is None:
        return Measured.silent("No image stood that one could try it on.")
    fell = Proportion(made.stage.fell, len(made.tried))
    return Measured.share(
        f"Of {made.stage.tried} images that stood, those crafted on the backbone felled {fell.count}.",
        fell,
        fell.interval[0] > OVERESTIMATE,
    )


def optimises(subject: Subject, images: Images) -> bool:
    """Whether the model takes gradients while it answers, as defences that purify or adapt at test time do."""
    with _counting_gradients() as taken:
        subject.classifier(images.contiguous())
    return taken[0] > 0


@contextmanager
def _counting_gradients() -> Iterator[list[int]]:
    count, grad, backward = [0], torch.autograd.grad, torch.autograd.backward

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[0] += 1
            return function(*args, **kwargs)

        return call

    torch.autograd.grad, torch.autograd.backward = counted(grad), counted(backward)
    try:
        yield count
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward
