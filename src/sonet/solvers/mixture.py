"""Sums in which every sample has weights of its own, as one node of autograd's graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sonet.kernels import Sum, alike, mixed, untouched, usable
from sonet.solvers.own_gradient import by_hand
from sonet.solvers.step import per_sample
from sonet.types import State


def mixture(base: Tensor | None, weights: Tensor, terms: State) -> Tensor:
    """base + sum_k w_nk terms_k; weights: (N, K) float64.

    One node of the graph with kernels and without: what is recomputed keeps as much, however the switch stands by then.
    """
    if not terms:
        if base is None:
            raise ValueError("mixture: expected a base or terms, got neither. A sum of nothing has no shape.")
        return base
    every = terms if base is None else (base, *terms)
    if alike(*every) and untouched(*every):
        return _Mixture.apply(base, weights, *terms)  # type: ignore[no-any-return, no-untyped-call]
    return _plain(base, weights, terms)


def _plain(base: Tensor | None, weights: Tensor, terms: State) -> Tensor:
    value = base
    for k, term in enumerate(terms):
        weight = per_sample(weights[:, k], term)
        value = term * weight if value is None else torch.addcmul(value, term, weight)
    assert value is not None  # the caller refuses a sum of nothing
    return value


class _Mixture(torch.autograd.Function):
    """One pass over memory, and one for the gradient of each term.

    The terms themselves are kept only where the weights, that is the sizes of steps, carry gradient.
    """

    @staticmethod
    def forward(ctx: Any, base: Tensor | None, weights: Tensor, *terms: Tensor) -> Tensor:
        ctx.layout = torch.contiguous_format if terms[0].is_contiguous() else torch.channels_last
        ctx.save_for_backward(weights, *(terms if ctx.needs_input_grad[1] else ()))
        every = terms if base is None else (base, *terms)
        return mixed(base, weights.contiguous(), terms) if usable(*every) else _plain(base, weights, terms)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        weights, *terms = ctx.saved_tensors
        asked = ctx.needs_input_grad
        share = _share_by_kernels if by_hand((grad, *terms)) else _share
        if share is _share_by_kernels:
            grad, *terms = (part.contiguous(memory_format=ctx.layout) for part in (grad, *terms))
        shares = [share(grad, weights[:, k], terms[k] if terms else None, needed) for k, needed in enumerate(asked[2:])]
        dots = [dot for _, dot in shares if dot is not None]
        return grad if asked[0] else None, torch.stack(dots, 1) if dots else None, *(dterm for dterm, _ in shares)


def _share(grad: Tensor, weight: Tensor, term: Tensor | None, needed: bool) -> tuple[Tensor | None, Tensor | None]:
    """Of one term: its gradient where it is needed, and that of its weight where the term was kept."""
    dot = None
    if term is not None:
        dot = (grad * term).to(weight.dtype)
        if term.dim() > 1:
            dot = dot.sum(tuple(range(1, term.dim())))
    return grad * per_sample(weight, grad) if needed else None, dot


def _share_by_kernels(
    grad: Tensor, weight: Tensor, term: Tensor | None, needed: bool
) -> tuple[Tensor | None, Tensor | None]:
    weight = weight.contiguous()
    if term is None:
        return Sum(None, weight, [grad], [1.0]).made() if needed else None, None
    dot = torch.zeros_like(weight)
    return Sum(None, weight, [grad], [1.0], term, dot).made(), dot
