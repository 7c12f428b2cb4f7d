"""Names for the things every room passes on: tensors with shapes, fields, classifiers, proportions.

Nothing here computes with a network, so every room may import it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Images = Tensor
"""Images: (N, C, H, W), float, every pixel in [0, 1], contiguous."""

Labels = Tensor
"""Labels: (N,), int64, each in [0, classes)."""

Logits = Tensor
"""Logits: (N, classes), float."""

State = tuple[Tensor, ...]
"""The state of an ODE: tensors that share their first (batch) dimension; never flattened into one."""

Field = Callable[[Tensor, State], State]
"""A right-hand side f(t, state) -> derivative. `t` has shape (N,): samples may stand at different times."""


class Classifier(Protocol):
    """Anything that maps images in [0, 1], (N, C, H, W), to logits, (N, classes)."""

    def __call__(self, images: Images, /) -> Logits: ...


@dataclass(frozen=True)
class Proportion:
    r"""`count` of `n`, with the Wilson score interval (Wilson 1927) at 95 %.

        centre = (p + z^2 / 2n) / (1 + z^2 / n)
        half   = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2),   z = 1.959964

    Unlike the normal interval it stays in [0, 1] and has a width at p = 0 and p = 1.
    """

    count: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.n or self.n < 1:
            raise ValueError(
                f"Proportion: expected 0 <= count <= n and n >= 1, got count={self.count}, n={self.n}. "
                "A proportion of no images says nothing; give at least one."
            )

    @property
    def value(self) -> float:
        return self.count / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high), both in [0, 1]."""
        z, p, n = 1.959963984540054, self.value, self.n
        shrink = 1 + z * z / n
        centre = (p + z * z / (2 * n)) / shrink
        half = z / shrink * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low = 0.0 if self.count == 0 else max(0.0, centre - half)
        high = 1.0 if self.count == n else min(1.0, centre + half)
        return low, high
