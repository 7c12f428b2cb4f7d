"""The linf form of the attack of Carlini and Wagner."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from sonet.attacks.cw import CW, Trade
from sonet.attacks.minimum import Nearest
from sonet.attacks.threat import Norm
from sonet.types import Images


class CWLinf(CW):
    r"""Minimise sum_i max(|x'_i - x_i| - tau, 0) + c max(kappa - margin(x'), 0) while tau shrinks; `CW` says how.

    Carlini and Wagner 2017, linf: changes up to tau cost nothing, and tau is `decrease` times the distance of the
    nearest image found, image by image. A round of an image ends once it fools with a distance of at most tau, and the
    next starts from its nearest image, or where the last ended if none has fooled (then tau is 1).

    Deviations besides those of `CW`:
    - Where the paper ends with the first tau that it does not reach, the gap between tau and the distance is halved.
    - c starts at `initial_const` / max |g|, the ratio of the two gradients' largest entries: with a constant below 1
      no pixel gains from a change beyond tau. After a round that failed it doubles if the last iterate did not fool,
      as in the paper, and halves if it did, but from too far.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)

    tau_steps: PositiveInt = Field(default=12, description="rounds, each with another tau")
    decrease: float = Field(default=0.8, gt=0, lt=1, description="tau, as a share of the distance found")
    learning_rate: PositiveFloat = Field(
        default=0.03, description="first step of a round, as a share of the largest change of a pixel expected"
    )
    initial_const: PositiveFloat = Field(default=0.5, description="first c, in units of 1 / max |g|")

    @property
    def rounds(self) -> int:
        return self.tau_steps

    def trade(self, gradient: Tensor, away: Tensor) -> Trade:
        steepest = gradient.flatten(1).abs().amax(1)
        return _Excess(self.initial_const / torch.where(steepest > 0, steepest, 1.0), 1 - self.decrease)


class _Excess(Trade):
    def __init__(self, gain: Tensor, gap: float) -> None:
        self.gain = gain
        self._tau, self._gap = torch.ones_like(gain), torch.full_like(gain, gap)

    def cost(self, whose: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        excess = (change.abs() - self._tau[whose].view(-1, 1, 1, 1)).clamp_min(0.0)
        return excess.flatten(1).sum(1), change.sign() * (excess > 0)

    def start(self, images: Images, nearest: Nearest, last: Images) -> Images:
        return torch.where(torch.isfinite(nearest.distance).view(-1, 1, 1, 1), nearest.images, last)

    def enough(self, whose: Tensor, change: Tensor) -> Tensor:
        return change.flatten(1).abs().amax(1) <= self._tau[whose]

    def adapt(self, hit: Tensor, last: Tensor, nearest: Nearest) -> None:
        reached = nearest.distance <= self._tau
        self.gain = torch.where(reached, self.gain, torch.where(last, self.gain / 2, self.gain * 2))
        self._gap = torch.where(reached, self._gap, self._gap / 2)
        self._tau = torch.where(torch.isfinite(nearest.distance), (1 - self._gap) * nearest.distance, self._tau)
