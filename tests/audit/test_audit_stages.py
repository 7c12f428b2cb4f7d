"""The books of the attacks: who fell to what, unions that do not depend on order, luck shared out fairly."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
import torch
from audit_stages import N, Swap, board, check_books, names, swap, who
from audit_subjects import drawn, subject_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sonet.attacks import APGD, PGD, Linf, Square
from sonet.attacks.crafted import Crafted
from sonet.attacks.gradients import Backpropagation
from sonet.attacks.threat import Threat, ThreatError
from sonet.audit.planted import Linear
from sonet.audit.stages import Stages
from sonet.audit.subject import Subject


@dataclass(frozen=True)
class Act:
    """An attack: whom it fools if it gets to try, and whether it is plain."""

    whose: frozenset[int]
    plain: bool


def act(*whose: int, plain: bool = False) -> Act:
    return Act(frozenset(whose), plain)


ACTS = st.lists(st.builds(Act, st.frozensets(st.integers(0, N - 1)), st.booleans()), max_size=6)


def run(subject: Subject, acts: list[Act]) -> Stages:
    for number, each in enumerate(acts):
        swap(subject, f"{number}", each.whose, each.plain)
    return subject.stages


def test_before_any_attack_all_that_are_right_stand() -> None:
    subject = board(wrong=[2])
    stages = subject.stages
    assert (stages.plain.count, stages.left.count, stages.overestimate.count) == (N - 1, N - 1, 0)
    assert stages.left.n == N
    assert torch.equal(stages.worst, subject.images)


def test_the_first_attack_that_fools_an_image_has_it() -> None:
    subject = board(wrong=[0])
    stages = run(subject, [act(0, 1, 2, plain=True), act(2, 3), act(1, 3, 4)])
    assert stages.fell_to == {1: "0", 2: "0", 3: "1", 4: "2"}
    assert [(each.stage.tried, each.stage.fell, each.stage.standing) for each in stages.attempts] == [
        (11, 2, 9),
        (9, 1, 8),
        (8, 1, 7),
    ]
    assert (stages.plain.count, stages.left.count, stages.overestimate.count) == (9, 7, 2)
    assert stages.fell_by({"1", "2"}) == 2
    assert who(stages.plain_standing & ~stages.standing) == {3, 4}
    assert who((stages.worst != subject.images).flatten(1).any(1)) == {1, 2, 3, 4}
    assert stages.named("1") is stages.attempts[1]
    assert stages.named("elsewhere") is None
    check_books(subject)


@given(ACTS, st.sets(st.integers(0, N - 1)), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_the_figures_are_unions_and_do_not_depend_on_the_order(acts: list[Act], wrong: set[int], mixer: Random) -> None:
    subject = board(wrong=wrong)
    stages, right = run(subject, acts), set(range(N)) - wrong
    fooled = [each.whose & right for each in acts]
    easy = set().union(*(each for each, one in zip(fooled, acts, strict=True) if one.plain))
    assert stages.left.count == len(right - set().union(*fooled))
    assert stages.plain.count == len(right - easy)
    assert stages.overestimate.count == len(set().union(*fooled) - easy)
    check_books(subject)
    mixed = list(acts)
    mixer.shuffle(mixed)
    other = run(board(wrong=wrong), mixed)
    assert torch.equal(other.standing, stages.standing)
    assert torch.equal(other.plain_standing, stages.plain_standing)


def test_real_attacks_give_the_same_figures_in_any_order() -> None:
    model, images = Linear.random(3, 2), drawn(16)
    found = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        subject = subject_of(model, images, threat=Linf(0.03))
        attacks = (PGD(steps=4), APGD(steps=4, loss="log-odds"), Square(queries=15))
        for place in order:
            subject.stages.run(f"{place}", attacks[place], subject.own, "own", plain=place == 0)
        check_books(subject)
        found.append((who(subject.stages.standing), who(subject.stages.plain_standing)))
    assert found[0] == found[1] == found[2]
    assert 0 < len(found[0][0]) <= len(found[0][1]) < 16


def test_those_who_stand_are_attacked_in_their_order_in_batches() -> None:
    subject = board(wrong=[1])
    Swap.seen.clear()
    swap(subject, "first", {0, 5}, batch=100)
    swap(subject, "second", {4}, batch=4)
    made = swap(subject, "none left to fool", set(), batch=100)
    assert Swap.seen == [
        [0, *range(2, 12)],
        [2, 3, 4, 6],
        [7, 8, 9, 10],
        [11],
        [2, 3, 6, *range(7, 12)],
    ]
    assert made.stage.fell == 0


def test_together_all_are_attacked_and_nobody_leaves_early() -> None:
    subject = board(wrong=[1])
    swap(subject, "first", {0})
    Swap.seen.clear()
    made = swap(subject, "together", {0, 1, 3}, batch=100, together=True)
    assert Swap.seen == [list(range(N))]
    assert (made.stage.tried, made.stage.fell) == (11, 1)  # right ones; 0 fell before
    assert who(made.fooled) == {0, 3}
    assert who(subject.right & ~subject.stages.standing) == {0, 3}
    check_books(subject)


def test_stop_when_fooled_is_off_where_images_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    craft = Swap.craft

    def watched(self: Swap, *given: Any) -> Crafted:
        asked.append(self.stop_when_fooled)
        return craft(self, *given)

    monkeypatch.setattr(Swap, "craft", watched)
    subject = board()
    swap(subject, "apart", set(), batch=100)
    swap(subject, "together", set(), batch=100, together=True)
    assert asked == [True, False]


def test_an_attempt_keeps_zero_gradients_losses_and_last_iterates_of_its_own_images() -> None:
    subject = board()
    swap(subject, "first", {0, 1})
    made = swap(subject, "second", {3, 11}, batch=4, keep_last=True)
    assert who(made.zero) == {3, 11}  # as `Swap` says
    assert made.loss.shape == (3, 10)
    assert made.loss[0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]  # joined from batches of 4, 4 and 2
    assert made.last is not None
    assert torch.equal(made.last, subject.images)
    assert swap(subject, "third", set()).last is None


def test_with_nobody_left_an_attempt_is_empty() -> None:
    subject = board(3)
    swap(subject, "all", {0, 1, 2})
    made = swap(subject, "more", {0})
    assert (made.stage.tried, made.stage.fell, made.stage.standing, made.loss.numel()) == (0, 0, 0, 0)


def test_time_and_passes_of_a_stage_are_its_own() -> None:
    subject = board()
    assert int(subject.stages.standing.sum()) == N  # predictions of all, made before the first attack
    made = subject.stages.run("pgd", PGD(steps=3), subject.own, "own")
    assert made.stage.passes == N * (3 * 2 + 1)  # forward and backward, and the last iterate forward
    assert made.stage.seconds > 0


@pytest.mark.parametrize(("norm", "length"), [("linf", 0.2), ("l2", 0.2 * 2**0.5)])
def test_an_image_outside_the_threat_ends_it_and_is_not_written_down(norm: Any, length: float) -> None:
    """A swap moves two pixels by 0.2."""
    assert swap(board(threat=Threat(norm, 1.01 * length)), "near enough", {0}).stage.fell == 1
    subject = board(threat=Threat(norm, 0.99 * length))
    with pytest.raises(ThreatError, match="left its threat"):
        swap(subject, "too far", {3})
    assert subject.stages.attempts == []
    assert subject.stages.left.count == N
    assert torch.equal(subject.stages.worst, subject.images)


class Wanes(nn.Module):
    """The two pixels, but turned over for the image `name` in judgement lost[name], counted from 1: wrong by luck."""

    def __init__(self, lost: dict[int, int]) -> None:
        super().__init__()
        self.lost, self.judged = lost, 0
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        self.judged += 1
        logits = images.flatten(1)[:, :2].clone()
        for place, name in enumerate(names(images)):
            if self.lost.get(name) == self.judged:
                logits[place] = logits[place].flip(0)
        return logits


def lucky(lost: dict[int, int]) -> Subject:
    """A random subject, one call a judgement. The first judgement is that of the clean images."""
    model = Wanes(lost)
    subject = board(model=model, calls=1)
    subject.__dict__["random"], subject.__dict__["deployed"] = True, model
    return subject


def test_luck_in_a_later_judgement_is_the_plain_attack_s() -> None:
    """Judgements: 1 clean, 2 plain, 3 other, 4 plain again. Image 5 is wrong by luck in 4, image 6 in 3."""
    subject = lucky({5: 4, 6: 3})
    swap(subject, "pgd", {0}, plain=True, batch=100)
    assert subject.stages.plain.count == N - 1
    swap(subject, "square", {1}, gradient="none", batch=100)
    stages = subject.stages
    assert stages.fell_to == {0: "pgd", 5: "pgd", 1: "square", 6: "square"}
    assert who(subject.right & ~stages.plain_standing) == {0, 5}
    assert who(stages.plain_standing & ~stages.standing) == {1, 6}
    assert [(each.stage.fell, each.stage.standing) for each in stages.attempts] == [(2, 10), (2, 8)]
    assert who(~stages.standing_under({"pgd"})) == {0, 5}
    check_books(subject)


def test_who_falls_by_luck_to_both_fell_to_the_plain_attack() -> None:
    subject = lucky({})
    swap(subject, "pgd", set(), plain=True, batch=100)
    model = subject.deployed
    assert isinstance(model, Wanes)
    swap(subject, "square", {4}, batch=100)
    model.lost = {4: model.judged + 2}  # in the plain images' judgement after the next
    swap(subject, "spsa", set(), batch=100)
    assert subject.stages.fell_to == {4: "square"}  # it had fallen before the plain attack's luck
    assert subject.stages.overestimate.count == 0  # but a plain attack fells it as well
    assert subject.stages.left.count == subject.stages.plain.count == N - 1


def test_of_a_deterministic_model_images_are_judged_once_an_attack() -> None:
    model = Wanes({})
    subject = board(model=model)
    assert not subject.random
    subject.stages.run("warm up", Swap(whose=frozenset(), batch_size=100), subject.own, "own", plain=True)
    before = model.judged
    for name in ("a", "b"):
        swap(subject, name, {1}, batch=100)
    assert model.judged == before + 2


class Follows(nn.Module):
    """Image 0 is of class 1 where all of its `mates` are, else of class 0."""

    def __init__(self, *mates: int) -> None:
        super().__init__()
        self.mates = mates
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        logits, there = images.flatten(1)[:, :2].clone(), names(images)
        if {0, *self.mates} <= set(there):
            logits[there.index(0)] = min((logits[there.index(mate)] for mate in self.mates), key=lambda one: one[1])
        return logits


def test_all_images_are_judged_together() -> None:
    """Image 0 falls as its mate is moved, and is kept as it was crafted."""
    subject = board(model=Follows(1))
    made = swap(subject, "pgd", {1}, plain=True, batch=100, together=True)
    assert who(made.fooled) == {0, 1}
    check_books(subject)
    assert who((subject.stages.worst != subject.images).flatten(1).any(1)) == {1}


def test_who_was_not_attacked_is_judged_as_it_stands_now() -> None:
    """Image 1 fell before, image 2 falls now, and with the two of them image 0."""
    subject = board(model=Follows(1, 2))
    swap(subject, "first", {1})
    assert who(~subject.stages.standing) == {1}
    swap(subject, "second", {2})
    assert subject.stages.fell_to == {1: "first", 2: "second", 0: "second"}
    check_books(subject)


def test_gradients_of_another_source_are_judged_on_the_model() -> None:
    subject = board()
    elsewhere = Backpropagation(lambda images: -images.flatten(1)[:, :2])
    made = subject.stages.run("away", PGD(steps=5), elsewhere, "other")
    assert made.stage.fell == 0  # it went the other way
    assert subject.stages.run("own", PGD(steps=10), subject.own, "own").stage.fell == N
