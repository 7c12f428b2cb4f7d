"""Sums in which every sample has weights of its own, as one node of autograd's graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sonet.kernels import alike, mixed, usable, weighted_sum, weighted_sum_along
from sonet.solvers.own_gradient import by_hand
from sonet.solvers.step import per_sample
from sonet.types import State


def mixture(base: Tensor | None, weights: Tensor, terms: State) -> Tensor:
    """base + sum_k w_nk terms_k; weights: (N, K) float64. Without a base at least two terms."""
    every = terms if base is None else (base, *terms)
    if alike(*every) and usable(*every):
        return _Mixture.apply(base, weights, *terms)  # type: ignore[no-any-return, no-untyped-call]
    value = base
    for k, term in enumerate(terms):
        weight = per_sample(weights[:, k], term)
        value = term * weight if value is None else torch.addcmul(value, term, weight)
    assert value is not None
    return value


class _Mixture(torch.autograd.Function):
    """One pass over memory, and one for the gradient of each term.

    The terms themselves are kept only where the weights, that is the sizes of steps, carry gradient.
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor | None, weights: Tensor, *terms: Tensor) -> Tensor:
        ctx.layout = torch.contiguous_format if terms[0].is_contiguous() else torch.channels_last
        ctx.save_for_backward(weights, *(terms if ctx.needs_input_grad[1] else ()))
        return mixed(base, weights.contiguous(), terms)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].contiguous(memory_format=ctx.layout)
        weights, *kept = ctx.saved_tensors
        by_kernels = by_hand((grad, *kept))
        asked = ctx.needs_input_grad[2:]

        def share(k: int) -> tuple[Tensor | None, Tensor | None]:
            """Of term k: its gradient and that of its weight."""
            weight, needed = weights[:, k].contiguous(), asked[k]
            term = kept[k].contiguous(memory_format=ctx.layout) if kept else None
            if not by_kernels:
                dot = None if term is None else (grad * term).to(weight.dtype).flatten(1).sum(1)
                return grad * per_sample(weight, grad) if needed else None, dot
            if term is None:
                return weighted_sum(None, weight, [grad], [1.0]) if needed else None, None
            dot = torch.zeros_like(weight)
            return weighted_sum_along(None, weight, [grad], [1.0], term, dot), dot

        shares = [share(k) for k in range(len(asked))]
        dots = [dot for _, dot in shares if dot is not None]
        of_base = grad if ctx.needs_input_grad[0] else None
        return of_base, torch.stack(dots, 1) if dots else None, *(dterm for dterm, _ in shares)
