"""`solving_by`: for a while, a model's ODE blocks solve in another way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType

from torch import Tensor, nn

from sonet.blocks.ode import ODEBlock, ode_blocks
from sonet.solvers import Solution


@contextmanager
def solving_by(
    model: nn.Module, solve: Callable[[ODEBlock, Tensor], Solution], who: str, instead: str
) -> Iterator[None]:
    """`solve(block, x)` in place of each ODE block's own until the context ends; the inner context counts.

    Errors: ValueError for a model without an `ODEBlock`; `who` asks, `instead` says what to do.
    """
    blocks = ode_blocks(model).values()
    if not blocks:
        raise ValueError(f"{who}: expected a model with ODE blocks, got {type(model).__name__} without any. {instead}")
    before = {block: vars(block).get("solve") for block in blocks}
    for block in blocks:
        # A bound method, so that a copy of the block solves with what it copied.
        vars(block)["solve"] = MethodType(solve, block)
    try:
        yield
    finally:
        for block, own in before.items():
            if own is None:
                del vars(block)["solve"]
            else:
                vars(block)["solve"] = own
