"""Which gradients are tried on which model: those that go round its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from audit_sieges import BASE, THREE, TWO, X, besieged, made, middle, solved
from audit_subjects import Decay, Gauge, Mates, subject_of

from sonet.attacks import L2, Linf, Threat
from sonet.attacks.gradients import Alone, Backpropagation, Guided
from sonet.audit.planted import Detached, Linear, Noisy, Softmax
from sonet.audit.siege import besiege, legible, other_gradients, without_batch
from sonet.audit.sources import LogOfProbabilities, Smoothed
from sonet.solvers import Fixed


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (lambda: THREE, []),
        (lambda: Noisy(THREE, 0.1), ["apgd-averaged"]),
        (lambda: Detached(THREE), ["apgd-float64"]),  # no gradient: precision might be why
        (lambda: Softmax(THREE), ["apgd-float64"]),
        (lambda: lambda images: THREE(images).softmax(1), []),  # no module
        (lambda: Mates(torch.ones(64) / 64, 1.0, 0.5), ["apgd-alone"]),
        (lambda: Gauge(Fixed(method="euler", num_steps=2)), ["apgd-finer"]),
        (lambda: Decay(solved()), ["apgd-frozen", "apgd-alone", "apgd-finer"]),
        (lambda: Decay(solved("frozen", "sample")), ["apgd-alone", "apgd-finer"]),
        (lambda: Decay(solved("differentiated", "sample")), ["apgd-frozen", "apgd-finer"]),
    ],
)
def test_other_gradients_are_those_that_make_sense(model: Callable[[], Any], more: list[str]) -> None:
    torch.manual_seed(0)
    built = model()
    labels = (THREE if isinstance(built, Noisy) else built)(X).argmax(1)
    subject = subject_of(built, X, labels, Linf(0.0), steps=2, queries=5, calls=1)
    besiege(subject, lambda name: True)
    expected = [*BASE, *more]
    if subject.dial is not None:
        expected.remove("apgd-smoothed")  # roughness of a solver has gradients of its own
    assert sorted(made(subject)) == sorted(expected)
    assert subject.not_run == {}


def test_the_backbone_s_gradient_is_tried_where_there_is_one() -> None:
    """A defence that cuts its gradient: the network behind it tells at once."""
    eps = middle(TWO, X, "linf")
    subject = besieged(Detached(TWO), X, Linf(eps), backbone=TWO, steps=30, queries=2, estimates=1)
    made_on_it = subject.stages.named("apgd-backbone")
    assert made_on_it is not None
    assert made_on_it.stage.gradient == "backbone"
    far = TWO.distance(X, subject.labels, "linf") > eps
    assert subject.stages.left.count == int(far.sum())
    assert subject.stages.fell_by({"apgd-backbone"}) > 3
    assert "apgd-backbone" not in made(besieged(TWO, X, Linf(0.0)))


def test_of_probabilities_the_logarithm_is_followed() -> None:
    """Margins of 60 to 80: the probabilities are flat, their logarithms are not. Smoothed gradients are of these."""
    margins = TWO(X).diff(dim=1).abs().squeeze(1)
    chosen = (margins < float(margins.median()) * 4 / 3) & (margins >= margins.median())
    scale = 60 / float(margins.median())
    model, images = Softmax(Linear(TWO.weight * scale, TWO.bias * scale)), X[chosen]
    assert int(chosen.sum()) > 2
    subject = subject_of(model, images, threat=Linf(0.0))
    labels = subject.labels
    assert float(subject.gradient(images, labels, "margin")[0].abs().max()) < 1e-20
    for source in (legible(subject), other_gradients(subject)["smoothed"]):
        gradient, _ = subject.gradient(images, labels, "margin", source)
        v = (TWO.weight[1 - labels] - TWO.weight[labels]).view_as(images) * scale
        torch.testing.assert_close(gradient, v, rtol=1e-3, atol=1e-3)
    plain_source = legible(subject_of(TWO, X))
    assert isinstance(plain_source, Backpropagation)
    assert not isinstance(plain_source.classifier, LogOfProbabilities)


@pytest.mark.parametrize(("threat", "sigma"), [(Linf(0.2), 0.05), (L2(0.8), 0.025)])
def test_gradients_are_smoothed_over_a_quarter_of_the_radius(threat: Threat, sigma: float) -> None:
    source = other_gradients(subject_of(TWO, X, threat=threat))["smoothed"]
    assert isinstance(source, Smoothed)
    assert source.sigma == pytest.approx(sigma)  # l2: over the 64 pixels the whole length is 0.25 * 0.8


def test_without_a_batch_answers_are_those_of_one_image() -> None:
    model = Mates(torch.ones(64) / 64, 1.0, 0.5)
    alone = model(X[:1])
    source = without_batch(subject_of(model, X), model)
    assert isinstance(source, Alone)
    torch.testing.assert_close(source.logits(X)[:1], alone)
    assert not isinstance(without_batch(subject_of(TWO, X), TWO), Alone)
    own = Decay(solved(), gain=1e5, offset=0.1981)
    subject = subject_of(own, X)
    assert subject.coupled
    torch.testing.assert_close(without_batch(subject, own).logits(X)[:1], own(X[:1]), rtol=1e-3, atol=1e-2)
    assert float((own(X)[0] - own(X[:1])[0]).abs().max()) > 0.05
    finer = other_gradients(subject)["finer"]
    assert isinstance(finer, Guided)
