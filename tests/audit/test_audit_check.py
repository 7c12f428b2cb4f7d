"""Checks as such, the register, the efforts, and the findings that count who fell to what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from audit_stages import board, swap
from audit_subjects import drawn, subject_of, wilson_low
from pydantic import ValidationError

from sonet.attacks import Linf
from sonet.audit import CHECKS, EFFORTS, Effort
from sonet.audit import overestimate as module
from sonet.audit.check import Check, Measured, check, first_line
from sonet.audit.overestimate import (
    OVERESTIMATE,
    gradient_free,
    other_gradients,
    other_loss,
    overestimate,
    pgd_overestimate,
    random_noise,
)
from sonet.audit.planted import Linear, Noisy
from sonet.audit.siege import besiege
from sonet.audit.subject import Subject
from sonet.types import Proportion

Look = Callable[[Subject], Measured]


def of(look: Look) -> Check:
    return Check("a-name", "attack", "Title", "warning", "raised if", "means", "remedy", "source", look, "unit", 0.5)


def test_a_finding_says_what_was_measured_and_what_it_cost() -> None:
    def look(subject: Subject) -> Measured:
        subject.classifier(subject.images[:5])
        return Measured.share("A sentence.", Proportion(3, 12), True)

    found = of(look)(board())
    low, high = Proportion(3, 12).interval
    assert (found.value, found.low, found.high, found.n, found.raised) == (0.25, low, high, 12, True)
    assert (found.measured, found.unit, found.threshold, found.bears) == ("A sentence.", "unit", 0.5, "warning")
    assert found.passes == 5
    assert found.seconds > 0


@pytest.mark.parametrize(
    "error", [ValueError("first\nsecond"), KeyError("k"), AssertionError(), RuntimeError("x" * 999)]
)
def test_an_error_in_a_check_is_a_finding(error: Exception) -> None:
    def look(subject: Subject) -> Measured:
        raise error

    found = of(look)(board())
    assert found.raised is None
    assert found.value is None
    assert found.measured.startswith(f"Could not be measured: {type(error).__name__}: ")
    assert "second" not in found.measured
    assert len(found.measured) < 400
    assert first_line(AssertionError()) == "AssertionError: "


def test_an_interrupt_is_no_finding() -> None:
    def look(subject: Subject) -> Measured:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        of(look)(board())


def test_a_share_of_no_images_is_not_measured() -> None:
    found = of(lambda subject: Measured.share("Of none.", Proportion(0, 0), True))(board())
    assert found.raised is None
    assert "of no images" in found.measured


def test_a_name_is_given_once() -> None:
    again: dict[str, Any] = {"raised_if": "", "means": "", "remedy": "", "source": ""}
    with pytest.raises(ValueError, match="'overestimate' is there already"):
        check("overestimate", "attack", "Again", **again)(overestimate)
    assert CHECKS["overestimate"].look is overestimate


def test_every_check_explains_itself_and_two_decide() -> None:
    assert [name for name, each in CHECKS.items() if each.bears == "decisive"] == ["overestimate", "pgd-overestimate"]
    for name, each in CHECKS.items():
        assert each.name == name
        assert min(map(len, (each.title, each.raised_if, each.means, each.remedy, each.source))) > 3
        assert "robust" not in f"{each.title} {each.means} {each.remedy}".replace("robustness", "")


def test_efforts_grow_and_know_nothing_else() -> None:
    quick, normal, thorough = (EFFORTS[level] for level in ("quick", "normal", "thorough"))
    for field in Effort.model_fields:
        if field != "level":
            assert getattr(quick, field) <= getattr(normal, field) <= getattr(thorough, field)
    for level, effort in EFFORTS.items():
        assert effort.level == level
        assert effort.subset <= effort.images
        assert effort.probes <= effort.images
    with pytest.raises(ValidationError):
        Effort(**{**quick.model_dump(), "images": 0})
    with pytest.raises(ValidationError):
        Effort(**{**quick.model_dump(), "stpes": 3})


def siege() -> Subject:
    """40 images, the last two wrong: PGD 8, APGD 2, noise 1, log-odds 4, averaged 5, square 7; 11 stand."""
    subject = board(40, (38, 39))
    acts = {
        "pgd": (8, "own"),
        "apgd-ce": (2, "own"),
        "random-noise": (1, "none"),
        "apgd-log-odds": (4, "own"),
        "apgd-averaged": (5, "averaged"),
        "square": (7, "none"),
    }
    first = 0
    for name, (count, gradient) in acts.items():
        who = range(first, first + count)
        swap(subject, name, who, plain=name in ("pgd", "apgd-ce"), gradient=gradient)
        first += count
    return subject


@pytest.mark.parametrize(
    ("look", "count", "words"),
    [
        (overestimate, 17, "leave 28 of 40 images right, all attacks together 11: 17 fell"),
        (pgd_overestimate, 19, "leaves 30 of 40 images right, all attacks together 11"),
        (random_noise, 1, "Of 28 images that stood until then, random noise felled 1"),
        (other_loss, 4, "Of 27 images"),
        (other_gradients, 5, "Of 23 images that stood until then, other gradients (apgd-averaged) felled 5"),
        (gradient_free, 7, "Of 18 images"),
    ],
)
def test_shares_are_of_all_images_and_raised_by_their_lower_end(look: Look, count: int, words: str) -> None:
    found = look(siege())
    assert found.value == pytest.approx(count / 40)
    assert found.n == 40
    assert words in found.sentence
    assert found.interval is not None
    assert found.interval[0] == pytest.approx(wilson_low(count, 40))
    assert found.raised is (wilson_low(count, 40) > OVERESTIMATE)


def test_of_forty_images_five_raise_and_four_do_not() -> None:
    """The two sides of the rule are both in the table above."""
    raised = {look.__name__: look(siege()).raised for look in (random_noise, other_loss, other_gradients)}
    assert raised == {"random_noise": False, "other_loss": False, "other_gradients": True}


def test_attacks_made_together_are_said_to_be_of_those_that_stood() -> None:
    subject = board()
    swap(subject, "pgd", range(4), plain=True, together=True)
    swap(subject, "apgd-log-odds", range(6), together=True)
    assert "Of 8 images that stood until then, other losses on the model's own gradient felled 2" in (
        other_loss(subject).sentence
    )


@pytest.mark.parametrize("look", [other_loss, other_gradients, gradient_free, random_noise])
def test_what_was_not_tried_is_not_measured(look: Look) -> None:
    subject = board()
    swap(subject, "pgd", range(12), plain=True)
    found = look(subject)
    assert found.raised is None
    assert found.value is None


def test_before_any_attack_nothing_is_overestimated() -> None:
    for look in (overestimate, pgd_overestimate):
        assert look(board()).value == 0
        assert look(board()).raised is False


def test_of_a_random_model_pgd_alone_says_nothing() -> None:
    model, images = Linear.random(3, 0), drawn(8)
    subject = subject_of(Noisy(model, 1.0), images, model(images).argmax(1))
    assert pgd_overestimate(subject).raised is None
    assert overestimate(subject).raised is False


def test_every_attack_of_a_finding_is_one_that_is_made() -> None:
    subject = subject_of(Linear.random(3, 0), drawn(4), threat=Linf(0.0))
    subject.effort = subject.effort.model_copy(update={"level": "normal"})
    besiege(subject, lambda name: True)
    made = {attempt.stage.name for attempt in subject.stages.attempts}
    assert module.OWN_ATTACKS | module.WITHOUT_GRADIENT | {"random-noise"} <= made
