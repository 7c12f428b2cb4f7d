"""Fields that bring their own derivative: evaluated without a graph, differentiated by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from sonet.types import Field, State


class OwnGradient(Protocol):
    """A field that does not read the time, at states of one kind: dense, channels last, on the CPU.

    parameters: all that it reads besides the state.
    """

    @property
    def parameters(self) -> tuple[Tensor, ...]: ...

    def evaluate(self, state: State, *, weights: bool) -> tuple[State, State]:
        """The slope, and what `pull` wants kept; `weights`: whether it will be asked for the parameters' gradient."""

    def pull(self, state: State, kept: State, grad: State, *, weights: bool) -> tuple[State, State]:
        """From the slope's gradient to those of the state and, with `weights`, of the parameters (else none)."""

    def plain(self, state: State) -> State:
        """The same slope by operators that autograd knows, for those who differentiate twice."""


def own_gradient(field: Field, state: State) -> OwnGradient | None:
    """What the field's method of this name gives for states like this one.

    None where it has none, or where it wants to be differentiated by autograd.
    """
    ask: Callable[[State], OwnGradient | None] | None = getattr(field, "own_gradient", None)
    return None if ask is None else ask(state)


def evaluate(own: OwnGradient, state: State) -> State:
    """The slope at `state`, in autograd's graph where something asks for it."""
    slope: State = _Slope.apply(own, len(state), *state, *own.parameters)  # type: ignore[no-untyped-call]
    return slope


class _Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: OwnGradient, parts: int, *tensors: Tensor) -> State:
        ctx.own, ctx.parts = own, parts
        ctx.weights = any(ctx.needs_input_grad[2 + parts :])
        slope, kept = own.evaluate(tensors[:parts], weights=ctx.weights)
        ctx.inputs = len(tensors)
        ctx.save_for_backward(*tensors, *kept)
        ctx.set_materialize_grads(False)
        return slope

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, kept = saved[: ctx.inputs], saved[ctx.inputs :]
        state = inputs[: ctx.parts]
        if torch.is_grad_enabled():
            needed = ctx.needs_input_grad[2:]
            return None, None, *differentiable(lambda: ctx.own.plain(state), inputs, needed, grads)
        full = tuple(dense(g, like) for g, like in zip(grads, state, strict=True))
        states, weights = ctx.own.pull(state, kept, full, weights=ctx.weights)
        return None, None, *states, *(weights or [None] * len(ctx.own.parameters))


def dense(grad: Tensor | None, like: Tensor) -> Tensor:
    """A gradient as the kernels want it; zeros where nothing flows back."""
    if grad is None:
        return torch.zeros_like(like)
    return grad.contiguous(memory_format=torch.channels_last) if grad.dim() == 4 else grad.contiguous()


def differentiable(
    again: Callable[[], State],
    inputs: State,
    needed: tuple[bool, ...],
    grads: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """The gradients to `inputs`, with a graph of their own: what `again` gives is differentiated by autograd."""
    with torch.enable_grad():
        made = again()
    pairs = [(value, grad) for value, grad in zip(made, grads, strict=True) if grad is not None and value.requires_grad]
    asked = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
    found = iter(
        torch.autograd.grad([v for v, _ in pairs], asked, [g for _, g in pairs], create_graph=True, allow_unused=True)
        if pairs and asked
        else [None] * len(asked)
    )
    return [next(found) if need else None for need in needed]
