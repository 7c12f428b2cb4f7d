"""One trial step of an explicit Runge-Kutta method on a tuple of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sonet.solvers.tableau import Tableau
from sonet.types import Field, State


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """(N,) -> (N, 1, ..., 1) in the dtype of `like`, to broadcast against it."""
    return values.to(like.dtype).view(-1, *(1,) * (like.dim() - 1))


def combine(weights: Sequence[float], stages: Sequence[Tensor]) -> Tensor:
    """sum_i w_i k_i over the nonzero weights. The sum is made in place: no stage is saved for the backward pass."""
    total: Tensor | None = None
    for weight, stage in zip(weights, stages, strict=False):
        if weight != 0:
            total = stage * weight if total is None else total.add_(stage, alpha=weight)
    return torch.zeros_like(stages[0]) if total is None else total


def step_by(y: State, h: Tensor, weights: Sequence[float], stages: Sequence[State]) -> State:
    """y + h sum_i w_i k_i, tensor by tensor. `h`: (N,)."""
    return tuple(
        torch.addcmul(part, combine(weights, [stage[i] for stage in stages]), per_sample(h, part))
        for i, part in enumerate(y)
    )


@dataclass(frozen=True)
class Tolerance:
    """What an error is measured in: tol = atol + rtol max(|y_0|, |y_1|), elementwise."""

    rtol: float
    atol: float


@dataclass(frozen=True)
class Trial:
    """A step that may yet be rejected: where it led, and what is known of it.

    y1: the state reached. last: the last stage, f at y_1 where the method is FSAL. squares: for each tensor of the
    state the mean square of error / tol of every sample, (N,) float64; empty where no tolerance was given.
    middle: the state half-way, where it was asked for.
    """

    y1: State
    last: State
    squares: tuple[Tensor, ...] = ()
    middle: State | None = None


def mean_square(values: Tensor) -> Tensor:
    """(N,) float64: the mean square of each sample's elements, in the order in which they lie in memory."""
    if values.dim() == 4 and not values.is_contiguous():
        values = values.permute(0, 2, 3, 1)
    return values.square().reshape(len(values), -1).mean(1).to(torch.float64)


def trial_step(
    field: Field,
    tableau: Tableau,
    t: Tensor,
    h: Tensor,
    y: State,
    slope: State,
    tolerance: Tolerance | None = None,
    *,
    differentiate_error: bool = False,
    middle: bool = False,
) -> Trial:
    """Step every sample from its own t by its own h. `t`, `h`: (N,); `slope`: f(t, y), the first stage.

    tolerance: with it the error is estimated, which embedded pairs alone can; `differentiate_error` keeps its graph.
    middle: also read off the state half-way, of methods with dense output.
    """
    stages: list[State] = [slope]
    reached = y
    for node, row in zip(tableau.c[1:], tableau.a, strict=True):
        reached = step_by(y, h, row, stages)
        stages.append(field(t + node * h, reached))
    # An FSAL method's last stage was taken at y_1 itself.
    y1 = reached if tableau.fsal else step_by(y, h, tableau.b, stages)
    squares: tuple[Tensor, ...] = ()
    if tolerance is not None:
        with torch.set_grad_enabled(differentiate_error and torch.is_grad_enabled()):
            squares = error_squares(tableau, tolerance, h, y, y1, stages)
    half = None
    if middle:
        assert tableau.middle is not None  # Adaptive admits end="dense" only for methods that have one
        half = step_by(y, h, tableau.middle, stages)
    return Trial(y1, stages[-1], squares, half)


def error_squares(
    tableau: Tableau, tolerance: Tolerance, h: Tensor, y: State, y1: State, stages: Sequence[State]
) -> tuple[Tensor, ...]:
    """The mean squares of (h sum_i e_i k_i) / tol of every sample, for each tensor of the state; (N,) float64."""
    weights = tableau.error
    assert weights is not None  # Adaptive admits embedded pairs only
    squares = []
    for i, (before, after) in enumerate(zip(y, y1, strict=True)):
        tol = tolerance.atol + tolerance.rtol * torch.maximum(before.abs(), after.abs())
        error = combine(weights, [stage[i] for stage in stages]) * per_sample(h, before)
        squares.append(mean_square(error / tol))
    return tuple(squares)
