"""`OdeintCall`: what a module asked of torchdiffeq, and which setting of ours does the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from sonet.solvers.control import Adaptive, Fixed
from sonet.solvers.odeint_seam import RawCall

_ADAPTIVE = ("dopri5", "bosh3", "adaptive_heun")
_FIXED = {"euler": "euler", "midpoint": "midpoint", "heun2": "heun", "rk4": "rk4_38"}
_OPTIONS = {
    "first_step": "first_step",
    "safety": "safety",
    "ifactor": "grow",
    "dfactor": "shrink",
    "max_num_steps": "max_steps",
}
_CALLBACKS = ("callback_step", "callback_accept_step", "callback_reject_step")
_OWN_ADJOINT = ("adjoint_rtol", "adjoint_atol", "adjoint_method", "adjoint_options")


class InteropError(ValueError):
    """A call of torchdiffeq cannot be steered as asked; the message says which, why, and what can be done."""


@dataclass(frozen=True)
class OdeintCall:
    """One call of torchdiffeq's odeint or odeint_adjoint.

    Attributes:
        method, options: as the module gave them; without a method it is torchdiffeq's default, dopri5.
        rtol, atol: one number, or one for each part or element of the state.
        adjoint: whether the gradient is that of the adjoint: the call was of odeint_adjoint, or steered to be.
        batch: N, the first dimension that the state's tensors share; 0 where they share none.
        times: the times asked for.
        evaluations: of the function, on the way forward; in a steered call with those that look at the function first.
        step_sizes: the accepted ones, in time units, signed as the direction; empty where torchdiffeq does not tell
            (scipy_solver), and for calls that were steered.
        barred: why no setting of ours can answer this call, or "".
        unmatched: why no setting of ours equals torchdiffeq's, though others can answer the call; or "".
        deviation: in what `solver` is nevertheless not exactly torchdiffeq's, or "".
        solver: our setting that equals torchdiffeq's between any two neighbouring times; None if there is none.
    """

    method: str
    rtol: float | tuple[float, ...]
    atol: float | tuple[float, ...]
    options: Mapping[str, Any]
    adjoint: bool
    batch: int
    times: tuple[float, ...]
    barred: str
    unmatched: str
    deviation: str
    solver: Fixed | Adaptive | None
    evaluations: int = 0
    step_sizes: tuple[float, ...] = field(default=())

    @property
    def unsteered(self) -> str:
        """Why `solver` is None, as a sentence; "" where it is not."""
        return self.barred or self.unmatched

    def __str__(self) -> str:
        return f"torchdiffeq's solve by {self.method} from t = {self.times[0]:g} to {self.times[-1]:g}"


def describe(call: RawCall) -> OdeintCall:
    """The call before it is answered: no evaluations, no steps."""
    given = call.arguments
    t = given["t"] if "t" in given else torch.stack([torch.as_tensor(given["t0"]), torch.as_tensor(given["t1"])])
    t, parts = torch.as_tensor(t), state_of(given["y0"])
    times = tuple(float(at) for at in t.detach().reshape(-1))
    method, options = given["method"] or "dopri5", dict(given["options"] or {})
    rtol, atol = _tolerance(given["rtol"]), _tolerance(given["atol"])
    sizes = {len(part) if part.dim() else 0 for part in parts}
    batch = sizes.pop() if len(sizes) == 1 else 0
    barred = _barred(call, t, times, parts, batch)
    solver: Fixed | Adaptive | str = "" if barred else _matching(method, options, rtol, atol, t, times, parts)
    return OdeintCall(
        method=method,
        rtol=rtol,
        atol=atol,
        options=options,
        adjoint=call.name == "odeint_adjoint",
        batch=batch,
        times=times,
        barred=barred,
        unmatched=solver if isinstance(solver, str) else "",
        deviation=" ".join(_deviations(call, method, times)),
        solver=None if isinstance(solver, str) else solver,
    )


def state_of(y0: object) -> tuple[Tensor, ...]:
    """torchdiffeq's state, a tensor or a tuple of them, as ours; () if it is neither."""
    parts = (y0,) if isinstance(y0, Tensor) else y0
    return parts if isinstance(parts, tuple) and all(isinstance(part, Tensor) for part in parts) else ()


def _tolerance(given: Any) -> float | tuple[float, ...]:
    if isinstance(given, (tuple, list)) or (isinstance(given, Tensor) and given.dim()):
        values = torch.cat([torch.as_tensor(part, dtype=torch.float64).reshape(-1) for part in given]).tolist()
        return values[0] if len(set(values)) == 1 else tuple(values)
    return float(given)


def _barred(call: RawCall, t: Tensor, times: tuple[float, ...], parts: tuple[Tensor, ...], batch: int) -> str:
    if call.name == "odeint_dense":
        return "It asks for a function of time (odeint_dense), and our solves end at given times."
    if call.arguments["event_fn"] is not None:
        return "It ends at an event (event_fn), and our solves end at given times."
    if not batch:
        shapes = [tuple(part.shape) for part in parts]
        return f"Its state has shapes {shapes}, and ours are tensors whose common first dimension numbers the samples."
    if not all(part.is_floating_point() for part in parts):
        return f"Its state is of {[str(part.dtype) for part in parts]}, and ours are real floating-point tensors."
    if t.requires_grad:
        return "Its times carry gradient, and ours are plain numbers."
    steps = [b - a for a, b in pairwise(times)]
    if not (all(step > 0 for step in steps) or all(step < 0 for step in steps)) or not all(map(math.isfinite, times)):
        return f"Its times {times} neither rise nor fall throughout, or are not finite."
    return ""


def _matching(
    method: str,
    options: dict[str, Any],
    rtol: float | tuple[float, ...],
    atol: float | tuple[float, ...],
    t: Tensor,
    times: tuple[float, ...],
    parts: tuple[Tensor, ...],
) -> Fixed | Adaptive | str:
    """The setting, or why there is none."""
    if method in _FIXED:
        if options.get("grid_constructor") is not None or options.get("perturb"):
            return "Its steps are placed by grid_constructor or perturb, and ours are equal."
        count = _num_steps(times, options.get("step_size"), 16 * torch.finfo(t.dtype).eps)
        return count if isinstance(count, str) else Fixed(method=_FIXED[method], num_steps=count)
    if method not in _ADAPTIVE:
        return f"Its method {method!r} is none of ours; those we share are {', '.join((*_ADAPTIVE, *_FIXED))}."
    if isinstance(rtol, tuple) or isinstance(atol, tuple):
        return "Its tolerances differ between parts or elements of the state, and ours are one rtol and one atol."
    if "norm" in options:
        return "It measures errors in a norm of its own, and ours is the RMS."
    wide = torch.promote_types(options.get("dtype", torch.float64), parts[0].dtype) == torch.float64
    neutral = float(options.get("min_step", 0)) == 0 and float(options.get("max_step", math.inf)) == math.inf
    if not wide or not neutral or any(options.get(name) is not None for name in ("step_t", "jump_t")):
        return "It bounds or places its steps by min_step, max_step, step_t, jump_t or dtype, and ours are free."
    setting: dict[str, Any] = {
        "method": method,
        "rtol": rtol,
        "atol": atol,
        "scope": "batch",
        "step_gradient": "first",
        "end": "dense",
        "initial": "joint",
        "max_steps": 2**31 - 1,
    }
    setting |= {mine: float(options[name]) for name, mine in _OPTIONS.items() if options.get(name) is not None}
    try:
        return Adaptive.model_validate(setting)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return f"Its setting is not one of ours: {said}."


def _num_steps(times: tuple[float, ...], step_size: Any, rounding: float) -> int | str:
    """Steps between two neighbouring times, the same number between all, or why there is none."""
    if step_size is None or len(times) == 1:
        return 1
    size, spans = float(step_size), [abs(b - a) for a, b in pairwise(times)]
    counts = {max(1, round(span / size)) for span in spans}
    whole = all(math.isclose(max(1, round(span / size)) * size, span, rel_tol=rounding) for span in spans)
    if len(spans) == 1 and size >= spans[0]:
        return 1
    if len(counts) > 1 or not whole:
        return f"Its steps of {size:g} do not divide the times {times} into equally many equal steps, and ours do."
    return counts.pop()


def _deviations(call: RawCall, method: str, times: tuple[float, ...]) -> list[str]:
    said = []
    if method == "adaptive_heun":
        said.append("torchdiffeq's adaptive_heun takes its second stage for the next step's slope; ours evaluates it.")
    if method in _ADAPTIVE and len(times) > 2:
        said.append("Ours starts anew at every time asked for; torchdiffeq steps across and interpolates.")
    if any(hasattr(call.arguments["func"], name) for name in _CALLBACKS):
        said.append("The function's callbacks are not called.")
    if any(call.arguments.get(name) is not None for name in _OWN_ADJOINT):
        said.append("The adjoint is solved with the setting of the way forward, not with its own.")
    return said
