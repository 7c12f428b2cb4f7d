"""The derivative of `SkewConv` by hand, on compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as modules

from sonet.kernels import (
    Sum,
    act_norm,
    act_norm_back,
    channels_last,
    narrow_kernel,
    narrow_transpose,
    sum_norm,
    usable,
)
from sonet.types import State

if TYPE_CHECKING:
    from sonet.blocks.fields import SkewConv


@dataclass(frozen=True)
class Norm:
    """GroupNorm after LeakyReLU of sign * values; slope 1 is no LeakyReLU."""

    weight: Tensor
    bias: Tensor
    groups: int
    eps: float
    sign: float = 1.0
    slope: float = 1.0

    def __call__(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With it the statistics that `back` wants."""
        return act_norm(values, self.weight, self.bias, self.groups, self.eps, self.sign, self.slope)

    def back(
        self, grad: Tensor | Sum, values: Tensor, mean: Tensor, rstd: Tensor, weights: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return act_norm_back(grad, values, self.weight, mean, rstd, self.sign, self.slope, weights)

    def plain(self, values: Tensor) -> Tensor:
        active = F.leaky_relu(self.sign * values, self.slope)
        return F.group_norm(active, self.groups, self.weight, self.bias, self.eps)


@dataclass(frozen=True)
class SkewGradient:
    r"""`SkewConv` with gamma = 0 and its norms, as `OwnGradient`; with the weights it had when it was asked.

        u = K * N2(z),  dy/dt = N3(phi(u))          v = K^T * N1(y),  dz/dt = N4(phi(-v))

    Kept of an evaluation are u, v and the statistics of the norms, and N1(y), N2(z) where K's gradient is wanted.
    """

    weight: Tensor  # K, the parameter
    kernel: Tensor  # K, channels last and without a graph
    norms: tuple[Norm, Norm, Norm, Norm]  # N1, N2, N3, N4
    stride: int
    short: tuple[int, int]  # output padding, by which K^T comes back to the size of z
    narrow: Tensor | None  # K as `narrow_transpose` wants it, where z has few channels

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return (self.weight, *(norm.weight for norm in self.norms), *(norm.bias for norm in self.norms))

    def evaluate(self, state: State, *, weights: bool) -> tuple[State, State]:
        (y, z), (n1, n2, _, _) = state, self.norms
        return self._of_normed(n1(y), n2(z), weights)

    def ahead(
        self, y: State, h: Tensor, row: Sequence[float], stages: Sequence[State], *, weights: bool, keep: bool
    ) -> tuple[State, State, State]:
        (x, *of_y), (w, *of_z) = (
            sum_norm(part, h, [k[i] for k in stages], row, n.weight, n.bias, n.groups, n.eps, keep=keep)
            for i, (part, n) in enumerate(zip(y, self.norms, strict=False))
        )
        slope, kept = self._of_normed((of_y[0], of_y[1], of_y[2]), (of_z[0], of_z[1], of_z[2]), weights)
        return (() if x is None or w is None else (x, w)), slope, kept

    def _of_normed(
        self, of_y: tuple[Tensor, Tensor, Tensor], of_z: tuple[Tensor, Tensor, Tensor], weights: bool
    ) -> tuple[State, State]:
        """The slope from N1(y) and N2(z) with their statistics, and what is kept."""
        (ny, *by_y), (nz, *by_z), (_, _, n3, n4) = of_y, of_z, self.norms
        u, v = self._convolve(nz), self._transpose(ny)
        dy, *of_u = n3(u)
        dz, *of_v = n4(v)
        return (dy, dz), (u, v, *by_y, *by_z, *of_u, *of_v, *((ny, nz) if weights else ()))

    def pull(self, state: State, kept: State, grad: tuple[Tensor | Sum, ...], *, weights: bool) -> tuple[State, State]:
        (y, z), (n1, n2, n3, n4) = state, self.norms
        u, v, my, ry, mz, rz, mu, ru, mv, rv, *normed = kept
        du, w3, b3 = n3.back(grad[0], u, mu, ru, weights)
        dv, w4, b4 = n4.back(grad[1], v, mv, rv, weights)
        # One is the other's adjoint, so each is pulled back by the other.
        dy, w1, b1 = n1.back(self._convolve(dv), y, my, ry, weights)
        dz, w2, b2 = n2.back(self._transpose(du), z, mz, rz, weights)
        if not weights:
            return (dy, dz), ()
        ny, nz = normed
        dkernel = self._kernel_gradient(nz, du).add_(self._kernel_gradient(dv, ny))
        of_norms = (w1, w2, w3, w4, b1, b2, b3, b4)
        return (dy, dz), (dkernel, *(part for part in of_norms if part is not None))

    def plain(self, state: State, parameters: State) -> State:
        (y, z), (kernel, *of_norms) = state, parameters
        n1, n2, n3, n4 = (
            replace(norm, weight=weight, bias=bias)
            for norm, weight, bias in zip(self.norms, of_norms[:4], of_norms[4:], strict=True)
        )
        u = F.conv2d(n2.plain(z), kernel, stride=self.stride, padding=1)
        v = F.conv_transpose2d(n1.plain(y), kernel, stride=self.stride, padding=1, output_padding=self.short)
        return n3.plain(u), n4.plain(v)

    def _convolve(self, z: Tensor) -> Tensor:
        return channels_last(F.conv2d(z, self.kernel, stride=self.stride, padding=1))

    def _transpose(self, y: Tensor) -> Tensor:
        if self.narrow is not None:
            return narrow_transpose(y, self.narrow)
        back = F.conv_transpose2d(y, self.kernel, stride=self.stride, padding=1, output_padding=self.short)
        return channels_last(back)

    def _kernel_gradient(self, z: Tensor, dy: Tensor) -> Tensor:
        """Of <dy, K * z> to K."""
        stride = (self.stride, self.stride)
        return torch.ops.aten.convolution_backward(  # type: ignore[no-any-return]
            dy, z, self.kernel, None, stride, (1, 1), (1, 1), False, (0, 0), 1, (False, True, False)
        )[1]


def skew_gradient(field: SkewConv, state: State) -> SkewGradient | None:
    """For states like this one; None where the field is not quite what is written above, or somebody watches it."""
    layers = (field.norm_y, field.norm_z, field.norm_dy, field.norm_dz)
    if field.gamma or _watched() or any(_touched(part) for part in (field, *layers)):
        return None
    weight = field.kernel
    if len(state) != 2 or any(part.dim() != 4 for part in (*state, weight)):
        return None
    y, z = state
    found = [
        _norm(layer, part, sign, slope)
        for layer, part, sign, slope in zip(
            layers, (y, z, y, z), (1, 1, 1, -1), (1, 1, *[field.slope] * 2), strict=True
        )
    ]
    norms = [norm for norm in found if norm is not None]
    tensors = (*state, weight, *(norm.weight for norm in norms), *(norm.bias for norm in norms))
    if len(norms) < 4 or not usable(*tensors) or any(tensor.dtype != y.dtype for tensor in tensors):
        return None
    if (y.shape[1], z.shape[1]) != tuple(weight.shape[:2]) or len(y) != len(z):
        return None  # the plain path says what is wrong
    short = field.output_padding(y, (z.shape[-2], z.shape[-1]))
    one, two, three, four = norms
    kernel = channels_last(weight.detach())
    narrow = narrow_kernel(weight.detach(), y.shape[-1]) if field.stride == 1 else None
    return SkewGradient(weight, kernel, (one, two, three, four), field.stride, short, narrow)


def _norm(layer: nn.Module, part: Tensor, sign: float, slope: float) -> Norm | None:
    """For tensors of this size; None where the layer is another one, where its weights do not lie as the kernels read
    them, or where it says itself what is wrong: it refuses channels it cannot group, and one number a group."""
    channels = part.shape[1]
    if type(layer) is not nn.GroupNorm or channels % layer.num_groups or part.numel() == layer.num_groups:
        return None
    for weight in (layer.weight, layer.bias):
        if weight is None or weight.shape != (channels,) or not weight.is_contiguous():
            return None
    return Norm(layer.weight, layer.bias, layer.num_groups, layer.eps, sign, slope)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _touched(part: nn.Module) -> bool:
    """Whether somebody hooked into the module, or gave it methods of its own."""
    own = vars(part)
    return any(own[name] for name in _HOOKS) or any(callable(getattr(type(part), name, None)) for name in own)


def _watched() -> bool:
    """Whether somebody hooked into all modules."""
    return any(getattr(modules, f"_global{name}") for name in _HOOKS)
