"""Square: random search over squares, from outputs alone. Masked gradients do not stop it, nor does quantisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from sonet.attacks.attack import Attack
from sonet.attacks.crafted import Best, Crafted, Progress
from sonet.attacks.gradients import GradientSource
from sonet.attacks.losses import LOSSES, Goal
from sonet.attacks.noise import ImageNoise
from sonet.attacks.outlook import FUTILITY, Futility, Outlook, check_futility
from sonet.attacks.pgd import LossName
from sonet.attacks.square_moves import Flip, Move, Shift
from sonet.attacks.threat import Threat
from sonet.types import Images, Labels

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Steps, of 10,000, after which p is halved; other budgets scale them."""


WINDOWS = 20
"""Parts of the budget after which the outlook of an image is judged, where it is."""


class Square(Attack):
    r"""Square Attack (Andriushchenko et al. 2020): change a square at a random place, keep what raises the loss.

    The side is h = sqrt(p H W), rounded; p falls from `p_init` to p_init / 512 over the budget. In linf the search
    starts from vertical stripes x +- eps, and a move sets each channel of a square to +eps or -eps. In l2 it starts
    from a grid of small bumps, and a move empties one square and gives its budget, with what is unused, to another:

        nu_1 <- (rho eta + nu_1 / ||nu_1||) / ||...|| * sqrt(||nu_{1 u 2}||^2 + (eps^2 - ||nu||^2) / C),  nu_2 <- 0

    per channel; rho = +-1, eta a pair of opposite pyramids (`bump`), h odd and at least 3 where the image allows it.

    Deviations: the first query is the clean image, so that one that the model gets wrong costs no more, and the result
    is never worse than it; a linf move that would change nothing takes the opposite signs; of several runs each starts
    anew. A restart counts another `queries`. With `futility` an image leaves where its `Outlook` is bad.
    """

    paper: ClassVar[str] = "Andriushchenko et al. 2020, arXiv:1912.00049"
    needs_gradient: ClassVar[bool] = False

    queries: PositiveInt = Field(default=5000, description="images of a run that the model is shown")
    p_init: float = Field(default=0.8, gt=0, le=1, description="share of the pixels that the first squares cover")
    restarts: PositiveInt = Field(default=1, description="runs with other random draws; for each image the best counts")
    loss: LossName = Field(default="margin", description="what is driven up")
    futility: Futility = Field(default=None, description=FUTILITY)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        check_futility(self.futility, self.loss)
        return self

    @property
    def work(self) -> int:
        return self.queries * self.restarts

    def craft(
        self,
        source: GradientSource,
        images: Images,
        labels: Labels,
        threat: Threat,
        checkpoints: Sequence[int],
        progress: Progress | None,
    ) -> Crafted:
        goal, everyone = Goal(labels, LOSSES[self.loss]), torch.arange(len(images), device=images.device)
        trace = torch.full((self.work, len(images)), torch.nan, device=images.device)
        best, logits, queries = Best(images), source.logits(images), torch.ones_like(everyone)
        trace[0], tell = goal(logits), progress or (lambda done: None)
        best.note(everyone, images, goal(logits), goal.fooled(logits))
        tell(len(images))
        for restart in range(self.restarts):
            whose = everyone[~best.fooled] if self.stop_when_fooled else everyone
            if not len(whose):
                break
            noise = ImageNoise(images[whose], self.seed * 1009 + restart)
            rows = trace[
                max(restart * self.queries, 1) : (restart + 1) * self.queries
            ]  # the clean image took the first
            sizes = [side(self.p_init, step, self.queries, images, threat) for step in range(len(rows))]
            move = (Flip if threat.norm == "linf" else Shift)(images[whose], threat.eps, noise, sizes)
            self._climb(source, goal, move, whose, best, queries, rows, tell)
        return Crafted(best.images, trace.cpu(), torch.zeros_like(best.fooled), queries)

    def _climb(
        self,
        source: GradientSource,
        goal: Goal,
        move: Move,
        whose: Tensor,
        best: Best,
        queries: Tensor,
        trace: Tensor,
        tell: Progress,
    ) -> None:
        """One run of the images `whose`, a query for each row of `trace`; fills in `best`, `queries` and `trace`.

        The state of the images still under attack lies together, and is cut only when one leaves.
        """
        goal, seen = goal.take(whose), list[Tensor]()
        loss = torch.full((len(whose),), -torch.inf, dtype=best.images.dtype, device=whose.device)
        fooled, window = torch.zeros_like(whose, dtype=torch.bool), max(1, len(trace) // WINDOWS)
        for step in range(len(trace)):
            if step:
                move.propose(step)
            logits = source.logits(move.current)
            new, fell = goal(logits), goal.fooled(logits)
            better = torch.where(fell == fooled, new > loss, fell)
            loss, fooled = torch.where(better, new, loss), fooled | fell
            if step:
                move.settle(better)
            else:
                outlook = Outlook(self.futility, len(trace), -loss)
            seen.append(loss)
            tell(len(queries))
            leaving = fell if self.stop_when_fooled else torch.zeros_like(fell)
            if step and step % window == 0:
                leaving = leaving | outlook.hopeless(step, -loss)
            if bool(leaving.any()):
                done, going = (index.squeeze(1) for index in (leaving.nonzero(), (~leaving).nonzero()))
                trace[step + 1 - len(seen) : step + 1, whose] = torch.stack(seen).to(trace.dtype)
                best.note(whose[done], move.current[done], loss[done], fooled[done])
                queries[whose[done]] += step + 1
                whose, loss, fooled, goal, seen = whose[going], loss[going], fooled[going], goal.take(going), []
                if not len(whose):
                    return
                move.keep(going)
                outlook.keep(going)
        if seen:
            trace[len(trace) - len(seen) :, whose] = torch.stack(seen).to(trace.dtype)
        best.note(whose, move.current, loss, fooled)
        queries[whose] += len(trace)


def side(p_init: float, step: int, budget: int, images: Images, threat: Threat) -> int:
    """The side of the square in `step` of `budget`, at least 1 and at most that of the images."""
    height, width = images.shape[2:]
    halved = sum(step * 10_000 > after * budget for after in HALVINGS)
    length = round(math.sqrt(p_init * 0.5**halved * height * width))
    if threat.norm == "l2":
        length = max(length, 3) | 1
    return max(1, min(length, height, width))
