"""What is proven of each kind of layer, and in plain words what has no bound."""

from __future__ import annotations

import math
from functools import singledispatch

import torch
from torch import Tensor, nn

from sonet.blocks.fields import SkewConv, SkewDense
from sonet.blocks.isometric import MaxMin, SplitLift, SpreadChannels, UnitRows, Unshuffle
from sonet.blocks.lift import DenseLift, PlainLift, SkewLift
from sonet.blocks.ode import ODEBlock
from sonet.blocks.pool import GlobalPool
from sonet.blocks.residual import BasicBlock, WideBlock
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

Shape = tuple[int, ...]
"""Of one sample at a layer's input: (C, H, W), or (features,)."""


class NotCovered(ValueError):
    """There is no bound for this; says for what and why."""


def dynamics(block: ODEBlock, shape: Shape) -> Dynamics:
    """The field of an ODE block in numbers, for inputs of `shape`; `NotCovered` where there are none."""
    return _field(block.field, shape)


def cover(module: nn.Module, reach: Reach, shape: Shape) -> Reach:
    """Bounds behind a layer, from those before it and the shape of its input; the layer is in eval mode.

    Errors: NotCovered for a layer without a proof, and for settings that break it.
    """
    for part in module.modules():
        check_untouched(part)
    return _cover(module, reach, shape)


def check_untouched(module: nn.Module) -> None:
    """NotCovered for a layer that may compute something else than its kind does: a subclass, hooks, a new forward."""
    kind = type(module)
    if not kind.__module__.startswith(("sonet.", "torch.nn.modules.")):
        raise NotCovered(f"{kind.__name__}: bounds are of known kinds of layers; a class of its own may do anything.")
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise NotCovered(f"{kind.__name__}: a hook or a forward of its own may change what it computes.")


@singledispatch
def _cover(module: nn.Module, reach: Reach, shape: Shape) -> Reach:
    raise NotCovered(f"{type(module).__name__}: no bound is known for it.")


@_cover.register
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
                at_zero=_length(bias) * math.sqrt(size[0] * size[1]),
            )
        case SkewDense():
            weight, bias = field.weight.detach().double(), torch.cat((field.bias_y, field.bias_z)).detach().double()
            norms = float(matrix_norm(weight)), float(matrix_norm(weight.abs()))
            return _skew(*norms, terms=max(weight.shape), gamma=0.0, slope=field.slope, at_zero=_length(bias))
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
    offset = _length(bias) * math.sqrt(size[0] * size[1])
    outs, ins = kernel.shape[:2]

    def rounding(length: float) -> float:
        hidden = absolute * length + offset
        return norm * (linear_rounding(9 * ins, absolute, length) + 4 * hidden + 9 * ins * offset) + linear_rounding(
            9 * outs, absolute, hidden
        )

    return Dynamics(
        norm=norm,
        logarithmic=0.0,
        lipschitz=norm * norm * (1 + 1e-12),
        euler=lambda h: potential_bound(norm, h),
        at_zero=norm * offset,
        rounding=rounding,
    )


@_cover.register
def _max_min(module: MaxMin, reach: Reach, shape: Shape) -> Reach:
    if shape[0] % 2:
        raise NotCovered(f"MaxMin on {shape[0]} channels: it takes them in pairs.")
    return reach


@_cover.register(Unshuffle)
@_cover.register(nn.ReLU)
@_cover.register(nn.Identity)
@_cover.register(nn.Flatten)
def _exact(module: nn.Module, reach: Reach, shape: Shape) -> Reach:
    """1-Lipschitz, 0 to 0, and nothing is rounded."""
    return reach


@_cover.register
def _spread(module: SpreadChannels, reach: Reach, shape: Shape) -> Reach:
    return reach.through(1.0, rounding=2 * reach.seen)


@_cover.register
def _pool(module: GlobalPool, reach: Reach, shape: Shape) -> Reach:
    pixels = shape[1] * shape[2]
    return reach.through(pixels**-0.5, rounding=(pixels + 2) * pixels**-0.5 * reach.seen)


@_cover.register(nn.Linear)
@_cover.register(UnitRows)
def _linear(module: nn.Linear | UnitRows, reach: Reach, shape: Shape) -> Reach:
    weight = (module.rows() if isinstance(module, UnitRows) else module.weight).detach().double()
    bias = 0.0 if module.bias is None else _length(module.bias.detach().double())
    absolute = float(matrix_norm(weight.abs()))
    rounding = head_terms(module) * (absolute * reach.seen + bias)
    return reach.through(float(matrix_norm(weight)), offset=bias, rounding=rounding)


def head_terms(module: nn.Linear | UnitRows) -> float:
    """How many roundings in float32 a sum of a linear layer is worth; `UnitRows` sums in float64 and rounds once."""
    terms = module.weight.shape[1] + 4
    return 2 + terms * 2.0**-29 if isinstance(module, UnitRows) else terms


@_cover.register
def _conv(module: nn.Conv2d, reach: Reach, shape: Shape) -> Reach:
    return _affine_conv(module, None, reach, shape)


@_cover.register
def _batch_norm(module: nn.BatchNorm2d, reach: Reach, shape: Shape) -> Reach:
    scale, shift = _folded(module)
    offset = _length(shift) * math.sqrt(shape[1] * shape[2])
    gain = float(scale.abs().max())
    return reach.through(gain, offset=offset, rounding=8 * (gain * reach.seen + offset + _centre(module, shape)))


@_cover.register
def _basic(block: BasicBlock, reach: Reach, shape: Shape) -> Reach:
    """ReLU(conv2 ReLU(conv1 x) + shortcut x), each norm folded into its convolution."""
    middle = _affine_conv(block.conv1, block.bn1, reach, shape)
    inner = (block.conv1.out_channels, *_strided(shape, block.conv1))
    branch = _affine_conv(block.conv2, block.bn2, middle, inner)
    short = reach
    if not isinstance(block.shortcut, nn.Identity):
        short = _shortcut(block.shortcut, reach, shape)
    return _sum(branch, short)


@_cover.register
def _wide(block: WideBlock, reach: Reach, shape: Shape) -> Reach:
    middle = _affine_conv(block.conv1, None, cover(block.bn1, reach, shape), shape)
    inner = (block.conv1.out_channels, *shape[1:])
    branch = _affine_conv(block.conv2, None, cover(block.bn2, middle, inner), inner)
    short = reach if isinstance(block.shortcut, nn.Identity) else cover(block.shortcut, reach, shape)
    return _sum(branch, short)


def _shortcut(shortcut: nn.Module, reach: Reach, shape: Shape) -> Reach:
    match list(shortcut.children()):
        case [nn.Conv2d() as conv, nn.BatchNorm2d() as norm] if isinstance(shortcut, nn.Sequential):
            return _affine_conv(conv, norm, reach, shape)
    raise NotCovered("BasicBlock with a shortcut of another kind than a convolution with a norm.")


def _sum(one: Reach, other: Reach) -> Reach:
    size = one.size + other.size
    total = Reach(size, one.gain + other.gain, one.error + other.error, one.unit)
    return total.through(1.0, rounding=total.seen)


def _affine_conv(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, reach: Reach, shape: Shape) -> Reach:
    same = all(len(set(pair)) == 1 for pair in (conv.kernel_size, conv.stride, conv.padding))
    if isinstance(conv.padding, str) or not same or conv.groups != 1 or conv.dilation != (1, 1):
        raise NotCovered("Conv2d: bounds are for square kernels, strides and paddings, without groups or dilation.")
    if conv.padding_mode != "zeros":
        raise NotCovered(f"Conv2d: padding by {conv.padding_mode} has no bound, by zeros it has.")
    kernel = conv.weight.detach().double()
    bias = torch.zeros(len(kernel), dtype=torch.float64) if conv.bias is None else conv.bias.detach().double()
    extra = 0.0
    if norm is not None:
        scale, shift = _folded(norm)
        kernel, bias = kernel * scale[:, None, None, None], bias * scale + shift
        extra = _centre(norm, (len(kernel), *_strided(shape, conv)))
    setting = {"stride": int(conv.stride[0]), "padding": int(conv.padding[0])}
    size = (shape[1], shape[2])
    rows, columns = _strided(shape, conv)
    offset = _length(bias) * math.sqrt(rows * columns)
    absolute = float(conv_norm(kernel.abs(), size, **setting))
    rounding = linear_rounding(kernel[0].numel(), absolute, reach.seen) + 8 * (absolute * reach.seen + extra)
    rounding += (kernel[0].numel() + 8) * offset
    return reach.through(float(conv_norm(kernel, size, **setting)), offset=offset, rounding=rounding)


def _folded(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm in eval mode, both (C,)."""
    if norm.training or norm.running_mean is None or norm.running_var is None:
        raise NotCovered("BatchNorm2d in train mode, or without running statistics, couples the images of a batch.")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach().double()
    shift = torch.zeros_like(scale) if norm.bias is None else norm.bias.detach().double()
    return scale, shift - norm.running_mean.double() * scale


def _centre(norm: nn.BatchNorm2d, shape: Shape) -> float:
    """How large what a batch norm subtracts is, after scaling: it cancels, but is rounded first."""
    scale, _ = _folded(norm)
    assert norm.running_mean is not None
    return _length(norm.running_mean.double() * scale) * math.sqrt(shape[1] * shape[2])


def _strided(shape: Shape, conv: nn.Conv2d) -> tuple[int, int]:
    taps, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    return (shape[1] + 2 * padding - taps) // stride + 1, (shape[2] + 2 * padding - taps) // stride + 1


def _length(vector: Tensor) -> float:
    return float(vector.norm()) * (1 + 1e-12)
