"""Every check of every odd subject: a finding with a sentence, silent or not, never an error and never NaN."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from audit_subjects import Decay, Gauge, Landscape, drawn, on_landscape, plausible, subject_of
from torch import Tensor, nn

from sonet.attacks import L2, Linf
from sonet.audit.check import CHECKS
from sonet.audit.planted import Coupled, Linear, NaNNear, Noisy, Softmax
from sonet.audit.scenery import outcomes, pictures, surface
from sonet.audit.siege import besiege
from sonet.audit.subject import Subject
from sonet.solvers import Adaptive, Fixed, paper

MODEL = Linear.random(3, seed=1)
IMAGES = drawn(6)
LABELS = MODEL(IMAGES).argmax(1)
SHORT = {"steps": 3, "queries": 4, "estimates": 1, "probes": 3, "subset": 3, "restarts": 2, "calls": 3}


class NaNGradient(nn.Module):
    """The linear model, with sqrt's slope at 0 besides."""

    def forward(self, images: Tensor) -> Tensor:
        return MODEL(images) + (images.flatten(1)[:, :1] * 0).sqrt()


class NaNWhenMoved(nn.Module):
    """Answers on the test images only: every change of them is none of its business."""

    def forward(self, images: Tensor) -> Tensor:
        known = torch.tensor([any(bool(torch.equal(image, other)) for other in IMAGES) for image in images])
        return MODEL(images).masked_fill(~known[:, None], torch.nan)


class Wide(nn.Module):
    """Logits of both infinities but for the first class, which is right for images brighter than one half."""

    def forward(self, images: Tensor) -> Tensor:
        first = images.flatten(1)[:, :1]
        return torch.cat((first, torch.where(first > 0.5, -1e30, torch.inf), -3e38 + 0 * first), 1)


class Constant(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0, 0.0]).expand(len(images), 3)


def fields() -> Tensor:
    return drawn(6, (1, 1, 2))


COARSE = Adaptive(rtol=1e-1, atol=1e-1)
SUBJECTS: dict[str, Callable[[], Subject]] = {
    "nobody is right": lambda: subject_of(MODEL, IMAGES, (LABELS + 1) % 3, **SHORT),
    "one is right": lambda: subject_of(
        MODEL, IMAGES, torch.where(torch.arange(6) == 2, LABELS, (LABELS + 1) % 3), **SHORT
    ),
    "one image": lambda: subject_of(MODEL, IMAGES[:1], **SHORT),
    "one image of an ODE": lambda: subject_of(Gauge(COARSE), fields()[:1], **SHORT),
    "batches of one": lambda: subject_of(MODEL, IMAGES, batch=1, **SHORT),
    "no radius": lambda: subject_of(MODEL, IMAGES, threat=Linf(0.0), **SHORT),
    "no radius, l2": lambda: subject_of(MODEL, IMAGES, threat=L2(0.0), **SHORT),
    "no radius, ODE": lambda: subject_of(Gauge(COARSE), fields(), threat=Linf(0.0), **SHORT),
    "the whole box": lambda: subject_of(MODEL, IMAGES, threat=Linf(1.0), **SHORT),
    "l2": lambda: subject_of(MODEL, IMAGES, threat=L2(0.5), **SHORT),
    "l2, ODE": lambda: subject_of(Gauge(Fixed(num_steps=2)), fields(), threat=L2(0.2), **SHORT),
    "colour": lambda: subject_of(Linear(torch.eye(3, 75), torch.zeros(3)), drawn(6, (3, 5, 5)), **SHORT),
    "neither grey nor colour": lambda: subject_of(
        Linear(torch.eye(3, 50), torch.zeros(3)), drawn(6, (2, 5, 5)), **SHORT
    ),
    "NaN for one image": lambda: subject_of(NaNNear(MODEL, IMAGES[1], 0.2), IMAGES, LABELS, **SHORT),
    "NaN for the first batch": lambda: subject_of(NaNNear(MODEL, IMAGES[0], 0.01), IMAGES, LABELS, batch=1, **SHORT),
    "NaN when moved": lambda: subject_of(NaNWhenMoved().eval(), IMAGES, LABELS, **SHORT),
    "infinite logits": lambda: subject_of(Wide().eval(), IMAGES, torch.zeros(6, dtype=torch.int64), **SHORT),
    "NaN gradients": lambda: subject_of(NaNGradient().eval(), IMAGES, **SHORT),
    "constant": lambda: subject_of(Constant().eval(), IMAGES, **SHORT),
    "random": lambda: subject_of(Noisy(MODEL, 0.5), IMAGES, LABELS, **SHORT),
    "random probabilities": lambda: subject_of(Softmax(Noisy(MODEL, 0.5)), IMAGES, LABELS, **SHORT),
    "coupled": lambda: subject_of(Coupled(Linear.random(2), 2.0), IMAGES, **SHORT),
    "nobody is right, ODE": lambda: subject_of(
        Gauge(paper()), fields(), 1 - Gauge(paper())(fields()).argmax(1), **SHORT
    ),
    "shared steps": lambda: subject_of(Decay(paper(), gain=50.0, offset=-1.0), fields(), **SHORT),
    "a solver that fails": lambda: subject_of(
        Decay(Adaptive(rtol=1e-1, atol=1e-1, max_steps=4), gain=1.0, offset=-1.0),
        fields(),
        torch.zeros(6, dtype=torch.int64),
        **SHORT,
    ),
    "a flat landscape": lambda: subject_of(Landscape([(-1.0, -20.0), (1.0, -20.0)]), on_landscape([0] * 6), **SHORT),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_check_of_an_odd_subject_gives_a_finding(name: str) -> None:
    subject = SUBJECTS[name]()
    asked = [each for each in CHECKS.values() if each.family in ("answers", "gradient")]
    findings = [each(subject) for each in asked]
    besiege(subject, lambda stage: True)
    findings += [each(subject) for each in CHECKS.values() if each not in asked]
    assert subject.not_run == {}
    for found in findings:
        assert plausible(found.measured), f"{found.name}: {found.measured}"
        numbers = [number for number in (found.value, found.low, found.high) if number is not None]
        assert all(math.isfinite(number) for number in numbers)
        if found.value is not None and found.raised is not None and found.n is not None:
            assert found.n <= len(subject.images)
    for ladder in subject.ladders.values():
        assert all(y is None or math.isfinite(y) for line in ladder.lines for y in line.y)
    shown = surface(subject)
    assert (shown is None) == (not bool(subject.right.any()))
    assert len(outcomes(subject, [])) == len(subject.images)
    assert len(pictures(subject, "m", [])) <= len(subject.stages.fell_to)


@pytest.mark.parametrize("name", ["l2", "one image of an ODE", "nobody is right", "coupled"])
def test_every_check_can_be_asked_before_any_attack(name: str) -> None:
    """As where a budget was spent: the decisive ones are asked all the same."""
    subject = SUBJECTS[name]()
    for each in CHECKS.values():
        found = each(subject)
        assert plausible(found.measured), f"{found.name}: {found.measured}"
