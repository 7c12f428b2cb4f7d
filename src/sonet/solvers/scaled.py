"""Norms of a state in units of the tolerance, for the rule of the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sonet.kernels import alike, error_square, error_square_back, untouched, usable
from sonet.solvers.own_gradient import by_autograd, by_hand, laid_out
from sonet.solvers.step import Tolerance, combine, mean_square
from sonet.types import State


def scaled_square(y: Tensor, tolerance: Tolerance, terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """(N,) float64: the mean square over a sample of sum_k w_k terms_k / (atol + rtol |y|).

    One node of the graph with kernels and without: what is recomputed keeps as much, however the switch stands by then.
    """
    if alike(y, *terms) and untouched(y, *terms):
        return _Scaled.apply(tolerance, tuple(weights), y, *terms)  # type: ignore[no-any-return, no-untyped-call]
    return _plain(y, tolerance, terms, weights)


def _plain(y: Tensor, tolerance: Tolerance, terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return mean_square(combine(weights, terms) / (tolerance.atol + tolerance.rtol * y.abs()))


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tolerance: Tolerance, weights: tuple[float, ...], y: Tensor, *terms: Tensor) -> Tensor:
        ctx.tolerance, ctx.weights = tolerance, weights
        ctx.save_for_backward(y, *terms)
        if not usable(y):
            return _plain(y, tolerance, terms, weights)
        return error_square(y, y, _ones(y), terms, weights, tolerance.rtol, tolerance.atol)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tolerance, weights = ctx.tolerance, ctx.weights
        saved: State = ctx.saved_tensors
        if not by_hand((saved[0], *grads)):
            found = by_autograd(
                lambda y, *terms: (_plain(y, tolerance, terms, weights),), saved, ctx.needs_input_grad[2:], grads
            )
            return None, None, *found
        y, *terms = saved if alike(*saved) else laid_out(saved)
        dy = torch.zeros_like(y)
        dsum = error_square_back(
            y, y, _ones(y), terms, weights, tolerance.rtol, tolerance.atol, grads[0].contiguous(), dy, dy
        )
        return None, None, dy, *(dsum if w == 1 else dsum * w for w in weights)


def _ones(y: Tensor) -> Tensor:
    return torch.ones(len(y), dtype=torch.float64, device=y.device)
