"""How attacks behave when they get more: steps, starts, radius. Where they then do better, they had not arrived."""

from __future__ import annotations

import torch

from sonet.attacks import APGD, FGSM, Attack
from sonet.attacks.result import predict
from sonet.attacks.threat import Threat
from sonet.audit.check import Measured, check
from sonet.audit.overestimate import OVERESTIMATE
from sonet.audit.siege import REFERENCE, half_steps, plain_pgd
from sonet.audit.stages import Attempt
from sonet.audit.subject import Subject
from sonet.types import Proportion

NO_ATTACK = "The attack to compare with was not made."


@check(
    "one-step",
    "attack",
    "One step against many",
    raised_if="a single step of the whole radius fells images that many small steps leave: more than 5 %, lower end",
    means="Iterating should only help. Where it does not, the steps follow noise or get stuck.",
    remedy="Check step size and gradient; look at the findings on gradients.",
    source="Athalye et al. 2018, section 3.1: one-step attacks perform better than iterative ones",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def one_step(subject: Subject) -> Measured:
    many = reference(subject)
    if many is None:
        return Measured.silent(NO_ATTACK)
    single = FGSM(batch_size=subject.batch, seed=subject.seed)
    fooled = attack_some(subject, single, subject.threat, subject.right.nonzero().squeeze(1))
    better = Proportion(int((fooled & ~many.fooled).sum()), len(fooled))
    return Measured.share(
        f"One step leaves {_left(subject, fooled)}, {subject.effort.steps} steps leave {_left(subject, many.fooled)} "
        f"of {better.n} images; {better.count} fell to the single step only.",
        better,
        better.interval[0] > OVERESTIMATE,
    )


@check(
    "steps-doubled",
    "attack",
    "Twice the steps",
    raised_if="twice the steps fell more than 5 % of the images in addition, with the lower end",
    means="The attack had not arrived: the figure depends on how long one was willing to wait.",
    remedy="Raise the steps until the accuracy stays the same, and report the curve.",
    source="Carlini et al. 2019, section 4.2; Pintor et al. 2022, incomplete optimisation",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def steps_doubled(subject: Subject) -> Measured:
    once = reference(subject)
    if once is None:
        return Measured.silent(NO_ATTACK)
    places, before, steps = unsettled(subject), once.fooled, subject.effort.steps
    if subject.shared:  # other batch-mates than in the whole batch: to be compared with the same few
        steps = half_steps(subject)
        before = attack_some(subject, plain_pgd(subject, steps=steps), subject.threat, places)
    after = attack_some(subject, plain_pgd(subject, steps=2 * steps), subject.threat, places)
    among = _among(subject, places)
    more = Proportion(int((after & ~before & among).sum()), int(among.sum()))
    left = [int((among & subject.right & ~fooled).sum()) for fooled in (before, before | after)]
    return Measured.share(
        f"{steps} steps leave {left[0]} of {more.n} images, {2 * steps} steps {left[1]}.",
        more,
        more.interval[0] > OVERESTIMATE,
    )


@check(
    "restarts",
    "attack",
    "Other random starts",
    raised_if="random starts together fell more than 5 % of the images beyond the first, with the lower end",
    means="Whether an image falls is a matter of the start: the loss around it is rugged.",
    remedy="Use several restarts, and count an image as fallen that fell to any.",
    source="Madry et al. 2018, figure 3; Carlini et al. 2019, section 4.2",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def restarts(subject: Subject) -> Measured:
    once = reference(subject)
    if once is None:
        return Measured.silent(NO_ATTACK)
    places, first = unsettled(subject), once.fooled
    each = [
        attack_some(
            subject, plain_pgd(subject, random_start=True, seed=subject.seed + 100 + start), subject.threat, places
        )
        for start in range(subject.effort.restarts)
    ]
    starts = len(each) + 1
    if subject.shared:
        first, starts = each[0], len(each)
    among, together = _among(subject, places), torch.stack(each).any(0) | first
    left = [int((among & subject.right & ~fooled).sum()) for fooled in (first, together)]
    gain = Proportion(left[0] - left[1], int(among.sum()))
    return Measured.share(
        f"From one start PGD leaves {left[0]} of {gain.n} images, from {starts} starts together {left[1]}.",
        gain,
        gain.interval[0] > OVERESTIMATE,
    )


@check(
    "larger-radius",
    "attack",
    "Larger radii, up to the whole box",
    raised_if="with the whole box to move in, more than 5 % of the images stand",
    means="Within the whole box any image can be turned into any other, so nothing can stand. What stands shows an "
    "attack that does not work.",
    remedy="Find out why the attack fails there before believing it anywhere: gradient, step size, or an input range "
    "that is not [0, 1].",
    source="Athalye et al. 2018, section 3.1 (unbounded attacks reach 100 %); Pintor et al. 2022, unconstrained "
    "failure",
    unit="of the images",
    threshold=OVERESTIMATE,
    needs=("image",),
)
def larger_radius(subject: Subject) -> Measured:
    whole = 1.0 if subject.threat.norm == "linf" else subject.images[0].numel() ** 0.5
    attack = APGD(steps=max(20, subject.effort.steps // 2), batch_size=subject.batch, seed=subject.seed)
    places = subject.right.nonzero().squeeze(1)[: subject.effort.subset]
    found = []
    for eps in sorted({min(factor * subject.threat.eps, whole) for factor in (2.0, 4.0)} | {whole}):
        fooled = attack_some(subject, attack, Threat(subject.threat.norm, eps), places)
        found.append((eps, len(places) - int(fooled.sum())))
    left = Proportion(found[-1][1], len(places))
    words = ", ".join(f"{count} at {eps:.3g}" for eps, count in found)
    return Measured.share(f"Of {left.n} images stand: {words}.", left, left.value > OVERESTIMATE)


@check(
    "attack-batch",
    "attack",
    "Attacked in smaller batches",
    raised_if="the same attack in batches of 4 fells more than 5 % of the images in addition, with the lower end",
    means="Images attacked together are in each other's way: their gradients mix.",
    remedy="Attack one image at a time, or with each sample's own steps, and judge the deployed batch.",
    source="Huang et al. 2020's code ran PGD in batches of 100, CW and SPSA one image at a time; results/README.md",
    unit="of the images",
    threshold=OVERESTIMATE,
    needs=("image",),
)
def attack_batch(subject: Subject) -> Measured:
    if not subject.shared:
        return Measured("Batch-mates play no part in answers or gradients; batches need not be tried.", False)
    places, steps = subject.right.nonzero().squeeze(1)[: subject.effort.probes], half_steps(subject)
    large, small = (
        attack_some(subject, plain_pgd(subject, batch_size=size, steps=steps), subject.threat, places)
        for size in (len(places), 4)
    )
    more = Proportion(int((small & ~large).sum()), len(places))
    return Measured.share(
        f"Of {more.n} images {more.n - int(large.sum())} stand attacked together, {more.n - int(small.sum())} in "
        f"batches of 4; {more.count} fell only then.",
        more,
        more.interval[0] > OVERESTIMATE,
    )


def attack_some(subject: Subject, attack: Attack, threat: Threat, places: torch.Tensor) -> torch.Tensor:
    """(N,) bool: of the images at `places`, (M,), those that the attack fools, judged in batches as deployed.

    They are attacked and judged together, without the other images, through the model's own gradient.
    """
    if subject.shared and attack.stop_when_fooled:
        attack = attack.model_copy(update={"stop_when_fooled": False})
    fooled = torch.zeros_like(subject.right)
    made = []
    for some in places.split(attack.batch_size) if len(places) else ():  # type: ignore[no-untyped-call]
        images = subject.images[some].contiguous()
        made.append(attack.craft(subject.own, images, subject.labels[some], threat, (), None).images.detach())
    if made:
        crafted = torch.cat(made).to(subject.images)
        fooled[places] = predict(subject.deployed, crafted, subject.batch) != subject.labels[places]
    return fooled


def unsettled(subject: Subject) -> torch.Tensor:
    """(M,) places of the images worth more of an attack: those that PGD left, or some of a shared batch."""
    made = reference(subject)
    if subject.shared:
        return subject.right.nonzero().squeeze(1)[: subject.effort.subset]
    left = subject.right if made is None else subject.right & ~made.fooled
    return left.nonzero().squeeze(1)


def reference(subject: Subject) -> Attempt | None:
    """PGD as an owner would run it; None where it was not made: for lack of a right image, or of time."""
    return subject.stages.named(REFERENCE)


def _among(subject: Subject, places: torch.Tensor) -> torch.Tensor:
    """(N,) bool, the images that a share is of: the `places` of a shared batch, else all."""
    among = torch.ones_like(subject.right)
    if subject.shared:
        among.fill_(False)[places] = True
    return among


def _left(subject: Subject, fooled: torch.Tensor) -> int:
    return int((subject.right & ~fooled).sum())
