"""The solver's work as a target: evaluations counted again by `watch_solves`."""

from __future__ import annotations

import pytest
from audit_subjects import BrightnessDecay, Gauge, counted, drawn, reference_run, subject_of

from sonet.attacks import Linf
from sonet.audit import latency
from sonet.audit.latency import evaluations_under_attack, raise_evaluations
from sonet.solvers import Adaptive, Fixed


@pytest.mark.parametrize("raised", [True, False])
def test_evaluations_under_attack_are_those_of_the_images_made(raised: bool) -> None:
    model = BrightnessDecay(Adaptive(rtol=1e-3, atol=1e-3)) if raised else Gauge(Fixed(num_steps=3))
    images = drawn(4, (1, 1, 2)) if not raised else 0.02 + 0.02 * drawn(4, (1, 1, 2))
    subject = subject_of(model, images, threat=Linf(0.9))
    reference_run(subject)
    found = evaluations_under_attack(subject)
    worst, claimed = raise_evaluations(subject, images)
    assert float((worst - images).abs().max()) <= 0.9 + 1e-6
    assert 0 <= float(worst.min()) <= float(worst.max()) <= 1
    recounted = [counted(model, image)[1] for image in worst]
    assert claimed.tolist() == recounted
    clean = [counted(model, image)[1] for image in images]
    pgd = [counted(model, image)[1] for image in subject.stages.attempts[0].adversarial]
    assert found.value == pytest.approx(sum(recounted) / sum(clean))
    assert (found.raised, found.n) == (raised, 4)
    assert (sum(recounted) / sum(clean) > 1.5) is raised
    assert f"costs {sum(clean) / 4:.1f} evaluations on average, one of pgd {sum(pgd) / 4:.1f}, " in found.sentence


@pytest.mark.parametrize(("factor", "raised"), [(1.49, False), (1.51, True)])
def test_half_as_often_again_is_told(monkeypatch: pytest.MonkeyPatch, factor: float, raised: bool) -> None:
    subject = subject_of(Gauge(Fixed(num_steps=3)), drawn(2, (1, 1, 2)))
    assert subject.dial is not None
    worst = factor * subject.dial.evaluations(subject.images)
    monkeypatch.setattr(latency, "raise_evaluations", lambda subject, images: (images, worst))
    found = evaluations_under_attack(subject)
    assert (found.raised, found.value) == (raised, pytest.approx(factor))


def test_without_an_attack_evaluations_are_those_of_the_search() -> None:
    found = evaluations_under_attack(subject_of(Gauge(Fixed(num_steps=3)), drawn(2, (1, 1, 2))))
    assert (found.raised, found.value) == (False, 1.0)
    assert "pgd" not in found.sentence
