"""Right-hand sides of the ODE blocks: skew-symmetric convolution and dense layers, and ODENet's field."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonet.blocks.skew_gradient import SkewGradient, skew_gradient
from sonet.types import State

SLOPE = 0.01
"""Slope of LeakyReLU left of zero, as in the paper's code."""


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with the largest number of groups up to 8 that divides `channels`.

    The paper's code takes min(8, channels), which fails where that does not divide; where it does, this is the same.
    """
    return nn.GroupNorm(max(g for g in range(1, min(8, channels) + 1) if channels % g == 0), channels)


class SkewConv(nn.Module):
    r"""Right-hand side of a SONet block (Huang et al. 2020, arXiv:2009.13145).

        dy/dt = N3( phi(  K   * N2(z) - gamma N1(y) ) )
        dz/dt = N4( phi( -K^T * N1(y) - gamma N2(z) ) )

    phi: LeakyReLU; N: affine GroupNorm; K^T: the transposed convolution with the same kernel, so that the linear part
    (K z, -K^T y) has a skew-symmetric Jacobian. With `norm=False`, phi the identity (`slope=1`) and gamma = 0 the flow
    keeps |y|^2 + |z|^2. gamma is 0 in every model of the paper's code; its term is then not computed.

    K: (C_out, C_in, 3, 3), or 4 x 4 at stride 2, padding 1, no bias, Kaiming-uniform with a = sqrt(5).
    At stride 2 an odd height or width does not come back through K^T by itself: the output padding restores it, and
    K^T stays the exact adjoint of K.

    Shapes: y (N, C_out, H', W'), z (N, C_in, H, W) with H' = H at stride 1 and floor(H / 2) at stride 2; the derivative
    has the same two.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        gamma: float = 0.0,
        slope: float = SLOPE,
        norm: bool = True,
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"SkewConv: expected stride 1 or 2, got {stride}: the kernel is 3 x 3 or 4 x 4 for these.")
        if not 0 <= gamma < math.inf:
            raise ValueError(f"SkewConv: expected a finite gamma >= 0, got {gamma}; negative damping is unstable.")
        self.stride, self.gamma, self.slope = stride, gamma, slope
        size = 3 if stride == 1 else 4
        self.kernel = nn.Parameter(torch.empty(out_channels, in_channels, size, size))
        nn.init.kaiming_uniform_(self.kernel, a=math.sqrt(5))
        self.norm_y = group_norm(out_channels) if norm else nn.Identity()
        self.norm_z = group_norm(in_channels) if norm else nn.Identity()
        self.norm_dy = group_norm(out_channels) if norm else nn.Identity()
        self.norm_dz = group_norm(in_channels) if norm else nn.Identity()

    def convolve(self, z: Tensor) -> Tensor:
        """K * z: (N, C_in, H, W) -> (N, C_out, H', W')."""
        return F.conv2d(z, self.kernel, stride=self.stride, padding=1)

    def transpose(self, y: Tensor, size: tuple[int, int]) -> Tensor:
        """K^T * y: (N, C_out, H', W') -> (N, C_in, *size); <K z, y> = <z, K^T y> for every z of that size."""
        short = self.output_padding(y, size)
        return F.conv_transpose2d(y, self.kernel, stride=self.stride, padding=1, output_padding=short)

    def output_padding(self, y: Tensor, size: tuple[int, int]) -> tuple[int, int]:
        """What K^T * y lacks of `size`: without padding it reaches (H' - 1) stride - 2 + kernel rows."""
        kernel = self.kernel.shape[-1]
        down, right = (n - ((m - 1) * self.stride - 2 + kernel) for n, m in zip(size, y.shape[-2:], strict=True))
        return down, right

    def own_gradient(self, state: State) -> SkewGradient | None:
        """Its derivative by hand, where kernels for it are at hand and nobody watches the field; see `kernels`."""
        return skew_gradient(self, state) if type(self) is SkewConv and _as_written() else None

    def forward(self, t: Tensor, state: State) -> State:
        y, z = state
        y, z = self.norm_y(y), self.norm_z(z)
        dy = self.convolve(z)
        dz = self.transpose(y, (z.shape[-2], z.shape[-1])).neg()
        if self.gamma:
            dy, dz = dy - self.gamma * y, dz - self.gamma * z
        dy, dz = F.leaky_relu(dy, self.slope), F.leaky_relu(dz, self.slope)
        return self.norm_dy(dy), self.norm_dz(dz)

    def extra_repr(self) -> str:
        return f"kernel={tuple(self.kernel.shape)}, stride={self.stride}, gamma={self.gamma}, slope={self.slope}"


_WRITTEN = {name: getattr(SkewConv, name) for name in ("forward", "convolve", "transpose")}


def _as_written() -> bool:
    """Whether nobody gave the class, and so every network's field, other methods than the ones above."""
    return all(getattr(SkewConv, name) is method for name, method in _WRITTEN.items())


class SkewDense(nn.Module):
    r"""Right-hand side of SONet's dense head.

        dy/dt =  W   phi(z) + b_1
        dz/dt = -W^T phi(y) + b_2

    W: (features, classes), Kaiming-uniform with a = sqrt(5); both biases uniform within 1 / sqrt(classes).
    Shapes: y (N, features), z (N, classes).
    """

    def __init__(self, features: int, classes: int, *, slope: float = SLOPE) -> None:
        super().__init__()
        self.slope = slope
        self.weight = nn.Parameter(torch.empty(features, classes))
        self.bias_y = nn.Parameter(torch.empty(features))
        self.bias_z = nn.Parameter(torch.empty(classes))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        bound = 1 / math.sqrt(classes)
        nn.init.uniform_(self.bias_y, -bound, bound)
        nn.init.uniform_(self.bias_z, -bound, bound)

    def forward(self, t: Tensor, state: State) -> State:
        y, z = state
        dy = F.linear(F.leaky_relu(z, self.slope), self.weight, self.bias_y)
        dz = F.linear(F.leaky_relu(y, self.slope), -self.weight.t(), self.bias_z)
        return dy, dz


class ConvInTime(nn.Module):
    """3 x 3 convolution of the input with the time as one more channel: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + 1, channels, 3, padding=1)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        time = t.view(-1, 1, 1, 1).expand(x.shape[0], 1, *x.shape[-2:])
        return self.conv(torch.cat((time, x), 1))  # type: ignore[no-any-return]


class ODENetField(nn.Module):
    """Right-hand side of ODENet (Chen et al. 2018): norm, ReLU, conv, norm, ReLU, conv, norm. Time is a channel.

    State: one tensor (N, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(channels), ConvInTime(channels)
        self.norm2, self.conv2 = group_norm(channels), ConvInTime(channels)
        self.norm3 = group_norm(channels)

    def forward(self, t: Tensor, state: State) -> State:
        x = self.conv1(t, F.relu(self.norm1(state[0])))
        x = self.conv2(t, F.relu(self.norm2(x)))
        return (self.norm3(x),)
