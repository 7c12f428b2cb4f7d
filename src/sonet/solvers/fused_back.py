"""Backwards through a trial step of a field that brings its own derivative; the formulas stand in `fused_step`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sonet.kernels import Sum, error_square_back
from sonet.solvers.own_gradient import dense
from sonet.types import State

if TYPE_CHECKING:
    from sonet.solvers.fused_step import Task

Some = Sequence[Tensor | None]


def used(weights: Sequence[float] | None, stages: Sequence[State]) -> tuple[list[State], list[float]]:
    """The stages that have a weight, and the weights."""
    assert weights is not None  # the callers ask for what their method has
    pairs = [(w, stage) for w, stage in zip(weights, stages, strict=True) if w]
    return [stage for _, stage in pairs], [w for w, _ in pairs]


@dataclass
class Backward:
    """One backward pass through a step.

    h: (N,). y: the state before. stages: k_1 alone where neither the step's size nor the error asks. inputs: those of
    the stages, x_2 on. kept: what each of their evaluations kept. sized: whether dh is asked for; weights: whether the
    gradient of the parameters is.

    dy: for each tensor of the state, what adds up to its gradient. flows: for each, (weights of the stages, gradient of
    the sum they went into). dots: dh so far.
    """

    task: Task
    h: Tensor
    y: State
    stages: list[State]
    inputs: list[State]
    kept: list[State]
    sized: bool
    weights: bool
    dy: list[list[Tensor]] = field(init=False)
    flows: list[list[tuple[Sequence[float], Tensor]]] = field(init=False)
    dots: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.dy = [[] for _ in self.y]
        self.flows = [[] for _ in self.y]
        self.dots = torch.zeros_like(self.h)

    def run(self, grads: Some) -> tuple[Tensor | None, State, State, State]:
        """From the gradients of the step's outputs to those of h, y, the first slope and the parameters."""
        dy1, dlast, dsquares, dhalf = self._outputs(grads)
        for p in range(self.task.parts):
            dy1[p] = self._sums(p, dy1[p], dsquares[p], dhalf[p])
        dweights = self._stages(dy1, dlast)
        first = self._filled(
            [self._stage(0, p, dlast[p] if self.task.tableau.stages == 1 else None) for p in range(len(self.y))]
        )
        ones = torch.ones_like(self.h)
        whole = tuple(
            Sum(None, ones, some, [1.0] * len(some)).made() if some else torch.zeros_like(part)
            for some, part in zip(self.dy, self.y, strict=True)
        )
        dslope = tuple(part.made() if isinstance(part, Sum) else part for part in first)
        return self.dots if self.sized else None, whole, dslope, dweights

    def _outputs(self, grads: Some) -> tuple[list[Tensor | None], ...]:
        """Those of y_1, the last stage, the error's squares and the middle, for each tensor of the state."""
        n = self.task.parts
        squares = n if self.task.tolerance is not None else 0
        nothing: list[Tensor | None] = [None] * n

        def laid_out(some: Some) -> list[Tensor | None]:
            return [None if g is None else dense(g, part) for g, part in zip(some, self.y, strict=True)]

        dsquares = list(grads[2 * n : 2 * n + squares]) if squares else nothing
        dhalf = laid_out(grads[2 * n + squares :]) if self.task.middle else nothing
        return laid_out(grads[:n]), laid_out(grads[n : 2 * n]), dsquares, dhalf

    def _sums(self, p: int, dy1: Tensor | None, dsquare: Tensor | None, dhalf: Tensor | None) -> Tensor | None:
        """Start with the sums that are outputs; the whole gradient of tensor p of y_1, the error's share included."""
        tableau, flows, dy = self.task.tableau, self.flows[p], self.dy[p]
        if dsquare is not None and self.task.differentiate_error:
            dsum, before, dy1 = self._error(p, dsquare, dy1)
            flows.append((tableau.error or (), dsum))
            dy.append(before)
        if dhalf is not None:
            flows.append((tableau.middle or (), dhalf))
            dy.append(dhalf)
        if dy1 is not None and not tableau.fsal:
            flows.append((tableau.b, dy1))
            dy.append(dy1)
        return dy1

    def _stages(self, dy1: Some, dlast: Some) -> State:
        """Through the evaluations, from the last stage to the second; the gradient of the parameters."""
        tableau = self.task.tableau
        last = tableau.stages - 1
        dweights: State = ()
        for j in range(last, 0, -1):
            at_end = j == last
            dk = [self._stage(j, p, dlast[p] if at_end else None) for p in range(len(self.y))]
            dx: State = ()
            if any(part is not None for part in dk):
                dx, more = self.task.own.pull(
                    self.inputs[j - 1], self.kept[j - 1], self._filled(dk), weights=self.weights
                )
                dweights = tuple(a.add_(b) for a, b in zip(dweights, more, strict=True)) if dweights else more
            for p in range(len(self.y)):
                arriving = [dx[p]] if dx else []
                if at_end and tableau.fsal and (given := dy1[p]) is not None:
                    arriving.append(given)
                if arriving:
                    total = arriving[0] if len(arriving) == 1 else arriving[0].add_(arriving[1])
                    self.flows[p].append((tableau.a[j - 1], total))
                    self.dy[p].append(total)
        return dweights

    def _stage(self, j: int, p: int, base: Tensor | None) -> Tensor | Sum | None:
        """The gradient of tensor p of stage j, from all the sums it went into; `dots` will get its share of dh."""
        pairs = [(weights[j], grad) for weights, grad in self.flows[p] if j < len(weights) and weights[j]]
        if not pairs:
            return base
        terms, weights = [grad for _, grad in pairs], [w for w, _ in pairs]
        along = (self.stages[j][p], self.dots) if self.sized else (None, None)
        return Sum(base, self.h, terms, weights, *along)

    def _filled(self, some: Sequence[Tensor | Sum | None]) -> tuple[Tensor | Sum, ...]:
        return tuple(torch.zeros_like(part) if grad is None else grad for grad, part in zip(some, self.y, strict=True))

    def _error(self, p: int, grad: Tensor, dy1: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of the error's sum, over h, of y and of y_1, what there is already of that included."""
        tableau, tolerance = self.task.tableau, self.task.tolerance
        assert tolerance is not None
        terms, errors = used(tableau.error, self.stages)
        y1 = self.inputs[-1][p]
        if not tableau.fsal:
            those, shares = used(tableau.b, self.stages)
            y1 = Sum(self.y[p], self.h, [k[p] for k in those], shares).made()
        return error_square_back(
            *(self.y[p], y1, self.h, [k[p] for k in terms], errors, tolerance.rtol, tolerance.atol),
            *(grad.contiguous(), dy1),
        )
