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

from sonet.kernels import error_square, error_square_back, weighted_sum, weighted_sum_along
from sonet.solvers.own_gradient import OwnGradient, dense, differentiable
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

    def plain(self, h: Tensor, y: State, slope: State) -> State:
        """The same outputs by autograd's own operators."""
        trial = trial_step(
            lambda _, state: self.own.plain(state),
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
    return task.trial(_forward(task, h, y, slope, weights=False)[0])


def _forward(
    task: Task, h: Tensor, y: State, slope: State, *, weights: bool
) -> tuple[State, list[State], list[State], list[State]]:
    """(outputs, stage inputs x_2 .., stages k_1 .., what each evaluation keeps)."""
    tableau, parts = task.tableau, range(task.parts)
    stages, inputs, kept = [slope], [], []

    def reach(row: Sequence[float]) -> State:
        used = [(a, stage) for a, stage in zip(row, stages, strict=False) if a]
        return tuple(weighted_sum(y[p], h, [k[p] for _, k in used], [a for a, _ in used]) for p in parts)

    for row in tableau.a:
        inputs.append(reach(row))
        stage, some = task.own.evaluate(inputs[-1], weights=weights)
        stages.append(stage)
        kept.append(some)
    y1 = inputs[-1] if tableau.fsal else reach(tableau.b)
    squares: State = ()
    if task.tolerance is not None:
        terms, errors = _used(tableau.error, stages)
        rtol, atol = task.tolerance.rtol, task.tolerance.atol
        squares = tuple(error_square(y[p], y1[p], h, [k[p] for k in terms], errors, rtol, atol) for p in parts)
    half = reach(tableau.middle) if task.middle and tableau.middle is not None else ()
    return (*y1, *stages[-1], *squares, *half), inputs, stages, kept


def _used(weights: Sequence[float] | None, stages: Sequence[State]) -> tuple[list[State], list[float]]:
    assert weights is not None  # the callers ask for what their method has
    pairs = [(w, stage) for w, stage in zip(weights, stages, strict=True) if w]
    return [stage for _, stage in pairs], [w for w, _ in pairs]


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, task: Task, h: Tensor, *tensors: Tensor) -> State:
        n = task.parts
        ctx.task, ctx.given = task, len(tensors)
        ctx.weights = any(ctx.needs_input_grad[2 + 2 * n :])
        # The stages themselves are wanted by the step's size and the error alone.
        ctx.sized = ctx.needs_input_grad[1] or (task.differentiate_error and task.tolerance is not None)
        outputs, inputs, stages, kept = _forward(task, h, tensors[:n], tensors[n : 2 * n], weights=ctx.weights)
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
        h, *rest = ctx.saved_tensors
        y, slope = tuple(rest[:n]), tuple(rest[n : 2 * n])
        if torch.is_grad_enabled():
            found = differentiable(
                lambda: task.plain(h, y, slope), (h, *rest[: ctx.given]), ctx.needs_input_grad[1:], grads
            )
            return None, *found
        saved = iter(rest[ctx.given :])

        def take(count: int) -> State:
            return tuple(next(saved) for _ in range(count))

        inputs = [take(n) for _ in range(stages - 1)]
        later = [take(n) for _ in range(stages - 1)] if ctx.sized else []
        kept = [take(count) for count in ctx.kept]
        back = _Backward(task, h, y, [slope, *later], ctx.needs_input_grad[1], ctx.weights)
        dh, dy, dslope, dweights = back.run(grads, inputs, kept)
        return None, dh, *dy, *dslope, *(dweights or [None] * len(task.own.parameters))


@dataclass
class _Backward:
    """One backward pass through a step. stages: k_1 alone where neither the step's size nor the error asks."""

    task: Task
    h: Tensor
    y: State
    stages: list[State]
    sized: bool
    weights: bool

    def run(
        self, grads: tuple[Tensor | None, ...], inputs: list[State], kept: list[State]
    ) -> tuple[Tensor | None, State, State, State]:
        """The gradients to h, y, the first slope and the parameters."""
        task, tableau, n = self.task, self.task.tableau, self.task.parts
        last = tableau.stages - 1
        squares = n if task.tolerance is not None else 0
        dy1 = [None if g is None else dense(g, part) for g, part in zip(grads[:n], self.y, strict=True)]
        dlast = [None if g is None else dense(g, part) for g, part in zip(grads[n : 2 * n], self.y, strict=True)]
        dhalf = (
            [None if g is None else dense(g, part) for g, part in zip(grads[2 * n + squares :], self.y, strict=True)]
            if task.middle
            else [None] * n
        )
        dsquares = grads[2 * n : 2 * n + squares] if squares else [None] * n
        dy: list[list[Tensor]] = [[] for _ in range(n)]  # what adds up to the gradient of y
        # (weights of the stages, gradient of the sum they went into), for each tensor
        flows: list[list[tuple[Sequence[float], Tensor]]] = [[] for _ in range(n)]
        for p in range(n):
            if (square := dsquares[p]) is not None and task.differentiate_error:
                before = torch.zeros_like(self.y[p])
                given = dy1[p]
                after = torch.zeros_like(self.y[p]) if given is None else given.clone()
                flows[p].append((tableau.error or (), self._error(p, square, inputs, before, after)))
                dy[p].append(before)
                dy1[p] = after
            if (given := dhalf[p]) is not None:
                flows[p].append((tableau.middle or (), given))
                dy[p].append(given)
            if (given := dy1[p]) is not None and not tableau.fsal:
                flows[p].append((tableau.b, given))
                dy[p].append(given)
        dots = torch.zeros_like(self.h)
        dweights: State = ()
        for j in range(last, 0, -1):
            dk = [self._stage(j, p, flows[p], dlast[p] if j == last else None, dots) for p in range(n)]
            if any(part is not None for part in dk):
                full = tuple(torch.zeros_like(x) if g is None else g for g, x in zip(dk, self.y, strict=True))
                dx, more = task.own.pull(inputs[j - 1], kept[j - 1], full, weights=self.weights)
                dweights = tuple(a.add_(b) for a, b in zip(dweights, more, strict=True)) if dweights else more
            else:
                dx = ()
            for p in range(n):
                arriving = [dx[p]] if dx else []
                if j == last and tableau.fsal and (given := dy1[p]) is not None:
                    arriving.append(given)
                if arriving:
                    total = arriving[0] if len(arriving) == 1 else arriving[0].add_(arriving[1])
                    flows[p].append((tableau.a[j - 1], total))
                    dy[p].append(total)
        dslope = tuple(
            torch.zeros_like(x) if g is None else g
            for x, g in zip(
                self.y,
                [self._stage(0, p, flows[p], dlast[p] if last == 0 else None, dots) for p in range(n)],
                strict=True,
            )
        )
        ones = torch.ones_like(self.h)
        whole = tuple(
            weighted_sum(None, ones, some, [1.0] * len(some)) if some else torch.zeros_like(x)
            for some, x in zip(dy, self.y, strict=True)
        )
        return dots if self.sized else None, whole, dslope, dweights

    def _stage(
        self, j: int, p: int, flows: Sequence[tuple[Sequence[float], Tensor]], base: Tensor | None, dots: Tensor
    ) -> Tensor | None:
        """The gradient of tensor p of stage j, from all the sums it went into; `dots` gets its share of dh."""
        used = [(weights[j], grad) for weights, grad in flows if j < len(weights) and weights[j]]
        if not used:
            return base
        terms, weights = [grad for _, grad in used], [w for w, _ in used]
        if self.sized:
            return weighted_sum_along(base, self.h, terms, weights, self.stages[j][p], dots)
        return weighted_sum(base, self.h, terms, weights)

    def _error(self, p: int, grad: Tensor, inputs: list[State], before: Tensor, after: Tensor) -> Tensor:
        tableau, tolerance = self.task.tableau, self.task.tolerance
        assert tolerance is not None
        terms, weights = _used(tableau.error, self.stages)
        y1 = inputs[-1][p]
        if not tableau.fsal:
            used, shares = _used(tableau.b, self.stages)
            y1 = weighted_sum(self.y[p], self.h, [k[p] for k in used], shares)
        return error_square_back(
            self.y[p],
            y1,
            self.h,
            [k[p] for k in terms],
            weights,
            tolerance.rtol,
            tolerance.atol,
            grad.contiguous(),
            before,
            after,
        )
