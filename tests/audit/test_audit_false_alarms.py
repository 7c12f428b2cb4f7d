"""Models that mask nothing, of kinds that were once called masked."""

from __future__ import annotations

import torch
from audit_subjects import TINY
from torch import Tensor, nn

from sonet.attacks import Linf
from sonet.audit.linear import Linear, Scene
from sonet.audit.run import audit


def test_a_linear_model_whose_images_fall_to_the_targeted_attack_masks_nothing() -> None:
    """Cross-entropy aims at no class: on ten classes it misses a third of the images that can be had."""
    scene = Scene.draw(10, 0, n=64)
    radius = float(scene.distances("linf").amin(1).median())
    effort = TINY.model_copy(update={"images": 64, "steps": 50, "targets": 9})
    record = audit(scene.model, (scene.images, scene.labels), Linf(radius), effort=effort).record
    assert record.overestimate.count >= 7, "the case is about an overestimate that would otherwise count"
    assert record.verdict == "no masking found"
    assert "aimed at one class" in record.summary


class Company(nn.Module):
    """Logits that move with the batch-mates, by up to `reach`, without a gradient to them."""

    def __init__(self, model: Linear, reach: float) -> None:
        super().__init__()
        self.model, self.reach = model, reach
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        feature = images.detach().flatten(1).mean(1)
        mates = feature.sum() - feature
        along = torch.linspace(-1, 1, logits.shape[1])
        return logits + self.reach * torch.sin(1e5 * mates)[:, None] * along


def test_luck_with_batch_mates_is_no_masking() -> None:
    model, verdicts = Linear.random(3, 0), []
    effort = TINY.model_copy(update={"images": 60, "steps": 12})
    for seed in range(6):
        images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(seed + 1))
        found = audit(Company(model, 1.0), (images, model(images).argmax(1)), Linf(0.02), effort=effort).record
        verdicts.append(found.verdict)
    assert "masked" not in verdicts


def test_a_handful_of_images_makes_no_verdict() -> None:
    model = Linear.random(2, 0)

    def sure(images: Tensor) -> Tensor:
        return 1e4 * model(images)

    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    record = audit(sure, (images, sure(images).argmax(1)), Linf(0.3), effort=TINY).record
    assert record.plain.count - record.worst.count >= 2
    assert record.verdict == "inconclusive"
