"""`integrate`: from a field, a state and a solver to a solution. The one place where time passes."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sonet.solvers.control import Adaptive, Fixed
from sonet.solvers.directed import Directed, step
from sonet.solvers.finite import finite_samples
from sonet.solvers.interpolation import quartic, quartic_weights
from sonet.solvers.ledger import Ledger, OnFailure, Underway
from sonet.solvers.recompute import Remade, piece
from sonet.solvers.solution import Solution, Status
from sonet.solvers.step import Tolerance, Trial
from sonet.solvers.step_size import error_ratio, initial_step, make_pool, next_step
from sonet.types import Field, State


def integrate(
    field: Field,
    state: State,
    solver: Fixed | Adaptive,
    *,
    t0: float = 0.0,
    t1: float = 1.0,
    on_failure: OnFailure = "nan",
    recompute: bool = False,
    name: str = "integrate",
) -> Solution:
    r"""Solve dy/dt = f(t, y), y(t0) = `state`, to t1 (earlier than t0 integrates backwards in time).

    Args:
        field: f(t, state) -> derivative of the same shapes. t has shape (N,): with per-sample steps the samples of a
            batch stand at different times. f must treat samples independently, and keep treating them so when only
            some of a batch are passed to it: finished samples are no longer evaluated.
        state: tensors with a common first dimension N >= 1, floating point; they are never flattened into one.
        solver: `Fixed` or `Adaptive`; it says also which step sizes carry gradient.
        on_failure: "nan" gives NaN and a status for the samples that fail and lets the others finish; "raise" gives
            a `SolveError` instead.
        recompute: keep of each trial step only where it began, and make the rest again in the backward pass: the same
            numbers for less memory and about one more forward pass. What the field reads must not change in between.
        name: who is solving, for error messages.

    Times and step sizes are float64 whatever the state's dtype. A trial step that is not finite is discarded whole,
    shrunk and taken again, so that it never enters the graph.
    """
    batch = _check(state, t0, t1, name)
    direction = 1.0 if t1 >= t0 else -1.0
    span = abs(t1 - t0)

    directed = Directed(field, state, t0, direction)
    state = directed.lay_out(state)
    f: Field = Remade(directed, field) if recompute and torch.is_grad_enabled() else directed
    ledger = Ledger(batch, direction, t0, on_failure, name)
    s = torch.zeros(batch, dtype=torch.float64, device=state[0].device)
    slope = _first_slope(f, s, state, name)
    count = torch.zeros(batch, dtype=torch.int64, device=s.device)
    those = Underway(torch.arange(batch, device=s.device), s, s, state, slope, count + 1, count, count)
    those = _set_aside(those, ~finite_samples((*those.y, *those.slope)), Status.NOT_FINITE, ledger)
    if 0 < len(those.samples) < batch:
        # In one graph with the failed, the others' gradient of the weights would be NaN: 0 * NaN is NaN.
        those.slope = f(those.s, those.y)
    if len(those.samples):
        if span == 0:
            ledger.land(those, those.y)
        elif isinstance(solver, Fixed):
            _fixed(f, those, solver, span, ledger)
        else:
            _adaptive(f, those, solver, span, ledger)
    found = ledger.solution()
    if torch.is_grad_enabled() and not any(part.requires_grad for part in found.state):
        # PyTorch's GroupNorm crashes on channels last where its weight wants a gradient and its input none.
        found = replace(found, state=tuple(part.contiguous() for part in found.state))
    return found


def _fixed(field: Field, those: Underway, solver: Fixed, span: float, ledger: Ledger) -> None:
    tableau = solver.tableau
    h = torch.full_like(those.s, span / solver.num_steps)
    everyone = torch.ones_like(h, dtype=torch.bool)
    for taken in range(solver.num_steps):
        trial = piece(step, field, tableau, those.s, h, those.y, those.slope)
        last = taken + 1 == solver.num_steps
        s = torch.full_like(h, span * (taken + 1) / solver.num_steps)
        slope = trial.last if tableau.fsal or last else field(s, trial.y1)
        evaluated = tableau.stages - 1 + (0 if tableau.fsal or last else 1)
        evaluations = those.evaluations + evaluated
        those = Underway(those.samples, s, h, trial.y1, slope, evaluations, those.accepted + 1, those.rejected)
        ledger.step(those.samples, h, everyone)
    _land(those, those.y, ledger)


def _adaptive(field: Field, those: Underway, solver: Adaptive, span: float, ledger: Ledger) -> None:
    tableau, dense = solver.tableau, solver.end == "dense"
    tolerance = Tolerance(solver.rtol, solver.atol)
    graph = torch.is_grad_enabled()
    differentiated = graph and solver.step_gradient == "differentiated"
    smallest = 4 * torch.finfo(those.y[0].dtype).eps * span

    with torch.set_grad_enabled(graph and solver.step_gradient != "frozen"):
        if solver.first_step is not None:
            those.h = torch.full_like(those.s, solver.first_step)
        else:
            those.h = _first_step(field, those, solver)
            those.evaluations = those.evaluations + 1

    while len(those.samples):
        spent = those.accepted + those.rejected >= solver.max_steps
        those = _set_aside(those, spent, Status.TOO_MANY_STEPS, ledger)
        if not len(those.samples):
            return
        pool = make_pool(solver.scope, those.samples)
        # Within rounding of the end, stretch the step rather than leave a sliver.
        reaches = those.s + those.h >= span * (1 if dense else 1 - 1e-10)
        h = those.h if dense else torch.where(reaches, span - those.s, those.h)
        trial = piece(
            step,
            field,
            tableau,
            those.s,
            h,
            those.y,
            those.slope,
            tolerance,
            differentiate_error=differentiated,
            middle=dense and bool(reaches.any()),
        )
        with torch.set_grad_enabled(differentiated):
            ratio = error_ratio(trial, pool)
        evaluations = those.evaluations + tableau.stages - 1

        finite = torch.isfinite(ratio)
        if not finite.all():
            those = _retry_smaller(those, trial, h, finite, evaluations, solver, smallest, ledger)
            continue

        with torch.set_grad_enabled(differentiated):
            following = next_step(h, ratio, solver)
        accept = ratio <= 1
        done = accept & reaches
        whole = bool(accept.all())
        s = those.s + h if whole else torch.where(accept, those.s + h, those.s)
        y = trial.y1 if whole else _choose(accept, trial.y1, those.y)
        slope = those.slope
        needed = accept if dense else accept & ~done
        if tableau.fsal:
            slope = trial.last
        elif bool(needed.any()):
            # At y, not at y_1: where a step was rejected the field may overflow there.
            slope = field(s, y)
            evaluations = evaluations + needed
            broken = ~finite_samples(slope)
            if bool(broken.any()):
                finite = torch.isfinite(pool(torch.where(broken, torch.nan, torch.zeros_like(ratio))))
                trial = replace(trial, last=slope)
                those = _retry_smaller(those, trial, h, finite, evaluations, solver, smallest, ledger)
                continue
        ledger.step(those.samples, h, accept)

        start, start_s, start_slope = those.y, those.s, those.slope
        those = Underway(
            those.samples,
            s,
            following,
            y,
            slope if whole else _choose(accept, slope, those.slope),
            evaluations,
            those.accepted + accept,
            those.rejected + ~accept,
        )
        if bool(done.any()):
            state = those.y
            if dense:
                # Those not yet there are read at x = 0: far outside their step the quartic's powers overflow.
                x = torch.where(done, (span - start_s) / h, 0.0)
                state = _read_end(start, start_slope, trial, slope, h, x)
            if bool(done.all()):
                _land(those, state, ledger)
                return
            index = done.nonzero().squeeze(1)
            _land(those.keep(done), tuple(part.index_select(0, index) for part in state), ledger)
            those = those.keep(~done)
        # An accepted step may be as small as it likes: the next one is larger.
        stuck = (~accept & (following.detach() < smallest))[~done]
        those = _set_aside(those, stuck, Status.STEP_UNDERFLOW, ledger)


def _first_step(field: Field, those: Underway, solver: Adaptive) -> Tensor:
    """The rule's first step, (N,), or 1e-6 where the field overflowed at the point ahead at which the rule looks.

    The rule is then asked again for the others alone, so that what overflowed never enters the graph.
    """
    h = piece(initial_step, field, those.s, those.y, those.slope, solver, make_pool(solver.scope, those.samples))
    usable = torch.isfinite(h) & (h > 0)
    if bool(usable.all()):
        return h
    smallest = torch.full_like(those.s, 1e-6)
    if not bool(usable.any()):
        return smallest
    rest = those.keep(usable)
    h = piece(initial_step, field, rest.s, rest.y, rest.slope, solver, make_pool(solver.scope, rest.samples))
    return smallest.index_copy(0, usable.nonzero().squeeze(1), h)


def _retry_smaller(
    those: Underway,
    trial: Trial,
    h: Tensor,
    finite: Tensor,
    evaluations: Tensor,
    solver: Adaptive,
    smallest: float,
    ledger: Ledger,
) -> Underway:
    """A trial overflowed: shrink the steps of those who share it, and give up on the culprits below `smallest`.

    The others try again as if nothing had happened, the gradient of their step size included.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and solver.step_gradient == "differentiated"):
        smaller = h * solver.shrink
    those.h = torch.where(finite, those.h, smaller)
    those.rejected = those.rejected + ~finite
    those.evaluations = torch.where(finite, those.evaluations, evaluations)
    stuck = ~finite & (smaller.detach() < smallest)
    sound = finite_samples((*trial.y1, *trial.last)) & torch.stack(trial.squares).isfinite().all(0)
    culprits = stuck & ~sound
    return _set_aside(those, culprits if bool(culprits.any()) else stuck, Status.NOT_FINITE, ledger)


def _read_end(y: State, slope: State, trial: Trial, slope1: State, h: Tensor, x: Tensor) -> State:
    """The state inside the step just taken, at the share x, (N,), of its size, by dense output."""
    assert trial.middle is not None  # asked for where a sample reaches the end
    weights = quartic_weights(h, x)
    return tuple(quartic(data, weights) for data in zip(y, trial.middle, trial.y1, slope, slope1, strict=True))


def _choose(which: Tensor, yes: State, no: State) -> State:
    return tuple(torch.where(which.view(-1, *(1,) * (a.dim() - 1)), a, b) for a, b in zip(yes, no, strict=True))


def _set_aside(those: Underway, failed: Tensor, status: Status, ledger: Ledger) -> Underway:
    if not bool(failed.any()):
        return those
    ledger.fail(those.keep(failed), status)
    return those.keep(~failed)


def _land(those: Underway, state: State, ledger: Ledger) -> None:
    """Hand over those who reached the end; if it is not finite they failed, whatever the error estimate said."""
    failed = ~finite_samples(state)
    if bool(failed.any()):
        those = _set_aside(those, failed, Status.NOT_FINITE, ledger)
        index = (~failed).nonzero().squeeze(1)
        state = tuple(part.index_select(0, index) for part in state)
    if len(those.samples):
        ledger.land(those, state)


def _first_slope(field: Field, s: Tensor, state: State, name: str) -> State:
    slope = field(s, state)
    got, expected = [tuple(part.shape) for part in slope], [tuple(part.shape) for part in state]
    if got != expected:
        raise ValueError(
            f"{name}: the field returned shapes {got}, expected those of the state, {expected}. "
            "A derivative has its state's shape; return a tuple of tensors, one for each part."
        )
    return slope


def _check(state: State, t0: float, t1: float, name: str) -> int:
    if not isinstance(state, tuple) or not state:
        raise TypeError(f"{name}: expected the state as a tuple of tensors, got {type(state).__name__}; wrap it: (y,).")
    sizes = {part.shape[0] if part.dim() else 0 for part in state}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"{name}: expected tensors with a common first dimension N >= 1, got shapes "
            f"{[tuple(part.shape) for part in state]}. The first dimension numbers the samples."
        )
    if not all(part.numel() for part in state):
        raise ValueError(
            f"{name}: expected tensors with elements, got shapes {[tuple(part.shape) for part in state]}. "
            "A tensor without any has no error to control; leave it out of the state."
        )
    if not all(part.is_floating_point() for part in state):
        raise TypeError(f"{name}: expected floating-point tensors, got {[str(part.dtype) for part in state]}.")
    if not (math.isfinite(t0) and math.isfinite(t1)):
        raise ValueError(f"{name}: expected finite times, got t0 = {t0}, t1 = {t1}. Steps cannot reach such an end.")
    return int(sizes.pop())
