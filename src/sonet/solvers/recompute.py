"""Solving with less memory: pieces of a solve whose graph is made again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sonet.types import Field, State

R = TypeVar("R")


class Remade:
    """A field whose evaluations, and the pieces of a solve that are made of them, keep their inputs alone.

    Recomputation as in Chen et al. 2016, arXiv:1604.06174, a piece at a time. Values and gradients are those of `field`
    bit for bit where it is deterministic; random numbers are drawn again as they were. Each evaluation is made once
    more for each backward pass, the second one of a double backward included.

    source: what `field` is made of. Where it is a module its weights are kept as well: autograd then refuses, as it
    does without recomputation, a backward pass after one of them was changed in place.
    """

    def __init__(self, field: Field, source: Field) -> None:
        self.field = field
        self.weights = tuple(source.parameters()) if isinstance(source, nn.Module) else ()

    def __call__(self, t: Tensor, state: State) -> State:
        return piece(_evaluate, self, t, state)


def piece(function: Callable[..., R], field: Field, *inputs: Any, **options: Any) -> R:
    """function(field, *inputs, **options), as a piece that is made again if `field` is `Remade`.

    Of `inputs` the tensors, also in tuples, are what autograd keeps until then.
    """
    if not isinstance(field, Remade):
        return function(field, *inputs, **options)
    plain, widths = field.field, [len(value) if isinstance(value, tuple) else None for value in inputs]

    def again(*flat: Any) -> R:
        rest = iter(flat)  # the weights stay behind: the field has them
        given = [next(rest) if width is None else tuple(next(rest) for _ in range(width)) for width in widths]
        return function(plain, *given, **options)

    flat = [part for value in inputs for part in (value if isinstance(value, tuple) else (value,))]
    result: R = checkpoint(again, *flat, *field.weights, use_reentrant=False)
    return result


def _evaluate(field: Field, t: Tensor, state: State) -> State:
    return field(t, state)
