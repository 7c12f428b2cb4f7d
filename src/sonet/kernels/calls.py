"""The kernels on tensors. Every argument is dense, of one dtype and of one layout in memory: the callers see to it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from sonet.kernels.build import NoKernels, library


def channels_last(values: Tensor) -> Tensor:
    """Dense, the channel running fastest."""
    return values.contiguous(memory_format=torch.channels_last)


def dense(values: Tensor) -> bool:
    """Whether a sample's numbers lie together in memory, sample after sample, in whatever order."""
    return values.is_contiguous() or (values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last))


def alike(*tensors: Tensor) -> bool:
    """Whether all are dense, of one shape, dtype and layout in memory."""
    first = tensors[0]
    return dense(first) and all(
        other.shape == first.shape and other.stride() == first.stride() and other.dtype == first.dtype
        for other in tensors[1:]
    )


def act_norm(
    values: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, sign: float = 1.0, slope: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """GroupNorm(LeakyReLU(sign * values)) of (N, C, H, W), channels last; also mean and 1 / deviation, (N, groups)."""
    n, c, height, width = values.shape
    result = torch.empty_like(values)
    mean, rstd = values.new_empty(n, groups), values.new_empty(n, groups)
    _library(values).act_norm(
        *map(_at, (values, weight, bias, result, mean, rstd)),
        n,
        height * width,
        c,
        groups,
        eps,
        sign,
        slope,
        _threads(),
    )
    return result, mean, rstd


def act_norm_back(
    grad: Tensor,
    values: Tensor,
    weight: Tensor,
    mean: Tensor,
    rstd: Tensor,
    sign: float = 1.0,
    slope: float = 1.0,
    weights: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients of `act_norm` to values and, with `weights`, to weight and bias."""
    n, c, height, width = values.shape
    result = torch.empty_like(values)
    dweight, dbias = (values.new_empty(n, c), values.new_empty(n, c)) if weights else (None, None)
    _library(values).act_norm_back(
        *map(_at, (grad, values, weight, mean, rstd, result, dweight, dbias)),
        *(n, height * width, c, mean.shape[1], sign, slope, _threads()),
    )
    if dweight is None or dbias is None:
        return result, None, None
    return result, dweight.sum(0), dbias.sum(0)


def weighted_sum(base: Tensor | None, scale: Tensor, terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """base + scale sum_k w_k terms_k, scale (N,) float64; base None counts as 0."""
    result = torch.empty_like(terms[0])
    _sum(base, scale, terms, weights, result, None, None)
    return result


def weighted_sum_along(
    base: Tensor | None, scale: Tensor, terms: Sequence[Tensor], weights: Sequence[float], along: Tensor, dots: Tensor
) -> Tensor:
    """`weighted_sum`; and to dots, (N,) float64, is added the inner product of `along` and sum_k w_k terms_k."""
    result = torch.empty_like(terms[0])
    _sum(base, scale, terms, weights, result, along, dots)
    return result


def mixed(base: Tensor | None, weights: Tensor, terms: Sequence[Tensor]) -> Tensor:
    """base + sum_k weights_nk terms_k: every sample has weights of its own, (N, K) float64, dense."""
    result = torch.empty_like(terms[0])
    scale = torch.ones_like(weights[:, 0])
    _library(result).weighted_sum(
        *(_at(base), _at(scale), _pointers(terms), _at(weights), len(terms), len(terms)),
        *(_at(result), None, None, *_sizes(result)),
    )
    return result


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
    """x = `weighted_sum`, and what `act_norm` makes of it: x (None unless kept), GroupNorm(x), mean, 1 / deviation."""
    n, c, height, width = base.shape
    x = torch.empty_like(base) if keep else None
    result = torch.empty_like(base)
    mean, rstd = base.new_empty(n, groups), base.new_empty(n, groups)
    pointers, factors = _list(terms, weights)
    _library(base).sum_norm(
        *(_at(base), _at(scale), pointers, factors, len(terms)),
        *map(_at, (x, weight, bias, result, mean, rstd)),
        *(n, height * width, c, groups, eps, _threads()),
    )
    return x, result, mean, rstd


def all_finite(values: Tensor) -> Tensor:
    """(N,) bool: whether all numbers of a sample are finite."""
    finite = torch.empty(len(values), dtype=torch.bool)
    _library(values).all_finite(_at(values), _at(finite), *_sizes(values))
    return finite


LANES = {torch.float32: 16, torch.float64: 8}


def narrow_kernel(weight: Tensor, width: int) -> Tensor | None:
    """A kernel (C, Z, 3, 3) as `narrow_transpose` wants it, (3, 3, Z, C); None where it is not for such a kernel.

    width: of the images; at least 4. Z <= 4 is for colours and grey; C must be a multiple of the vector's lanes.
    """
    if weight.shape[1] > 4 or weight.shape[2:] != (3, 3) or width < 4 or weight.shape[0] % LANES[weight.dtype]:
        return None
    return weight.flip(2, 3).permute(2, 3, 1, 0).contiguous()


def narrow_transpose(values: Tensor, kernel: Tensor) -> Tensor:
    """The transposed convolution with stride 1 and padding 1 to few channels: (N, C, H, W) -> (N, Z, H, W)."""
    n, c, height, width = values.shape
    result = values.new_empty(n, height, width, kernel.shape[2]).permute(0, 3, 1, 2)
    _library(values).narrow_transpose(
        *map(_at, (values, kernel, result)), n, height, width, c, kernel.shape[2], _threads()
    )
    return result


def error_square(
    before: Tensor,
    after: Tensor,
    scale: Tensor,
    terms: Sequence[Tensor],
    weights: Sequence[float],
    rtol: float,
    atol: float,
) -> Tensor:
    """(N,) float64: mean over a sample of (scale sum_k w_k terms_k / (atol + rtol max(|before|, |after|)))^2."""
    squares = torch.empty_like(scale)
    pointers, factors = _list(terms, weights)
    _library(before).error_square(
        *map(_at, (before, after, scale)), pointers, factors, len(terms), rtol, atol, _at(squares), *_sizes(before)
    )
    return squares


def error_square_back(
    before: Tensor,
    after: Tensor,
    scale: Tensor,
    terms: Sequence[Tensor],
    weights: Sequence[float],
    rtol: float,
    atol: float,
    grad: Tensor,
    dbefore: Tensor,
    dafter: Tensor,
) -> Tensor:
    """The gradient of `error_square` to sum_k w_k terms_k, over `scale`; those to before and after are added."""
    result = torch.empty_like(before)
    pointers, factors = _list(terms, weights)
    _library(before).error_square_back(
        *map(_at, (before, after, scale)),
        *(pointers, factors, len(terms), rtol, atol),
        *map(_at, (grad, result, dbefore, dafter)),
        *_sizes(before),
    )
    return result


def scaled_squares(terms: Sequence[Tensor], rows: Sequence[Sequence[float]], rtol: float, atol: float) -> Tensor:
    """(R, N) float64: mean over a sample of (sum_k rows_rk terms_k / (atol + rtol |terms_0|))^2."""
    first = terms[0]
    squares = torch.empty(len(rows), len(first), dtype=torch.float64)
    _library(first).scaled_squares(*_rows(terms, rows), rtol, atol, _at(squares), *_sizes(first))
    return squares


def scaled_squares_back(
    terms: Sequence[Tensor], rows: Sequence[Sequence[float]], rtol: float, atol: float, grad: Tensor
) -> list[Tensor]:
    """The gradients of `scaled_squares` to the terms."""
    results = [torch.empty_like(term) for term in terms]
    _library(terms[0]).scaled_squares_back(
        *_rows(terms, rows), rtol, atol, _at(grad), _pointers(results), *_sizes(terms[0])
    )
    return results


def _rows(
    terms: Sequence[Tensor], rows: Sequence[Sequence[float]]
) -> tuple[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_double], int, int]:
    return _pointers(terms), _doubles([weight for row in rows for weight in row]), len(terms), len(rows)


def _sum(
    base: Tensor | None,
    scale: Tensor,
    terms: Sequence[Tensor],
    weights: Sequence[float],
    result: Tensor,
    along: Tensor | None,
    dots: Tensor | None,
) -> None:
    pointers, factors = _list(terms, weights)
    _library(result).weighted_sum(
        *(_at(base), _at(scale), pointers, factors, len(terms), 0), *map(_at, (result, along, dots)), *_sizes(result)
    )


def _list(
    terms: Sequence[Tensor], weights: Sequence[float]
) -> tuple[ctypes.Array[ctypes.c_void_p], ctypes.Array[ctypes.c_double]]:
    return _pointers(terms), _doubles(weights)


def _pointers(terms: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return _pointer_arrays(len(terms))(*(term.data_ptr() for term in terms))


def _doubles(values: Sequence[float]) -> ctypes.Array[ctypes.c_double]:
    return _double_arrays(len(values))(*values)


@cache
def _pointer_arrays(count: int) -> type[ctypes.Array[ctypes.c_void_p]]:
    """Kept: ctypes makes the class anew once nobody holds it, which takes longer than a call, and leaves cycles."""
    return ctypes.c_void_p * count


@cache
def _double_arrays(count: int) -> type[ctypes.Array[ctypes.c_double]]:
    return ctypes.c_double * count


def _sizes(values: Tensor) -> tuple[int, int, int]:
    return values.shape[0], values.numel() // values.shape[0], _threads()


def _library(values: Tensor) -> ctypes.CDLL:
    found = library(values.dtype)
    if isinstance(found, NoKernels):
        raise found
    return found


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _threads() -> int:
    """PyTorch's number; 1 in a forked process, where OpenMP would wait for threads that were left behind."""
    return 1 if _forked else torch.get_num_threads()


_forked = False


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
