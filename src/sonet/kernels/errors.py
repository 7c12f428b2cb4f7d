"""Mean squares in units of a tolerance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sonet.kernels.calls import Doubles, Pointers, address, doubles, library_for, pointers_to, sizes


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
    pointers, factors = pointers_to(terms), doubles(weights)
    library_for(before).error_square(
        *map(address, (before, after, scale)),
        pointers,
        factors,
        len(terms),
        rtol,
        atol,
        address(squares),
        *sizes(before),
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
    more: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `error_square` to sum_k w_k terms_k, over `scale`, to before and to after; the last with `more`
    of it added, what else `after` is used for."""
    dterms, dbefore, dafter = (torch.empty_like(before) for _ in range(3))
    library_for(before).error_square_back(
        *map(address, (before, after, scale)),
        *(pointers_to(terms), doubles(weights), len(terms), rtol, atol),
        *map(address, (grad, more, dterms, dbefore, dafter)),
        *sizes(before),
    )
    return dterms, dbefore, dafter


def scaled_squares(terms: Sequence[Tensor], rows: Sequence[Sequence[float]], rtol: float, atol: float) -> Tensor:
    """(R, N) float64: mean over a sample of (sum_k rows_rk terms_k / (atol + rtol |terms_0|))^2."""
    first = terms[0]
    squares = torch.empty(len(rows), len(first), dtype=torch.float64)
    library_for(first).scaled_squares(*_rows(terms, rows), rtol, atol, address(squares), *sizes(first))
    return squares


def scaled_squares_back(
    terms: Sequence[Tensor], rows: Sequence[Sequence[float]], rtol: float, atol: float, grad: Tensor
) -> list[Tensor]:
    """The gradients of `scaled_squares` to the terms."""
    results = [torch.empty_like(term) for term in terms]
    library_for(terms[0]).scaled_squares_back(
        *_rows(terms, rows), rtol, atol, address(grad), pointers_to(results), *sizes(terms[0])
    )
    return results


def _rows(terms: Sequence[Tensor], rows: Sequence[Sequence[float]]) -> tuple[Pointers, Doubles, int, int]:
    return pointers_to(terms), doubles([weight for row in rows for weight in row]), len(terms), len(rows)
