r"""How fast two solutions of dx/dt = phi((J - gamma I) x + b) can part: J skew, ||J|| <= k, slopes of phi in [a, 1].

The field's derivative is D (J - gamma I) with D diagonal in [a, 1]. docs/stability.md has the proofs. A bound for
J D instead, phi inside the linear map and gamma = 0, is the same: the transpose has the same norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

UP = 1 + 1e-12
"""Every result is raised by this factor, far more than the rounding errors of its few operations in float64."""


def logarithmic_norm(k: float, gamma: float, slope: float) -> float:
    r"""The largest logarithmic 2-norm of D (J - gamma I) over all J and D: (1 - a)/2 (sqrt(k^2 + gamma^2) - gamma) - a gamma.

    It is attained, and never above (1 - a) k / 2 - a gamma, to which the triangle inequality leads.
    """  # noqa: E501
    _check(k, gamma, slope)
    # sqrt(k^2 + g^2) - g without cancellation.
    lead = k * (k / (math.hypot(k, gamma) + gamma)) if k else 0.0
    value = (1 - slope) / 2 * lead - slope * gamma
    return value + 1e-14 * (k + gamma)


def lipschitz(k: float, gamma: float) -> float:
    """The field's Lipschitz constant at most: ||J - gamma I|| = sqrt(k^2 + gamma^2), because J is normal."""
    return math.hypot(k, gamma) * UP


def flow_damping(k: float, slope: float) -> float:
    """The smallest gamma with a flow that cannot expand: (1 - a) k / (2 sqrt(a)); needs a > 0."""
    _check(k, 0.0, slope)
    return (1 - slope) * k / (2 * math.sqrt(slope)) * UP


@lru_cache(4096)
def euler_bound(k: float, gamma: float, slope: float, h: float) -> float:
    r"""An upper bound of ||I + h D (J - gamma I)|| over all J and D: what a step of Euler's method can stretch.

    For every nu > h^2 and every lambda, with u = J x, so that x.u = 0 and |u| <= k |x|,

        |x + h D (u - gamma x)|^2 <= rho |x|^2,
        rho = max over d in {a, 1} of  (1 - h d gamma)^2 + nu k^2 + ((1 - h d gamma) h d + lambda)^2 / (nu - h^2 d^2),

    which is minimised over lambda and nu; any of them gives a bound. 1 + 2 h mu + h^2 (k^2 + gamma^2), mu the
    logarithmic norm, bounds the square as well and is exact for a = 1; else rho is smaller.
    """
    _check(k, gamma, slope)
    if h < 0 or not math.isfinite(h):
        raise ValueError(f"euler_bound: expected a finite step h >= 0, got {h}; steps go forward.")
    if k == 0 or h == 0:
        return max(abs(1 - h * gamma), abs(1 - h * slope * gamma)) * UP + _cancelled(h, gamma)
    ends = (slope, 1.0)

    def rho(nu: float, multiplier: float) -> float:
        return max(
            (1 - h * d * gamma) ** 2
            + nu * k * k
            + ((1 - h * d * gamma) * h * d + multiplier) ** 2 / (nu - (h * d) ** 2)
            for d in ends
        )

    edges = [-(1 - h * d * gamma) * h * d for d in ends]

    def best(log_nu: float) -> float:
        nu = h * h * (1 + math.exp(log_nu))
        return _golden(lambda value: rho(nu, value), min(edges), max(edges), 32)[1]

    least = _golden(best, -14.0, 14.0 + 2 * math.log1p(1 / (h * k)), 36)[1]
    plain = 1 + 2 * h * logarithmic_norm(k, gamma, slope) + (h * lipschitz(k, gamma)) ** 2
    return math.sqrt(min(least, plain)) * UP + _cancelled(h, gamma)


def potential_bound(norm: float, h: float) -> float:
    r"""An upper bound of ||I - h W^T D W||, D diagonal in [0, 1], ||W|| <= norm: max(1, h ||W||^2 - 1).

    The matrix is symmetric with eigenvalues in [1 - h ||W||^2, 1] (Meunier et al. 2022, arXiv:2110.12690).
    """
    if not (0 <= norm < math.inf and 0 <= h < math.inf):
        raise ValueError(
            f"potential_bound: expected a finite norm >= 0 and step h >= 0, got {norm} and {h}; steps go forward."
        )
    return max(1.0, (h * norm * norm - 1) * UP)


def _cancelled(h: float, gamma: float) -> float:
    """What rounding may hide where h gamma nearly is 1."""
    return 4e-16 * (1 + h * gamma)


def _golden(function: Callable[[float], float], low: float, high: float, rounds: int) -> tuple[float, float]:
    """(argument, value) of the least value that golden-section search met in [low, high]."""
    ratio = (math.sqrt(5) - 1) / 2
    found = min(((function(x), x) for x in (low, high)), key=lambda pair: pair[0])
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(rounds):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = function(right)
        found = min(found, (at_left, left), (at_right, right), key=lambda pair: pair[0])
    return found[1], found[0]


def _check(k: float, gamma: float, slope: float) -> None:
    if not (0 <= k < math.inf and 0 <= gamma < math.inf and 0 < slope <= 1):
        raise ValueError(
            f"expected a norm k >= 0, damping gamma >= 0 and slope in (0, 1], got {k}, {gamma}, {slope}. "
            "The bounds hold for increasing activations that stretch nothing; scale the kernel instead."
        )
