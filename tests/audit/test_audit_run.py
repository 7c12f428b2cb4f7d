"""Whole audits of models with known answers: the verdict, and a record that holds together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from audit_subjects import Decay, Landscape, Mates, on_landscape
from audit_whole import EPS, THREE, TINY, TWO, TWO_EPS, X, audited, findings, timeless

import sonet
from sonet.attacks import L2, Linf, Threat
from sonet.audit import CHECKS, EXIT_CODES
from sonet.audit.masks import BatchMates, SaturatedLogits, SureSoftmax, WrongBackward
from sonet.audit.planted import Coupled, Detached, Linear, NaNNear, Noisy, Quantised, Scaled, Softmax
from sonet.audit.run import ORDER
from sonet.data import Split
from sonet.report.audit_record import AuditRecord
from sonet.solvers import Adaptive, Fixed

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


def test_from_python_what_to_do_next_is_a_call() -> None:
    words = f'sonet.audit(model, data, sonet.attacks.Threat.parse("linf:{TWO_EPS:g}"), effort="normal")'
    effort = TINY.model_copy(update={"level": "quick"})
    assert audited(TWO, threat=Linf(TWO_EPS), effort=effort).record.next_command == words


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


@pytest.mark.parametrize(("suspects", "n"), [((), TINY.subset), (("cross-sample-leak",), len(X))])
def test_where_the_verdict_rests_on_the_bars_they_come_from_more_images(
    suspects: tuple[str, ...], n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonet.audit.run.suspected", lambda *_: suspects)
    found = audited(SaturatedLogits(TWO), threat=Linf(TWO_EPS))
    assert {bar.left.n for bar in found.record.causes} == {n}


def test_a_record_goes_to_disk_and_back(tmp_path: Path) -> None:
    record = audited(SaturatedLogits(TWO), threat=Linf(2 * TWO_EPS)).record
    file = tmp_path / "audit.json"
    file.write_text(record.model_dump_json())
    assert AuditRecord.model_validate_json(file.read_text()) == record
