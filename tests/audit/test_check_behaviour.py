"""How attacks behave with more of everything, on landscapes whose right answers can be read off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from audit_subjects import (
    Landscape,
    Mates,
    Pixels,
    drawn,
    least_raising,
    on_landscape,
    plausible,
    reference_run,
    subject_of,
    wilson_low,
)
from torch import Tensor, nn

from sonet.attacks import FGSM, L2, Linf
from sonet.attacks.noise import ImageNoise
from sonet.audit import behaviour
from sonet.audit.behaviour import (
    attack_batch,
    attack_some,
    larger_radius,
    one_step,
    reference,
    restarts,
    steps_doubled,
    unsettled,
)
from sonet.audit.check import Measured
from sonet.audit.planted import Linear
from sonet.audit.siege import half_steps, plain_pgd
from sonet.audit.subject import Subject
from sonet.types import Proportion

EPS = 0.1
FAR = [(-1.0, -1.0), (0.0, -0.5), (0.05, -0.1), (0.09, 0.3), (1.0, 9.0)]  # falls beyond s = 0.06
TRAP = [(-1.0, -2.0), (0.0, -1.0), (0.015, -0.5), (0.03, -1.0), (0.05, -1.0), (0.06, 1.0), (1.0, 2.0)]
"""A hilltop at s = 0.015, between the first step and the second; fooled beyond s = 0.055."""
HELD = [(-1.0, -2.0), (0.0, -1.0), (1.0, -0.5)]  # never falls in a ball of 0.1


def on(kinds: list[Any], which: list[int], eps: float = EPS, **more: Any) -> Subject:
    """The landscape's subject, all of class 0, after its PGD; kinds[w] for each w of which."""
    subject = subject_of(Landscape(*kinds), on_landscape(which), threat=Linf(eps), **more)
    assert subject.labels.tolist() == [0] * len(which)
    reference_run(subject)
    return subject


def test_the_wilson_interval_of_the_project_is_that_of_its_equation() -> None:
    for count, n in ((1, 10), (9, 100), (99, 100), (30, 31)):
        assert Proportion(count, n).interval[0] == pytest.approx(wilson_low(count, n), abs=1e-9)


def test_one_step_jumps_over_a_trap_that_small_steps_fall_into() -> None:
    """Steps of 0.01: to the hilltop and back for ever; one of 0.1 is past 0.055."""
    subject = on([TRAP, HELD], [0] * 6 + [1] * 2)
    found = one_step(subject)
    assert (found.raised, found.value, found.n) == (True, 6 / 8, 8)
    assert found.sentence.startswith("One step leaves 2, 8 steps leave 8 of 8 images; 6 fell to")
    assert found.interval == Proportion(6, 8).interval


def test_one_step_of_what_both_fell_is_no_gain() -> None:
    found = one_step(on([FAR], [0] * 8, steps=10))
    assert (found.raised, found.value) == (False, 0.0)
    assert "One step leaves 0, 10 steps leave 0 of 8" in found.sentence


@pytest.mark.parametrize(("steps", "raised"), [(5, True), (3, False), (7, False)])
def test_twice_the_steps_where_the_boundary_lies_between(steps: int, raised: bool) -> None:
    """Steps of 0.01, the boundary of FAR at 0.06: 5 steps do not reach it, 10 do; 6 do not, 7 do already."""
    subject = on([FAR, HELD], [0] * 6 + [1] * 2, steps=steps)
    found = steps_doubled(subject)
    assert (found.raised, found.value, found.n) == (raised, 6 / 8 if raised else 0.0, 8)
    after = 2 if raised or steps > 6 else 8
    assert f" of 8 images, {2 * steps} steps {after}." in found.sentence


def test_restarts_are_counted_from_their_own_starts() -> None:
    """A start beyond the trap's valley, s > 0.05, leads up; one below it leads to the hilltop."""
    kinds = [0] * 4 + [1]
    images = on_landscape(kinds, pixels=6)
    images[:, :, :, 2:] = drawn(5, (1, 1, 4))  # equal images would start alike
    subject = subject_of(Landscape(TRAP, HELD), images, threat=Linf(EPS), steps=8, restarts=4)
    reference_run(subject)
    fell = []
    for start in range(4):
        noise = ImageNoise(images, (100 + start) * 1009)  # as PGD seeds its first restart
        s = subject.threat.random_start(images, noise)[:, 0, 0, 0] - 0.5
        assert bool(((s - 0.05).abs() > 1e-4).all())
        fell.append((s > 0.05) & (torch.tensor(kinds) == 0))
    together = int(torch.stack(fell).any(0).sum())
    assert together > 0
    found = restarts(subject)
    assert (found.value, found.n) == (together / 5, 5)
    assert found.raised is (wilson_low(together, 5) > 0.05)
    assert found.sentence == f"From one start PGD leaves 5 of 5 images, from 5 starts together {5 - together}."


def test_restarts_on_a_plain_slope_gain_nothing() -> None:
    found = restarts(on([FAR], [0] * 8, steps=12))
    assert (found.raised, found.value) == (False, 0.0)
    assert found.sentence == "From one start PGD leaves 0 of 8 images, from 4 starts together 0."


def shared(*, subset: int = 8, **more: Any) -> Subject:
    """Eight images of class 0 in each other's way: together the gradient points away, four together it leads."""
    model = Mates(-torch.eye(2)[0], own=1.0, mates=-0.2, bias=0.55, hidden=True)
    images = drawn(8, (1, 1, 2))
    images[:, 0, 0, 0] = 0.5
    subject = subject_of(model, images, threat=Linf(0.1), subset=subset, **more)
    reference_run(subject)
    return subject


def test_of_a_shared_batch_the_same_few_are_compared() -> None:
    """The reference failed on all, the four by themselves fall at once: that is the batch's doing, not the steps'."""
    subject = shared(subset=4)
    assert subject.stages.attempts[0].fooled.tolist() == [False] * 8
    found = steps_doubled(subject)
    assert (found.raised, found.value, found.n) == (False, 0.0, 4)
    steps = half_steps(subject)
    assert found.sentence == f"{steps} steps leave 0 of 4 images, {2 * steps} steps 0."


@pytest.mark.parametrize("number", [1, 3])
def test_the_starts_of_a_shared_batch_are_compared_with_the_first_of_them(number: int) -> None:
    subject = shared(subset=4, restarts=number)
    fooled = torch.stack([
        attack_some(subject, plain_pgd(subject, random_start=True, seed=100 + i), subject.threat, torch.arange(4))[:4]
        for i in range(number)
    ])  # fmt: skip
    once, together = int(fooled[0].sum()), int(fooled.any(0).sum())
    found = restarts(subject)
    assert (found.value, found.n) == ((together - once) / 4, 4)
    assert found.sentence == (
        f"From one start PGD leaves {4 - once} of 4 images, from {number} starts together {4 - together}."
    )


class Constant(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0, -1.0]).expand(len(images), 3) + 0 * images.sum()


@pytest.mark.parametrize(("threat", "radii"), [
    (Linf(0.1), "8 at 0.2, 8 at 0.4, 8 at 1."),
    (Linf(0.5), "8 at 1."),
    (Linf(0.3), "8 at 0.6, 8 at 1."),
    (L2(1.0), "8 at 2, 8 at 4, 8 at 8."),  # the diameter of a box of 64 pixels
    (L2(6.0), "8 at 8."),
    (Linf(0.0), "8 at 0, 8 at 1."),
], ids=str)  # fmt: skip
def test_a_constant_model_stands_at_every_radius(threat: Any, radii: str) -> None:
    subject = subject_of(Constant().eval(), drawn(10), threat=threat, subset=8)
    found = larger_radius(subject)
    assert (found.raised, found.value, found.n) == (True, 1.0, 8)
    assert found.sentence == f"Of 8 images stand: {radii}"


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.5)], ids=str)
def test_a_linear_model_does_not_stand_in_the_whole_box(threat: Any) -> None:
    found = larger_radius(subject_of(Linear.random(3), drawn(10), threat=threat))
    assert (found.raised, found.value) == (False, 0.0)


@pytest.mark.parametrize(("stand", "raised"), [(1, False), (2, True)])
def test_one_of_twenty_may_stand_in_the_whole_box(stand: int, raised: bool) -> None:
    rising = [(-1.0, -2.0), (0.0, -0.1), (1.0, 9.0)]
    images = on_landscape([0] * 20)
    images[:stand] = on_landscape([1])
    found = larger_radius(subject_of(Landscape(rising, [(-1.0, -1.0), (1.0, -1.0)]), images, subset=20))
    assert (found.raised, found.value) == (raised, stand / 20)


@pytest.mark.parametrize(("mates", "raised"), [(0.2, True), (0.1, False)])
def test_mates_whose_gradients_mix_are_in_each_others_way(mates: float, raised: bool) -> None:
    """Own slope 1 down, mates' gradients (n - 1) b up, which carry no value: for b = 0.2 seven win, three do not."""
    model = Mates(-torch.eye(2)[0], own=1.0, mates=-mates, bias=0.55, hidden=True)
    images = drawn(8, (1, 1, 2))
    images[:, 0, 0, 0] = 0.5  # the label's logit is 0.05; of its own slope, past 0.55 all fall
    subject = subject_of(model, images, threat=Linf(0.1), probes=8)
    assert subject.leaks
    assert not subject.coupled
    found = attack_batch(subject)
    assert (found.raised, found.value, found.n) == (raised, 1.0 if raised else 0.0, 8)
    assert found.sentence.startswith(f"Of 8 images {8 if raised else 0} stand attacked together, 0 in batches of 4;")


def test_without_a_leak_batches_are_not_tried() -> None:
    subject = subject_of(Linear.random(3), drawn(8))
    found = attack_batch(subject)
    assert (found.raised, found.value) == (False, None)


@pytest.mark.parametrize("look", [one_step, steps_doubled, restarts])
@pytest.mark.parametrize("n", [40, 100])
def test_what_is_raised_has_its_lower_end_above_five_per_cent(
    monkeypatch: pytest.MonkeyPatch, look: Callable[[Subject], Measured], n: int
) -> None:
    subject = on([HELD], [0] * n, steps=1)
    enough = least_raising(n)
    for count, raised in ((enough, True), (enough - 1, False)):
        fooled = torch.arange(n) < count
        monkeypatch.setattr(behaviour, "attack_some", lambda *given, fooled=fooled: fooled)
        found = look(subject)
        assert (found.raised, found.value) == (raised, count / n)
        assert found.interval is not None
        assert (found.interval[0] > 0.05) is raised


def test_some_are_attacked_and_the_others_not() -> None:
    subject = subject_of(Landscape(FAR), on_landscape([0] * 6), threat=Linf(EPS))
    places = torch.tensor([1, 4])
    assert not subject.shared
    assert bool(subject.right.all())  # all that is looked at once and kept
    before = subject.passes
    fooled = attack_some(subject, FGSM(batch_size=1), subject.threat, places)
    assert fooled.nonzero().flatten().tolist() == [1, 4]
    assert subject.passes - before == 2 * 2 + 2  # forward and backward, then the judge's
    assert attack_some(subject, FGSM(), subject.threat, places[:0]).tolist() == [False] * 6


def test_unsettled_are_those_that_pgd_left() -> None:
    subject = on([FAR, HELD], [0, 1, 0, 1])
    assert unsettled(subject).tolist() == [1, 3]
    fresh = subject_of(Linear.random(3), drawn(4))
    assert reference(fresh) is None
    assert unsettled(fresh).tolist() == [0, 1, 2, 3]


def test_all_of_a_shared_batch_are_unsettled() -> None:
    model = Mates(-torch.eye(2)[0], own=1.0, mates=-0.1, bias=0.6, hidden=True)
    images = drawn(4, (1, 1, 2))
    images[:, 0, 0, 0] = torch.tensor([0.5, 0.3, 0.5, 0.2])
    subject = subject_of(model, images, threat=Linf(0.15))
    reference_run(subject)
    assert subject.stages.attempts[0].fooled.tolist() == [True, False, True, False]
    assert unsettled(subject).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("look", [one_step, steps_doubled, restarts, larger_radius, attack_batch])
def test_without_attack_or_right_image_nothing_is_said(look: Callable[[Subject], Measured]) -> None:
    images = drawn(4, (3, 4, 4))
    model = Pixels(3)
    nobody = look(subject_of(model, images, (model(images).argmax(1) + 1) % 3))
    assert nobody.raised is None
    assert plausible(nobody.sentence)
    if look not in (larger_radius, attack_batch):  # those need no earlier attack
        unattacked = look(subject_of(model, images))
        assert unattacked.raised is None
        assert plausible(unattacked.sentence)
