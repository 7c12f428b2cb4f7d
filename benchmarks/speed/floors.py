"""Floors of a forward pass, an attack step and a training step: what of them no solver can do without.

(a) The bare fields, by PyTorch's operators, as many times as the solve evaluates them; (b) the convolutions alone: two
in each evaluation of a field, and once those outside of the ODE blocks. Forward; for an attack also back to their
inputs, with frozen weights; for training also to the weights. No stage is summed, no error measured, no step chosen. A
floor is taken in the memory layout in which it is quicker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from work import interleaved

from sonet.blocks import SkewConv, ode_blocks, watch_solves
from sonet.kernels import plain
from sonet.solvers import Solution

Floor = Callable[[], object]
FLOORS = ("fields", "convolutions")


@dataclass(frozen=True)
class Evaluations:
    """A module at `state`, `count` times: a block's field in a solve, a convolution outside. wanted: the weights."""

    module: nn.Module
    t: Tensor | None
    state: tuple[Tensor, ...]
    count: int
    wanted: tuple[nn.Parameter, ...]


def floors(model: nn.Module, images: Tensor, work: str) -> dict[str, Floor]:
    """By name; `work`: "forward", "attack" or "train". `model`: for an attack its weights are frozen (`work.ready`)."""
    fields, outside = _asked(model, images, work)
    skew = [one for one in fields if isinstance(one.module, SkewConv)]
    return {
        "fields": _quicker(fields, _field, work),
        "convolutions": _quicker(skew + outside, _convolutions, work),
    }


def _asked(model: nn.Module, images: Tensor, work: str) -> tuple[list[Evaluations], list[Evaluations]]:
    """What one forward pass asks of the blocks' fields, and of the convolutions outside of the blocks."""
    blocks = ode_blocks(model)
    within = {id(module) for block in blocks.values() for module in block.modules()}
    fields = {name: block.field for name, block in blocks.items()}
    outside = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and id(module) not in within
    }
    counts: dict[str, int] = {}
    inputs: dict[str, tuple[Any, ...]] = {}

    def listen(name: str, solution: Solution) -> None:
        counts[name] = int(solution.evaluations.max())

    handles = [
        module.register_forward_pre_hook(lambda _, given, name=name: inputs.setdefault(name, given) and None)
        for name, module in (fields | outside).items()
    ]
    with watch_solves(model, listen), torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return (
        [Evaluations(field, *inputs[name], counts[name], _wanted(field, work)) for name, field in fields.items()],
        [Evaluations(conv, None, inputs[name], 1, _wanted(conv, work)) for name, conv in outside.items()],
    )


def _wanted(module: nn.Module, work: str) -> tuple[nn.Parameter, ...]:
    return tuple(module.parameters()) if work == "train" else ()


def _field(asked: Evaluations) -> tuple[Tensor, ...]:
    return tuple(asked.module(asked.t, asked.state))


def _convolutions(asked: Evaluations) -> tuple[Tensor, ...]:
    if not isinstance(asked.module, SkewConv):
        return (asked.module(*asked.state),)
    y, z = asked.state
    return asked.module.convolve(z), asked.module.transpose(y, (z.shape[-2], z.shape[-1]))


def _quicker(asked: list[Evaluations], bare: Callable[[Evaluations], tuple[Tensor, ...]], work: str) -> Floor:
    """In PyTorch's layout or channels last: in whichever one evaluation of each takes less time, five runs in turn."""

    def floor(layout: torch.memory_format, most: int) -> Floor:
        laid_out = [replace(one, state=tuple(_laid_out(part, layout) for part in one.state)) for one in asked]
        return lambda: [_once(one, bare, work) for one in laid_out for _ in range(min(one.count, most))]

    plainly, last = torch.contiguous_format, torch.channels_last
    timing = interleaved(floor(plainly, 1), floor(last, 1), 5)
    quicker = plainly if median(timing.first) <= median(timing.second) else last
    return floor(quicker, max(one.count for one in asked))


def _laid_out(part: Tensor, layout: torch.memory_format) -> Tensor:
    return part.contiguous(memory_format=layout) if part.dim() == 4 else part


def _once(asked: Evaluations, bare: Callable[[Evaluations], tuple[Tensor, ...]], work: str) -> None:
    with plain():
        if work == "forward":
            with torch.no_grad():
                bare(asked)
            return
        state = tuple(x.detach().requires_grad_(True) for x in asked.state)
        slopes = bare(replace(asked, state=state))
        wanted = [*state, *asked.wanted]
        torch.autograd.grad(slopes, wanted, grad_outputs=list(slopes), allow_unused=True)
