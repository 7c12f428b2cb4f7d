"""Norms of a state in units of the tolerance, for the rule of the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sonet.kernels import alike, scaled_squares, scaled_squares_back, untouched, usable
from sonet.solvers.own_gradient import by_autograd, by_hand, laid_out
from sonet.solvers.step import Tolerance, combine, mean_square
from sonet.types import State

Rows = Sequence[Sequence[float]]


def in_tolerances(terms: State, tolerance: Tolerance, rows: Rows) -> Tensor:
    """(R, N) float64: for each row the mean square over a sample of sum_k w_rk terms_k / (atol + rtol |terms_0|).

    One node of the graph with kernels and without: what is recomputed keeps as much, however the switch stands by then.
    """
    if alike(*terms) and untouched(*terms):
        return _Scaled.apply(tolerance, rows, *terms)  # type: ignore[no-any-return, no-untyped-call]
    return _plain(tolerance, rows, terms)


def _plain(tolerance: Tolerance, rows: Rows, terms: State) -> Tensor:
    unit = tolerance.atol + tolerance.rtol * terms[0].abs()
    return torch.stack([mean_square(combine(row, terms) / unit) for row in rows])


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tolerance: Tolerance, rows: Rows, *terms: Tensor) -> Tensor:
        ctx.tolerance, ctx.rows = tolerance, rows
        ctx.save_for_backward(*terms)
        if not usable(*terms):
            return _plain(tolerance, rows, terms)
        return scaled_squares(terms, rows, tolerance.rtol, tolerance.atol)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tolerance, rows = ctx.tolerance, ctx.rows
        saved: State = ctx.saved_tensors
        if not by_hand((saved[0], *grads)):
            found = by_autograd(
                lambda *terms: (_plain(tolerance, rows, terms),), saved, ctx.needs_input_grad[2:], grads
            )
            return None, None, *found
        terms = saved if alike(*saved) else laid_out(saved)
        rtol, atol = tolerance.rtol, tolerance.atol
        return None, None, *scaled_squares_back(terms, rows, rtol, atol, grads[0].contiguous())
