"""A trial step in one node of autograd's graph, for fields that bring their own derivative.

Every stage sum is one pass over memory, and so is the gradient of every stage:

    x_i = y + h sum_j a_ij k_j,   k_i = f(x_i)
    dk_j = h (sum_i a_ij dx_i + b_j dy_1 + m_j dmiddle + e_j derror),   dx_j = (df/dx)^T dk_j,   dy = sum_i dx_i + ...
    dh = sum_j <k_j, dk_j / h>
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sonet.kernels import Sum, error_square
from sonet.solvers.fused_back import Backward, used
from sonet.solvers.own_gradient import OwnGradient, by_autograd, by_hand, laid_out
from sonet.solvers.step import Tolerance, Trial, trial_step
from sonet.solvers.tableau import Tableau
from sonet.types import State


@dataclass(frozen=True)
class Task:
    """What one trial is to give; as in `trial_step`."""

    own: OwnGradient
    tableau: Tableau
    tolerance: Tolerance | None
    differentiate_error: bool
    middle: bool
    parts: int

    def trial(self, outputs: State) -> Trial:
        """The outputs of a step, side by side, as a trial."""
        n = self.parts
        squares = n if self.tolerance is not None else 0
        half = outputs[2 * n + squares :] if self.middle else None
        return Trial(outputs[:n], outputs[n : 2 * n], outputs[2 * n : 2 * n + squares], half)

    def plain(self, h: Tensor, *tensors: Tensor) -> State:
        """The same outputs by autograd's own operators; tensors: those of the state, its slope, the parameters."""
        n = self.parts
        y, slope, parameters = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
        trial = trial_step(
            lambda _, state: self.own.plain(state, parameters),
            self.tableau,
            torch.zeros_like(h),
            h,
            y,
            slope,
            self.tolerance,
            differentiate_error=self.differentiate_error,
            middle=self.middle,
        )
        return (*trial.y1, *trial.last, *trial.squares, *(trial.middle or ()))


def fused_step(task: Task, h: Tensor, y: State, slope: State) -> Trial:
    """`trial_step` of `task.own`; `y` and `slope` dense, channels last."""
    parameters = task.own.parameters
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (h, *y, *slope, *parameters)):
        return task.trial(_Step.apply(task, h, *y, *slope, *parameters))  # type: ignore[no-untyped-call]
    return task.trial(_forward(task, h, y, slope, weights=False, keep=False)[0])


def _forward(
    task: Task, h: Tensor, y: State, slope: State, *, weights: bool, keep: bool
) -> tuple[State, list[State], list[State], list[State]]:
    """(outputs, stage inputs x_2 .., stages k_1 .., what each evaluation keeps); inputs are () unless kept."""
    tableau, parts = task.tableau, range(task.parts)
    stages, inputs, kept = [slope], [], []

    def reach(row: Sequence[float]) -> State:
        terms, factors = used(row, stages)
        return tuple(Sum(y[p], h, [k[p] for k in terms], factors).made() for p in parts)

    for i, row in enumerate(tableau.a, start=2):
        last = i == tableau.stages and tableau.fsal
        before, factors = used(row, stages)
        x, stage, some = task.own.ahead(y, h, factors, before, weights=weights, keep=keep or last)
        inputs.append(x)
        stages.append(stage)
        kept.append(some)
    y1 = inputs[-1] if tableau.fsal else reach(tableau.b)
    squares: State = ()
    if task.tolerance is not None:
        terms, errors = used(tableau.error, stages)
        rtol, atol = task.tolerance.rtol, task.tolerance.atol
        squares = tuple(error_square(y[p], y1[p], h, [k[p] for k in terms], errors, rtol, atol) for p in parts)
    half = reach(tableau.middle) if task.middle and tableau.middle is not None else ()
    return (*y1, *stages[-1], *squares, *half), inputs, stages, kept


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, task: Task, h: Tensor, *tensors: Tensor) -> State:
        n = task.parts
        ctx.task, ctx.given = task, len(tensors)
        ctx.weights = any(ctx.needs_input_grad[2 + 2 * n :])
        # The stages themselves are wanted by the step's size and the error alone.
        ctx.sized = ctx.needs_input_grad[1] or (task.differentiate_error and task.tolerance is not None)
        outputs, inputs, stages, kept = _forward(
            task, h, tensors[:n], tensors[n : 2 * n], weights=ctx.weights, keep=True
        )
        ctx.kept = [len(some) for some in kept]
        later = stages[1:] if ctx.sized else []
        ctx.save_for_backward(
            h, *tensors, *(part for group in (inputs, later, kept) for some in group for part in some)
        )
        ctx.set_materialize_grads(False)
        trial = task.trial(outputs)
        if not task.differentiate_error:
            ctx.mark_non_differentiable(*trial.squares)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        task: Task = ctx.task
        n, stages = task.parts, task.tableau.stages
        saved = ctx.saved_tensors  # once: whoever recomputes them gives them once
        given = saved[: 1 + ctx.given]
        if not by_hand(grads):
            return None, *by_autograd(task.plain, given, ctx.needs_input_grad[1:], grads)
        h, y, slope = given[0], laid_out(given[1 : 1 + n]), laid_out(given[1 + n : 1 + 2 * n])
        rest = iter(laid_out(saved[len(given) :]))

        def take(count: int) -> State:
            return tuple(next(rest) for _ in range(count))

        inputs = [take(n) for _ in range(stages - 1)]
        later = [take(n) for _ in range(stages - 1)] if ctx.sized else []
        kept = [take(count) for count in ctx.kept]
        back = Backward(task, h, y, [slope, *later], inputs, kept, ctx.needs_input_grad[1], ctx.weights)
        dh, dy, dslope, dweights = back.run(grads)
        return None, dh, *dy, *dslope, *(dweights or [None] * len(task.own.parameters))
