"""Whether a search can still arrive, told from its own pace: where not, the rest would be spent in vain."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat
from torch import Tensor

STRIKES = 2
"""Windows in a row whose pace must be too slow: one may be a pause."""

Futility = PositiveFloat | None
"""How many times the recent pace a search is credited with for the rest; None: it always goes on to the end."""

FUTILITY = "give an image up where even so many times its recent pace would not reach the goal; none: never"
"""What the setting is called in descriptions."""


def check_futility(futility: Futility, loss: str) -> None:
    """`ValueError` where a shortfall cannot be read off the loss: that of cross-entropy at the boundary is not 0."""
    if futility is not None and loss == "ce":
        raise ValueError("futility needs a loss that is 0 at the boundary; take log-odds for ce")


class Outlook:
    r"""Judges a search at the ends of windows of its budget, each image by itself.

        gain = shortfall at the last window's end - shortfall now
        too slow:  shortfall > futility * gain * (steps to go) / (steps of the window)

    An image is given up after `STRIKES` windows too slow in a row. Searches slow down as they go, so that a straight
    line at the recent pace is generous already; `futility` is a factor on top. One that never moved is never given up:
    its loss may be a staircase, of which nothing can be told. A shortfall that is not finite is not judged.
    """

    def __init__(self, futility: Futility, total: int, shortfall: Tensor) -> None:
        self._futility, self._total, self._done = futility, total, 0
        self._first = self._last = shortfall.double()
        self._strikes = torch.zeros_like(shortfall, dtype=torch.int64)

    def keep(self, index: Tensor) -> None:
        self._first, self._last, self._strikes = self._first[index], self._last[index], self._strikes[index]

    def hopeless(self, done: int, shortfall: Tensor) -> Tensor:
        """(M,) bool after `done` steps of the total; `shortfall`, (M,), is how far each still is from its goal."""
        shortfall = shortfall.double()
        if self._futility is None:
            return torch.zeros_like(self._strikes, dtype=torch.bool)
        gain = self._last - shortfall
        reach = self._futility * gain * (self._total - done) / (done - self._done)
        slow = torch.isfinite(gain) & (shortfall < self._first) & (shortfall > reach)
        self._strikes = torch.where(slow, self._strikes + 1, 0)
        self._last, self._done = shortfall, done
        return self._strikes >= STRIKES
