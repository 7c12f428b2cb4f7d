"""DeepFool: step by step onto the nearest of the linearised boundaries."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from sonet.attacks.crafted import Progress, silence
from sonet.attacks.fab import Hunt
from sonet.attacks.gradients import GradientSource
from sonet.attacks.hyperplane import length, to_plane
from sonet.attacks.losses import Goal, likely_targets
from sonet.attacks.minimum import BISECTIONS, Found, MinimumNorm
from sonet.attacks.noise import ImageNoise
from sonet.attacks.threat import Norm, Threat
from sonet.types import Images, Labels


class DeepFool(MinimumNorm):
    r"""DeepFool (Moosavi-Dezfooli et al. 2016): the first image that fools on a way of nearest linearised boundaries.

    At x, for each candidate class k: f_k = z_k - z_label and the plane {u: f_k(x) + <grad f_k(x), u - x> = 0}. The move
    r onto the nearest plane, without leaving [0, 1], is added to the perturbation, and

        x <- clip(clean + (1 + overshoot) sum of the r),

    until x fools. Each candidate costs a slope a step, two queries. In l2 and, with the same formula, linf. The
    gradient must be in the loss's own scale, as for `FAB`.

    Deviations: the planes' distances are those within the box, where the paper knows none and clips. The slope is taken
    at the overshot x, as in the paper's code. A plane that misses the box counts as far as it would be if the room went
    on. A last bisection toward the clean image undoes what the overshoot was too much.
    """

    paper: ClassVar[str] = "Moosavi-Dezfooli et al. 2016, arXiv:1511.04599"

    steps: PositiveInt = Field(default=50, description="steps at most; a sample stops at the first image that fools")
    overshoot: float = Field(default=0.02, ge=0, description="by what share the perturbation goes beyond the plane")
    candidates: PositiveInt = Field(default=10, description="likeliest wrong classes considered in each step")

    @property
    def work(self) -> int:
        return self.steps * self.candidates

    @property
    def draws(self) -> bool:
        return False

    @property
    def price(self) -> tuple[int, int]:
        return self.work, 3 + BISECTIONS

    def search(
        self, source: GradientSource, images: Images, labels: Labels, threat: Threat, progress: Progress | None
    ) -> Found:
        hunt = Hunt(source, images, threat, self.stop_when_fooled, progress)
        likely = likely_targets(hunt.look(Goal(labels)), labels, self.candidates)
        hunt.rule(self.steps)
        whose = hunt.standing.nonzero().squeeze(1)
        noise = ImageNoise(images, self.seed).keep(whose)
        total = torch.zeros_like(images[whose])
        if not len(whose):
            return hunt.settle(Goal(labels))
        for step in range(self.steps):
            x = self._overshot(images[whose], total)
            planes: list[tuple[Tensor, Tensor]] = []
            for targets in likely.T:
                slope, mute = hunt.slope(step, whose, x, Goal(labels[whose], targets=targets[whose]), noise)
                gradient, loss = silence(slope.gradient, mute).flatten(1), slope.loss.masked_fill(mute, 0.0)
                if not planes:  # the logits are the same for every candidate: who fooled needs no other slope
                    fell = Goal(labels[whose]).fooled(slope.logits)
                    hunt.nearest.note(whose, x, fell)
                    going = (~fell).nonzero().squeeze(1)
                    if not len(going):
                        return hunt.settle(Goal(labels))
                    if len(going) < len(whose):
                        whose, noise, x, total = whose[going], noise.keep(going), x[going], total[going]
                        gradient, loss = gradient[going], loss[going]
                planes.append((gradient, loss.to(x.dtype)))
            normals, values = (torch.stack(parts) for parts in zip(*planes, strict=True))
            move = nearest_move(x.flatten(1), normals, values, threat.norm)
            moved = (move != 0).any(1).nonzero().squeeze(1)
            total = total + move.view_as(total)
            if len(moved) < len(whose):  # no plane to go to: it would stay for good
                whose, noise, total = whose[moved], noise.keep(moved), total[moved]
            if not len(whose):
                return hunt.settle(Goal(labels))
        hunt.last_look(whose, self._overshot(images[whose], total), Goal(labels[whose]))
        return hunt.settle(Goal(labels))

    def _overshot(self, clean: Images, total: Images) -> Images:
        return (clean + (1 + self.overshoot) * total).clamp(0.0, 1.0)


def nearest_move(points: Tensor, normals: Tensor, values: Tensor, norm: Norm) -> Tensor:
    """The move onto the nearest of several planes, (N, d), from points (N, d); normals (K, N, d), values (K, N).

    A plane that misses the box counts as far as it would be if the room went on. 0 where no plane can be approached.
    """
    moves, share = to_plane(points, normals, values, norm)
    far = torch.where(share > 0, length(moves, norm) / share, torch.inf)
    choice = far.argmin(0)
    return moves[choice, torch.arange(len(points), device=points.device)]
