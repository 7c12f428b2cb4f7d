"""Sums of a step, one pass over memory each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sonet.kernels.calls import Doubles, Pointers, address, doubles, library_for, pointers_to, sizes

Call = tuple[int | None, int | None, Pointers, Doubles, int]


@dataclass(frozen=True)
class Sum:
    """base + scale sum_k w_k terms_k, not made yet: whoever reads it once makes it on the way.

    base: None counts as 0. scale: (N,) float64. With `along` the one who makes it adds to dots, (N,) float64, the inner
    product of `along` and sum_k w_k terms_k.
    """

    base: Tensor | None
    scale: Tensor
    terms: Sequence[Tensor]
    weights: Sequence[float]
    along: Tensor | None = None
    dots: Tensor | None = None

    def made(self) -> Tensor:
        result = torch.empty_like(self.terms[0])
        library_for(result).weighted_sum(
            *self.call(), 0, *map(address, (result, self.along, self.dots)), *sizes(result)
        )
        return result

    def call(self) -> Call:
        """As a kernel takes it: base, scale, terms, weights, their number."""
        return address(self.base), address(self.scale), pointers_to(self.terms), doubles(self.weights), len(self.terms)


def mixed(base: Tensor | None, weights: Tensor, terms: Sequence[Tensor]) -> Tensor:
    """base + sum_k weights_nk terms_k: every sample has weights of its own, (N, K) float64, dense."""
    result = torch.empty_like(terms[0])
    scale = torch.ones_like(weights[:, 0])
    library_for(result).weighted_sum(
        *(address(base), address(scale), pointers_to(terms), address(weights), len(terms), len(terms)),
        *(address(result), None, None, *sizes(result)),
    )
    return result


def all_finite(values: Tensor) -> Tensor:
    """(N,) bool: whether all numbers of a sample are finite."""
    finite = torch.empty(len(values), dtype=torch.bool)
    library_for(values).all_finite(address(values), address(finite), *sizes(values))
    return finite
