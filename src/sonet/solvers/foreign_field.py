"""torchdiffeq's function as a field of ours, and what must be known of it first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sonet.solvers.odeint_call import InteropError, OdeintCall
from sonet.types import Field, State


def as_field(func: Callable[[Tensor, Any], Any], *, many: bool) -> Field:
    """torchdiffeq's function as a field of ours: it gets the first sample's time, as a scalar."""

    def field(t: Tensor, y: State) -> State:
        slope = func(t[0], y if many else y[0])
        # As liberal with shapes and dtypes as torchdiffeq.
        if many:
            return tuple(f.reshape(part.shape).to(part.dtype) for f, part in zip(slope, y, strict=True))
        return (slope.expand(y[0].shape).to(y[0].dtype),)

    return field


@torch.no_grad()
def autonomous(field: Field, state: State, said: OdeintCall) -> bool:
    """Whether time makes no difference beyond rounding, at the start and at a state ahead of it.

    The times divide the span irregularly, lest a field of some period look the same at all of them.
    """
    t0, span = said.times[0], said.times[-1] - said.times[0]
    slope = field(_at(t0, state), state)
    ahead = tuple(part + 0.1 * span * f for part, f in zip(state, slope, strict=True))
    return all(
        _same(field(_at(t0 + share * span, state), y), field(_at(t0, state), y))
        for y in (state, ahead)
        for share in (0.381966, 0.723607)
    )


@torch.no_grad()
def check_part(field: Field, state: State, said: OdeintCall) -> None:
    """Refuse a function that gives the last sample alone another slope than among all, or none."""
    alone = tuple(part[-1:] for part in state)
    why = "it gives a sample alone another slope than among the others"
    try:
        same = _same(
            field(_at(said.times[0], alone), alone), tuple(f[-1:] for f in field(_at(said.times[0], state), state))
        )
    except (RuntimeError, ValueError, IndexError) as error:
        same, why = False, f"on a sample alone it fails ({error})"
    if not same:
        raise InteropError(
            f"steer_odeint: the function of {said} does not work on part of a batch: {why}. "
            "Samples with steps of their own finish one by one. Use scope='batch', and model.eval() if "
            "it normalises over the batch."
        )


def check_adjoint(field: Field, state: State, said: OdeintCall, parameters: tuple[Tensor, ...]) -> None:
    """Refuse a function that reads tensors with gradient which the adjoint does not know."""
    with torch.enable_grad():
        slope = field(_at(said.times[0], state), tuple(part.detach() for part in state))
    known, seen, nodes = {id(p) for p in parameters}, set(), [f.grad_fn for f in slope]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            raise InteropError(
                f"steer_odeint: the function of {said} reads a tensor of shape {tuple(leaf.shape)} that "
                "carries gradient and is neither its state nor a parameter of its nn.Module. The adjoint would miss "
                "that gradient. Use adjoint=False, or requires_grad_(False) on it if its gradient is not wanted."
            )
        nodes.extend(following for following, _ in node.next_functions)


def _at(t: float, state: State) -> Tensor:
    return torch.full((len(state[0]),), t, dtype=state[0].dtype, device=state[0].device)


def _same(got: State, expected: State) -> bool:
    """Equal to rounding, of which batches of another size cause some."""
    tight = [1e3 * torch.finfo(part.dtype).eps for part in expected]
    return all(
        torch.allclose(a, b, rtol=eps, atol=eps * float(b.abs().nan_to_num().amax()), equal_nan=True)
        for a, b, eps in zip(got, expected, tight, strict=True)
    )
