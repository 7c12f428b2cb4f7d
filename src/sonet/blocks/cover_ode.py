"""What is proven of ODE blocks: their fields in numbers, their lifts, the steps of their solver."""

from __future__ import annotations

import math

import torch
from torch import nn

from sonet.blocks.cover import NotCovered, Shape, length, rule
from sonet.blocks.fields import SkewConv, SkewDense
from sonet.blocks.isometric import SplitLift
from sonet.blocks.lift import DenseLift, PlainLift, SkewLift
from sonet.blocks.ode import ODEBlock
from sonet.blocks.tied import ConvexPotential, TiedSkewConv
from sonet.bounds import (
    Dynamics,
    Reach,
    conv_norm,
    euler_bound,
    linear_rounding,
    lipschitz,
    logarithmic_norm,
    matrix_norm,
    potential_bound,
)
from sonet.solvers import Fixed


def dynamics(block: ODEBlock, shape: Shape) -> Dynamics:
    """The field of an ODE block in numbers, for inputs of `shape`; `NotCovered` where there are none."""
    return _field(block.field, shape)


@rule.register
def _ode(block: ODEBlock, reach: Reach, shape: Shape) -> Reach:
    if not isinstance(block.solver, Fixed):
        raise NotCovered(
            f"{block.name}: Adaptive steps depend on the input, and how the answer depends on them has no bound. "
            "Fixed steps have one."
        )
    found = dynamics(block, shape)
    return found.solve(_lift(block.lift, reach, shape), block.solver)


def _lift(lift: nn.Module, reach: Reach, shape: Shape) -> Reach:
    match lift:
        case SkewLift():
            # z = x and y = x with its channels so many times: |(y, z)|^2 <= (times + 1) |x|^2.
            return reach.through(math.sqrt(-(-lift.out_channels // shape[0]) + 1))
        case DenseLift():
            return reach.through(1.0, offset=0.1 * math.sqrt(lift.classes))
        case SplitLift() | PlainLift():
            return reach
    raise NotCovered(f"{type(lift).__name__}: no bound is known for this lift.")


def _field(field: nn.Module, shape: Shape) -> Dynamics:
    match field:
        case SkewConv():
            return _skew_conv(field, shape)
        case TiedSkewConv():
            kernel = field.kernel().detach().double()
            bias = torch.cat((field.bias_y, field.bias_z)).detach().double()
            size = (shape[1], shape[2])
            return _skew(
                float(conv_norm(kernel, size)),
                float(conv_norm(kernel.abs(), size)),
                terms=9 * kernel.shape[0],
                gamma=field.gamma,
                slope=field.slope,
                at_zero=length(bias) * math.sqrt(size[0] * size[1]),
            )
        case SkewDense():
            weight, bias = field.weight.detach().double(), torch.cat((field.bias_y, field.bias_z)).detach().double()
            norms = float(matrix_norm(weight)), float(matrix_norm(weight.abs()))
            return _skew(*norms, terms=max(weight.shape), gamma=0.0, slope=field.slope, at_zero=length(bias))
        case ConvexPotential():
            return _potential(field, (shape[1], shape[2]))
    reason = "no bound is known for it"
    if any(isinstance(part, nn.GroupNorm) for part in field.modules()):
        reason = "GroupNorm divides by its input's spread, which can be as small as it likes"
    raise NotCovered(f"{type(field).__name__}: {reason}.")


def _skew_conv(field: SkewConv, shape: Shape) -> Dynamics:
    if not isinstance(field.norm_y, nn.Identity):
        raise NotCovered(
            "SkewConv with GroupNorm in the field: it divides by its input's spread, which can be as small as it likes,"
            " and the skew-symmetry is gone. norm=False has a bound."
        )
    kernel, size = field.kernel.detach().double(), (shape[1], shape[2])
    setting = {"stride": field.stride, "padding": 1}
    norms = float(conv_norm(kernel, size, **setting)), float(conv_norm(kernel.abs(), size, **setting))
    terms = kernel.shape[-1] ** 2 * max(kernel.shape[:2])
    return _skew(*norms, terms=terms, gamma=field.gamma, slope=field.slope, at_zero=0.0)


def _skew(norm: float, absolute: float, *, terms: int, gamma: float, slope: float, at_zero: float) -> Dynamics:
    if not 0 < slope <= 1:
        raise NotCovered(f"a field with slope {slope:g}: bounds are for slopes in (0, 1].")
    return Dynamics(
        norm=norm,
        logarithmic=logarithmic_norm(norm, gamma, slope),
        lipschitz=lipschitz(norm, gamma),
        euler=lambda h: euler_bound(norm, gamma, slope, h),
        at_zero=at_zero,
        rounding=lambda size: (
            linear_rounding(terms, absolute, size) + 4 * (gamma * size + absolute * size) + (terms + 4) * at_zero
        ),
    )


def _potential(field: ConvexPotential, size: tuple[int, int]) -> Dynamics:
    kernel, bias = field.kernel().detach().double(), field.bias.detach().double()
    norm, absolute = float(conv_norm(kernel, size)), float(conv_norm(kernel.abs(), size))
    offset = length(bias) * math.sqrt(size[0] * size[1])
    outs, ins = kernel.shape[:2]

    def rounding(length: float) -> float:
        # What is computed between the convolutions: as long as it is, and what rounding adds to it.
        hidden = norm * length + offset + 1e-3 * absolute * length
        first = linear_rounding(9 * ins, absolute, length) + 4 * hidden + 9 * ins * offset
        return norm * first + linear_rounding(9 * outs, absolute, hidden)

    return Dynamics(
        norm=norm,
        logarithmic=0.0,
        lipschitz=norm * norm * (1 + 1e-12),
        euler=lambda h: potential_bound(norm, h),
        at_zero=norm * offset,
        rounding=rounding,
    )
