"""`integrate_adjoint`: the gradient by a second ODE, solved backwards in time, instead of through the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sonet.solvers.control import Adaptive, Fixed
from sonet.solvers.integrate import integrate
from sonet.solvers.ledger import OnFailure
from sonet.solvers.solution import Solution
from sonet.types import Field, State


def integrate_adjoint(
    field: Field,
    state: State,
    solver: Fixed | Adaptive,
    parameters: Sequence[Tensor] = (),
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    time_error: bool = False,
    on_failure: OnFailure = "nan",
    name: str = "integrate_adjoint",
) -> Solution:
    r"""`integrate`, with the gradient of the continuous adjoint (Chen et al. 2018, arXiv:1806.07366, Algorithm 1).

        forward   dy/dt = f(t, y)                                             t0 -> t1, keeping no graph
        backward  dy/dt = f(t, y),  da/dt = -a df/dy,  dg/dt = -a df/dw       t1 -> t0, from y(t1), dL/dy(t1), 0

    Then a(t0) is the gradient of the state and g(t0) that of `parameters`. It is the gradient of the ODE, not of the
    steps taken: the two differ by the solver's error. `solver.step_gradient` has no say in it.

    Args:
        field, state, solver, t0, t1, on_failure, name: as in `integrate`.
        parameters: tensors to which the gradient is wanted besides `state`. What else the field reads gets none.
        time_error: the error control also watches the gradient of time, -a df/dt, of which no use is made. torchdiffeq
            0.2.5 does so whether or not its times need a gradient; it shortens the steps of fields that read t.

    The backward solve has the same settings; with `Adaptive` its error control watches y, a and g together. Samples
    share its steps as they do forward. With `parameters` or `time_error` those who share steps are solved one group
    after the other, which for scope="sample" means one sample after the other. Where the backward solve fails the
    gradient is NaN (or `SolveError`, by `on_failure`). The result can be differentiated once.
    """
    with torch.no_grad():
        solution = integrate(field, state, solver, t0=t0, t1=t1, on_failure=on_failure, name=name)
    problem = _Problem(field, solver, t0, t1, time_error, on_failure, f"{name} (adjoint)")
    end: State = _Adjoint.apply(problem, solution.state, *state, *parameters)  # type: ignore[no-untyped-call]
    return replace(solution, state=end)


@dataclass(frozen=True)
class _Problem:
    """What the way back needs besides tensors."""

    field: Field
    solver: Fixed | Adaptive
    t0: float
    t1: float
    time_error: bool
    on_failure: OnFailure
    name: str

    def back(self, field: Field, state: State) -> State:
        with torch.no_grad():
            return integrate(
                field, state, self.solver, t0=self.t1, t1=self.t0, on_failure=self.on_failure, name=self.name
            ).state

    def shares(self, batch: int) -> list[slice]:
        """The groups of samples that share their steps."""
        scope = "batch" if isinstance(self.solver, Fixed) else self.solver.scope
        size = {"batch": batch, "sample": 1}.get(scope, batch) if isinstance(scope, str) else scope
        return [slice(start, start + size) for start in range(0, batch, size)]


class _Adjoint(torch.autograd.Function):
    """Hands out the end of a solve made without a graph; its backward is the adjoint solve."""

    @staticmethod
    def forward(ctx: Any, problem: _Problem, end: State, *inputs: Tensor) -> State:
        # New tensors: where no time passes the end is the start itself, and an input.
        end = tuple(part.clone() for part in end)
        ctx.problem, ctx.parts = problem, len(end)
        ctx.save_for_backward(*end, *inputs[len(end) :])
        return end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangent: Tensor) -> tuple[Tensor | None, ...]:
        end, parameters = ctx.saved_tensors[: ctx.parts], ctx.saved_tensors[ctx.parts :]
        # What needs no gradient has no say in the error control either.
        needed = ctx.needs_input_grad[2 + ctx.parts :]
        wanted = tuple(p for p, need in zip(parameters, needed, strict=True) if need)
        state, weights = _solve_back(ctx.problem, end, cotangent, wanted)
        given = iter(weights)
        return None, None, *state, *(next(given) if need else None for need in needed)


def _solve_back(problem: _Problem, end: State, cotangent: State, parameters: State) -> tuple[State, State]:
    """The gradients of the initial state and of the parameters."""
    count = len(end)
    if not parameters and not problem.time_error:
        both = problem.back(_augmented(problem.field, count, ()), (*end, *cotangent))
        return both[count:], ()
    # Weights have no samples: those who share steps become one sample, in which the weights are some more numbers.
    states: list[State] = []
    total = tuple(torch.zeros_like(p) for p in parameters)
    time = (torch.zeros_like(end[0].flatten()[0]),) if problem.time_error else ()
    for share in problem.shares(len(end[0])):
        start = (*(part[share] for part in (*end, *cotangent)), *map(torch.zeros_like, parameters), *time)
        field = _as_one_sample(_augmented(problem.field, count, parameters, problem.time_error), len(start[0]))
        reached = tuple(part[0] for part in problem.back(field, tuple(part[None] for part in start)))
        states.append(reached[count : 2 * count])
        weights = reached[2 * count : 2 * count + len(parameters)]
        total = tuple(torch.add(a, b) for a, b in zip(total, weights, strict=True))
    return tuple(torch.cat(parts) for parts in zip(*states, strict=True)), total


def _augmented(field: Field, count: int, parameters: State, time: bool = False) -> Field:
    """(y, a, g) -> (f, -a df/dy, -a df/dw), for a state of `count` tensors; with `time` also -a df/dt, a scalar."""

    def augmented(t: Tensor, both: State) -> State:
        with torch.enable_grad():
            t = t.detach().requires_grad_(time)
            y = tuple(part.detach().requires_grad_() for part in both[:count])
            slope = field(t, y)
            # A part of the slope that depends on nothing has no graph to ask.
            asked = [(f, -a) for f, a in zip(slope, both[count : 2 * count], strict=True) if f.requires_grad]
            sources = (*y, *parameters, *((t,) if time else ()))
            pulled: Sequence[Tensor | None] = [None] * len(sources)
            if asked:
                pulled = torch.autograd.grad([f for f, _ in asked], sources, [a for _, a in asked], allow_unused=True)
        there = [torch.zeros_like(x) if p is None else p for x, p in zip(sources, pulled, strict=True)]
        if time:
            there[-1] = there[-1].sum()
        return (*(f.detach() for f in slope), *there)

    return augmented


def _as_one_sample(field: Field, size: int) -> Field:
    """The field on a batch of one, in which what `field` knows as `size` samples is a single one."""

    def lifted(t: Tensor, state: State) -> State:
        return tuple(part[None] for part in field(t.expand(size), tuple(part[0] for part in state)))

    return lifted
