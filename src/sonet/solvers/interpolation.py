"""Dense output: the quartic through a step's two ends, its middle and both end slopes (Shampine 1986)."""

from __future__ import annotations

import torch
from torch import Tensor

from sonet.solvers.mixture import mixture


def quartic_weights(h: Tensor, x: Tensor) -> Tensor:
    r"""What the quartic of a step of size h takes of each datum at the share x of the step, (N, 5); h, x: (N,) float64.

    It is the polynomial p of degree 4 with p(0) = y_0, p(1/2) = mid, p(1) = y_1, p'(0) = h f_0, p'(1) = h f_1:

        w(y_0) = 1 - 11x^2 + 18x^3 - 8x^4       w(f_0) = h (x - 4x^2 + 5x^3 - 2x^4)
        w(mid) = 16x^2 - 32x^3 + 16x^4
        w(y_1) = -5x^2 + 14x^3 - 8x^4           w(f_1) = h (x^2 - 3x^3 + 2x^4)
    """
    x2 = x * x
    x3 = x2 * x
    x4 = x3 * x
    ends = (1 - 11 * x2 + 18 * x3 - 8 * x4, 16 * x2 - 32 * x3 + 16 * x4, -5 * x2 + 14 * x3 - 8 * x4)
    return torch.stack((*ends, h * (x - 4 * x2 + 5 * x3 - 2 * x4), h * (x2 - 3 * x3 + 2 * x4)), 1)


def quartic(data: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], weights: Tensor) -> Tensor:
    """p(x) from y_0, mid, y_1, f_0, f_1; by its weights, so that nothing but the point asked for is computed."""
    return mixture(None, weights, data)
