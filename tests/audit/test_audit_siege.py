"""Which attacks are made, on whom; and that on linear models they find what there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from audit_sieges import BASE, THREE, TWO, X, besieged, made, middle, solved, with_faces, without
from audit_stages import check_books, who
from audit_subjects import Decay, Mates, subject_of
from torch import Tensor, nn

from sonet.attacks import L2, Linf, Threat
from sonet.audit.masks import SaturatedLogits
from sonet.audit.siege import NOISE_DRAWS, besiege, plain_pgd, random_noise


@pytest.mark.parametrize("images", [X, with_faces(24)], ids=["inside", "at the faces"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_a_linear_model_of_two_classes_stands_who_is_far_enough(norm: Any, images: Tensor) -> None:
    """The closed form tells whom any attack can fool; plain attacks find nearly all of them."""
    eps = middle(TWO, images, norm)
    subject = besieged(TWO, images, Threat(norm, eps), steps=30)
    far = TWO.distance(images, subject.labels, norm) > eps
    assert 0 < int(far.sum()) < 24
    assert who(subject.stages.standing) == who(far)
    assert subject.stages.overestimate.count <= 1
    subject.threat.check(subject.stages.worst, images)
    wrong = TWO(subject.stages.worst).argmax(1) != subject.labels
    assert who(wrong) == who(~far)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_of_several_classes_nobody_falls_who_cannot(norm: Any) -> None:
    eps = middle(THREE, X, norm)
    subject = besieged(THREE, X, Threat(norm, eps))
    labels = subject.labels
    assert not (~subject.stages.standing & (THREE.distance(X, labels, norm) > eps * 1.0001)).any()
    assert not (subject.stages.standing & (THREE.past_all(X, labels, norm) < eps / 1.05)).any()


@pytest.mark.parametrize("threat", [Linf(0.0), L2(0.0)])
def test_without_a_radius_all_stand(threat: Threat) -> None:
    subject = besieged(THREE, X, threat)
    assert made(subject) == BASE
    assert subject.stages.left.count == 24
    assert torch.equal(subject.stages.worst, X)


def test_with_the_whole_box_nobody_stands_and_nothing_more_is_tried() -> None:
    told: list[str] = []

    def tell(name: str) -> bool:
        told.append(name)
        return True

    subject = subject_of(TWO, X, threat=Linf(1.0), steps=20)
    besiege(subject, tell)
    assert subject.stages.left.count == 0
    assert made(subject) == told == ["pgd"]


def test_who_is_wrong_by_itself_is_not_attacked() -> None:
    labels = THREE(X).argmax(1)
    labels[:5] = (labels[:5] + 1) % 3
    subject = besieged(THREE, X, Linf(1.0), labels=labels, steps=20)
    assert subject.natural.count == 19
    assert subject.stages.attempts[0].stage.tried == 19
    assert torch.equal(subject.stages.worst[:5], X[:5])
    nobody = besieged(THREE, X, labels=(THREE(X).argmax(1) + 1) % 3)
    assert made(nobody) == []
    assert nobody.stages.left.count == 0


def test_what_is_left_out_is_left_out_alone() -> None:
    subject = subject_of(THREE, X, threat=Linf(0.0))
    besiege(subject, lambda name: name not in ("apgd-ce", "random-noise", "square"))
    assert made(subject) == [name for name in BASE if name not in ("apgd-ce", "random-noise", "square")]


def test_plain_are_pgd_and_apgd_on_the_own_gradient_and_nothing_else() -> None:
    stages = besieged(THREE, X, Linf(0.0)).stages
    assert {each.stage.name for each in stages.attempts if each.stage.plain} == {"pgd", "apgd-ce"}
    gradients = {each.stage.name: each.stage.gradient for each in stages.attempts}
    assert [name for name, gradient in gradients.items() if gradient == "none"] == ["random-noise", "spsa-ce", "square"]
    assert gradients["apgd-smoothed"] == "smoothed"
    assert gradients["pgd"] == gradients["apgd-ce"] == gradients["apgd-targeted"] == "own"
    assert [each.last is not None for each in stages.attempts] == [name == "pgd" for name in BASE]


def test_logits_too_large_for_the_cross_entropy_fall_to_the_other_losses() -> None:
    eps = middle(TWO, X, "linf", 0.8)
    subject = besieged(SaturatedLogits(TWO), X, Linf(eps), steps=30)
    stages = subject.stages
    pgd = stages.named("pgd")
    assert pgd is not None
    assert pgd.stage.fell == 0
    assert bool(pgd.zero[subject.right].all())
    assert stages.left.count == int((TWO.distance(X, subject.labels, "linf") > eps).sum())
    assert stages.fell_by({"apgd-log-odds", "apgd-targeted"}) > 0
    assert stages.overestimate.count == stages.plain.count - stages.left.count > 5


class Picky(nn.Module):
    """Refuses pixels outside [0, 1], as a service would."""

    def forward(self, images: Tensor) -> Tensor:
        if bool((images < 0).any() | (images > 1).any()):
            raise ValueError("pixels outside [0, 1]\nand a second line")
        logits: Tensor = THREE(images)
        return logits


def test_an_attack_that_the_model_breaks_off_is_left_out_and_the_others_go_on() -> None:
    subject = besieged(Picky().eval(), with_faces(24), Linf(0.001))
    assert subject.not_run == {
        "apgd-smoothed": "ValueError: pixels outside [0, 1]",
        "spsa-ce": "ValueError: pixels outside [0, 1]",
    }
    assert made(subject) == without("apgd-smoothed", "spsa-ce")
    assert subject.stages.left.count > 0


class Fragile(nn.Module):
    """Its backward pass takes sixteen images at most: the questions before the attacks pass, the attacks do not."""

    def forward(self, images: Tensor) -> Tensor:
        if images.requires_grad and len(images) > 16:
            raise RuntimeError("out of memory")
        logits: Tensor = THREE(images)
        return logits


def test_without_plain_attacks_there_is_no_audit() -> None:
    """Else all that other attacks find would count as masked."""
    with pytest.raises(RuntimeError, match="out of memory"):
        besieged(Fragile().eval(), X, Linf(0.02))


def test_random_noise_is_of_the_threat_s_surface_and_kept_where_it_fools() -> None:
    """A model that sees how far the image is from grey: any change of every pixel by 0.1 fools."""

    def touchy(images: Tensor) -> Tensor:
        moved = (images - 0.5).flatten(1).abs().amax(1)
        return torch.stack((0.05 - moved, torch.zeros_like(moved)), 1)

    grey = torch.full((6, 1, 8, 8), 0.5)
    grey += torch.arange(6).view(6, 1, 1, 1) * 1e-4  # draws belong to the image
    subject = subject_of(touchy, grey, threat=Linf(0.1))
    random_noise(subject)
    made_of_it = subject.stages.attempts[0]
    assert made_of_it.stage.fell == 6
    assert subject.stages.left.count == 0
    changed = (subject.stages.worst - grey).abs()
    torch.testing.assert_close(changed, torch.full_like(changed, 0.1))
    assert len({tuple(each.sign().flatten().tolist()) for each in subject.stages.worst - grey}) == 6


def test_random_noise_hardly_fools_a_linear_model() -> None:
    eps = middle(TWO, X, "linf")
    subject = subject_of(TWO, X, threat=Linf(eps))
    random_noise(subject)
    assert subject.stages.attempts[0].stage.tried == 24
    # <v, noise> has a standard deviation of 1 / sqrt(64) to 1.25 / sqrt(64) of ||v||_1: 20 draws reach about a third.
    near = TWO.distance(X, subject.labels, "linf") < eps / 2
    assert who(~subject.stages.standing) <= who(near)
    assert NOISE_DRAWS == 20


def test_plain_pgd_takes_steps_of_a_tenth_of_the_radius_and_any_change() -> None:
    subject = subject_of(TWO, X, threat=Linf(0.2), batch=7, seed=3)
    attack = plain_pgd(subject)
    assert attack.step_size == pytest.approx(0.02)
    assert (attack.steps, attack.batch_size, attack.seed) == (8, 7, 3)
    assert (attack.loss, attack.random_start, attack.stop_when_fooled) == ("ce", False, False)
    assert plain_pgd(subject, steps=5, loss="margin").loss == "margin"
    tiny = plain_pgd(subject_of(TWO, X, threat=Linf(0.0))).step_size
    assert tiny is not None
    assert tiny > 0  # a step of 0 is no setting


@pytest.mark.parametrize("build", [lambda: Mates(torch.randn(64) / 8, 3.0, 0.7), lambda: Decay(solved(), gain=3.0)])
def test_of_coupled_models_the_books_hold_too(build: Callable[[], Any]) -> None:
    torch.manual_seed(1)
    model = build()
    subject = besieged(model, X, Linf(0.05), steps=4)
    assert subject.shared
    check_books(subject)
    for each in subject.stages.attempts:  # with the own gradient all together
        assert each.stage.gradient != "own" or each.stage.tried == subject.natural.count


def test_where_images_share_a_gradient_those_who_fell_go_on_with_the_others() -> None:
    subject = besieged(Mates(torch.linspace(-1, 1, 64), 1.0, 0.1), X, Linf(0.002), steps=10)
    pgd, apgd = subject.stages.attempts[:2]
    assert 0 < pgd.stage.fell < subject.natural.count
    assert apgd.stage.tried == subject.natural.count
