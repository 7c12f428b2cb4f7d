"""Attacks that fool whom they are told to, on a model of two pixels: books of stages with known answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from audit_subjects import Pixels, subject_of
from torch import Tensor

from sonet.attacks import Linf
from sonet.attacks.attack import Attack
from sonet.attacks.crafted import Crafted, Progress
from sonet.attacks.gradients import GradientSource
from sonet.attacks.threat import Threat
from sonet.audit.stages import Attempt
from sonet.audit.subject import Subject
from sonet.types import Images, Labels

N = 12


class Swap(Attack):
    """Turns the first two pixels over in the images `whose`, named by their third pixel: for `Pixels` the other class.

    seen: the images of each call, to see in which batches it was asked.
    """

    paper: ClassVar[str] = "none"
    seen: ClassVar[list[list[int]]] = []

    whose: frozenset[int]

    @property
    def work(self) -> int:
        return 1

    @property
    def checkpoint_steps(self) -> int:
        return 7

    def craft(
        self,
        source: GradientSource,
        images: Images,
        labels: Labels,
        threat: Threat,
        checkpoints: Sequence[int],
        progress: Progress | None,
    ) -> Crafted:
        who = names(images)
        self.seen.append(who)
        chosen = torch.tensor([each in self.whose for each in who])
        made = images.clone()
        made[chosen, 0, 0, :2] = images[chosen, 0, 0, :2].flip(1)
        trace = torch.arange(len(images)).expand(3, -1).float()
        queries = torch.ones(len(images), dtype=torch.int64)
        return Crafted(made, trace, chosen, queries, checkpoints={step: images.clone() for step in checkpoints})


def names(images: Images) -> list[int]:
    return [round(float(each)) for each in images[:, 0, 0, 2] * 100]


def board(n: int = N, wrong: Iterable[int] = (), **more: Any) -> Subject:
    """n images of class 0, (0.6, 0.4, name / 100), those `wrong` with the label 1. A swap takes 0.2 of 0.25."""
    images = torch.tensor([[0.6, 0.4, place / 100] for place in range(n)]).view(n, 1, 1, 3)
    labels = torch.tensor([int(place in set(wrong)) for place in range(n)])
    return subject_of(more.pop("model", Pixels(2)), images, labels, more.pop("threat", Linf(0.25)), **more)


def swap(subject: Subject, name: str, whose: Iterable[int], plain: bool = False, **more: Any) -> Attempt:
    """An attempt `name` that fools those of `whose` who stand; `gradient` in more: the source's name."""
    gradient, batch = more.pop("gradient", "own"), more.pop("batch", 5)
    attack = Swap(whose=frozenset(whose), batch_size=batch)
    return subject.stages.run(name, attack, subject.own, gradient, plain=plain, **more)


def who(mask: Tensor) -> set[int]:
    return set(mask.nonzero().flatten().tolist())


def check_books(subject: Subject) -> None:
    """What holds of any siege, also of a random or a coupled model."""
    stages = subject.stages
    assert stages.left.count <= stages.plain.count <= subject.natural.count
    assert stages.plain.count - stages.left.count == stages.overestimate.count
    assert sum(each.stage.fell for each in stages.attempts) == subject.natural.count - stages.left.count
    standing = subject.natural.count
    for each in stages.attempts:
        standing -= each.stage.fell
        assert each.stage.standing == standing
        assert each.stage.fell == sum(name == each.stage.name for name in stages.fell_to.values())
    assert set(stages.fell_to) == who(subject.right & ~stages.standing)
    subject.threat.check(stages.worst, subject.images)
    kept = (stages.worst != subject.images).flatten(1).any(1)
    assert who(kept) <= set(stages.fell_to)
