"""The checks that decide: how many images stand under plain attacks and fall to others, and to which."""

from __future__ import annotations

from sonet.audit.check import Measured, check
from sonet.audit.siege import REFERENCE, TARGETED
from sonet.audit.subject import Subject
from sonet.types import Proportion

OVERESTIMATE = 0.05
"""Share of the images beyond which plain attacks say too much. The lower end of the 95 % interval must lie above it.

Five points, because careful attacks on networks that mask nothing differ by one to four: PGD and APGD on the
cross-entropy against the whole of AutoAttack (results/README.md). Set before any planted model was judged.
"""
LOSSES_OF_OWN = {"apgd-log-odds", TARGETED}
OWN_ATTACKS = {REFERENCE, "apgd-ce"} | LOSSES_OF_OWN
WITHOUT_GRADIENT = {"spsa-ce", "square", "spsa"}


@check(
    "overestimate",
    "attack",
    "Images that stand under plain attacks only",
    bears="decisive",
    raised_if="the share of images that PGD and APGD on the cross-entropy leave standing and other attacks fell is "
    "above 5 %, with the lower end of its 95 % interval",
    means="The accuracy that an ordinary evaluation reports is too high: the attacks failed, the network did not hold.",
    remedy="Report the accuracy left by all attacks. The findings beside this one say which attack to add to yours.",
    source="Athalye et al. 2018; Carlini et al. 2019, section 3: evaluate against adaptive attacks",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def overestimate(subject: Subject) -> Measured:
    stages = subject.stages
    over = stages.overestimate
    return Measured.share(
        f"Plain attacks leave {stages.plain.count} of {stages.plain.n} images right, all attacks together "
        f"{stages.left.count}: {over.count} fell to the others only.",
        over,
        over.interval[0] > OVERESTIMATE,
    )


@check(
    "pgd-overestimate",
    "attack",
    "Images that stand under PGD only",
    bears="decisive",
    raised_if="the share of images that PGD on the cross-entropy leaves standing and other attacks fell is above 5 "
    "%, with the lower end of its 95 % interval; it decides only together with a finding on the gradient itself, where "
    "a factor of the cause analysis carries it",
    means="PGD, the attack most often reported, says too much. Alone that may be PGD's own weakness; where the "
    "gradient is zero, another image's or not the loss's slope as well, it is a masked gradient.",
    remedy="Do not report PGD alone; read the findings on the gradient.",
    source="Huang et al. 2020 reported PGD; Croce and Hein 2020 on its fixed steps",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def pgd_overestimate(subject: Subject) -> Measured:
    if subject.random:
        return Measured.silent("The model is random: what PGD alone missed cannot be told from luck.")
    stages = subject.stages
    left = stages.standing_under({REFERENCE})
    over = Proportion(int((left & ~stages.standing).sum()), len(left))
    return Measured.share(
        f"PGD alone leaves {int(left.sum())} of {over.n} images right, all attacks together {stages.left.count}.",
        over,
        over.interval[0] > OVERESTIMATE,
    )


@check(
    "other-loss",
    "attack",
    "Another loss, the same gradient path",
    raised_if="log-odds and targeted losses fell more than 5 % of the images beyond cross-entropy, with the lower end",
    means="The training loss hides the way: where the network is sure, cross-entropy is flat.",
    remedy="Evaluate with a loss that does not saturate (apgd-dlr, apgd-t, loss=margin).",
    source="Carlini and Wagner 2017; Croce and Hein 2020",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def other_loss(subject: Subject) -> Measured:
    return _first_to_fall(subject, LOSSES_OF_OWN, "other losses on the model's own gradient")


@check(
    "other-gradients",
    "attack",
    "Another gradient of the same weights",
    raised_if="gradients through frozen steps, single images, averages or float64 fell more than 5 % of the images "
    "beyond all attacks on the own gradient, with the lower end",
    means="The network's own gradient points elsewhere than where the loss grows; another one finds the way.",
    remedy="Attack through the gradient that succeeded and judge the deployed model (--gradients, --scope, "
    "--step-gradient of sonet attack).",
    source="Athalye et al. 2018 (BPDA, EOT); for ODE networks docs/attacks.md",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def other_gradients(subject: Subject) -> Measured:
    names = {attempt.stage.name for attempt in subject.stages.attempts if attempt.stage.gradient not in ("own", "none")}
    if not names:
        return Measured.silent("No image stood that one could try them on.")
    return _first_to_fall(subject, names, "other gradients (" + ", ".join(sorted(names)) + ")")


@check(
    "gradient-free",
    "attack",
    "Attacks without a gradient against those with one",
    raised_if="attacks without gradients fell more than 5 % of the images that all gradient attacks left, with the "
    "lower end",
    means="Whoever sees only outputs does better than who sees everything. That is not possible where gradients tell "
    "the truth.",
    remedy="Do not trust any gradient attack on this model; report what square and spsa leave, with more queries.",
    source="Athalye et al. 2018, section 3.1; Andriushchenko et al. 2020; Uesato et al. 2018",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def gradient_free(subject: Subject) -> Measured:
    return _first_to_fall(subject, WITHOUT_GRADIENT, "attacks without a gradient")


@check(
    "random-noise",
    "attack",
    "Random noise of the same size",
    raised_if="random images of the threat's surface fell more than 5 % of the images that plain attacks left, with "
    "the lower end",
    means="A blind guess beats the attack: the attack is broken, not the network strong.",
    remedy="Look for zero gradients and for an attack that is not applied at all.",
    source="Athalye et al. 2018, section 3.1: random sampling finds adversarial examples",
    unit="of the images",
    threshold=OVERESTIMATE,
)
def random_noise(subject: Subject) -> Measured:
    return _first_to_fall(subject, {"random-noise"}, "random noise")


def _first_to_fall(subject: Subject, names: set[str], words: str) -> Measured:
    stages = subject.stages
    made = [attempt.stage for attempt in stages.attempts if attempt.stage.name in names]
    if not made:
        return Measured.silent("No image stood that one could try them on.")
    fell = Proportion(stages.fell_by(names), len(stages.standing))
    return Measured.share(
        f"Of {made[0].standing + made[0].fell} images that stood until then, {words} felled {fell.count}.",
        fell,
        fell.interval[0] > OVERESTIMATE,
    )
