"""Networks that solve by torchdiffeq, watched and steered from outside: `watch_odeint` and `steer_odeint`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sonet.solvers.adjoint import integrate_adjoint
from sonet.solvers.control import Adaptive, Fixed
from sonet.solvers.foreign_field import as_field, autonomous, check_adjoint, check_part
from sonet.solvers.integrate import integrate
from sonet.solvers.ledger import OnFailure
from sonet.solvers.odeint_call import InteropError, OdeintCall, describe, state_of
from sonet.solvers.odeint_seam import Onward, RawCall, handled_by
from sonet.types import Field, State


@contextmanager
def watch_odeint() -> Iterator[list[OdeintCall]]:
    """Record every solve by torchdiffeq in a list, until the context ends; torchdiffeq runs as ever.

    Calls enter the list when they return, so that one made inside another's function comes first. Inside a
    `steer_odeint` calls are seen before they are steered; a `steer_odeint` inside takes them away.
    """
    calls: list[OdeintCall] = []

    def watched(call: RawCall, onward: Onward) -> Any:
        said, given = describe(call), dict(call.arguments)
        if call.name == "odeint_adjoint" and given["adjoint_params"] is None:
            if not isinstance(given["func"], nn.Module):
                return onward(call)  # torchdiffeq refuses it, and says why
            given["adjoint_params"] = _parameters(call)
        counted = given["func"] = _Counted(given["func"], said.method)
        result = onward(RawCall(call.name, given))
        sign = 1 if said.times[-1] >= said.times[0] else -1
        steps = tuple(sign * size for size in counted.step_sizes)
        calls.append(replace(said, evaluations=counted.evaluations, step_sizes=steps))
        return result

    with handled_by(watched):
        yield calls


@contextmanager
def steer_odeint(
    solver: Fixed | Adaptive | None = None,
    *,
    adjoint: bool | None = None,
    on_failure: OnFailure = "nan",
    **changes: Any,
) -> Iterator[list[OdeintCall]]:
    """Every solve by torchdiffeq is made by our `integrate` instead, until the context ends; the list records them.

    Args:
        solver: the setting for every call; None takes each call's own, `OdeintCall.solver`.
        adjoint: True takes the gradient of the adjoint, False backpropagates through the steps; None leaves it as the
            module has it. With the adjoint, weights get gradients where the function is an `nn.Module` or names
            `adjoint_params`; where the input's is all that is wanted, requires_grad_(False) on them spares one backward
            solve for each sample with scope="sample". The backward solve has the forward's setting.
        on_failure: as in `integrate`. torchdiffeq itself raises.
        changes: single fields of the setting, such as scope="sample" or step_gradient="frozen".

    torchdiffeq's functions know one time for the whole batch. Where samples may stand at different times (`Adaptive`
    with a scope other than "batch") the function is asked at the start and a little on, at three times each: if time
    makes no difference, the batch is solved at once; if it does, the samples that share steps are solved one group
    after the other, which is right but slow. Such a scope also needs a function that works on part of a batch.

    Deviation: at every time asked for the solve starts anew; torchdiffeq steps across and interpolates. With two times,
    the usual case, there is none.

    Raises InteropError, at the call: it cannot be answered (`OdeintCall.barred`), no setting is given and none of ours
    equals its own (`unmatched`), the changes do not fit, the function does not suit the scope, or the adjoint would
    miss gradient.
    """
    calls: list[OdeintCall] = []

    def steered(call: RawCall, onward: Onward) -> Any:
        said = describe(call)
        setting = _setting(said, solver, changes)
        said = replace(said, adjoint=said.adjoint if adjoint is None else adjoint)
        given, counted = call.arguments["y0"], _Counted(call.arguments["func"])
        field, parts = as_field(counted, many=not isinstance(given, Tensor)), state_of(given)
        # torchdiffeq lays the parts into one tensor, which has one dtype.
        dtype = reduce(torch.promote_types, (part.dtype for part in parts))
        state = tuple(part.to(dtype) for part in parts)
        parameters = _parameters(call) if said.adjoint else ()
        if said.adjoint and call.name != "odeint_adjoint":
            check_adjoint(field, state, said, parameters)

        def solve(y: State, setting: Fixed | Adaptive, t0: float, t1: float) -> State:
            at: dict[str, Any] = {"t0": t0, "t1": t1, "on_failure": on_failure, "name": "steer_odeint"}
            if said.adjoint:
                shared = isinstance(setting, Adaptive) and setting.scope == "batch"
                return integrate_adjoint(field, y, setting, parameters, time_error=shared, **at).state
            return integrate(field, y, setting, **at).state

        path = _path(solve, field, state, setting, said)
        calls.append(replace(said, evaluations=counted.evaluations))
        return path[0] if isinstance(given, Tensor) else path

    with handled_by(steered):
        yield calls


class _Counted:
    """torchdiffeq's function as it is, with its callbacks; counts its evaluations and notes the accepted steps."""

    def __init__(self, func: Any, method: str | None = None) -> None:
        self.func, self.evaluations, self.step_sizes = func, 0, list[float]()
        for step in ("callback_step", "callback_accept_step", "callback_reject_step"):
            for name in (step, f"{step}_adjoint"):
                if hasattr(func, name):
                    setattr(self, name, getattr(func, name))
        told = _told(method) if method else ""
        if told:
            before = getattr(self, told, None)

            def note(t: Tensor, y: Any, h: Tensor) -> None:
                self.step_sizes.append(float(h.detach()))
                if before is not None:
                    before(t, y, h)

            setattr(self, told, note)

    def __call__(self, t: Tensor, y: Any) -> Any:
        self.evaluations += 1
        return self.func(t, y)


def _told(method: str) -> str:
    """The callback by which torchdiffeq tells of a method's accepted steps."""
    from torchdiffeq import odeint

    known = odeint.__globals__["SOLVERS"].get(method)
    callbacks = known.valid_callbacks() if known else ()
    return next((name for name in ("callback_accept_step", "callback_step") if name in callbacks), "")


def _parameters(call: RawCall) -> tuple[Tensor, ...]:
    """The tensors, besides the state, to which the adjoint gives gradient: as in torchdiffeq."""
    given, func = call.arguments.get("adjoint_params"), call.arguments["func"]
    while isinstance(func, _Counted):
        func = func.func
    if given is None:
        given = func.parameters() if isinstance(func, nn.Module) else ()
    return tuple(p for p in given if p.requires_grad)


def _setting(said: OdeintCall, solver: Fixed | Adaptive | None, changes: dict[str, Any]) -> Fixed | Adaptive:
    if said.barred:
        raise InteropError(f"steer_odeint: {said} cannot be steered. {said.barred} Leave it outside of the context.")
    base = solver or said.solver
    if base is None:
        raise InteropError(
            f"steer_odeint: {said} has no equal among our settings. {said.unmatched} "
            "Say what to solve by instead: steer_odeint(Adaptive(...)) or steer_odeint(Fixed(...))."
        )
    try:
        return type(base).model_validate(base.model_dump() | changes)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InteropError(
            f"steer_odeint: {said} is solved by {base!r}, which cannot be changed by {changes}: {wrong}. "
            "Give a solver of the kind that has these fields: steer_odeint(Adaptive(...)) or steer_odeint(Fixed(...))."
        ) from error


def _path(
    solve: Callable[[State, Fixed | Adaptive, float, float], State],
    field: Field,
    state: State,
    setting: Fixed | Adaptive,
    said: OdeintCall,
) -> State:
    """The states at all times asked for, (T, N, ...) each."""
    batch, shares, size = said.batch, [slice(None)], said.batch
    if isinstance(setting, Adaptive) and setting.scope != "batch":
        size = 1 if setting.scope == "sample" else setting.scope
    if size < batch:
        check_part(field, state, said)
        if not autonomous(field, state, said):
            shares = [slice(start, start + size) for start in range(0, batch, size)]
            setting = setting.model_copy(update={"scope": "batch"})  # of each group
    paths = []
    for share in shares:
        path = [tuple(part[share] for part in state)]
        for t0, t1 in pairwise(said.times):
            path.append(solve(path[-1], setting, t0, t1))
        paths.append([torch.stack(parts) for parts in zip(*path, strict=True)])
    return tuple(parts[0] if len(parts) == 1 else torch.cat(parts, 1) for parts in zip(*paths, strict=True))
