"""From findings to a verdict: masked, no masking found, or inconclusive; with the evidence that decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sonet.audit.cause import LOSS
from sonet.audit.check import UNMEASURED
from sonet.audit.overestimate import OVERESTIMATE
from sonet.audit.siege import TARGETED
from sonet.audit.subject import Subject
from sonet.report.audit_record import Bar, Finding, Verdict
from sonet.types import Proportion

DOUBTS = {
    "zero-gradients": "some images have no gradient, so that attacks on it say nothing about them",
    "randomness": "the model's answer changes from call to call",
    "batch-composition": "answers depend on batch-mates, so accuracy belongs to a batch and not to images",
    "larger-radius": "images stand even with the whole box to move in, so the attack does not work",
    "finite-differences": "the gradient is not the slope of the loss on the scale of the attack",
}
"""Findings that leave it open whether attacks would have succeeded, where images stand; and what is open."""
CORROBORATES = ("zero-gradients", "cross-sample-leak", "finite-differences", "tolerance-ladder", "step-gradient")
"""Findings on the gradient itself that may turn an overestimate from a weakness of the attack into a masked gradient:
where a factor of the cause analysis carries it."""
FLAT = "zero-gradients"
"""The finding beside which the loss is a factor of the gradient: another loss is a way round where cross-entropy is
flat; elsewhere it only aims better."""
UNHEARD = (FLAT, "scaled-output", "softmax-output", "silent-success")
"""Findings that cross-entropy did not reach the attack: of these one must be raised where most of the overestimate fell
to the targeted attack alone, whose loss is a way round them. A fault of the gradient both attacks follow is none."""
TELLING = 128
"""Images of the cause analysis where the verdict rests on it, if there are as many."""
FEWEST = 5
"""Images that must have fallen to others: of fewer no interval makes a verdict."""
STANDING = 0.05
"""Share of images that must stand for a doubt to matter: of those that fell nothing is open."""
FEW_FLIPS = 0.05
"""Share of predictions that may change with randomness or batch-mates before the figure itself is in doubt."""


@dataclass(frozen=True)
class Judgement:
    """The verdict, why, and the names of the findings it rests on, at most three."""

    verdict: Verdict
    summary: str
    decisive: tuple[str, ...]


def suspected(subject: Subject, findings: Sequence[Finding]) -> tuple[str, ...]:
    """Findings on the gradient that may be why PGD overestimates, where nothing else makes a verdict.

    Whether they are the reason the cause analysis says: a gradient may be another image's in part and yet lead PGD as
    far as the image's own would.
    """
    by_name = {finding.name: finding for finding in findings}
    pgd, n = by_name["pgd-overestimate"], subject.stages.left.n
    if _told(subject, by_name) or not pgd.raised or round((pgd.value or 0.0) * n) < FEWEST:
        return ()
    return tuple(name for name in CORROBORATES if name in by_name and by_name[name].raised)


def judge(subject: Subject, findings: list[Finding], bars: list[Bar], cause: str, unfinished: bool) -> Judgement:
    """Masked where plain attacks overestimate beyond doubt, or PGD alone does and a factor of its gradient carries it;
    else inconclusive where a doubt is left; else neither.

    bars: of the cause analysis; cause: they in words. "No masking found" is no proof of anything (Popovic et al. 2022),
    and its summary says so.
    """
    by_name = {finding.name: finding for finding in findings}
    over = by_name["overestimate"]
    stages = subject.stages
    low, high = stages.left.interval
    standing = f"at most {stages.left.value:.1%} [{low:.1%}, {high:.1%}] of {stages.left.n} images at {subject.threat}"
    pgd = by_name["pgd-overestimate"]
    evidence = suspected(subject, findings)
    aimed, untold = _aimed(subject)
    tried = [bar for bar in bars if not bar.reference and (bar.factor != LOSS or FLAT in evidence)]
    if evidence and any(bar.carries for bar in tried):
        return Judgement(
            "masked",
            f"{pgd.measured} APGD on the same gradient finds most of the difference, but what PGD follows is not the "
            f"image's own slope: {by_name[evidence[0]].measured} With all attacks of this audit it is {standing}."
            f"{' ' + cause if cause else ''}",
            ("pgd-overestimate", *evidence[:2]),
        )
    if _told(subject, by_name):
        carriers = _carriers(by_name)
        return Judgement(
            "masked",
            f"Plain attacks on the model's own gradient leave {stages.plain.value:.1%} of {stages.plain.n} images "
            f"right; with all attacks of this audit it is {standing}. The difference is a gradient that does not "
            f"lead to where the model fails, not a model that holds.{' ' + cause if cause else ''}",
            ("overestimate", *carriers[:2]),
        )
    doubts = [name for name in DOUBTS if _doubtful(by_name.get(name), stages.left.value)]
    reasons = [DOUBTS[name] for name in doubts]
    if untold.value > OVERESTIMATE:
        doubts.insert(0, "overestimate")
        reasons.insert(
            0,
            f"plain attacks leave {stages.overestimate.value:.1%} of the images more than all together, on "
            f"{stages.left.n} images too few to tell from chance",
        )
    if evidence and not (tried and all(bar.carries is False for bar in tried)):
        doubts.insert(0, "pgd-overestimate")
        reasons.insert(
            0,
            f"{pgd.measured[:-1]}, and whether its gradient is the reason ({', '.join(evidence)}) is not decided",
        )
    if over.raised is None:
        reasons.append("how much plain attacks overestimate could not be measured")
    broken = [name for name in DOUBTS if name in by_name and by_name[name].measured.startswith(UNMEASURED)]
    if broken and stages.left.value > STANDING:
        reasons.append(f"the model's code broke off a check ({', '.join(broken)})")
    if unfinished:
        reasons.append("not all attacks were made, for lack of time or an error of the model")
    if not bool(subject.right.any()):
        reasons.append("the model gets no image right by itself")
    if reasons:
        return Judgement(
            "inconclusive",
            f"The accuracy left is {standing}, but it is open whether the rest stands or was only missed: "
            + "; ".join(reasons)
            + ".",
            tuple((doubts or ["overestimate"])[:3]),
        )
    weak = ""
    if evidence:
        weak = (
            f" {pgd.measured} Something is wrong with the gradient ({', '.join(evidence)}), but it is not the reason: "
            "through other ones PGD gets no farther. The weakness is PGD's."
        )
    return Judgement(
        "no masking found",
        f"Plain attacks leave {stages.plain.value:.1%} of {stages.plain.n} images right, all attacks of this audit "
        f"{standing}: attacks that use no gradient, or another one, found next to nothing that the model's own "
        f"gradient does not find.{_stronger(aimed)}{weak} That is an upper bound and no proof (Popovic et al. 2022).",
        tuple(name for name in ("overestimate", "gradient-free", "other-gradients") if name in by_name),
    )


def _told(subject: Subject, by_name: dict[str, Finding]) -> bool:
    """Whether plain attacks overestimate beyond doubt, and not for want of the targeted attack alone."""
    _, untold = _aimed(subject)
    unheard = any(by_name[name].raised for name in UNHEARD if name in by_name)
    enough = unheard or untold.interval[0] > OVERESTIMATE
    return bool(by_name["overestimate"].raised) and enough and subject.stages.overestimate.count >= FEWEST


def _aimed(subject: Subject) -> tuple[Proportion, Proportion]:
    """Of the images that plain attacks leave: those that fell to the targeted attack, and those that fell to others."""
    stages = subject.stages
    aimed = Proportion(stages.fell_by({TARGETED}), stages.left.n)
    return aimed, Proportion(max(0, stages.overestimate.count - aimed.count), stages.left.n)


def _stronger(fell: Proportion) -> str:
    if fell.value <= OVERESTIMATE:
        return ""
    return (
        f" {fell.count} images fell to the same gradient aimed at one class after the other, which cross-entropy "
        "does not do: a stronger attack, no masked gradient."
    )


def _doubtful(finding: Finding | None, left: float) -> bool:
    if finding is None or not finding.raised or left <= STANDING:
        return False
    if finding.name in ("randomness", "batch-composition"):
        return finding.value is not None and finding.value > FEW_FLIPS
    return True


def _carriers(by_name: dict[str, Finding]) -> list[str]:
    """Of the findings that say which attacks felled the images, those raised, the largest first."""
    names = ("other-gradients", "other-loss", "gradient-free", "random-noise", "backbone-transfer")
    there = [by_name[name] for name in names if name in by_name]
    found = sorted((f for f in there if f.raised), key=lambda f: f.value or 0.0, reverse=True)
    return [finding.name for finding in found]
