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
class Trial:
    """A step that may yet be rejected: where it led and the slopes k_1 .. k_s that led there."""

    y1: State
    stages: tuple[State, ...]


def trial_step(field: Field, tableau: Tableau, t: Tensor, h: Tensor, y: State, slope: State) -> Trial:
    """Step every sample from its own t by its own h. `t`, `h`: (N,); `slope`: f(t, y), the first stage."""
    stages: list[State] = [slope]
    reached = y
    for node, row in zip(tableau.c[1:], tableau.a, strict=True):
        reached = step_by(y, h, row, stages)
        stages.append(field(t + node * h, reached))
    # An FSAL method's last stage was taken at y_1 itself.
    y1 = reached if tableau.fsal else step_by(y, h, tableau.b, stages)
    return Trial(y1, tuple(stages))
