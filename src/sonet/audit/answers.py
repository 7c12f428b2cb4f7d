"""Checks of the model's answers: the same again, the same in other company, and on what scale?"""

from __future__ import annotations

import torch
from torch import Tensor

from sonet.attacks.losses import margin
from sonet.audit.check import Measured, check
from sonet.audit.subject import SAME, Subject
from sonet.types import Images, Labels, Logits, Proportion

SATURATED = 16.0
"""Margin beyond which the label's probability is 1 in float32, but for its last digit at most.

The label's own part of the cross-entropy's gradient is exactly 0 from 16.7 on, all of it beyond 104 only.
"""


@check(
    "randomness",
    "answers",
    "The same question, asked again",
    raised_if="the same batch, asked for again, has logits that differ by more than rounding",
    means="A random answer makes each figure a matter of luck, and a gradient of one call is noise: attacks fail "
    "although the network is wrong on average.",
    remedy="Fix the seed inside the model or switch the noise off for the evaluation; or judge by a majority of many "
    "calls and attack the mean of many calls, as this audit does.",
    source="Athalye et al. 2018, section 4.2 (stochastic gradients); AutoAttack's flag for randomised defences",
    unit="of predictions change",
    threshold=0.0,
)
def randomness(subject: Subject) -> Measured:
    first, _ = subject.answers
    with torch.no_grad():
        calls = [subject.classifier(subject.images[: subject.batch].contiguous()) for _ in range(subject.effort.calls)]
    changed = torch.stack([logits.argmax(1) != first.argmax(1) for logits in calls]).any(0)
    moved = torch.stack([subject.moved(first, logits) for logits in calls]).amax()
    share = Proportion(int(changed.sum()), len(changed))
    return Measured.share(
        f"Asked {len(calls)} times again, {share.count} of {share.n} predictions changed; logits moved by at most "
        f"{_amount(float(moved))} of their standard deviation.",
        share,
        subject.random or bool(moved > SAME),
    )


@check(
    "batch-composition",
    "answers",
    "The same image in other company",
    raised_if="logits of an image move by more than 1 % of their standard deviation when its batch-mates change",
    means="What the network says of an image depends on the others in the batch. Accuracy then belongs to a batch, not "
    "to images, and an attack in one batch is judged in another.",
    remedy="Give each sample its own step sizes (scope='sample') or statistics; else fix and report the batch, and "
    "judge with judge_batch=1.",
    source="Huang et al. 2020's code: one step size for a batch; torchdiffeq's odeint does the same",
    unit="of predictions change",
    threshold=0.0,
)
def batch_composition(subject: Subject) -> Measured:
    if subject.random:
        return Measured.silent("Cannot be told from the model's own randomness.")
    whole = subject.answers[0]
    flips, moved = torch.zeros(len(whole), dtype=torch.bool), 0.0
    for logits, places in _companies(subject):
        there = whole[places]
        flips[places.cpu()] |= (logits.argmax(1) != there.argmax(1)).cpu()
        moved = max(moved, float(subject.moved(there, logits).amax()))
    share = Proportion(int(flips.sum()), len(flips))
    return Measured.share(
        f"Alone, permuted, split and padded, {share.count} of {share.n} predictions changed; logits moved by at most "
        f"{_amount(moved)} of their standard deviation.",
        share,
        moved > 10 * SAME,
    )


def _companies(subject: Subject) -> list[tuple[Logits, Tensor]]:
    """Answers in other batches, each with the places of its images in the first batch."""
    images = subject.images[: subject.batch]
    count = len(images)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(subject.seed)).to(images.device)
    half = torch.arange(max(1, count // 2), device=images.device)
    padding = 1 - images[: max(1, count // 4)]
    few = torch.arange(min(len(subject.alone), count), device=images.device)
    with torch.no_grad():
        return [
            (subject.classifier(images[order].contiguous()), order),
            (subject.classifier(images[half].contiguous()), half),
            (subject.classifier(torch.cat((images[half], padding)))[: len(half)], half),
            (subject.alone[: len(few)], few),
        ]


@check(
    "softmax-output",
    "answers",
    "Probabilities instead of logits",
    raised_if="every answer lies in [0, 1] and sums to 1",
    means="Attacks take a softmax of what the model returns. Of probabilities that is nearly flat, and where the "
    "model is sure the gradient underflows to zero.",
    remedy="Return logits: leave the softmax out of the model. The audit attacks the logarithm of the output "
    "meanwhile.",
    source="AutoAttack's flag for softmax outputs; Carlini et al. 2019",
)
def softmax_output(subject: Subject) -> Measured:
    if subject.probabilities:
        return Measured("Every answer is a distribution: the model ends in a softmax.", True)
    finite = subject.answers[0][torch.isfinite(subject.answers[0])]
    if not len(finite):
        return Measured.silent("No logit is finite.")
    low, high = (float(edge) for edge in torch.aminmax(finite))
    return Measured(f"Answers are between {low:.3g} and {high:.3g}, no distributions.", False)


@check(
    "scaled-output",
    "answers",
    "So sure that float32 has no slope left",
    raised_if="more than a tenth of the right images have a margin beyond 16, where the probability is 1 to the last "
    "digit of float32",
    means="Scaling logits changes no prediction and takes the cross-entropy's gradient away: PGD on it stands still.",
    remedy="Attack a loss that does not saturate (margin, log-odds, DLR), or divide the logits by their standard "
    "deviation.",
    source="Carlini and Wagner 2017, section 5 (defensive distillation); Croce and Hein 2020 (DLR)",
    unit="of the images",
    threshold=0.1,
    needs=("image",),
)
def scaled_output(subject: Subject) -> Measured:
    images, labels = subject.take(subject.batch)
    # Without the other images the model may fail: no answer has no margin.
    gaps = _margins(subject, images, labels).nan_to_num(0.0)
    sure = Proportion(int((gaps > SATURATED).sum()), len(gaps))
    return Measured.share(
        f"Of {sure.n} right images {sure.count} have a margin beyond {SATURATED:g}; the median is "
        f"{float(gaps.median()):.3g}.",
        sure,
        sure.value > 0.1,
    )


def _margins(subject: Subject, images: Images, labels: Labels) -> Tensor:
    """(N,) by how much the label's logit leads."""
    with torch.no_grad():
        return -margin(subject.classifier(images), labels)


def _amount(share: float) -> str:
    return "no finite amount" if share == float("inf") else f"{share:.2g}" if share >= 1e-6 else "0"
