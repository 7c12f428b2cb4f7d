"""`ODEBlock`: a layer that integrates a field over [0, 1]; and `watch_solves`, which sees how its solves went."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from sonet.blocks.fields import ODENetField, SkewConv, SkewDense
from sonet.blocks.lift import DenseLift, PlainLift, SkewLift
from sonet.solvers import Adaptive, Fixed, Solution, integrate

Listener = Callable[[str, Solution], None]


class ODEBlock(nn.Module):
    """x -> lift(x) = state at t = 0 -> state at t = 1 -> the part of it that is the output.

    Args:
        lift: module from the input to the initial state.
        field: module f(t, state) -> derivative.
        solver: `Fixed` or `Adaptive`; replaced for a while by `sonet.models.swap_solver`.
        output: which tensor of the state is the output.

    A sample whose solve failed comes out as NaN, never as a plausible number; `watch_solves` tells why.
    """

    def __init__(self, lift: nn.Module, field: nn.Module, solver: Fixed | Adaptive, output: int = 0) -> None:
        super().__init__()
        self.lift, self.field, self.solver, self.output = lift, field, solver, output
        self.name = "ODEBlock"
        self.listeners: list[Listener] = []

    def solve(self, x: Tensor) -> Solution:
        """The whole solution, with its per-sample statistics."""
        return integrate(self.field, self.lift(x), self.solver, name=self.name)

    def forward(self, x: Tensor) -> Tensor:
        solution = self.solve(x)
        for listener in self.listeners:
            listener(self.name, solution)
        return solution.state[self.output]

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
