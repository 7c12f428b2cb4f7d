"""Models under siege, and radii at which a known part of them falls."""

from __future__ import annotations

from typing import Any

import torch
from audit_subjects import drawn, subject_of
from torch import Tensor

from sonet.attacks import Threat
from sonet.audit.planted import Linear
from sonet.audit.siege import besiege
from sonet.audit.subject import Subject
from sonet.solvers import Adaptive

X = drawn(24)
TWO, THREE = Linear.random(2, 0), Linear.random(3, 1)
BASE = ["pgd", "apgd-ce", "random-noise", "apgd-log-odds", "spsa-ce", "apgd-targeted", "apgd-smoothed", "square"]


def besieged(model: Any, images: Tensor = X, threat: Threat | None = None, **more: Any) -> Subject:
    subject = subject_of(model, images, threat=threat, **more)
    besiege(subject, lambda name: True)
    return subject


def made(subject: Subject) -> list[str]:
    return [attempt.stage.name for attempt in subject.stages.attempts]


def middle(model: Linear, images: Tensor, norm: Any, share: float = 0.5) -> float:
    """A radius between two of the images' distances, of which about `share` lie below."""
    near = model.distance(images, model(images).argmax(1), norm).sort().values
    place = int(share * len(near))
    return float(near[place - 1] + near[place]) / 2


def with_faces(n: int, seed: int = 0) -> Tensor:
    """Pixels at 0, at 1 and between."""
    return (torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.3).clamp(0, 1)


def without(*names: str) -> list[str]:
    return [name for name in BASE if name not in names]


def solved(step_gradient: Any = "differentiated", scope: Any = "batch") -> Adaptive:
    return Adaptive(rtol=0.1, atol=0.1, scope=scope, step_gradient=step_gradient)
