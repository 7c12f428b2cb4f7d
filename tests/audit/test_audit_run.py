"""Whole audits of models with known answers: the verdict, the record, the budget, and what must not end one."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from audit_subjects import Decay, Landscape, Mates, on_landscape
from torch import Tensor, nn

import sonet
from sonet.attacks import L2, Linf, Threat
from sonet.audit import CHECKS, EXIT_CODES, Audit, CannotAudit, Effort, audit
from sonet.audit.check import Measured
from sonet.audit.masks import BatchMates, SaturatedLogits, SureSoftmax, WrongBackward
from sonet.audit.planted import Coupled, Detached, LeftInTraining, Linear, NaNNear, Noisy, Quantised, Scaled, Softmax
from sonet.audit.run import ORDER
from sonet.data import Split
from sonet.report.audit_record import AuditRecord
from sonet.solvers import Adaptive, Fixed

TINY = Effort(
    level="quick", images=24, steps=12, targets=2, queries=60, estimates=3, calls=3, probes=2, subset=8, restarts=1
)
X = 0.3 + 0.4 * torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TWO, THREE = Linear.random(2, 0), Linear.random(3, 1)
EPS = float(THREE.distance(X, THREE(X).argmax(1), "linf").median())
TWO_EPS = float(TWO.distance(X, TWO(X).argmax(1), "linf").median())


def audited(
    model: Any, images: Tensor = X, labels: Tensor | None = None, threat: Threat | None = None, **more: Any
) -> Audit:
    if labels is None:
        with torch.no_grad():
            labels = model(images).argmax(1)
    return audit(model, (images, labels), threat or Linf(EPS), **({"effort": TINY} | more))


def timeless(record: AuditRecord) -> dict[str, Any]:
    """Without when it was made, and what time it took."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in ("seconds", "environment")}
        return [strip(item) for item in value] if isinstance(value, list) else value

    stripped: dict[str, Any] = strip(record.model_dump())
    return stripped


def findings(found: Audit) -> dict[str, Any]:
    return {each.name: each for each in found.record.findings}


MODELS: dict[str, Any] = {
    "linear": lambda: THREE,
    "no module": lambda: lambda images: THREE(images),
    "float64": lambda: Linear(THREE.weight.double(), THREE.bias.double()),
    "noisy": lambda: Noisy(THREE, 0.2),
    "cut": lambda: Detached(THREE),
    "rounded": lambda: Quantised(THREE, 8),
    "saturated": lambda: SaturatedLogits(THREE),
    "softmax": lambda: Softmax(THREE),
    "sure softmax": lambda: SureSoftmax(THREE),
    "tiny logits": lambda: Scaled(THREE, 1e-6),
    "coupled": lambda: Coupled(THREE, 20.0),
    "leaking": lambda: BatchMates(THREE),
    "NaN": lambda: NaNNear(THREE, X[3], 0.05),
    "adaptive": lambda: Decay(Adaptive(rtol=0.1, atol=0.1, scope="batch", step_gradient="differentiated"), gain=3.0),
    "fixed": lambda: Decay(Fixed(method="euler", num_steps=2)),
}


@pytest.mark.parametrize("threat", [Linf(EPS), L2(8 * EPS)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_every_audit_gives_a_record_that_holds_together(name: str, threat: Threat) -> None:
    images = X.double() if name == "float64" else X
    small = TINY.model_copy(update={"steps": 4, "queries": 10, "images": 12})
    found = audited(MODELS[name](), images, THREE(X).argmax(1) if name == "noisy" else None, threat, effort=small)
    record = found.record
    assert AuditRecord.model_validate_json(record.model_dump_json()) == record
    assert record.worst.count <= record.plain.count <= record.natural.count
    assert record.natural.n == 12
    assert record.plain.count - record.worst.count == record.overestimate.count
    assert sum(stage.fell for stage in record.stages) == record.natural.count - record.worst.count
    fates = [each.fell_to for each in record.outcomes]
    assert fates.count("none") == record.worst.count
    assert fates.count("no attack") == 12 - record.natural.count
    assert sum(each.plain_stood for each in record.outcomes) == record.plain.count
    threat.check(found.adversarial, images[:12])
    moved = (found.adversarial != images[:12]).flatten(1).any(1)
    assert all(fates[place] not in ("none", "no attack") for place in moved.nonzero().flatten().tolist())
    assert [each.name for each in record.findings if each.measured.startswith("Could not")] == []
    assert record.not_run == {}
    assert {each.name for each in record.findings} == set(ORDER) == set(CHECKS)
    assert str(found).lower().startswith(record.verdict)
    assert found.exit_code == EXIT_CODES[found.verdict]


@pytest.mark.parametrize("name", ["linear", "noisy", "leaking", "adaptive"])
def test_the_same_seed_gives_the_same_record(name: str) -> None:
    labels = THREE(X).argmax(1) if name == "noisy" else None
    small = TINY.model_copy(update={"steps": 3, "queries": 10, "images": 6, "subset": 4})
    one, again = (audited(MODELS[name](), X, labels, effort=small, seed=5) for _ in range(2))
    assert timeless(one.record) == timeless(again.record)
    assert torch.equal(one.adversarial, again.adversarial)


def test_the_global_generator_plays_no_part() -> None:
    before = torch.random.get_rng_state()
    audited(THREE)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_package_can_be_called() -> None:
    labels = THREE(X).argmax(1)
    for data in ((X, labels), Split(X, labels)):
        found = sonet.audit(THREE, data, Linf(EPS), effort=TINY)
        assert timeless(found.record) == timeless(audited(THREE).record)


def test_a_linear_model_masks_nothing_and_its_worst_case_is_the_closed_form() -> None:
    found = audited(TWO, threat=Linf(TWO_EPS * 1.001), effort=TINY.model_copy(update={"steps": 30}))
    assert found.verdict == "no masking found"
    assert found.exit_code == 0
    far = TWO.distance(X, TWO(X).argmax(1), "linf") > TWO_EPS * 1.001
    assert found.record.worst.count == int(far.sum())
    assert found.record.causes == []


@pytest.mark.parametrize("mask", [SaturatedLogits, Detached, BatchMates, lambda model: WrongBackward(model, None)])
def test_masks_are_called_so(mask: Any) -> None:
    model = mask(TWO)
    found = audited(model, threat=Linf(1.5 * TWO_EPS), effort=TINY.model_copy(update={"queries": 300, "steps": 20}))
    assert found.verdict == "masked"
    assert found.exit_code == 3
    assert found.record.decisive[0] == "overestimate"
    assert found.record.cause != ""
    assert found.record.causes[0].reference


@pytest.mark.parametrize(("std", "eps"), [(0.3, 0.02), (1.0, 0.02), (3.0, 0.06)])
def test_a_noisy_model_is_not_called_masked_by_luck(std: float, eps: float) -> None:
    """A linear model with noise on its logits: its gradient is as good as without. Seven seeds of 60 images each.

    Who looks for a mistake often enough finds one by luck: seven attacks besides the plain ones have seven chances.
    """
    model = Linear.random(3, 0)
    effort = TINY.model_copy(update={"images": 60, "steps": 10, "calls": 5, "queries": 40, "probes": 8})
    for seed in range(7):
        images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(seed + 1))
        found = audited(Noisy(model, std, seed), images, model(images).argmax(1), Linf(eps), effort=effort, seed=seed)
        assert found.verdict != "masked"
        assert findings(found)["randomness"].raised
        assert found.record.worst.count <= found.record.plain.count


@pytest.mark.parametrize("batch", [1, 4, 23, 24, 1000])
def test_of_an_independent_model_the_batch_does_not_matter(batch: int) -> None:
    found, usual = audited(THREE, batch=batch).record, audited(THREE).record
    for part in ("verdict", "natural", "plain", "worst", "overestimate", "outcomes"):
        assert getattr(found, part) == getattr(usual, part)


def test_images_may_be_views_and_may_want_a_gradient() -> None:
    straight = audited(THREE, X.transpose(2, 3).contiguous())
    view = X.transpose(2, 3)
    assert not view.is_contiguous()
    labels = THREE(view).argmax(1)
    assert timeless(audited(THREE, view, labels).record) == timeless(straight.record)
    assert timeless(audited(THREE, view.clone().requires_grad_(), labels).record) == timeless(straight.record)


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
    # Wilson's lower end for 1 of 1 is 0.21.
    masked = audited(SaturatedLogits(TWO), X[:1], threat=Linf(0.3))
    assert masked.record.plain.count == 1
    assert masked.record.worst.count == 0
    assert masked.verdict == "masked"


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
    assert found.record.not_run["spsa"] == "ValueError: pixels outside [0, 1]"
    assert found.verdict == "inconclusive"
    assert "not all attacks were made" in found.record.summary
    assert found.record.worst.count > 0


def test_without_time_nothing_is_run_and_it_is_inconclusive() -> None:
    found = audited(THREE, budget=0.0)
    assert found.verdict == "inconclusive"
    assert found.record.stages == []
    assert found.record.worst == found.record.plain == found.record.natural
    assert {"randomness", "pgd", "square", "spsa", "larger-radius"} <= set(found.record.not_run)
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


def test_settings_and_words_of_the_caller_are_in_the_record() -> None:
    found = audited(
        TWO,
        threat=Linf(TWO_EPS),
        name="a name",
        about={"from": "here"},
        command="what was typed",
        again="next",
        classes=["zero", "one"],
        seed=3,
        batch=7,
        budget=1e6,
    ).record
    assert found.title == f"a name at linf:{TWO_EPS:g}"
    assert (found.model, found.command, found.next_command) == ("a name", "what was typed", "next")
    assert found.settings["from"] == "here"
    assert (found.settings["batch"], found.settings["seed"], found.settings["budget"]) == (7, 3, 1e6)
    assert found.settings["effort"] == TINY.model_dump()
    assert {each.label for each in found.outcomes} == {"zero", "one"}


@pytest.mark.parametrize(
    ("level", "words"), [("quick", "a"), ("normal", "a --thorough"), ("thorough", "a --thorough --seed 1")]
)
def test_the_next_command_asks_for_more(level: Any, words: str) -> None:
    effort = TINY.model_copy(update={"level": level, "images": 2})
    assert audited(THREE, effort=effort, again="a").record.next_command == words


def test_the_first_images_are_audited() -> None:
    found = audited(THREE, effort=TINY.model_copy(update={"images": 5}))
    assert found.record.natural.n == len(found.adversarial) == 5
    assert found.record.data["shape"] == [24, 1, 8, 8]


def test_a_rugged_landscape_is_not_taken_for_a_sound_one() -> None:
    """The model is wrong on a narrow peak; uphill from the image lies a lower one, where attacks stop."""
    hills = [(-0.3, -1.0), (-0.25, 1.0), (-0.2, -1.0), (-0.02, -0.9), (0.0, -1.0), (0.02, -0.8), (0.3, -0.9)]
    images = on_landscape([0] * 24, pixels=2)
    images[:, 0, 0, 1] += torch.linspace(0, 0.04, 24)  # draws belong to the image
    found = audited(Landscape(hills), images, torch.zeros(24, dtype=torch.int64), Linf(0.3))
    assert found.record.worst.count < found.record.natural.count
    assert found.verdict != "no masking found"


def test_a_model_of_mates_is_doubted() -> None:
    torch.manual_seed(0)
    found = audited(Mates(torch.randn(64) / 8, 3.0, 0.7), threat=Linf(0.02))
    assert findings(found)["batch-composition"].raised
    assert found.record.worst.count <= found.record.plain.count


def test_a_record_goes_to_disk_and_back(tmp_path: Path) -> None:
    record = audited(SaturatedLogits(TWO), threat=Linf(2 * TWO_EPS)).record
    file = tmp_path / "audit.json"
    file.write_text(record.model_dump_json())
    assert AuditRecord.model_validate_json(file.read_text()) == record
