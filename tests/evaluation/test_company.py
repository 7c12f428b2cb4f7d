"""Who depends on batch-mates is told from who only rounds: a batch that falls apart would change who fools."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sonet.audit.planted import Linear
from sonet.evaluation.company import keeps_company

IMAGES = torch.rand((20, 1, 8, 8), generator=torch.Generator().manual_seed(0))


class Mates(nn.Module):
    """Logits of a linear model, and of the batch's mean image `strength` times as much again."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.own, self.strength = Linear.random(3, seed=1), strength

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.own(images)
        return logits + self.strength * (self.own(images.mean(0, keepdim=True)) - logits)


def moved(model: nn.Module) -> float:
    """The largest change of a logit of the first 16 images, alone against in the batch, over the logits' spread."""
    with torch.no_grad():
        together = model(IMAGES)
        alone = torch.cat([model(image) for image in IMAGES[:16].split(1)])  # type: ignore[no-untyped-call]
    return float((together[:16] - alone).abs().max() / together.std(correction=0))


@pytest.mark.parametrize(
    ("share", "coupled"),
    [(0.0, False), (2e-4, False), (1e-3, False), (4e-3, True), (0.017, True)],
)
def test_coupled_from_two_thousandths_of_the_spread_on(share: float, coupled: bool) -> None:
    """2e-4 is the most that rounding moved networks with steps of their own, 0.017 the least that shared steps did."""
    strength = share / moved(Mates(0.01)) * 0.01
    model = Mates(strength)
    assert moved(model) == pytest.approx(share, rel=0.1, abs=1e-6)
    found = keeps_company(model, IMAGES, len(IMAGES))
    assert (found.coupled, found.random) == (coupled, False)
