"""The solver's cost as a surface of attack: evaluations on clean images, under attack, and at its worst."""

from __future__ import annotations

import torch
from torch import Tensor

from sonet.attacks.noise import ImageNoise
from sonet.audit.check import Measured, check
from sonet.audit.siege import REFERENCE
from sonet.audit.subject import Subject
from sonet.types import Images

ROUNDS = 20
"""Rounds of the search that raises the number of evaluations."""


@check(
    "evaluations-under-attack",
    "solver",
    "The solver's work as a target",
    bears="note",
    raised_if="a perturbation within the threat makes the solver evaluate its field half as often again, on average",
    means="Who can add evaluations can slow a service down or exhaust its budget, whatever the prediction.",
    remedy="Bound max_steps, use fixed steps, or watch evaluations as a signal of attack.",
    source="Random search over signs of blocks of pixels, kept where evaluations grow; cf. Hong et al. 2021 (slowdown)",
    unit="times the clean evaluations",
    threshold=1.5,
    needs=("solver", "image"),
)
def evaluations_under_attack(subject: Subject) -> Measured:
    dial = subject.solver
    images, _ = subject.take(subject.effort.probes)
    clean = dial.evaluations(images)
    places = subject.right.nonzero().squeeze(1)[: len(images)]
    made = subject.stages.named(REFERENCE)
    attacked = None if made is None else float(dial.evaluations(made.adversarial[places].contiguous()).mean())
    words = "" if attacked is None else f"one of {REFERENCE} {attacked:.1f}, "
    _, worst = raise_evaluations(subject, images)
    mean, most = float(clean.mean()), float(worst.mean())
    return Measured(
        f"A clean image costs {mean:.1f} evaluations on average, {words}one made to cost {most:.1f}.",
        most > 1.5 * mean,
        most / max(mean, 1e-12),
        n=len(images),
    )


def raise_evaluations(subject: Subject, images: Images) -> tuple[Images, Tensor]:
    """Images within the threat that need as many evaluations as a short random search finds, and how many, (N,).

    Each round proposes the corner of the threat with a random block of pixels turned over, and keeps what needs no
    fewer evaluations. No gradient: a number of evaluations has none.
    """
    noise, threat = ImageNoise(images, subject.seed + 11), subject.threat
    signs = noise.signs()
    best, most = images.clone(), subject.solver.evaluations(images)
    height, width = images.shape[2:]
    for _ in range(ROUNDS):
        proposed = signs.clone()
        for place in range(len(images)):
            drawn = noise.keep(torch.tensor([place], device=images.device))
            top, left, side = (int(drawn.integers(limit)) for limit in (height, width, max(1, height // 2)))
            proposed[place, :, top : top + side + 1, left : left + side + 1] *= -1
        noise.catch_up(drawn)
        moved = threat.project(images + threat.eps * threat.steepest(proposed), images).contiguous()
        found = subject.solver.evaluations(moved)
        better = found >= most
        signs = torch.where(better.view(-1, 1, 1, 1), proposed, signs)
        best, most = torch.where(better.view(-1, 1, 1, 1), moved, best), torch.maximum(found, most)
    return best, most
