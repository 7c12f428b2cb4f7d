"""A straight line through measured costs, and in words whether they lie on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STRAIGHT = 0.1
"""The largest residual, as a share of the measured value, with which costs count as on a line."""


@dataclass(frozen=True)
class Fit:
    """seconds = sum_i coefficients_i x^i; residuals, (seconds - fit) / seconds, are what was made small."""

    coefficients: tuple[float, ...]
    residuals: tuple[float, ...]

    @property
    def worst(self) -> float:
        return max(abs(residual) for residual in self.residuals)


def polynomial(x: Sequence[float], seconds: Sequence[float], degree: int) -> Fit:
    """The polynomial of that degree; ValueError for fewer points than leave a residual to look at."""
    if len(x) < degree + 2:
        raise ValueError(
            f"polynomial: got {len(x)} points for degree {degree}, expected at least {degree + 2}: it would go through "
            "all of them, and no residual could speak against it."
        )
    values = np.asarray(seconds, dtype=np.float64)
    powers = np.vander(np.asarray(x, dtype=np.float64), degree + 1, increasing=True)
    found, *_ = np.linalg.lstsq(powers / values[:, None], np.ones(len(x)), rcond=None)
    residuals = (values - powers @ found) / values
    return Fit(tuple(map(float, found)), tuple(map(float, residuals)))


def verdict(axis: str, x: Sequence[float], seconds: Sequence[float]) -> tuple[bool, str]:
    """Whether the costs lie on a straight line, and in words how far off they are, or what they lie on instead."""
    line = polynomial(x, seconds, 1)
    constant, slope = line.coefficients
    if line.worst <= STRAIGHT:
        return True, (
            f"a straight line: {slope * 1e3:.3g} ms for each of {axis} and {constant * 1e3:.3g} ms besides, "
            f"residuals up to {line.worst:.0%}"
        )
    off = max(zip(x, line.residuals, strict=True), key=lambda pair: abs(pair[1]))
    text = f"no straight line: at {axis} = {off[0]:g} it is off by {off[1]:+.0%}"
    if axis == "width":
        square = polynomial(x, seconds, 2)
        share = square.coefficients[2] * x[-1] ** 2 / seconds[-1]
        return False, (
            f"{text}; a convolution costs width squared, the rest width: with a term in width squared, {share:.0%} of "
            f"the time at {x[-1]:g}, residuals are up to {square.worst:.0%}"
        )
    each = [s / value for value, s in zip(x, seconds, strict=True)]
    return False, (
        f"{text}; one of {axis} costs {each[0] * 1e3:.3g} ms at {x[0]:g} and {each[-1] * 1e3:.3g} ms at {x[-1]:g}, "
        "for reasons not measured here"
    )
