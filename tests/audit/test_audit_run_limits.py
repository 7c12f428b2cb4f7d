"""Audits at their limits: one image or none, no radius, no time, models and checks that fail under way."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest
import torch
from audit_whole import EPS, THREE, TINY, TWO, TWO_EPS, X, audited, findings, timeless
from torch import Tensor, nn

from sonet.attacks import L2, Linf, Threat
from sonet.audit import CHECKS, Audit, CannotAudit
from sonet.audit.check import Measured
from sonet.audit.masks import SaturatedLogits
from sonet.audit.planted import LeftInTraining
from sonet.report.audit_record import AuditRecord


def test_images_may_be_views_and_may_want_a_gradient() -> None:
    """The model sees them contiguous, as `Images` promises."""

    def model(images: Tensor) -> Tensor:
        logits: Tensor = THREE(images.view(len(images), -1, 1, 1))
        return logits

    view = X.transpose(2, 3)
    assert not view.is_contiguous()
    straight, labels = timeless(audited(model, view.contiguous()).record), THREE(view).argmax(1)
    assert timeless(audited(model, view, labels).record) == straight
    assert timeless(audited(model, view.clone().requires_grad_(), labels).record) == straight


def test_the_images_given_stay_as_they_are() -> None:
    images = X.clone()
    audited(SaturatedLogits(THREE), images)
    assert torch.equal(images, X)


@pytest.mark.parametrize("threat", [Linf(0.0), L2(0.0)], ids=str)
def test_with_no_room_to_move_nothing_falls(threat: Threat) -> None:
    found = audited(THREE, threat=threat)
    assert found.record.worst.count == 24
    assert torch.equal(found.adversarial, X)
    assert found.verdict == "no masking found"


def test_one_image_is_enough_to_begin() -> None:
    found = audited(THREE, X[:1], threat=Linf(1.0))
    assert found.record.natural.n == 1
    assert found.record.worst.count == 0
    standing = audited(THREE, X[:1], threat=Linf(0.0)).record
    assert standing.worst.count == 1
    few = audited(SaturatedLogits(TWO), X[:1], threat=Linf(0.3))
    assert few.record.plain.count == 1
    assert few.record.worst.count == 0
    assert few.verdict == "inconclusive"  # though Wilson's lower end for 1 of 1 is 0.21


def test_where_no_image_is_right_it_does_not_begin() -> None:
    with pytest.raises(CannotAudit, match="0 of 24 images right"):
        audited(TWO, X, 1 - TWO(X).argmax(1))


def test_who_is_right_by_luck_only_leaves_it_open() -> None:
    """Right at the first three answers, on which an audit is begun, and never after."""

    class Turncoat(nn.Module):
        calls = 0

        def forward(self, images: Tensor) -> Tensor:
            type(self).calls += 1
            logits: Tensor = TWO(images)
            return logits if self.calls <= 1 else -logits

    found = audited(Turncoat().eval(), X, TWO(X).argmax(1), threat=Linf(TWO_EPS))
    assert found.record.natural.count == 0
    assert found.verdict == "inconclusive"
    assert found.exit_code == 4
    assert found.record.stages == []
    assert "no image right" in found.record.summary


@pytest.mark.parametrize("model", [LeftInTraining(THREE), lambda images: THREE(images).argmax(1)])
def test_what_cannot_be_audited_says_so_before_any_attack(model: Any) -> None:
    with pytest.raises(CannotAudit, match="cannot be audited yet"):
        audited(model, X, THREE(X).argmax(1))


def test_a_check_that_fails_does_not_end_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(subject: Any) -> Measured:
        raise RuntimeError("broken on purpose")

    names = [name for name, each in CHECKS.items() if each.bears != "decisive"]
    usual = audited(THREE)
    for name in names:
        monkeypatch.setitem(CHECKS, name, dataclasses.replace(CHECKS[name], look=broken))
    found = audited(THREE)
    for name in names:
        assert findings(found)[name].raised is None
        assert "broken on purpose" in findings(found)[name].measured
    assert found.record.worst == usual.record.worst


class Refuses(nn.Module):
    """Takes pixels of [0, 1] only: attacks and checks that look beyond fail."""

    def forward(self, images: Tensor) -> Tensor:
        if bool((images < 0).any() | (images > 1).any()):
            raise ValueError("pixels outside [0, 1]")
        logits: Tensor = THREE(images)
        return logits


def test_a_model_that_breaks_attacks_off_is_audited_and_it_stays_open() -> None:
    images = torch.cat((X[:23], X[23:].round()))
    found = audited(Refuses().eval(), images, threat=Linf(0.001))
    assert found.record.not_run["spsa-ce"] == "ValueError: pixels outside [0, 1]"
    assert found.verdict == "inconclusive"
    assert "not all attacks were made" in found.record.summary
    assert found.record.worst.count > 0


def test_without_time_nothing_is_run_and_it_is_inconclusive() -> None:
    found = audited(THREE, budget=0.0)
    assert found.verdict == "inconclusive"
    assert found.record.stages == []
    assert found.record.worst == found.record.plain == found.record.natural
    assert {"randomness", "pgd", "square", "spsa-ce", "larger-radius"} <= set(found.record.not_run)
    assert set(found.record.not_run.values()) == {"the budget of 0 s was spent"}
    assert [each.name for each in found.record.findings] == ["overestimate", "pgd-overestimate"]
    assert AuditRecord.model_validate_json(found.record.model_dump_json()) == found.record


HASTY = TINY.model_copy(update={"images": 12, "steps": 10, "queries": 20})


class Clock:
    """Time that stands still until `word` is told, then is over."""

    def __init__(self, word: str) -> None:
        self.word, self.now = word, 0.0

    def tell(self, done: float, word: str) -> None:
        assert 0 <= done <= 1
        self.now = 1e9 if word == self.word else self.now


def stopped(monkeypatch: pytest.MonkeyPatch, model: Any, word: str, threat: Threat | None = None) -> Audit:
    """An audit whose time is over as `word` would begin."""
    clock = Clock(word)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    return audited(model, threat=threat, budget=10.0, tell=clock.tell, effort=HASTY)


def test_the_record_holds_wherever_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between the attacks and the checks that the verdict would name."""
    words: list[str] = []
    audited(THREE, threat=Linf(0.5 * EPS), tell=lambda done, word: words.append(word), effort=HASTY)
    assert words[-1] == "no masking found"
    verdicts = []
    for word in words[:-1]:
        found = stopped(monkeypatch, THREE, word, Linf(0.5 * EPS))
        assert word in found.record.not_run
        verdicts.append(found.verdict)
    last_that_matters = words.index("larger-radius")
    assert set(verdicts[: last_that_matters + 1]) == {"inconclusive"}
    assert set(verdicts[last_that_matters + 1 :]) == {"no masking found"}


def test_what_is_masked_already_is_masked_though_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stopped(monkeypatch, SaturatedLogits(TWO), "square", Linf(2 * TWO_EPS))
    assert "square" in found.record.not_run
    assert found.verdict == "masked"
    assert found.record.causes[1:] == []  # no time for the cause
