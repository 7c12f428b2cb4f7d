"""What is proven of the layers around the ODE blocks, and of residual blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sonet.blocks.cover import NotCovered, Shape, cover, length, rule
from sonet.blocks.isometric import MaxMin, SpreadChannels, UnitRows, Unshuffle
from sonet.blocks.pool import GlobalPool
from sonet.blocks.residual import BasicBlock, WideBlock
from sonet.bounds import Reach, conv_norm, linear_rounding, matrix_norm


@rule.register
def _max_min(module: MaxMin, reach: Reach, shape: Shape) -> Reach:
    if shape[0] % 2:
        raise NotCovered(f"MaxMin on {shape[0]} channels: it takes them in pairs.")
    return reach


@rule.register(Unshuffle)
@rule.register(nn.ReLU)
@rule.register(nn.Identity)
@rule.register(nn.Flatten)
def _exact(module: nn.Module, reach: Reach, shape: Shape) -> Reach:
    """1-Lipschitz, 0 to 0, and nothing is rounded."""
    return reach


@rule.register
def _spread(module: SpreadChannels, reach: Reach, shape: Shape) -> Reach:
    return reach.through(1.0, rounding=2 * reach.seen)


@rule.register
def _pool(module: GlobalPool, reach: Reach, shape: Shape) -> Reach:
    pixels = shape[1] * shape[2]
    return reach.through(pixels**-0.5, rounding=(pixels + 2) * pixels**-0.5 * reach.seen)


@rule.register(nn.Linear)
@rule.register(UnitRows)
def _linear(module: nn.Linear | UnitRows, reach: Reach, shape: Shape) -> Reach:
    weight = (module.rows() if isinstance(module, UnitRows) else module.weight).detach().double()
    bias = 0.0 if module.bias is None else length(module.bias.detach().double())
    absolute = float(matrix_norm(weight.abs()))
    rounding = head_terms(module) * (absolute * reach.seen + bias)
    return reach.through(float(matrix_norm(weight)), offset=bias, rounding=rounding)


def head_terms(module: nn.Linear | UnitRows) -> float:
    """How many roundings in float32 a sum of a linear layer is worth; `UnitRows` sums in float64 and rounds once."""
    terms = module.weight.shape[1] + 4
    return 2 + terms * 2.0**-29 if isinstance(module, UnitRows) else terms


@rule.register
def _conv(module: nn.Conv2d, reach: Reach, shape: Shape) -> Reach:
    return _affine_conv(module, None, reach, shape)


@rule.register
def _batch_norm(module: nn.BatchNorm2d, reach: Reach, shape: Shape) -> Reach:
    scale, shift = _folded(module)
    offset = length(shift) * math.sqrt(shape[1] * shape[2])
    gain = float(scale.abs().max())
    return reach.through(gain, offset=offset, rounding=8 * (gain * reach.seen + offset + _centre(module, shape)))


@rule.register
def _basic(block: BasicBlock, reach: Reach, shape: Shape) -> Reach:
    """ReLU(conv2 ReLU(conv1 x) + shortcut x), each norm folded into its convolution."""
    middle = _affine_conv(block.conv1, block.bn1, reach, shape)
    inner = (block.conv1.out_channels, *_strided(shape, block.conv1))
    branch = _affine_conv(block.conv2, block.bn2, middle, inner)
    short = reach
    if not isinstance(block.shortcut, nn.Identity):
        short = _shortcut(block.shortcut, reach, shape)
    return _sum(branch, short)


@rule.register
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
    offset = length(bias) * math.sqrt(rows * columns)
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
    return length(norm.running_mean.double() * scale) * math.sqrt(shape[1] * shape[2])


def _strided(shape: Shape, conv: nn.Conv2d) -> tuple[int, int]:
    taps, stride, padding = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    return (shape[1] + 2 * padding - taps) // stride + 1, (shape[2] + 2 * padding - taps) // stride + 1
