"""Where foreign calls of torchdiffeq are met: its functions' code gives way to a gate while a handler is in place.

A module that did `from torchdiffeq import odeint` holds the function itself, so that no name anywhere can be replaced
under it. The function object stays; its code is exchanged and put back.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from types import FunctionType
from typing import Any


@dataclass(frozen=True)
class RawCall:
    """One call of torchdiffeq as it was made: the function's name and all its arguments by name, defaults filled in."""

    name: str
    arguments: dict[str, Any]


Onward = Callable[[RawCall], Any]
"""What would answer the call if this handler were not there: the handler around it, or torchdiffeq."""

Handler = Callable[[RawCall, Onward], Any]

# Last in, first asked; and torchdiffeq's functions with their own code, which is what the gates call.
_handlers: list[Handler] = []
_untouched: dict[str, FunctionType] = {}
_lock = RLock()


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Every call of torchdiffeq's odeint, odeint_adjoint and odeint_dense goes to `handler`, until the context ends.

    Calls that torchdiffeq makes itself, such as those of its own adjoint, stay with torchdiffeq. All threads are seen.
    """
    with _lock:
        functions = _functions()
        if not _handlers:
            _open(functions)
        _handlers.append(handler)
    try:
        yield
    finally:
        with _lock:
            # The same handler may stand there twice; take away the inner one.
            del _handlers[max(i for i, other in enumerate(_handlers) if other is handler)]
            if not _handlers:
                _close(functions)


def answer(name: str, args: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
    """The gate: what a call gets."""
    bound = inspect.signature(_untouched[name]).bind(*args, **arguments)
    bound.apply_defaults()
    return _pass_on(RawCall(name, dict(bound.arguments)), tuple(_handlers))


def _pass_on(call: RawCall, handlers: tuple[Handler, ...]) -> Any:
    if not handlers:
        return _untouched[call.name](**call.arguments)
    return handlers[-1](call, lambda changed: _pass_on(changed, handlers[:-1]))


def _functions() -> dict[str, FunctionType]:
    try:
        torchdiffeq = importlib.import_module("torchdiffeq")
    except ImportError as error:
        raise ModuleNotFoundError(
            "torchdiffeq is not installed, so no module can be calling it and there is nothing to watch or steer; "
            "install it with: pip install 'sonet[oracle]'"
        ) from error
    return {name: getattr(torchdiffeq, name) for name in _GATES}


def _open(functions: dict[str, FunctionType]) -> None:
    for name, function in functions.items():
        untouched = FunctionType(
            function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
        )
        untouched.__kwdefaults__ = function.__kwdefaults__
        _untouched[name] = untouched
    # torchdiffeq's adjoint solves, forward and backward, by the odeint of its own file.
    functions["odeint_adjoint"].__globals__["odeint"] = _untouched["odeint"]
    for name, function in functions.items():
        function.__code__ = _GATES[name].__code__


def _close(functions: dict[str, FunctionType]) -> None:
    for name, function in functions.items():
        function.__code__ = _untouched[name].__code__
    functions["odeint_adjoint"].__globals__["odeint"] = functions["odeint"]


# Their code runs inside torchdiffeq's functions, among torchdiffeq's globals: hence the imports.
def _odeint(*args: Any, **arguments: Any) -> Any:
    from sonet.solvers.odeint_seam import answer

    return answer("odeint", args, arguments)


def _odeint_adjoint(*args: Any, **arguments: Any) -> Any:
    from sonet.solvers.odeint_seam import answer

    return answer("odeint_adjoint", args, arguments)


def _odeint_dense(*args: Any, **arguments: Any) -> Any:
    from sonet.solvers.odeint_seam import answer

    return answer("odeint_dense", args, arguments)


_GATES = {"odeint": _odeint, "odeint_adjoint": _odeint_adjoint, "odeint_dense": _odeint_dense}
