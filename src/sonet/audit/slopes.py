"""Checks of the gradient: is it there, is it the sample's own, and is it the slope of the loss?"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import torch
from torch import Tensor

from sonet.attacks.crafted import blind
from sonet.attacks.losses import margin
from sonet.attacks.pgd import LossName
from sonet.audit.check import Measured, check
from sonet.audit.leak import own_gradient_share
from sonet.audit.sources import Mean
from sonet.audit.subject import Subject
from sonet.report.audit_record import Ladder, Line
from sonet.types import Classifier, Images, Labels, Proportion

SHORTEST = 1e-6
"""The shortest difference, in pixel units. In float32 rounding decides below 1e-3 or so, and the line shows it."""
AGREES = 0.1
"""A slope agrees that is at least this share of what the gradient promised."""
QUARTER = 0.25
"""Share of images whose slope may disagree."""
MOST = 64
"""Images whose slope is asked for where fewer leave it open on which side of `QUARTER` the share lies."""


@check(
    "zero-gradients",
    "gradient",
    "A gradient of exactly zero",
    raised_if="more than 5 % of the right images have a gradient of exactly zero, or not finite, of cross-entropy or "
    "margin",
    means="An attack that follows a gradient of zero stays where it is, and the image counts as withstanding it.",
    remedy="Look for rounding, argmax, detach, no_grad or numpy in the forward pass; else take a loss that does not "
    "saturate. Attack without gradients (square), or through a smooth stand-in for the step (BPDA).",
    source="Athalye et al. 2018; Pintor et al. 2022, indicator 1; AutoAttack's flag for zero gradients",
    unit="of the images",
    threshold=0.05,
    needs=("image",),
)
def zero_gradients(subject: Subject) -> Measured:
    images, labels = subject.take(subject.batch)
    found = dict[LossName, int]()
    losses: tuple[LossName, ...] = ("ce", "margin")
    for loss in losses:
        gradient, _ = subject.gradient(images, labels, loss)
        found[loss] = int(blind(gradient).sum())  # no norm: the squares of a saturated gradient are 0 in float32
    share = Proportion(max(found.values()), len(images))
    return Measured.share(
        f"Of {share.n} images {found['ce']} have no gradient of the cross-entropy and {found['margin']} none of the "
        "margin.",
        share,
        share.value > 0.05,
    )


@check(
    "cross-sample-leak",
    "gradient",
    "Whose loss the gradient is about",
    raised_if="in the median less than nine tenths of a sample's gradient come from its own loss",
    means="The batch's images share something that carries gradient, such as a step size. What an attack follows is "
    "then about other images, drowned out where the image's own loss is nearly flat.",
    remedy="Attack one image at a time, or freeze the step sizes (step_gradient='frozen'), or give each sample its "
    "own.",
    source="own_gradient_share; measured for the paper's SONet, where about 2 % are a sample's own",
    unit="of the gradient",
    threshold=0.9,
)
def cross_sample_leak(subject: Subject) -> Measured:
    images, labels = subject.take(min(subject.batch, 2 * subject.effort.probes))
    if len(images) < 2:
        return Measured.silent("Needs two right images at least.")
    shares = own_gradient_share(subject.classifier, images, labels)
    known = shares[torch.isfinite(shares)]
    if not len(known):
        return Measured.silent("No gradient is finite.")
    middle, low, high = (float(known.double().quantile(q)) for q in (0.5, 0.25, 0.75))
    return Measured(
        f"In the median {middle:.1%} of a sample's gradient is its own, in a batch of {len(images)} (quartiles "
        f"{low:.1%} and {high:.1%}).",
        middle < 0.9,
        middle,
        (low, high),
        len(known),
    )


@check(
    "finite-differences",
    "gradient",
    "The gradient against the loss itself",
    raised_if="a tenth of the radius along the attack's step, more than a quarter of the images gain less than a "
    "tenth of the slope that their gradient promises",
    means="The gradient is not the slope of the loss on the scale on which an attack moves: it is zero, noise, another "
    "image's, or wrong.",
    remedy="Average the gradient over a neighbourhood or estimate it from differences (spsa), or attack without one "
    "(square).",
    source="Athalye et al. 2018 (shattered gradients); central differences in the box, each image moved by itself",
    unit="of the images",
    threshold=QUARTER,
    needs=("image",),
)
def finite_differences(subject: Subject) -> Measured:
    ladder, length = difference_ladder(subject), _eps(subject) / 10
    tenth = ladder.x.index(length)
    ratios = [line.y[tenth] for line in ladder.lines]
    images, labels = subject.take(MOST)
    while len(ratios) < len(images) and _undecided(_poor(ratios)):
        for place in range(len(ratios), min(2 * len(ratios), len(images)), subject.effort.probes):
            group = slice(place, place + subject.effort.probes)
            ratios += next(_ratios(subject, images[group], labels[group], [length]))
    poor = _poor(ratios)
    typical = median(0.0 if ratio is None else ratio for ratio in ratios)
    return Measured.share(
        f"At {length:.3g}, a tenth of the radius, {poor.count} of {poor.n} images gain less than a tenth of "
        f"what the gradient promises; in the median they gain {typical:.2g} of it.",
        poor,
        poor.value > QUARTER,
    )


def _poor(ratios: list[float | None]) -> Proportion:
    return Proportion(sum(ratio is None or ratio < AGREES for ratio in ratios), len(ratios))


def _undecided(poor: Proportion) -> bool:
    low, high = poor.interval
    return low <= QUARTER <= high


def difference_ladder(subject: Subject) -> Ladder:
    """For each probe: gain of the margin along the attack's step, over what the gradient promises for that way.

    1 is agreement; None where the gradient promises nothing. Kept on the subject, measured once.
    """
    if "differences" in subject.ladders:
        return subject.ladders["differences"]
    images, labels = subject.take(subject.effort.probes)
    lengths = _lengths(subject)
    columns = list(_ratios(subject, images, labels, lengths))
    ladder = Ladder(
        name="differences",
        title="Slope of the loss along the attack's step, over what the gradient promises",
        x_title="length of the difference, in pixel units",
        y_title="measured / promised",
        x=lengths,
        lines=[Line(name=f"image {i}", y=[column[i] for column in columns]) for i in range(len(images))],
    )
    subject.ladders["differences"] = ladder
    return ladder


def _lengths(subject: Subject) -> list[float]:
    """From the shortest to the radius, evenly in the logarithm, and a tenth of the radius."""
    eps = _eps(subject)
    spread = [SHORTEST * (eps / SHORTEST) ** (i / 6) for i in range(7)]
    return sorted({*spread[:-1], eps, eps / 10})


def _eps(subject: Subject) -> float:
    return max(subject.threat.eps, 1e-3)


def _ratios(subject: Subject, images: Images, labels: Labels, lengths: list[float]) -> Iterator[list[float | None]]:
    """For each length, of each image: f(x + t s) - f(x - t s), over the gradient's promise for that way.

    f: the margin, of the model as it is: the logarithm of probabilities has another slope than they. s: the attack's
    step of length 1 in the threat's norm. Both ends are drawn into the box, which no attack leaves.
    """
    gradient, _ = subject.gradient(images, labels, "margin")
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    step = subject.threat.steepest(gradient)
    deployed: Classifier = Mean(subject.classifier, subject.effort.calls) if subject.random else subject.classifier
    exact = subject.in_float64 or deployed
    for length in lengths:
        ahead, behind = (images + length * step).clamp(0, 1), (images - length * step).clamp(0, 1)
        ends = [_margins(exact, images, labels, end, apart=subject.shared) for end in (ahead, behind)]
        due = (gradient.double() * (ahead.double() - behind.double())).flatten(1).sum(1)
        yield [_ratio(gain, owed) for gain, owed in zip((ends[0] - ends[1]).tolist(), due.tolist(), strict=True)]


def _margins(classifier: Classifier, images: Images, labels: Labels, moved: Images, *, apart: bool) -> Tensor:
    """(N,) float64, of the moved images; `apart`: each among batch-mates that stay as they are."""
    with torch.no_grad():
        if not apart:
            return margin(classifier(moved), labels).double()
        own = []
        for place in range(len(images)):
            batch = images.clone()
            batch[place] = moved[place]
            own.append(margin(classifier(batch), labels)[place])
        return torch.stack(own).double()


def _ratio(gain: float, due: float) -> float | None:
    return gain / due if due > 0 and abs(gain) < float("inf") else None
