"""Fields that bring their own derivative: evaluated without a graph, differentiated by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sonet.kernels import Sum, usable
from sonet.types import Field, State


class OwnGradient(Protocol):
    """A field that does not read the time, at states of one kind: dense, channels last, on the CPU.

    parameters: all that it reads besides the state.
    """

    @property
    def parameters(self) -> tuple[Tensor, ...]: ...

    def evaluate(self, state: State, *, weights: bool) -> tuple[State, State]:
        """The slope, and what `pull` wants kept; `weights`: whether it will be asked for the parameters' gradient."""

    def ahead(
        self, y: State, h: Tensor, row: Sequence[float], stages: Sequence[State], *, weights: bool, keep: bool
    ) -> tuple[State, State, State]:
        """`evaluate` at x = y + h sum_j row_j stages_j, after x itself, which is () unless it is to be kept.

        No weight of the row is 0.
        """

    def pull(self, state: State, kept: State, grad: tuple[Tensor | Sum, ...], *, weights: bool) -> tuple[State, State]:
        """From the slope's gradient to those of the state and, with `weights`, of the parameters (else none)."""

    def plain(self, state: State, parameters: State) -> State:
        """The same slope by operators that autograd knows, reading nothing but its arguments."""


def own_gradient(field: Field, state: State) -> OwnGradient | None:
    """What the field's method of this name gives for states like this one.

    None where it has none, or where it wants to be differentiated by autograd. The method must be the class's own: one
    that a wrapper hands on from what it wraps would pass by the wrapper.
    """
    ask: Callable[[Field, State], OwnGradient | None] | None = getattr(type(field), "own_gradient", None)
    return None if ask is None else ask(field, state)


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
        own: OwnGradient = ctx.own
        n, saved = ctx.parts, ctx.saved_tensors
        inputs = saved[: ctx.inputs]
        if not by_hand(grads):
            found = by_autograd(lambda *all_: own.plain(all_[:n], all_[n:]), inputs, ctx.needs_input_grad[2:], grads)
            return None, None, *found
        state, kept = laid_out(inputs[:n]), laid_out(saved[ctx.inputs :])
        full = tuple(dense(g, like) for g, like in zip(grads, state, strict=True))
        states, weights = own.pull(state, kept, full, weights=ctx.weights)
        return None, None, *states, *(weights or [None] * len(own.parameters))


def laid_out(tensors: State) -> State:
    """What was saved for the backward pass, as the kernels want it: hooks on saved tensors may lay them out anew."""
    return tuple(dense(tensor, tensor) for tensor in tensors)


def dense(grad: Tensor | None, like: Tensor) -> Tensor:
    """A gradient as the kernels want it; zeros where nothing flows back."""
    if grad is None:
        return torch.zeros_like(like)
    return grad.contiguous(memory_format=torch.channels_last) if grad.dim() == 4 else grad.contiguous()


def by_hand(grads: tuple[Tensor | None, ...]) -> bool:
    """Whether kernels may be run on what a backward pass is given, and nobody will differentiate its result."""
    given = [grad for grad in grads if grad is not None]
    return not torch.is_grad_enabled() and (not given or usable(*given))


def by_autograd(
    again: Callable[..., State],
    inputs: State,
    needed: tuple[bool, ...],
    grads: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """The gradients of again(*inputs) to those inputs that are `needed`, with a graph where one is being made.

    Each input is given as an alias and the aliases are asked: one input may have been made of another (a slope of its
    state), and what flows on from the one to the other is counted by the graph around this.
    """
    graph = torch.is_grad_enabled()
    # The pass forwards was not cast either, or there were no kernels in it.
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        aliases = [tensor.view_as(tensor) if need else tensor for tensor, need in zip(inputs, needed, strict=True)]
        # Laid out as usual: batches of gradients cannot pass through channels last.
        made = again(*(alias.contiguous() for alias in aliases))
    pairs = [(value, grad) for value, grad in zip(made, grads, strict=True) if grad is not None and value.requires_grad]
    asked = [alias for alias, need in zip(aliases, needed, strict=True) if need]
    found = iter(
        torch.autograd.grad([v for v, _ in pairs], asked, [g for _, g in pairs], create_graph=graph, allow_unused=True)
        if pairs and asked
        else [None] * len(asked)
    )
    return [next(found) if need else None for need in needed]
