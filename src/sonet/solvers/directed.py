"""A field in the direction and in the time of its integration, differentiated by itself where it can."""

from __future__ import annotations

import torch
from torch import Tensor

from sonet.solvers.fused_step import Task, fused_step
from sonet.solvers.own_gradient import evaluate, own_gradient
from sonet.solvers.step import Tolerance, Trial, trial_step
from sonet.solvers.tableau import Tableau
from sonet.types import Field, State


class Directed:
    """dy/ds = direction * f(t0 + direction s, y) for s from 0 on, (N,), at times of the state's dtype.

    state: the initial one, by which it is decided, once for a solve, whether the field differentiates itself.
    """

    def __init__(self, field: Field, state: State, t0: float, direction: float) -> None:
        self.field, self.t0, self.direction, self.dtype = field, t0, direction, state[0].dtype
        self.own = own_gradient(field, state) if direction > 0 else None

    def lay_out(self, state: State) -> State:
        """The state as the field wants it in memory.

        As usual where the field does not differentiate itself: PyTorch's GroupNorm crashes in the gradient of its
        weights if its input is channels last and needs no gradient of its own (2.13, on the CPU).
        """
        if self.own is None:
            return tuple(part.contiguous() for part in state)
        return tuple(part.contiguous(memory_format=torch.channels_last) for part in state)

    def __call__(self, s: Tensor, state: State) -> State:
        if self.own is not None:
            return evaluate(self.own, self.lay_out(state))
        slope = self.field((self.t0 + self.direction * s).to(self.dtype), state)
        return slope if self.direction > 0 else tuple(-part for part in slope)


def step(
    field: Field,
    tableau: Tableau,
    s: Tensor,
    h: Tensor,
    y: State,
    slope: State,
    tolerance: Tolerance | None = None,
    *,
    differentiate_error: bool = False,
    middle: bool = False,
) -> Trial:
    """`trial_step`, by the field's own derivative where it has one."""
    if isinstance(field, Directed) and field.own is not None:
        task = Task(field.own, tableau, tolerance, differentiate_error, middle, len(y))
        return fused_step(task, h, field.lay_out(y), field.lay_out(slope))
    return trial_step(field, tableau, s, h, y, slope, tolerance, differentiate_error=differentiate_error, middle=middle)
