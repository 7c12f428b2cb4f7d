"""Does a model answer the same for an image in other company, and when asked again? Asked before an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sonet.types import Classifier, Images

_SAME = 0.002
"""Share of the logits' spread that rounding may move a logit by. In float32 it is 1e-6, and up to 2e-4 where a step may
be rejected by a hair; TF32 rounds at 1e-3. Shared step sizes move logits by one to tens of per cent, the least after
adversarial training: enough to change who fools, so that a batch must stay whole."""


@dataclass(frozen=True)
class Company:
    """coupled: logits depend on batch-mates. random: they differ when the same batch is asked twice."""

    coupled: bool
    random: bool


def keeps_company(classifier: Classifier, images: Images, batch: int, probes: int = 16) -> Company:
    """Ask for the first batch twice, and for its first `probes` images alone: two batches and `probes` queries."""
    images = images[:batch]
    with torch.no_grad():
        first, again = classifier(images.contiguous()), classifier(images.contiguous())
        alone = torch.cat([classifier(images[i : i + 1].contiguous()) for i in range(min(probes, len(images)))])
    usable = torch.isfinite(first).all(1)
    if not bool(usable.any()):
        return Company(False, False)
    spread = max(float(first[usable].std(correction=0)), 1e-12)

    def differs(other: torch.Tensor) -> bool:
        mine = first[: len(other)]
        both = torch.isfinite(mine).all(1) & torch.isfinite(other).all(1)
        moved = (mine - other)[both].abs().amax().item() if bool(both.any()) else 0.0
        return moved > _SAME * spread or bool((torch.isfinite(mine) != torch.isfinite(other)).any())

    random = differs(again)
    return Company(coupled=not random and differs(alone), random=random)
