"""How far one step of a Runge-Kutta method can stretch, from what Euler's method can."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sonet.bounds.contraction import UP
from sonet.solvers import Tableau

Euler = Callable[[float], float]
"""h -> an upper bound of the Lipschitz constant of x -> x + h f(x)."""


def step_bound(tableau: Tableau, h: float, euler: Euler, lipschitz: float) -> float:
    r"""An upper bound of the Lipschitz constant of one step of size h; for Euler's method, `euler(h)`.

    Stages are Y = x e + h K f(Y), K the rows of `a` with `b` below them, strictly lower triangular. Two ways, and the
    smaller of their bounds:

    1. For every r > 0, with (I + r K)^-1 e = v and (I + r K)^-1 r K = alpha (the form of Shu and Osher 1988),
       Y_i = v_i x + sum_j alpha_ij (Y_j + (h/r) f(Y_j)), so  g_i <= |v_i| + sum_j |alpha_ij| euler(h/r) g_j.
       Where all v and alpha are >= 0, a step as long as r of Euler's is as safe as Euler's: strong stability preserved.
    2. Where b >= 0, the step is Euler's with an averaged derivative, which is again of the field's kind, and what the
       stages add: euler(h) + h^2 L^2 sum_i b_i sum_j |a_ij| g_j with g_i = 1 + h L sum_j |a_ij| g_j.

    euler: must hold for averages of the field's derivatives too, as those of `contraction` do. lipschitz: L, of f.
    """
    if tableau.stages == 1:
        return euler(h)
    rows = [list(row) for row in ((), *tableau.a, tableau.b)]
    size = len(rows)
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    found = [_shu_osher(matrix, 10 ** (power / 8), h, euler) for power in range(-20, 13)]
    # So that the threshold of a method is not missed by the grid.
    found += [_shu_osher(matrix, r, h, euler) for r in (1.0, 0.5, 2.0, 3.0)]
    if min(tableau.b) >= 0:
        growth: list[float] = []
        for row in rows[:-1]:
            growth.append(1 + h * lipschitz * sum(abs(a) * g for a, g in zip(row, growth, strict=False)))
        extra = sum(
            b * sum(abs(a) * g for a, g in zip(row, growth, strict=False))
            for b, row in zip(tableau.b, rows[:-1], strict=True)
        )
        found.append(euler(h) + (h * lipschitz) ** 2 * extra)
    return min(found) * UP


def _shu_osher(matrix: torch.Tensor, r: float, h: float, euler: Euler) -> float:
    size = len(matrix)
    inverse = torch.linalg.solve_triangular(
        torch.eye(size, dtype=torch.float64) + r * matrix, torch.eye(size, dtype=torch.float64), upper=False
    )
    starts, weights = inverse.sum(1).tolist(), (inverse @ (r * matrix)).tolist()
    stretch = euler(h / r)
    growth: list[float] = []
    for start, row in zip(starts, weights, strict=True):
        growth.append(abs(start) + stretch * sum(abs(a) * g for a, g in zip(row, growth, strict=False)))
    # The triangular inverse is exact to about size * 1e-16 * its entries.
    return growth[-1] * (1 + 1e-12 * (1 + float(inverse.abs().max())))
