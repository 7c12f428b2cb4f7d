"""Indicators of attack failure and AutoAttack's flags, each raised by a model built for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from audit_subjects import Landscape, Mates, drawn, least_raising, on_landscape, plausible, reference_run, subject_of
from torch import Tensor, nn

from sonet.attacks import Linf
from sonet.audit.indicators import (
    autoattack_flags,
    backbone_transfer,
    optimises,
    silent_success,
    transfer_failure,
)
from sonet.audit.planted import Detached, Linear, Noisy, Scaled, Softmax
from sonet.audit.siege import besiege
from sonet.audit.subject import Subject

RIDGE = [(-1.0, -2.0), (0.0, -1.0), (0.035, 0.5), (0.036, -1.0), (0.2, -0.5)]
"""Fooled on 0.0233 < s < 0.0353 only, with a slope that leads on: the third step of 0.01 is in, the last, 0.08, not."""
PLAIN = [(-1.0, -2.0), (0.0, -0.5), (0.04, 0.5), (1.0, 3.0)]
HELD = [(-1.0, -2.0), (0.0, -1.0), (1.0, -0.5)]
MODEL = Linear.random(3, seed=1)


def attacked(which: list[int], **more: Any) -> Subject:
    subject = subject_of(Landscape(RIDGE, PLAIN, HELD), on_landscape(which), threat=Linf(0.1), **more)
    reference_run(subject)
    return subject


def test_a_success_on_the_way_is_lost_at_the_end() -> None:
    subject = attacked([0] * 5 + [1] * 2 + [2])
    made = subject.stages.attempts[0]
    assert made.last is not None
    torch.testing.assert_close(made.last[:, 0, 0, 0], torch.full((8,), 0.58))  # eight steps of 0.01
    torch.testing.assert_close(made.adversarial[:5, 0, 0, 0], torch.full((5,), 0.53))
    found = silent_success(subject)
    assert (found.raised, found.value, found.n) == (True, 5 / 8, 8)
    assert "fooled the model on 7 of 8 images, with its last iterate on 2; 5 successes" in found.sentence


def test_no_success_is_lost_on_a_plain_slope() -> None:
    found = silent_success(attacked([1] * 6 + [2] * 2))
    assert (found.raised, found.value) == (False, 0.0)


@pytest.mark.parametrize("more", [0, -1])
def test_lost_successes_count_from_five_per_cent_on(more: int) -> None:
    count = least_raising(60) + more
    found = silent_success(attacked([0] * count + [2] * (60 - count)))
    assert (found.raised, found.value) == (more == 0, count / 60)


def test_without_last_iterates_nothing_is_lost() -> None:
    subject = subject_of(MODEL, drawn(4))
    assert silent_success(subject).raised is None
    subject.stages.note("pgd", "own", subject.images.clone(), subject.right, plain=True)
    found = silent_success(subject)
    assert (found.raised, found.sentence) == (None, "The last iterates were not kept.")


def crafted_on_frozen(n: int, fool_there: int, fool_here: int) -> tuple[Subject, dict[str, Any]]:
    """The deployed model is fooled above 0.7 in pixel 0, the surrogate above 0.6; all images start at 0.5."""
    deployed = Landscape([(-1.0, -1.2), (0.2, 0.0), (1.0, 0.8)])
    surrogate = Landscape([(-1.0, -1.1), (0.1, 0.0), (1.0, 0.9)])
    subject = subject_of(deployed, on_landscape([0] * n), threat=Linf(0.3))
    asked: dict[str, Any] = {}

    def variant(**changes: Any) -> Any:
        asked.update(changes)
        return surrogate

    subject.__dict__["dial"] = SimpleNamespace(variant=variant, passes=0)
    images = subject.images.clone()
    images[:fool_there, 0, 0, 0] = 0.65
    images[:fool_here, 0, 0, 0] = 0.75
    subject.stages.note("apgd-frozen", "frozen", images, subject.right.clone())
    return subject, asked


@pytest.mark.parametrize(("there", "here", "raised"), [(8, 2, True), (8, 8, False), (0, 0, False)])
def test_what_fools_the_frozen_form_only(there: int, here: int, raised: bool) -> None:
    subject, asked = crafted_on_frozen(10, there, here)
    found = transfer_failure(subject)
    assert asked == {"scope": "sample", "step_gradient": "frozen"}
    assert (found.raised, found.value, found.n) == (raised, (there - here) / 10, 10)
    assert f"own {there} images are fooled, as deployed {here}; {there - here} of 10" in found.sentence


@pytest.mark.parametrize("more", [0, -1])
def test_failed_transfers_count_from_five_per_cent_on(more: int) -> None:
    count = least_raising(60) + more
    subject, _ = crafted_on_frozen(60, count, 0)
    assert transfer_failure(subject).raised is (more == 0)


def test_without_another_form_nothing_fails_to_transfer() -> None:
    subject = subject_of(MODEL, drawn(4))
    reference_run(subject)
    assert transfer_failure(subject).raised is None


class Purifies(nn.Module):
    """Takes a step along a gradient of its own before it answers."""

    def __init__(self, backward: bool) -> None:
        super().__init__()
        self.backward = backward

    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = images.detach().clone().requires_grad_(True)
            energy = MODEL(leaf).logsumexp(1).sum()
            if self.backward:
                energy.backward()
                step = leaf.grad
            else:
                (step,) = torch.autograd.grad(energy, leaf)
        assert step is not None
        return MODEL(images + 1e-3 * step)


@pytest.mark.parametrize("backward", [True, False])
def test_a_model_that_optimises_is_caught_and_torch_is_left_as_it_was(backward: bool) -> None:
    before = torch.autograd.grad, torch.autograd.backward
    subject = subject_of(Purifies(backward).eval(), drawn(4))
    assert optimises(subject, subject.images[:2])
    assert not optimises(subject_of(MODEL, drawn(4)), drawn(2))
    assert (torch.autograd.grad, torch.autograd.backward) == before


def test_torch_is_left_as_it_was_by_a_model_that_fails() -> None:
    before = torch.autograd.grad, torch.autograd.backward

    def fails(images: Tensor) -> Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        optimises(
            Subject(fails, drawn(2), torch.zeros(2).long(), Linf(0.1), subject_of(MODEL, drawn(2)).effort), drawn(2)
        )
    assert (torch.autograd.grad, torch.autograd.backward) == before


@pytest.mark.parametrize(("model", "flag"), [
    (Noisy(MODEL, 1.0), "randomised"),
    (Softmax(MODEL), "probabilities"),
    (Detached(MODEL), "zero gradients"),
    (Purifies(False).eval(), "gradients inside the forward pass"),
], ids=lambda given: given if isinstance(given, str) else "")  # fmt: skip
def test_each_flag_by_a_model_of_its_own(model: Any, flag: str) -> None:
    found = autoattack_flags(subject_of(model, drawn(8), MODEL(drawn(8)).argmax(1)))
    assert (found.raised, found.value) == (True, 1)
    assert found.sentence == f"It would warn of: {flag}."


def test_no_flag_for_a_plain_model() -> None:
    found = autoattack_flags(subject_of(MODEL, drawn(8)))
    assert (found.raised, found.value, found.sentence) == (False, 0, "It would warn of nothing.")


def test_a_faint_gradient_is_not_of_zero() -> None:
    """AutoAttack sums absolute values, which of 1e-30 do not vanish as squares do."""
    images = drawn(8)
    found = autoattack_flags(subject_of(Scaled(MODEL, 1e-30), images, MODEL(images).argmax(1)))
    assert found.raised is False


@pytest.mark.parametrize(("fell", "n", "raised"), [(1, 400, True), (1, 500, False), (0, 10, False)])
def test_square_is_told_beyond_two_thousandths(fell: int, n: int, raised: bool) -> None:
    model = Landscape([(-1.0, -1.2), (0.2, 0.0), (1.0, 0.8)])
    subject = subject_of(model, on_landscape([0] * n), threat=Linf(0.3), batch=500)
    images = subject.images.clone()
    images[:fell, 0, 0, 0] = 0.75
    subject.stages.note("square", "none", images, subject.right.clone())
    found = autoattack_flags(subject)
    assert found.raised is raised
    assert ("Square better" in found.sentence) is raised


def test_the_backbone_betrays_a_defence_that_only_hides() -> None:
    """The deployed model cuts the graph and answers as the backbone: who is in reach of APGD falls."""
    images = drawn(10)
    radius = MODEL.distance(images, MODEL(images).argmax(1), "linf")
    ordered = radius.sort().values
    place = 3 + int((ordered[4:8] / ordered[3:7]).argmax())  # so that nobody's radius is close to eps
    eps = float((ordered[place] * ordered[place + 1]).sqrt())
    assert eps > 1.02 * float(ordered[place])
    subject = subject_of(Detached(MODEL), images, threat=Linf(eps), backbone=MODEL, steps=30)
    stands: list[str] = []

    def only(name: str) -> bool:
        stands.append(name)
        return name in ("pgd", "apgd-ce", "apgd-backbone")

    besiege(subject, only)
    stood = torch.ones(10, dtype=torch.bool)
    for attempt in subject.stages.attempts[:-1]:  # without a gradient; some fall by luck of a start
        stood &= ~attempt.fooled
    assert int(stood.sum()) >= 8
    within = int(((radius < eps) & stood).sum())
    found = backbone_transfer(subject)
    assert (found.raised, found.value, found.n) == (True, within / 10, 10)
    assert found.sentence == (
        f"Of {int(stood.sum())} images that stood, those crafted on the backbone felled {within}."
    )
    assert "apgd-backbone" in stands


def test_a_backbone_that_knows_nothing_betrays_nothing() -> None:
    images = drawn(10)
    stranger = Linear.random(3, seed=99)
    subject = subject_of(MODEL, images, threat=Linf(1e-4), backbone=stranger)
    besiege(subject, lambda name: name in ("pgd", "apgd-backbone"))
    found = backbone_transfer(subject)
    assert (found.raised, found.value) == (False, 0.0)


def test_no_backbone_and_nobody_left_to_try_it_on() -> None:
    subject = subject_of(MODEL, drawn(4))
    assert backbone_transfer(subject).sentence.startswith("No backbone was given")
    other = subject_of(MODEL, drawn(4), backbone=MODEL)
    found = backbone_transfer(other)
    assert (found.raised, found.sentence) == (None, "No image stood that one could try it on.")


def test_without_a_right_image_no_flag_and_no_error() -> None:
    images = drawn(4)
    subject = subject_of(MODEL, images, (MODEL(images).argmax(1) + 1) % 3)
    for look in (silent_success, transfer_failure, autoattack_flags, backbone_transfer):
        found = look(subject)
        assert found.raised is None
        assert plausible(found.sentence)


def test_lost_successes_of_a_shared_batch_are_judged_together() -> None:
    model = Mates(-torch.eye(2)[0], own=1.0, mates=-0.05, bias=0.55, hidden=True)
    images = drawn(6, (1, 1, 2))
    images[:, 0, 0, 0] = 0.5
    subject = subject_of(model, images, threat=Linf(0.1))
    reference_run(subject)
    found = silent_success(subject)
    assert (found.raised, found.value) == (False, 0.0)
    assert "on 6 of 6 images, with its last iterate on 6" in found.sentence
