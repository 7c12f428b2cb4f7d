"""GroupNorm after LeakyReLU, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sonet.kernels.calls import address, doubles, library_for, pointers_to, threads
from sonet.kernels.sums import Sum


def act_norm(
    values: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, sign: float = 1.0, slope: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """GroupNorm(LeakyReLU(sign * values)) of (N, C, H, W), channels last; also mean and 1 / deviation, (N, groups)."""
    n, c, height, width = values.shape
    result = torch.empty_like(values)
    mean, rstd = values.new_empty(n, groups), values.new_empty(n, groups)
    library_for(values).act_norm(
        *map(address, (values, weight, bias, result, mean, rstd)),
        n,
        height * width,
        c,
        groups,
        eps,
        sign,
        slope,
        threads(),
    )
    return result, mean, rstd


def act_norm_back(
    grad: Tensor | Sum,
    values: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    sign: float = 1.0,
    slope: float = 1.0,
    weights: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of `act_norm` to values and, with `weights`, to weight and bias.

    grad: that of its result; a `Sum` is made sample by sample and nowhere kept.
    """
    n, c, height, width = values.shape
    result = torch.empty_like(values)
    dweight, dbias = (values.new_empty(n, c), values.new_empty(n, c)) if weights else (None, None)
    grad = grad if isinstance(grad, Sum) else Sum(grad, grad, (), ())
    library_for(values).act_norm_back(
        *grad.call(),
        *map(address, (grad.along, grad.dots, values, weight, mean, rstd, result, dweight, dbias)),
        *(n, height * width, c, mean.shape[1], sign, slope, threads()),
    )
    if dweight is None or dbias is None:
        return result, None, None
    return result, dweight.sum(0), dbias.sum(0)


def sum_norm(
    base: Tensor,
    scale: Tensor,
    terms: Sequence[Tensor],
    weights: Sequence[float],
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    *,
    keep: bool = True,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """x = `Sum`, and what `act_norm` makes of it: x (None unless kept), GroupNorm(x), mean, 1 / deviation."""
    n, c, height, width = base.shape
    x = torch.empty_like(base) if keep else None
    result = torch.empty_like(base)
    mean, rstd = base.new_empty(n, groups), base.new_empty(n, groups)
    pointers, factors = pointers_to(terms), doubles(weights)
    library_for(base).sum_norm(
        *(address(base), address(scale), pointers, factors, len(terms)),
        *map(address, (x, weight, bias, result, mean, rstd)),
        *(n, height * width, c, groups, eps, threads()),
    )
    return x, result, mean, rstd
