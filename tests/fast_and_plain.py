"""A computation by the compiled fast path and by PyTorch's operators, and how far they are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from sonet import kernels
from sonet.blocks import name_blocks, skew_conv_block, watch_solves
from sonet.solvers import Adaptive, Fixed, Solution, directed

DOUBLE = 1e-9
"""Of the largest number of a kind: a solve multiplies roundings by what its steps and norms stretch."""

needs_kernels = pytest.mark.skipif(bool(kernels.why_not(torch.float64)), reason=kernels.why_not(torch.float64))


def setting(**changes: object) -> Adaptive:
    """Tolerances and a first step at which steps are rejected."""
    return Adaptive.model_validate({"rtol": 2e-3, "atol": 2e-3, "first_step": 0.9} | changes)


def two_blocks(solver: Fixed | Adaptive, channels: int = 1) -> nn.Sequential:
    """A block of stride 1 and one of stride 2, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            skew_conv_block(channels, 2, 1, solver, gamma=0.0, slope=0.1, norm=True),
            skew_conv_block(2, 4, 2, solver, gamma=0.0, slope=0.1, norm=True),
        ).double()
        for part in model.modules():
            if isinstance(part, nn.GroupNorm):
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    name_blocks(model)
    return model


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype).requires_grad_()


def read(out: Tensor) -> Tensor:
    """A scalar that weighs every number differently."""
    return (out * torch.arange(out.numel(), dtype=out.dtype).view(out.shape).sin()).sum()


@contextmanager
def fused_steps() -> Iterator[mock.Mock]:
    """Counts the steps taken in one node."""
    with mock.patch.object(directed, "fused_step", wraps=directed.fused_step) as steps:
        yield steps


def both(compute: Callable[[], list[Tensor]], fast: bool = True) -> tuple[list[Tensor], list[Tensor]]:
    """What is computed with kernels, of which it is asserted that they were used or (`fast` false) not; and without."""
    with fused_steps() as steps:
        found = compute()
        assert bool(steps.call_count) == fast
    with kernels.plain(), fused_steps() as steps:
        expected = compute()
        assert not steps.call_count
    return found, expected


def close(found: list[Tensor], expected: list[Tensor], tolerance: float = DOUBLE) -> None:
    """Each within `tolerance` of the largest number of all of one list; NaN where NaN is."""
    size = max([1e-300, *(part.nan_to_num().abs().max().item() for part in expected)])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * size, equal_nan=True)


def outcome(model: nn.Module, x: Tensor, asked: list[Tensor] | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """(output and what solves say of themselves, gradients of the input and of all weights)."""
    heard: list[Solution] = []
    with watch_solves(model, lambda _, solution: heard.append(solution)):
        out = model(x)
    counts = [t for s in heard for t in (s.status, s.evaluations, s.accepted, s.rejected, s.step_sizes)]
    asked = [x, *model.parameters()] if asked is None else asked
    gradients = torch.autograd.grad(read(out.nan_to_num()), asked, allow_unused=True)
    zeros = [torch.zeros_like(a) if g is None else g for a, g in zip(asked, gradients, strict=True)]
    return [out.detach(), *(count.double() for count in counts)], zeros


def agree(model: nn.Module, x: Tensor, fast: bool = True, tolerance: float = DOUBLE) -> list[Tensor]:
    """Output, statistics and gradients of the fast path, which are those of the plain one."""
    with fused_steps() as steps:
        found = outcome(model, x)
        assert bool(steps.call_count) == fast
    with kernels.plain():
        expected = outcome(model, x)
    for a, b in zip(found, expected, strict=True):
        close(a, b, tolerance)
    return [*found[0], *found[1]]
