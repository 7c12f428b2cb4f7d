"""The setting at which a step cannot expand: the least damping of a skew field, the largest norm of a potential."""

from __future__ import annotations

import math
from functools import lru_cache

from sonet.bounds.contraction import euler_bound, lipschitz, potential_bound
from sonet.bounds.steps import step_bound
from sonet.solvers import Tableau


class NoDamping(ValueError):
    """No setting makes this step non-expansive; says what to change."""


@lru_cache(256)
def least_damping(k: float, slope: float, tableau: Tableau, h: float) -> float:
    """The smallest gamma, to 0.1 %, for which the bound of a step of size h does not exceed 1, for kernels of norm k.

    Errors: NoDamping where none was found up to gamma = 2 / h, beyond which damping itself overshoots.
    """

    def safe(gamma: float) -> bool:
        stretch = step_bound(tableau, h, lambda step: euler_bound(k, gamma, slope, step), lipschitz(k, gamma))
        return stretch <= 1 + 1e-9

    rungs = [2 / h * (number / 32) ** 2 for number in range(33)]
    if safe(0.0):
        return 0.0
    first = next((i for i, gamma in enumerate(rungs) if safe(gamma)), None)
    if first is None:
        raise NoDamping(
            f"{tableau.name} with steps of {h:g}: no damping was found that makes a block with a kernel of norm {k:g} "
            f"and slope {slope:g} provably non-expansive. Take more steps, a smaller kernel_norm, a slope nearer to 1, "
            "or euler or heun, whose bounds are the tightest."
        )
    low, high = rungs[first - 1], rungs[first]
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if safe(middle) else (middle, high)
    return high


@lru_cache(256)
def largest_norm(tableau: Tableau, h: float) -> float:
    """The largest ||W||, to 0.1 %, for which the bound of a step of f(x) = -W^T phi(W x + b) does not exceed 1.

    For Euler's method sqrt(2 / h). Errors: NoDamping where none is.
    """

    def safe(norm: float) -> bool:
        stretch = step_bound(tableau, h, lambda step: potential_bound(norm, step), norm * norm)
        return stretch <= 1 + 1e-9

    low, high = 0.0, math.sqrt(2 / h)
    if safe(high):
        return high
    if not safe(1e-2 * high):
        raise NoDamping(
            f"{tableau.name}: no norm of W was found for which a step is provably non-expansive. "
            "Take euler or heun, whose bounds are the tightest."
        )
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if safe(middle) else (low, middle)
    return low
