"""Models for evaluations: independent samples, batch-mates that matter, answers that change."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonet.attacks.apgd import APGD, APGDT
from sonet.attacks.ensemble import Member
from sonet.attacks.fab import FAB
from sonet.attacks.pgd import PGD
from sonet.attacks.square import Square

SHAPE = (1, 5, 5)


def some_images(n: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """A small smooth network of random weights."""

    def __init__(self, seed: int = 0, classes: int = 4, speed: float = 2.0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.register_buffer("inner", torch.randn(12, 25, generator=draw, dtype=torch.float64) / 2)
        self.register_buffer("outer", torch.randn(classes, 12, generator=draw, dtype=torch.float64))
        self.speed = speed
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        inner, outer = self.inner.to(x.dtype), self.outer.to(x.dtype)  # type: ignore[operator]
        return F.linear(torch.sin(self.speed * F.linear(x.flatten(1) - 0.5, inner)), outer)


class Coupled(Net):
    """Every sample's logits lean on the mean image of its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.5 * (x.mean(0, keepdim=True) - 0.5))


class Noisy(Net):
    """Another answer at each call."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits + torch.randn_like(logits)


def labels_of(model: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def members(batch_size: int = 100, seed: int = 0) -> tuple[Member, ...]:
    """Four kinds of attack, short: random starts, targets, a search for the nearest, no gradient."""
    common: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
    return (
        Member(name="pgd", attack=PGD(steps=4, loss="margin", random_start=True, stop_when_fooled=True, **common)),
        Member(name="apgd-t", attack=APGDT(steps=8, targets=2, **common)),
        Member(name="fab", attack=FAB(steps=5, targets=2, stop_when_fooled=True, **common)),
        Member(name="square", attack=Square(queries=30, **common)),
        Member(name="apgd", attack=APGD(steps=6, **common)),
    )
