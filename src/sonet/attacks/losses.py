"""What an attack drives up, per sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sonet.types import Labels, Logits

Loss = Callable[[Logits, Labels], Tensor]


def cross_entropy(logits: Logits, labels: Labels) -> Tensor:
    """-log softmax(logits)[label], (N,). Its gradient vanishes in float32 where the model is sure: saturation."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin(logits: Logits, labels: Labels) -> Tensor:
    """max over the other classes of their logit, minus the label's, (N,): positive where fooled (Carlini, Wagner 2017).

    It does not saturate and does not change when a constant is added to all logits.
    """
    label = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(label, float("-inf")).amax(1) - logits.gather(1, labels[:, None]).squeeze(1)


def fooled(logits: Logits, labels: Labels) -> Tensor:
    """(N,) bool: the prediction is not the label. Logits that are not finite are no answer, which counts as fooled."""
    return (logits.argmax(1) != labels) | ~torch.isfinite(logits).all(1)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin}
