"""Dense output: the quartic through a step's two ends, its middle and both end slopes (Shampine 1986)."""

from __future__ import annotations

import torch
from torch import Tensor


def quartic(y0: Tensor, middle: Tensor, y1: Tensor, slope0: Tensor, slope1: Tensor, h: Tensor, x: Tensor) -> Tensor:
    r"""The polynomial p of degree 4 with p(0) = y_0, p(1/2) = middle, p(1) = y_1, p'(0) = h f_0, p'(1) = h f_1, at x.

    Written as weights of the five data, so that nothing but the asked-for point is computed:

        w(y_0) = 1 - 11x^2 + 18x^3 - 8x^4       w(h f_0) = x - 4x^2 + 5x^3 - 2x^4
        w(mid) = 16x^2 - 32x^3 + 16x^4
        w(y_1) = -5x^2 + 14x^3 - 8x^4           w(h f_1) = x^2 - 3x^3 + 2x^4

    `h` and `x` broadcast against the state, (N, 1, ...).
    """
    x2 = x * x
    x3 = x2 * x
    x4 = x3 * x
    value = y0 * (1 - 11 * x2 + 18 * x3 - 8 * x4)
    value = torch.addcmul(value, middle, 16 * x2 - 32 * x3 + 16 * x4)
    value = torch.addcmul(value, y1, -5 * x2 + 14 * x3 - 8 * x4)
    value = torch.addcmul(value, slope0, h * (x - 4 * x2 + 5 * x3 - 2 * x4))
    return torch.addcmul(value, slope1, h * (x2 - 3 * x3 + 2 * x4))
