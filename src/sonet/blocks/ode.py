"""`ODEBlock`: a layer that integrates a field over [0, 1]; and `watch_solves`, which sees how its solves went."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from sonet.blocks.fields import ODENetField, SkewConv, SkewDense
from sonet.blocks.isometric import MaxMin, SplitLift
from sonet.blocks.lift import DenseLift, PlainLift, SkewLift
from sonet.blocks.tied import ConvexPotential, TiedField, TiedSkewConv
from sonet.bounds import largest_norm, least_damping
from sonet.solvers import Adaptive, Fixed, Solution, integrate

Listener = Callable[[str, Solution], None]


class ODEBlock(nn.Module):
    """x -> lift(x) = state at t = 0 -> state at t = 1 -> the part of it that is the output.

    Args:
        lift: module from the input to the initial state.
        field: module f(t, state) -> derivative.
        solver: `Fixed` or `Adaptive`; replaced for a while by `sonet.models.swap_solver`.
        output: which tensor of the state is the output; "all" puts them side by side along dimension 1.

    A sample whose solve failed comes out as NaN, never as a plausible number; `watch_solves` tells why.
    """

    def __init__(
        self, lift: nn.Module, field: nn.Module, solver: Fixed | Adaptive, output: int | Literal["all"] = 0
    ) -> None:
        super().__init__()
        self.lift, self.field, self.solver, self.output = lift, field, solver, output
        self.name = "ODEBlock"
        self.listeners: list[Listener] = []

    def solve(self, x: Tensor, *, recompute: bool = False) -> Solution:
        """The whole solution, with its per-sample statistics; `recompute` as in `integrate`."""
        # A tied kernel is the same throughout a solve.
        field = self.field.tie() if isinstance(self.field, TiedField) else self.field
        return integrate(field, self.lift(x), self.solver, recompute=recompute, name=self.name)

    def forward(self, x: Tensor) -> Tensor:
        solution = self.solve(x)
        for listener in self.listeners:
            listener(self.name, solution)
        return torch.cat(solution.state, 1) if self.output == "all" else solution.state[self.output]

    def extra_repr(self) -> str:
        return f"solver={self.solver!r}, output={self.output}"


def skew_conv_block(
    in_channels: int,
    out_channels: int,
    stride: int,
    solver: Fixed | Adaptive,
    *,
    gamma: float,
    slope: float,
    norm: bool,
) -> ODEBlock:
    """SONet's block: (N, C_in, H, W) -> y(1), (N, C_out, H', W')."""
    field = SkewConv(in_channels, out_channels, stride, gamma=gamma, slope=slope, norm=norm)
    return ODEBlock(SkewLift(out_channels, stride), field, solver)


def skew_dense_block(features: int, classes: int, solver: Fixed | Adaptive, *, slope: float) -> ODEBlock:
    """SONet's head: (N, features) -> z(1), (N, classes), the logits."""
    return ODEBlock(DenseLift(classes), SkewDense(features, classes, slope=slope), solver, output=1)


def odenet_block(channels: int, solver: Fixed | Adaptive) -> ODEBlock:
    """ODENet's block: (N, C, H, W) -> (N, C, H, W)."""
    return ODEBlock(PlainLift(), ODENetField(channels), solver)


def stable_skew_block(
    channels: int, size: tuple[int, int], solver: Fixed, *, kernel_norm: float, slope: float
) -> nn.Module:
    """A skew block that cannot expand: x halved to (y, z), both ends kept, `MaxMin`; (N, C, H, W) -> (N, C, H, W).

    The damping is the least with which a step of `solver` is provably non-expansive for kernels of this norm.
    Errors: ValueError for odd channels or where there is no such damping.
    """
    if channels % 2:
        raise ValueError(
            f"stable_skew_block: got {channels} channels, expected an even number: a half each for y and z."
        )
    # A little more norm than asked for, so that rounding in tying the kernel is covered.
    gamma = least_damping(kernel_norm * (1 + 1e-3), slope, solver.tableau, 1 / solver.num_steps)
    field = TiedSkewConv(channels // 2, size, kernel_norm=kernel_norm, gamma=gamma, slope=slope)
    return nn.Sequential(ODEBlock(SplitLift(), field, solver, output="all"), MaxMin())


def convex_potential_block(channels: int, size: tuple[int, int], solver: Fixed) -> nn.Module:
    """A block down a convex potential, as steep as a step of `solver` allows; (N, C, H, W) -> (N, C, H, W)."""
    norm = largest_norm(solver.tableau, 1 / solver.num_steps) * (1 - 1e-3)
    return ODEBlock(PlainLift(), ConvexPotential(channels, size, kernel_norm=norm), solver)


def ode_blocks(model: nn.Module) -> dict[str, ODEBlock]:
    """The ODE blocks of a model by their module path, in the order of definition."""
    return {name: block for name, block in model.named_modules() if isinstance(block, ODEBlock)}


def name_blocks(model: nn.Module) -> None:
    """Give each ODE block its module path as name, so that errors and statistics say which it was."""
    for name, block in ode_blocks(model).items():
        block.name = name


@contextmanager
def watch_solves(model: nn.Module, listener: Listener) -> Iterator[None]:
    """Call `listener(block name, solution)` after each solve in `model`, until the context ends."""
    blocks = ode_blocks(model).values()
    for block in blocks:
        block.listeners.append(listener)
    try:
        yield
    finally:
        for block in blocks:
            block.listeners.remove(listener)
