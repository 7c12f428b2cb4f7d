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

    The first boundary met is seldom the nearest. So further laps start where the boundary's own plane says: the image
    found is walked back to the boundary, by bisection, to b; there the slope w of the class it is taken for gives the
    plane {u: f(b) + <w, u - b> = 0}; and the next lap's first perturbation is the clean image's move onto it. That is
    the idea of SuperDeepFool (Abdollahpoor et al. 2023, arXiv:2303.12481), here in the threat's norm and in the box.
    The nearest image of all laps counts. `laps=1` is DeepFool as it was published.

    Deviations: the planes' distances are those within the box, where the paper knows none and clips. The slope is taken
    at the overshot x, as in the paper's code. A plane that misses the box counts as far as it would be if the room went
    on. A last bisection toward the clean image undoes what the overshoot was too much.
    """

    paper: ClassVar[str] = "Moosavi-Dezfooli et al. 2016, arXiv:1511.04599"

    steps: PositiveInt = Field(default=50, description="steps of a lap at most; a sample stops where it fools")
    laps: PositiveInt = Field(default=4, description="ways to the boundary; each starts from what the last one found")
    overshoot: float = Field(default=0.02, ge=0, description="by what share the perturbation goes beyond the plane")
    candidates: PositiveInt = Field(default=10, description="likeliest wrong classes considered in each step")

    @property
    def work(self) -> int:
        return self.laps * self.steps * self.candidates + self.laps - 1

    @property
    def draws(self) -> bool:
        return False

    @property
    def price(self) -> tuple[int, int]:
        return self.work, 1 + self.laps * (2 + BISECTIONS)

    def search(
        self, source: GradientSource, images: Images, labels: Labels, threat: Threat, progress: Progress | None
    ) -> Found:
        hunt = Hunt(source, images, threat, self.stop_when_fooled, progress)
        likely = likely_targets(hunt.look(Goal(labels)), labels, self.candidates)
        hunt.rule(self.laps * self.steps)
        whose = hunt.standing.nonzero().squeeze(1)
        for lap in range(self.laps):
            if lap:
                whose = self._to_boundary(hunt, labels)
            if not len(whose):
                break
            noise = ImageNoise(images, self.seed * 1009 + lap).keep(whose)
            total = torch.zeros_like(images[whose])
            if lap:
                total = self._home_to_plane(hunt, whose, labels, noise, lap * self.steps)
            self._lap(hunt, whose, total, labels, likely, noise, lap * self.steps)
        return hunt.settle(Goal(labels))

    def _lap(
        self, hunt: Hunt, whose: Tensor, total: Images, labels: Labels, likely: Labels, noise: ImageNoise, row: int
    ) -> None:
        """One way of the samples `whose`, (M,) places, from their perturbation `total` until they fool."""
        for step in range(self.steps):
            x = self._overshot(hunt.images[whose], total)
            planes: list[tuple[Tensor, Tensor]] = []
            for rank in range(likely.shape[1]):
                goal = Goal(labels[whose], targets=likely[whose, rank])
                slope, mute = hunt.slope(row + step, whose, x, goal, noise)
                gradient, loss = silence(slope.gradient, mute).flatten(1), slope.loss.masked_fill(mute, 0.0)
                if not planes:  # the logits are the same for every candidate: who fooled needs no other slope
                    fell = Goal(labels[whose]).fooled(slope.logits)
                    hunt.nearest.note(whose, x, fell)
                    going = (~fell).nonzero().squeeze(1)
                    if not len(going):
                        return
                    if len(going) < len(whose):
                        whose, noise, x, total = whose[going], noise.keep(going), x[going], total[going]
                        gradient, loss = gradient[going], loss[going]
                planes.append((gradient, loss.to(x.dtype)))
            normals, values = (torch.stack(parts) for parts in zip(*planes, strict=True))
            move = nearest_move(x.flatten(1), normals, values, hunt.threat.norm)
            moved = (move != 0).any(1).nonzero().squeeze(1)
            total = total + move.view_as(total)
            if len(moved) < len(whose):  # no plane to go to: it would stay for good
                whose, noise, total = whose[moved], noise.keep(moved), total[moved]
            if not len(whose):
                return
        hunt.last_look(whose, self._overshot(hunt.images[whose], total), Goal(labels[whose]))

    def _to_boundary(self, hunt: Hunt, labels: Labels) -> Tensor:
        """Who goes on: those that found an image, now walked back to the boundary, and need a nearer one; (M,)."""
        hunt.queries += hunt.nearest.to_boundary(hunt.source, Goal(labels), BISECTIONS, hunt.standing)
        return (hunt.standing & torch.isfinite(hunt.nearest.distance)).nonzero().squeeze(1)

    def _home_to_plane(self, hunt: Hunt, whose: Tensor, labels: Labels, noise: ImageNoise, row: int) -> Images:
        """The clean images' moves onto the boundary's planes at the images found; 0 where the slope says nothing."""
        clean, found = hunt.images[whose], hunt.nearest.images[whose]
        taken = likely_targets(hunt.source.logits(found), labels[whose], 1).squeeze(1)
        hunt.queries[whose] += 1
        slope, mute = hunt.slope(row, whose, found, Goal(labels[whose], targets=taken), noise)
        normal = silence(slope.gradient, mute).flatten(1)
        home = clean.flatten(1)
        value = slope.loss.masked_fill(mute, 0.0).to(home.dtype) + ((home - found.flatten(1)) * normal).sum(1)
        return to_plane(home, normal, value.clamp(max=0), hunt.threat.norm)[0].view_as(clean)

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
