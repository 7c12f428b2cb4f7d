"""Runge-Kutta methods as data that checks itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Tableau:
    r"""An explicit Runge-Kutta method (Butcher 1964).

        k_i = f(t + c_i h, y + h sum_{j<i} a_ij k_j)          i = 1 .. s
        y_1 = y + h sum_i b_i k_i
        error estimate = h sum_i e_i k_i                      e = b - b_hat, of an embedded method of lower order
        y(t + h/2) ~ y + h sum_i m_i k_i                      for dense output

    `a` lists the rows below the first (row i has i entries), `c` the nodes of all stages (c_1 = 0), `b` the weights.
    `error` and `middle` are None for methods without. A tableau that contradicts itself cannot be built: rows of `a`
    must sum to `c`, `b` to 1, `error` to 0, `middle` to 1/2, and the quadrature conditions sum_i b_i c_i^(q-1) = 1/q
    must hold up to the claimed order. A new method is therefore only data.

    The middle weights of an FSAL method may use the last stage, f(t + h, y_1), as any other stage.
    """

    name: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    source: str
    error: tuple[float, ...] | None = None
    middle: tuple[float, ...] | None = None
    tolerance: float = field(default=1e-12, repr=False)

    def __post_init__(self) -> None:
        stages = len(self.b)
        if len(self.c) != stages or len(self.a) != stages - 1 or self.c[0] != 0:
            raise ValueError(f"{self.name}: {stages} weights need {stages} nodes, the first 0, and {stages - 1} rows.")
        for i, row in enumerate(self.a, start=1):
            if len(row) != i:
                raise ValueError(f"{self.name}: row {i} must have {i} entries to be explicit, got {len(row)}.")
            self._expect(sum(row), self.c[i], f"row {i} of a must sum to c[{i}]")
        for q in range(1, self.order + 1):
            moment = sum(b * c ** (q - 1) for b, c in zip(self.b, self.c, strict=True))
            self._expect(moment, 1 / q, f"sum b c^{q - 1} must be 1/{q} for order {self.order}")
        for weights, total, what in ((self.error, 0.0, "error weights"), (self.middle, 0.5, "middle weights")):
            if weights is not None:
                if len(weights) != stages:
                    raise ValueError(f"{self.name}: {stages} {what} expected, got {len(weights)}.")
                self._expect(sum(weights), total, f"{what} must sum to {total:g}")

    def _expect(self, got: float, expected: float, rule: str) -> None:
        if not abs(got - expected) <= self.tolerance:  # so that NaN fails too
            raise ValueError(f"{self.name}: {rule}: got {got!r}, expected {expected!r}.")

    @property
    def stages(self) -> int:
        return len(self.b)

    @property
    def adaptive(self) -> bool:
        """Whether it can estimate its own error."""
        return self.error is not None

    @cached_property
    def fsal(self) -> bool:
        """First same as last: the last stage is f(t + h, y_1), so the next step gets its first stage for nothing.

        Derived, never declared: the last row of `a` must be `b` (whose last weight is then 0) and the last node 1.
        A method that is declared FSAL but is not steps on with a wrong slope.
        """
        return self.stages > 1 and self.c[-1] == 1 and self.b[-1] == 0 and self.a[-1] == self.b[:-1]
