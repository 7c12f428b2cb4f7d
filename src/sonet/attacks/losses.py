"""What an attack drives up, per sample, and the goal of a batch: a loss with its labels and targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sonet.types import Labels, Logits

Loss = Callable[[Logits, Labels], Tensor]
TargetedLoss = Callable[[Logits, Labels, Labels], Tensor]


def cross_entropy(logits: Logits, labels: Labels) -> Tensor:
    """-log softmax(logits)[label], (N,). Its gradient vanishes in float32 where the model is sure: saturation."""
    return F.cross_entropy(logits, labels, reduction="none")


def log_odds(logits: Logits, labels: Labels) -> Tensor:
    r"""log((1 - p) / p) for p the label's probability, (N,): logsumexp over the other classes, minus the label's logit.

    Cross-entropy is softplus of it, so for a sample both grow in the same direction; but its gradient does not vanish
    where the model is sure. An attack that uses directions only loses nothing by taking it instead.
    """
    others = logits.masked_fill(_label_mask(logits, labels), float("-inf")).logsumexp(1)
    return others - _at(logits, labels)


def margin(logits: Logits, labels: Labels) -> Tensor:
    """max over the other classes of their logit, minus the label's, (N,): positive where fooled (Carlini, Wagner 2017).

    It does not saturate and does not change when a constant is added to all logits.
    """
    return logits.masked_fill(_label_mask(logits, labels), float("-inf")).amax(1) - _at(logits, labels)


def dlr(logits: Logits, labels: Labels) -> Tensor:
    r"""Difference of logits ratio (Croce and Hein 2020): margin / (z_(1) - z_(3)), logits in falling order; (N,).

    It does not change when the logits are shifted or scaled. Deviation: with two classes, where there is no z_(3), it
    is the margin; a denominator of 0 counts as 1e-12.
    """
    if logits.shape[1] < 3:
        return margin(logits, labels)
    order = logits.topk(3, dim=1).values
    return margin(logits, labels) / (order[:, 0] - order[:, 2]).clamp_min(1e-12)


def targeted_cross_entropy(logits: Logits, labels: Labels, targets: Labels) -> Tensor:
    """log softmax(logits)[target], (N,)."""
    return -F.cross_entropy(logits, targets, reduction="none")


def targeted_margin(logits: Logits, labels: Labels, targets: Labels) -> Tensor:
    """The target's logit minus the label's, (N,)."""
    return _at(logits, targets) - _at(logits, labels)


def targeted_dlr(logits: Logits, labels: Labels, targets: Labels) -> Tensor:
    r"""Targeted difference of logits ratio (Croce and Hein 2020): (z_target - z_label) / (z_(1) - (z_(3) + z_(4)) / 2).

    Deviation: with fewer than four classes it is the difference itself. (With three, and z_(3) for the z_(4) there is
    not, the ratio would be -1 whatever the image, wherever the target is the third class.)
    """
    difference = targeted_margin(logits, labels, targets)
    if logits.shape[1] < 4:
        return difference
    order = logits.topk(4, dim=1).values
    return difference / (order[:, 0] - (order[:, 2] + order[:, 3]) / 2).clamp_min(1e-12)


def kl_divergence(logits: Logits, reference: Logits) -> Tensor:
    """KL(softmax(reference) || softmax(logits)), (N,), >= 0 but for rounding; finite where a probability underflows."""
    return F.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)


def fooled(logits: Logits, labels: Labels) -> Tensor:
    """(N,) bool: the prediction is not the label. Logits that are not finite are no answer, which counts as fooled."""
    return (logits.argmax(1) != labels) | ~torch.isfinite(logits).all(1)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "log-odds": log_odds, "margin": margin, "dlr": dlr}
TARGETED_LOSSES: dict[str, TargetedLoss] = {
    "ce": targeted_cross_entropy,
    "margin": targeted_margin,
    "dlr": targeted_dlr,
}


@dataclass(frozen=True)
class Goal:
    """A loss for the samples at hand: their labels and, if targeted, the classes they are driven to, both (N,)."""

    labels: Labels
    loss: Loss = field(default=margin)
    targets: Labels | None = None
    targeted: TargetedLoss = field(default=targeted_margin)

    def __call__(self, logits: Logits) -> Tensor:
        """The loss, (N,)."""
        if self.targets is None:
            return self.loss(logits, self.labels)
        return self.targeted(logits, self.labels, self.targets)

    def fooled(self, logits: Logits) -> Tensor:
        """(N,) bool. A targeted attack too succeeds with any wrong class."""
        return fooled(logits, self.labels)

    def take(self, index: Tensor) -> Goal:
        """The goal of the samples `index`, (M,) places or (N,) bool."""
        targets = None if self.targets is None else self.targets[index]
        return Goal(self.labels[index], self.loss, targets, self.targeted)


@dataclass(frozen=True)
class Divergence(Goal):
    """Away from an earlier answer: KL(softmax(reference) || softmax(logits)), `reference` (N, classes) its logits.

    The labels say only who is fooled.
    """

    reference: Logits = field(kw_only=True)

    def __call__(self, logits: Logits) -> Tensor:
        return kl_divergence(logits, self.reference)

    def take(self, index: Tensor) -> Divergence:
        return Divergence(self.labels[index], reference=self.reference[index])


def likely_targets(logits: Logits, labels: Labels, number: int) -> Tensor:
    """The `number` most likely wrong classes of each sample, likeliest first, (N, number); fewer if there are fewer."""
    answers = logits.nan_to_num(nan=torch.finfo(logits.dtype).min)  # finite, so that the label alone comes last
    wrong = answers.masked_fill(_label_mask(logits, labels), float("-inf"))
    return wrong.topk(min(number, logits.shape[1] - 1), dim=1).indices


def _label_mask(logits: Logits, labels: Labels) -> Tensor:
    return labels[:, None] == torch.arange(logits.shape[1], device=logits.device)


def _at(logits: Logits, classes: Labels) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)
