"""What training minimises."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from sonet.types import Images, Labels, Logits

Objective = Callable[[nn.Module, Images, Labels], tuple[Tensor, Logits]]


def natural(model: nn.Module, images: Images, labels: Labels) -> tuple[Tensor, Logits]:
    """Mean cross-entropy at the images themselves; returns it and the logits."""
    logits = model(images)
    return F.cross_entropy(logits, labels), logits


OBJECTIVES: dict[str, Objective] = {"natural": natural}
