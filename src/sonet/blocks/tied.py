"""Fields whose kernel has a norm tied to a constant, so that no weights can make a step of their block expand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sonet.bounds import conv_norm
from sonet.types import Field, State


class TiedField(nn.Module, ABC):
    r"""A field with the kernel K = c V / n(V): V the weights, n a sound upper bound of ||V||, c `kernel_norm`.

    In training mode n carries gradient and is computed once for each solve; in eval mode the kernel is a constant,
    computed once for each state of the weights, and these get no gradient.
    """

    def __init__(self, channels_out: int, channels_in: int, kernel_norm: float, size: tuple[int, int]) -> None:
        super().__init__()
        if not 0 < kernel_norm < math.inf:
            raise ValueError(f"{type(self).__name__}: expected a finite kernel_norm > 0, got {kernel_norm}.")
        self.kernel_norm, self.size = kernel_norm, size
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, 3, 3))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self._kept: tuple[Tensor, Tensor] | None = None

    def kernel(self) -> Tensor:
        """K, (C_out, C_in, 3, 3), with ||K|| <= `kernel_norm` up to rounding."""
        if self.training:
            return self._tie()
        # By value: weights may be changed behind the back of their version counter.
        if self._kept is None or not _same(self._kept[0], self.weight):
            with torch.inference_mode(False), torch.no_grad():
                self._kept = (self.weight.detach().clone(), self._tie())
        return self._kept[1]

    def _tie(self) -> Tensor:
        # The norm of weights that are all zero is zero; the field is then zero as well.
        return self.weight * (self.kernel_norm / (conv_norm(self.weight, self.size) + 1e-12))

    def check_size(self, part: Tensor) -> None:
        """ValueError for a state of another size than the kernel is tied for: its bound would not hold there."""
        if tuple(part.shape[-2:]) != tuple(self.size):
            raise ValueError(
                f"{type(self).__name__}: got a state of size {tuple(part.shape[-2:])}, expected {tuple(self.size)}, "
                "for which its kernel's norm is tied. Build the network for images of this size."
            )

    @abstractmethod
    def tie(self) -> Field:
        """The field with its kernel as it is now, for one solve."""

    def forward(self, t: Tensor, state: State) -> State:
        return self.tie()(t, state)


class TiedSkewConv(TiedField):
    r"""f(x) = phi((J - gamma I) x + b), J = [[0, K], [-K^T, 0]] on x = (y, z), with ||K|| tied and gamma matched to it.

        dy/dt = phi( K   * z - gamma y + b_y)        phi: LeakyReLU with slope a
        dz/dt = phi(-K^T * y - gamma z + b_z)

    gamma is a constant; with `least_damping(kernel_norm, a, ...)` every step of the solver is non-expansive. Shapes: y,
    z (N, C, H, W); K (C, C, 3, 3), stride 1, padding 1; biases (C,).
    """

    def __init__(self, channels: int, size: tuple[int, int], *, kernel_norm: float, gamma: float, slope: float) -> None:
        super().__init__(channels, channels, kernel_norm, size)
        self.gamma, self.slope = gamma, slope
        self.bias_y = nn.Parameter(torch.zeros(channels))
        self.bias_z = nn.Parameter(torch.zeros(channels))

    def tie(self) -> Field:
        kernel, gamma, slope = self.kernel(), self.gamma, self.slope
        bias_y, bias_z = self.bias_y, self.bias_z

        def field(t: Tensor, state: State) -> State:
            y, z = state
            self.check_size(y)
            dy = F.conv2d(z, kernel, bias_y, padding=1) - gamma * y
            dz = F.conv_transpose2d(y, -kernel, bias_z, padding=1) - gamma * z
            return F.leaky_relu(dy, slope), F.leaky_relu(dz, slope)

        return field

    def extra_repr(self) -> str:
        return f"kernel_norm={self.kernel_norm}, gamma={self.gamma:.4g}, slope={self.slope}"


class ConvexPotential(TiedField):
    r"""f(x) = -W^T phi(W x + b): minus the gradient of a convex function (Meunier et al. 2022, arXiv:2110.12690).

    phi: ReLU. Its derivative -W^T D W is symmetric and never positive, so the flow cannot expand; nor can a step of
    Euler's method with h ||W||^2 <= 2. State: one tensor (N, C, H, W). W: (C, C, 3, 3), padding 1; b: (C,).
    """

    def __init__(self, channels: int, size: tuple[int, int], *, kernel_norm: float) -> None:
        super().__init__(channels, channels, kernel_norm, size)
        self.bias = nn.Parameter(torch.zeros(channels))

    def tie(self) -> Field:
        kernel, bias = self.kernel(), self.bias

        def field(t: Tensor, state: State) -> State:
            self.check_size(state[0])
            return (F.conv_transpose2d(F.relu(F.conv2d(state[0], kernel, bias, padding=1)), -kernel, padding=1),)

        return field

    def extra_repr(self) -> str:
        return f"kernel_norm={self.kernel_norm}"


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
