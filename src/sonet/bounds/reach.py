"""What is known of a tensor on its way through a network: its size, how far it can move, how far rounding moved it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from sonet.bounds.steps import step_bound
from sonet.solvers import Fixed

ROUNDINGS = 2
"""Safety factor on every rounding error. The errors are those of plain sums in any order, fused or blocked, as kernels
on CPUs make them; Winograd's or a GPU's TF32 convolutions are not such sums."""


@dataclass(frozen=True)
class Reach:
    r"""Bounds, in the l_2 norm of the whole tensor, for images in [0, 1].

    size: of the tensor. gain: Lipschitz constant from the image to here, of the network in exact arithmetic. error: how
    far what is computed can be from exact arithmetic, with unit roundoff `unit`.
    """

    size: float
    gain: float
    error: float
    unit: float

    def through(self, gain: float, *, offset: float = 0.0, rounding: float = 0.0) -> Reach:
        """After a map with this Lipschitz constant that takes 0 to a point of norm `offset`.

        rounding: error of computing the map itself, in units of `unit`.
        """
        rounding *= ROUNDINGS * self.unit
        # What is computed may be larger than what is exact; the map's own error scales with what it is given.
        return Reach(gain * self.size + offset, gain * self.gain, gain * self.error + rounding, self.unit)

    @property
    def seen(self) -> float:
        """The size of what is computed."""
        return self.size + self.error


def linear_rounding(terms: int, absolute_norm: float, size: float) -> float:
    r"""Of y = A x in sums of `terms` terms, in units of roundoff: terms || |A| ||_2 ||x|| (Higham 2002, 3.5)."""
    return (terms + 2) * absolute_norm * size


@dataclass(frozen=True)
class Dynamics:
    """A field in numbers. norm: of its kernel; logarithmic: its logarithmic 2-norm; lipschitz: of the field.

    euler(h): what a step of Euler's method can stretch. at_zero: norm of f(0). rounding(size): error of evaluating f at
    a state of that norm, in units of roundoff.
    """

    norm: float
    logarithmic: float
    lipschitz: float
    euler: Callable[[float], float]
    at_zero: float
    rounding: Callable[[float], float]

    @property
    def flow(self) -> float:
        """Lipschitz constant of the exact flow over time 1."""
        return math.exp(self.logarithmic) * (1 + 1e-12)

    def step(self, solver: Fixed) -> float:
        """Lipschitz constant of one step of `solver` over time 1."""
        return step_bound(solver.tableau, 1 / solver.num_steps, self.euler, self.lipschitz)

    def solve(self, reach: Reach, solver: Fixed) -> Reach:
        """After all steps of `solver` from t = 0 to 1."""
        h, tableau = 1 / solver.num_steps, solver.tableau
        stretch = self.step(solver)
        offset = self._sizes(solver, 0.0)[-1]
        for _ in range(solver.num_steps):
            sizes = self._sizes(solver, reach.seen)
            errors: list[float] = []
            for row, size in zip((*((), *tableau.a), tableau.b), sizes, strict=True):
                wrong = [
                    abs(w) * (self.rounding(s) + self.lipschitz * e)
                    for w, s, e in zip(row, sizes, errors, strict=False)
                ]
                errors.append(h * sum(wrong) + (len(row) + 4) * size)
            moved = reach.through(stretch, offset=offset, rounding=errors[-1])
            reach = Reach(min(moved.size, sizes[-1]), moved.gain, moved.error, reach.unit)
        return reach

    def _sizes(self, solver: Fixed, size: float) -> list[float]:
        """Of the stages of a step from a state of this size, and of where it leads, if every term adds up."""
        h = 1 / solver.num_steps
        sizes: list[float] = []
        for row in (*((), *solver.tableau.a), solver.tableau.b):
            drift = (abs(w) * (self.lipschitz * s + self.at_zero) for w, s in zip(row, sizes, strict=False))
            sizes.append(size + h * sum(drift))
        return sizes
